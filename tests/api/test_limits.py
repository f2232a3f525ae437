"""What callers may ask for at a time: refused before anything is begun, by all processes together."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import RateLimitError
from openai import AsyncOpenAI, RateLimitError as OpenAIRateLimitError
from psycopg.conninfo import conninfo_to_dict
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from api.app import create_app
from api.bootstrap import Services, open_services
from api.console import commands
from api.limits import IdentityLimits
from api.processes.embedded import Servers
from api.settings import Settings
from store import crons
from store.access import EVERYTHING
from tests.acceptance.process import serving as serving_processes
from tests.api.test_session_socket import connected
from tests.serving import serving

GRAPHS = {name: f"tests.graph.sample_graphs:{name}" for name in ("chat", "endless")}
ASK = {"assistant_id": "endless", "input": {"messages": [["user", "hi"]]}}
DEADLINE_SECONDS = 60.0


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "langgraph.json"
    path.write_text(json.dumps({"graphs": GRAPHS, "auth": {"path": "tests.api.auths:owners"}}))
    return path


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy for half a second is no Redis that is away."""
    monkeypatch.setattr("store.limits.ANSWER_SECONDS", DEADLINE_SECONDS)


class Process:
    """One of the servers of a test."""

    def __init__(self, services: Services, url: str, http: httpx.AsyncClient) -> None:
        self.services = services
        self.url = url
        self.http = http

    @asynccontextmanager
    async def stream(self, who: dict[str, str], path: str = "/runs/stream") -> AsyncIterator[Any]:
        """An answer that has begun."""
        async with self.http.stream("POST", path, json=ASK, headers=who) as response:
            yield response

    async def runs(self) -> int:
        """How many there are."""
        rows = await self.services.db.tuples("SELECT count(*) FROM run", {})
        return int(rows[0][0])


@asynccontextmanager
async def processes(
    config: Path, servers: Servers, database_url: str, number: int = 2, **limits: Any
) -> AsyncIterator[list[Process]]:
    """Several that share their servers, as processes do."""
    settings = Settings(config=config, **limits)
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(number):
            services = await stack.enter_async_context(
                open_services(settings, database_url=database_url, redis_url=servers.redis_url)
            )
            await stack.enter_async_context(services.worker.working())
            url = await stack.enter_async_context(serving(create_app(services)))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
            found.append(Process(services, url, http))
        yield found


@asynccontextmanager
async def counted_socket(process: Process, who: dict[str, str]) -> AsyncIterator[None]:
    """Who is calling is looked at after the handshake: it counts once a command is answered."""
    async with connected(process.url, who) as socket:
        await socket.do("ping")
        yield


async def answered(
    http: httpx.AsyncClient, path: str, who: dict[str, str], *, but: int
) -> httpx.Response:
    """The answer to a request, once it has another status."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            answer = await http.get(path, headers=who)
            if answer.status_code != but:
                return answer
            await asyncio.sleep(0.01)


async def has_room(process: Process, who: dict[str, str]) -> None:
    """Return once a stream may be opened."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            async with process.stream(who) as response:
                if response.status_code == 200:
                    return
            await asyncio.sleep(0.01)


async def streams_are(process: Process, count: int) -> None:
    """Return once a process has so many streams open."""
    limits = process.services.limits
    assert limits is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if limits.streams == count:
                return
            await asyncio.sleep(0.01)


def someone() -> dict[str, str]:
    """Headers of a caller that no other test knows: they share what counts them."""
    return {"authorization": f"Bearer {uuid4().hex}"}


async def test_one_who_asks_too_often_is_told_when_to_ask_again_and_nobody_else_is(
    config: Path, servers: Servers, database_url: str
) -> None:
    ada, eve = someone(), someone()
    rate: dict[str, Any] = {"limit_requests_per_second": 0.01, "limit_request_burst": 3}
    async with processes(config, servers, database_url, **rate) as (one, other):
        answers = [
            await p.http.get("/api/sessions", headers=ada) for p in (one, other, one, other, one)
        ]
        assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
        told = [
            tuple(a.headers[f"x-ratelimit-{n}"] for n in ("limit", "remaining", "reset"))
            for a in answers
        ]
        assert [t[:2] for t in told[:3]] == [("3", "2"), ("3", "1"), ("3", "0")]
        assert 90 < int(told[0][2]) <= 100 < 190 < int(told[1][2]) <= 200
        refused = answers[3]
        assert refused.json() == {"detail": "Too many requests", "code": "rate_limited"}
        assert 90 < int(refused.headers["retry-after"]) <= 100
        assert refused.headers["x-ratelimit-remaining"] == "0"

        assert (await one.http.get("/api/sessions", headers=eve)).status_code == 200
        # What nobody has to say a name for is nobody's.
        for _ in range(5):
            answer = await one.http.get("/ok")
            assert answer.status_code == 200
            assert "x-ratelimit-limit" not in answer.headers
        # Who is not known has no bucket.
        assert (await one.http.get("/api/sessions")).status_code == 401
        # In the caller's language, with what browsers may read.
        chinese = {**ada, "accept-language": "zh", "origin": "https://a.example"}
        answer = await other.http.get("/api/sessions", headers=chinese)
        assert answer.json()["detail"] == "请求过于频繁"
        assert "x-ratelimit-reset" in answer.headers["access-control-expose-headers"]

        async with get_client(url=one.url, headers=ada) as client:
            with pytest.raises(RateLimitError):
                await client.threads.search()
        async with connected(one.url, eve) as socket:
            # Each command counts; the socket stays.
            said = [await socket.ask("ping") for _ in range(3)]
            assert [a.get("error") for a in said].count("rate_limited") == 2


async def test_streams_over_a_callers_number_are_refused_before_a_run_is_made(
    config: Path, servers: Servers, database_url: str
) -> None:
    ada, eve = someone(), someone()
    async with processes(config, servers, database_url, limit_streams=2) as (one, other):
        session = (await one.http.post("/api/sessions", json={}, headers=ada)).json()["id"]
        thread = (await one.http.post("/threads", json={}, headers=ada)).json()["thread_id"]
        async with AsyncExitStack() as open_ones:
            first = await open_ones.enter_async_context(one.stream(ada))
            assert first.status_code == 200
            await open_ones.enter_async_context(counted_socket(other, ada))

            before = await one.runs()
            bodies: list[tuple[str, Any]] = [
                ("/runs/stream", ASK),
                ("/runs/wait", ASK),
                (f"/threads/{thread}/runs/stream", ASK),
                (f"/threads/{thread}/stream/events", {"channels": ["messages"]}),
                (f"/api/sessions/{session}/messages", {"query": "hi"}),
                (f"/api/sessions/{session}/messages", {"query": "hi", "stream": True}),
                ("/v1/responses", {"model": "chat", "input": "hi", "stream": True}),
                ("/api/ai/chat", {"id": session, "messages": [
                    {"id": "1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
                ]}),
            ]  # fmt: skip
            for path, body in bodies:
                answer = await one.http.post(path, json=body, headers=ada)
                assert (answer.status_code, answer.headers["retry-after"]) == (429, "1"), path
                assert "too_many_streams" in answer.text, path
            for path in (f"/threads/{thread}/stream", "/api/events"):
                answer = await other.http.get(path, headers=ada)
                assert answer.json()["code"] == "too_many_streams", path
            openai = AsyncOpenAI(
                api_key=ada["authorization"].removeprefix("Bearer "),
                base_url=f"{other.url}/v1",
                max_retries=0,
            )
            async with openai:
                with pytest.raises(OpenAIRateLimitError, match="streams are open"):
                    await openai.chat.completions.create(
                        model="chat", messages=[{"role": "user", "content": "hi"}], stream=True
                    )
            with pytest.raises(ConnectionClosed) as closed:
                async with connected(one.url, ada) as refused:
                    await refused.socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4429
            # Nothing was begun, and all else goes on: background runs too, and other callers.
            assert await one.runs() == before
            assert (await one.http.get(f"/threads/{thread}", headers=ada)).status_code == 200
            assert (await one.http.post("/runs", json=ASK, headers=ada)).status_code == 200
            async with other.stream(eve) as hers:
                assert hers.status_code == 200

        # Both have left.
        for process in (one, other):
            await has_room(process, ada)


async def test_requests_under_way_are_counted_apart_from_streams(
    config: Path, servers: Servers, database_url: str
) -> None:
    ada, eve = someone(), someone()
    bounds = {"limit_requests": 1, "limit_streams": 1}
    async with processes(config, servers, database_url, **bounds) as (one, other):
        body = {**ASK, "if_not_exists": "create"}
        thread = "0197f2a4-7c1e-7d53-9f0a-3c1f6f0c2b11"
        run = (await one.http.post(f"/threads/{thread}/runs", json=body, headers=ada)).json()
        path = f"/threads/{thread}/runs/{run['run_id']}"
        sent = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"{"
            await sent.wait()
            yield b"}"

        as_json = {**ada, "content-type": "application/json"}
        sending = asyncio.create_task(one.http.post("/threads", content=slowly(), headers=as_json))
        answer = await answered(other.http, path, ada, but=200)
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
        assert (await other.http.get(path, headers=eve)).status_code == 404
        sent.set()
        assert (await sending).status_code == 200

        # Who joins a run waits as long as it goes on: a stream, and no request.
        joining = asyncio.create_task(one.http.get(f"{path}/join", headers=ada))
        await streams_are(one, 1)
        # As a stream it has given its place as a request back.
        assert (await answered(other.http, path, ada, but=429)).status_code == 200
        for method, asked in (("GET", f"{path}/join"), ("POST", "/runs/wait")):
            answer = await other.http.request(method, asked, json=ASK, headers=ada)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_streams")
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)

        await has_room(other, ada)
        async with other.http.stream("GET", f"{path}/stream", headers=ada) as streaming:
            assert streaming.status_code == 200
            # It is a stream by now, and no request.
            assert (await answered(one.http, path, ada, but=429)).status_code == 200


async def test_a_process_with_as_many_streams_as_it_takes_says_so_and_keeps_what_it_has(
    config: Path, servers: Servers, database_url: str
) -> None:
    ada, eve = someone(), someone()
    bounds = {"limit_streams_per_process": 1}
    async with processes(config, servers, database_url, **bounds) as (one, other):
        async with one.stream(ada) as first:
            assert first.status_code == 200
            answer = await one.http.post("/runs/stream", json=ASK, headers=eve)
            assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            assert (await one.http.get("/api/sessions", headers=eve)).status_code == 200
            async with other.stream(eve) as elsewhere:
                assert elsewhere.status_code == 200
        await has_room(one, eve)


async def test_an_answer_that_there_is_no_room_to_give_again_stays(
    config: Path, servers: Servers, database_url: str
) -> None:
    ada, eve = someone(), someone()
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    async with processes(config, servers, database_url, 1, limit_streams_per_process=1) as (one,):
        body = json.dumps({"messages": said})
        report = (await one.http.post("/api/sessions/import", content=body, headers=eve)).json()
        path = f"/api/sessions/{report['sessions'][0]['id']}/messages"
        answer = (await one.http.get(path, headers=eve)).json()["data"][-1]
        async with one.stream(ada) as first:
            assert first.status_code == 200
            again = f"{path}/{answer['id']}/regenerate"
            refused = await one.http.post(again, json={}, headers=eve)
            asked = {"query": "x", "parent_id": None}
            also = await one.http.post(path, json=asked, headers=eve)
        assert [(r.status_code, r.json()["code"]) for r in (refused, also)] == [
            (503, "overloaded")
        ] * 2
        assert (await one.http.get(path, headers=eve)).json()["data"][-1]["content"] == "hello"


async def test_without_limits_nothing_stands_in_the_way(
    config: Path, servers: Servers, database_url: str
) -> None:
    async with processes(config, servers, database_url, 1) as (one,):
        assert one.services.limits is None
        stack: list[object] = [m.cls for m in create_app(one.services).user_middleware]
        assert IdentityLimits not in stack
        answer = await one.http.get("/api/sessions", headers=someone())
        assert not [name for name in answer.headers if "ratelimit" in name]
        with capture_logs() as logs:
            commands.report(one.services)
        assert [entry["event"] for entry in logs if "docs/limits.md" in entry["event"]]
    async with processes(config, servers, database_url, 1, limit_streams=9) as (one,):
        with capture_logs() as logs:
            commands.report(one.services)
        assert not [entry for entry in logs if "docs/limits.md" in entry["event"]]


@pytest.mark.parametrize(("given", "places"), [({}, {0, 1}), ({"fair_shares": False}, {3})])
async def test_where_callers_are_known_their_runs_begin_in_turn_unless_it_is_said_otherwise(
    config: Path, servers: Servers, database_url: str, given: dict[str, Any], places: set[int]
) -> None:
    flood, ada = someone(), someone()
    async with processes(config, servers, database_url, 1, slots=1, **given) as [one]:

        async def asked(who: dict[str, str], graph: str) -> str:
            thread = (await one.http.post("/threads", json={}, headers=who)).json()["thread_id"]
            run = {**ASK, "assistant_id": graph}
            made = await one.http.post(f"/threads/{thread}/runs", json=run, headers=who)
            return str(made.headers["content-location"])

        under_way = await asked(flood, "endless")
        waiting = [await asked(who, "chat") for who in (flood, flood, flood, ada)]
        for path in (f"{under_way}/cancel?wait=true", *(f"{path}/join" for path in waiting)):
            method = "GET" if path.endswith("join") else "POST"
            who = ada if waiting[3] in path else flood
            assert (await one.http.request(method, path, headers=who)).status_code == 200, path
        begun = await one.services.db.tuples("SELECT run_id::text FROM run ORDER BY started_at", {})

    order = [run_id for (run_id,) in begun if run_id not in under_way]
    assert order.index(waiting[3].rpartition("/")[2]) in places


async def test_many_processes_on_one_port_let_exactly_the_burst_through(
    config: Path, servers: Servers, database_url: str
) -> None:
    ada, eve = someone(), someone()
    name = conninfo_to_dict(database_url)["dbname"]
    variables = {
        "DATABASE_URL": urlsplit(servers.database_url)._replace(path=f"/{name}").geturl(),
        "REDIS_URL": servers.redis_url,
        "THREADWELL_WORKERS": "2",
        "LIMIT_REQUESTS_PER_SECOND": "0.001",
        "LIMIT_REQUEST_BURST": "10",
    }

    async def ask(url: str, who: dict[str, str]) -> int:
        # A connection of its own, so that either process may get it.
        async with httpx.AsyncClient(base_url=url, timeout=30, verify=False) as http:
            return (
                await http.get("/threads/0197f2a4-7c1e-7d53-9f0a-3c1f6f0c2b11", headers=who)
            ).status_code

    with serving_processes(config, variables) as server:
        statuses = await asyncio.gather(*(ask(server.url, ada) for _ in range(24)))
        assert (statuses.count(404), statuses.count(429)) == (10, 14)
        assert await ask(server.url, eve) == 404


async def test_who_has_as_many_crons_as_they_may_makes_no_more(
    config: Path, servers: Servers, database_url: str
) -> None:
    ada, eve = someone(), someone()
    cron = {**ASK, "assistant_id": "chat", "schedule": "0 0 1 1 *"}
    async with processes(config, servers, database_url, limit_crons=1) as (one, other):
        thread = (await one.http.post("/threads", json={}, headers=ada)).json()["thread_id"]
        made = await one.http.post("/runs/crons", json=cron, headers=ada)
        for path in ("/runs/crons", f"/threads/{thread}/runs/crons"):
            refused = await other.http.post(path, json=cron, headers=ada)
            assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
        assert (await one.http.post("/runs/crons", json=cron, headers=eve)).status_code == 200
        path = f"/runs/crons/{made.json()['cron_id']}"
        await one.http.delete(path, headers=ada)
        assert (await one.http.post("/runs/crons", json=cron, headers=ada)).status_code == 200


async def fired(one: Process, cron: dict[str, Any], who: dict[str, str]) -> str | None:
    """Why a cron of somebody's makes no run when it is due; None if it does."""
    made = (await one.http.post("/runs/crons", json=cron, headers=who)).json()
    due = await crons.get(one.services.db, made["cron_id"], access=EVERYTHING)
    assert await one.services.crons.fire(due, now=await one.services.crons.now())
    error = (await crons.get(one.services.db, made["cron_id"], access=EVERYTHING)).error
    return str(error["error"]) if error else None


async def test_who_has_as_many_sessions_as_they_may_makes_no_more_by_any_way(
    config: Path, servers: Servers, database_url: str
) -> None:
    ada, eve = someone(), someone()
    async with processes(config, servers, database_url, limit_sessions=2) as (one, other):
        session = (await one.http.post("/api/sessions", json={}, headers=ada)).json()["id"]
        run = {**ASK, "assistant_id": "chat"}
        mine = "0197f2a4-7c1e-7d53-9f0a-3c1f6f0c2b11"
        made = await other.http.post(
            f"/threads/{mine}/runs/wait", json={**run, "if_not_exists": "create"}, headers=ada
        )
        assert made.status_code == 200
        ways: list[tuple[str, Any]] = [
            ("/api/sessions", {}),
            ("/threads", {}),
            (f"/threads/{session}/copy", None),
            (f"/api/sessions/{mine}/fork", {}),
            ("/runs/wait", {**run, "on_completion": "keep"}),
            ("/runs/batch", [{**run, "on_completion": "keep"}]),
            (
                "/threads/0197f2a4-7c1e-7d53-9f0a-3c1f6f0c2b12/runs",
                {**run, "if_not_exists": "create"},
            ),
            ("/v1/conversations", {}),
            ("/api/ai/chat", {"id": "new", "messages": [
                {"id": "1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
            ]}),
        ]  # fmt: skip
        for path, body in ways:
            answer = await one.http.post(path, json=body, headers=ada)
            assert (answer.status_code, "quota_exceeded" in answer.text) == (403, True), path
            assert "retry-after" not in answer.headers
        cron = {**ASK, "assistant_id": "chat", "schedule": "0 0 1 1 *"}
        assert await fired(one, {**cron, "on_run_completed": "keep"}, ada) == "quota_exceeded"
        [(threads,)] = await one.services.db.tuples("SELECT count(*) FROM thread", {})
        assert threads == 2
        # What they have goes on, a cron whose threads do not stay too, and so does who has less.
        again = {**run, "if_not_exists": "create"}
        assert (
            await one.http.post(f"/threads/{mine}/runs/wait", json=again, headers=ada)
        ).status_code == 200
        assert (await one.http.post("/runs/wait", json=run, headers=ada)).status_code == 200
        assert await fired(one, cron, ada) is None
        assert (await one.http.post("/api/sessions", json={}, headers=eve)).status_code == 200
        # One that is deleted counts until it is purged.
        path = f"/api/sessions/{session}"
        assert (await one.http.delete(path, headers=ada)).status_code == 204
        assert (await one.http.post("/api/sessions", json={}, headers=ada)).status_code == 403
        assert (await one.http.delete(f"{path}?purge=true", headers=ada)).status_code == 204
        assert (await one.http.post("/api/sessions", json={}, headers=ada)).status_code == 200


async def test_attachments_have_a_number_and_a_size_together(
    config: Path, servers: Servers, database_url: str
) -> None:
    ada, eve = someone(), someone()
    bounds = {"limit_files": 3, "limit_file_bytes": 1000}
    async with processes(config, servers, database_url, 1, **bounds) as (one,):

        async def upload(text: str, who: dict[str, str]) -> httpx.Response:
            return await one.http.post("/api/files", files={"file": ("a.txt", text)}, headers=who)

        assert (await upload("a" * 600, ada)).status_code == 200
        refused = await upload("b" * 401, ada)
        assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
        assert "1000 bytes" in refused.json()["detail"]
        # What is refused is not kept, and of the same content each who sent it has their own.
        assert (await upload("a" * 600, eve)).status_code == 200
        assert (await upload("b" * 400, ada)).status_code == 200
        assert (await upload("c", ada)).status_code == 403
        for n in range(2):
            assert (await upload(f"{n}", eve)).status_code == 200
        full = await upload("4", eve)
        assert (full.status_code, full.json()["detail"]) == (403, "You may have 3 files")
        rows = await one.services.db.tuples("SELECT count(*) FROM file_content", {})
        assert rows == [(4,)]
