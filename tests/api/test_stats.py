"""Analytics: what is counted, for whom, in which days, and as a table."""

import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.bootstrap import Services
from api.prices import load
from api.processes.embedded import Servers
from store import tallies
from store.errors import InvalidInputError
from tests.api.projects import serving_project
from tests.store.event_logs import until

pytestmark = pytest.mark.filterwarnings("error")

_THREAD = """
INSERT INTO thread (thread_id, metadata) VALUES (%(thread_id)s, %(metadata)s)
"""
_MESSAGE = """
INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq,
    checkpoint_id, last_checkpoint_id, run_id, meta_data)
VALUES (%(id)s, %(thread_id)s, %(role)s, '话 🗨', %(at)s::timestamptz, now(), %(seq)s, 'c', 'c',
    %(run_id)s::uuid, %(meta_data)s)
"""
_RUN = """
INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata, kwargs,
    created_at, started_at, ended_at, first_token_ms)
SELECT %(run_id)s::uuid, %(thread_id)s, gen_random_uuid(), %(status)s, 'enqueue', '{}', '{}', at, at,
    at + make_interval(secs => %(seconds)s), %(first_token_ms)s
FROM (SELECT %(at)s::timestamptz AS at) AS t
"""
_FEEDBACK = """
INSERT INTO feedback (conversation_id, message_id, user_id, score, create_time)
VALUES (%(thread_id)s, %(id)s, 'x', %(score)s, %(at)s::timestamptz)
"""


_TOUCH = """
UPDATE thread SET updated_at = clock_timestamp(), message_count = message_count + 2
WHERE thread_id = %(thread_id)s
"""


class Past:
    """Writes a history into a database; `is_counted` has it counted in advance, each time anew."""

    def __init__(self, services: Services, *, is_counted: bool = False) -> None:
        self._db = services.db
        self._number = 0
        self._is_counted = is_counted

    async def session(self, user_id: str, chat_type: str = "support", **more: Any) -> str:
        self._number += 1
        thread_id = f"会话-{self._number}"
        metadata = {"user_id": user_id, "chat_type": chat_type, **more}
        await self._db.execute(_THREAD, {"thread_id": thread_id, "metadata": metadata})
        return thread_id

    async def run(
        self,
        thread_id: str,
        at: str,
        *,
        model: str | None = "gpt-4o",
        usage: Any = None,
        seconds: float = 1,
        first_token_ms: int | None = None,
        status: str = "success",
        score: int | None = None,
    ) -> None:
        """A question, its answer, the run that gave it and what was thought of it."""
        self._number += 1
        run_id = f"00000000-0000-0000-0000-{self._number:012}"
        of = {"thread_id": thread_id, "at": at, "run_id": run_id}
        timing = {"seconds": seconds, "first_token_ms": first_token_ms, "status": status}
        await self._db.execute(_RUN, {**of, **timing})
        meta = {"usage_metadata": usage, "response_metadata": {"model_name": model}}
        for place, (role, meta_data) in enumerate((("user", {}), ("assistant", meta))):
            row = {"id": f"m{self._number}-{role}", "role": role, "meta_data": meta_data}
            await self._db.execute(_MESSAGE, {**of, **row, "seq": 2 * self._number + place})
        if score is not None:
            await self._db.execute(
                _FEEDBACK, {**of, "id": f"m{self._number}-assistant", "score": score}
            )
        if self._is_counted:
            await self._db.execute(_TOUCH, of)
            await until(lambda: self._count(of))

    async def _count(self, of: dict[str, Any]) -> bool:
        """Whether a thread is counted by now; the server that is there may be counting just then."""
        await tallies.count_settled(self._db, settle_seconds=0)
        query = "SELECT FROM tally WHERE thread_id = %(thread_id)s"
        return bool(await self._db.tuples(query, of))


def tokens(input_tokens: int, output_tokens: int, cached: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "input_token_details": {"cache_read": cached},
    }


@pytest.fixture(params=["read", "counted"])
def past(services: Services, request: pytest.FixtureRequest) -> Past:
    return Past(services, is_counted=request.param == "counted")


MAY = {"from": "2026-05-01", "to": "2026-05-04"}


async def get(http: httpx.AsyncClient, **params: Any) -> Any:
    answer = await http.get("/api/stats", params={**MAY, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_all_that_happened_is_counted_by_day(http: httpx.AsyncClient, past: Past) -> None:
    one, other = await past.session("ada"), await past.session("eve", "sales")
    usage = tokens(100, 20, cached=40)
    await past.run(one, "2026-05-01T09:00Z", usage=usage, seconds=1, first_token_ms=100, score=100)
    await past.run(one, "2026-05-01T10:00Z", usage=usage, seconds=3.2, first_token_ms=300, score=10)
    await past.run(other, "2026-05-03T23:59Z", status="error", seconds=60)
    for outside in ("2026-04-30T23:59Z", "2026-05-04T00:00Z"):
        await past.run(one, outside, usage=usage)

    found = await get(http)

    first, quiet, last = found["data"]
    assert first == {
        "day": "2026-05-01",
        "sessions": 1,
        "messages": 4,
        "answers": 2,
        "tokens": {"input": 200, "cached": 80, "output": 40, "total": 240},
        "runs": 2,
        "failed_runs": 0,
        "first_token_ms": {"p50": 200, "p95": 290},
        "latency_ms": {"p50": 2100, "p95": 3090},
        "cost": None,
        "unpriced_tokens": 240,
        "feedback": {"count": 2, "likes": 1, "dislikes": 1, "score": 55.0},
    }
    assert (quiet["day"], quiet["messages"], quiet["latency_ms"]) == ("2026-05-02", 0, None)
    assert (last["runs"], last["failed_runs"], last["latency_ms"]) == (1, 1, None)
    assert (found["currency"], found["has_more"]) == (None, False)
    assert (found["from"], found["to"]) == (
        "2026-05-01T00:00:00+00:00", "2026-05-04T00:00:00+00:00",
    )  # fmt: skip


async def test_groups_are_of_users_models_and_chat_types_the_largest_first(
    http: httpx.AsyncClient, past: Past
) -> None:
    ada, eve = await past.session("ada"), await past.session("用户 🙂", "sales")
    nobody = await past.session("ada", "sales")
    at = "2026-05-02T12:00Z"
    await past.run(ada, at, usage=tokens(1, 2), model="gpt-4o", first_token_ms=5, score=50)
    await past.run(ada, at, usage=tokens(3, 4), model="qwen3:8b", seconds=9)
    await past.run(eve, at, usage=tokens(5, 6), model="qwen3:8b")
    await past.run(nobody, at, model=None)

    users = (await get(http, group_by="user"))["data"]
    models = (await get(http, group_by="model"))["data"]
    types = (await get(http, group_by="chat_type"))["data"]

    assert [(row["user"], row["sessions"], row["messages"], row["runs"]) for row in users] == [
        ("ada", 2, 6, 3), ("用户 🙂", 1, 2, 1),
    ]  # fmt: skip
    assert [(row["model"], row["answers"], row["messages"], row["runs"]) for row in models] == [
        ("qwen3:8b", 2, 2, 2), (None, 1, 1, 1), ("gpt-4o", 1, 1, 1),
    ]  # fmt: skip
    assert [row["tokens"]["total"] for row in models] == [18, 0, 3]
    assert models[2]["feedback"]["count"] == 1
    assert [(row["chat_type"], row["sessions"]) for row in types] == [("sales", 2), ("support", 1)]
    of_ada = await get(http, group_by="model", user_id="ada")
    assert [row["tokens"]["total"] for row in of_ada["data"]] == [0, 3, 7]
    few = await get(http, group_by="user", limit=1)
    assert ([row["user"] for row in few["data"]], few["has_more"]) == (["ada"], True)


async def test_a_day_begins_where_its_clocks_say(http: httpx.AsyncClient, past: Past) -> None:
    session = await past.session("ada")
    await past.run(session, "2026-05-01T15:59Z")
    await past.run(session, "2026-05-01T16:01Z")
    await past.run(session, "2026-10-25T22:30Z")
    await past.run(session, "2026-10-24T22:30Z")

    china = await get(http, tz="Asia/Shanghai")
    # A day of 25 hours.
    berlin = await get(
        http, tz="Europe/Berlin", **{"from": "2026-10-25", "to": "2026-10-26T00:00:00"}
    )

    assert [(row["day"], row["runs"]) for row in china["data"][:2]] == [
        ("2026-05-01", 1), ("2026-05-02", 1),
    ]  # fmt: skip
    assert china["from"] == "2026-05-01T00:00:00+08:00"
    assert [(row["day"], row["runs"], row["messages"]) for row in berlin["data"]] == [
        ("2026-10-25", 2, 4)
    ]


async def test_whatever_a_message_says_of_its_tokens_is_no_fault_of_ours(
    http: httpx.AsyncClient, past: Past
) -> None:
    session = await past.session("ada")
    for usage in ({"input_tokens": "many"}, {"input_tokens": 1e300, "output_tokens": -5}, "x", [1]):
        await past.run(session, "2026-05-01T10:00Z", usage=usage)
    await past.run(session, "2026-05-01T10:00Z", usage={"input_tokens": 7.0})

    assert (await get(http))["data"][0]["tokens"]["total"] == 7


async def test_a_table_is_for_spreadsheets_and_has_nothing_to_execute(
    http: httpx.AsyncClient, past: Past
) -> None:
    names = ["=1+1", "@x", " -1", '张三, "三"\n', "\uff1d1", "bob"]
    for name in names:
        await past.run(await past.session(name), "2026-05-01T10:00Z", usage=tokens(1, 2))

    answer = await http.get("/api/stats", params={**MAY, "group_by": "user", "format": "csv"})
    by_header = await http.get(
        "/api/stats", params={**MAY, "group_by": "user"}, headers={"accept": "text/csv"}
    )

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="stats-by-user.csv"'
    assert answer.text == by_header.text
    assert answer.content.startswith(b"\xef\xbb\xbfuser,sessions,messages,answers,tokens_input,")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    assert {row["user"] for row in rows} == {
        "'=1+1", "'@x", "' -1", "张三, \"三\"\n", "'\uff1d1", "bob",
    }  # fmt: skip
    assert {(row["tokens_total"], row["cost"], row["first_token_ms_p95"]) for row in rows} == {
        ("3", "", "")
    }
    nothing = await http.get(
        "/api/stats",
        params={"from": "2020-01-01", "to": "2020-01-02", "group_by": "user", "format": "csv"},
    )
    assert nothing.text.removeprefix("\ufeff").strip() == "user"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"from": "2026-05-02", "to": "2026-05-02"}, "invalid_range"),
        ({"from": "2024-05-02", "to": "2026-05-02"}, "invalid_range"),
        ({"from": "yesterday"}, "invalid_range"),
        ({"from": "0001-01-01", "to": "0001-01-02"}, "invalid_range"),
        ({"to": "9999-12-31"}, "invalid_range"),
        ({"tz": "Mars/Olympus"}, "invalid_input"),
        ({"tz": "../etc/passwd"}, "invalid_input"),
        ({"group_by": "hour"}, "invalid_input"),
        ({"limit": 0}, "invalid_input"),
    ],
)
async def test_what_is_no_range_is_refused(
    http: httpx.AsyncClient, params: dict[str, Any], code: str
) -> None:
    answer = await http.get("/api/stats", params=params)

    assert (answer.status_code, answer.json()["code"]) == (422, code)


PRICES = {
    "currency": "CNY",
    "models": {
        "offline": {"input": 2.5, "output": "10", "cached_input": 0.5},
        "gpt-4o-mini*": {"input": 1, "output": 2},
        "gpt-4o*": {"input": 10, "output": 20},
    },
}


@pytest.fixture
async def priced(
    tmp_path: Path, servers: Servers, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx.AsyncClient, Services]]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    monkeypatch.setenv("THREADWELL_PRICES", str(tmp_path / "prices.json"))
    graphs = {"agent": "graph.agents.chat:graph"}
    async with serving_project(tmp_path, servers, database_url, graphs=graphs) as (_, http, of):
        yield http, of


async def test_tokens_cost_what_the_table_says(
    priced: tuple[httpx.AsyncClient, Services],
) -> None:
    http, services = priced
    past = Past(services)
    session, at = await past.session("ada"), "2026-05-01T10:00Z"
    million = 1_000_000
    await past.run(session, at, model="offline", usage=tokens(3 * million, million, million))
    await past.run(session, at, model="gpt-4o-mini-2026", usage=tokens(million, million))
    await past.run(session, at, model="gpt-4o-2026", usage=tokens(million, 0))
    await past.run(session, at, model="unknown", usage=tokens(5, 0))

    found = await get(http)
    by_model = await get(http, group_by="model")

    assert found["currency"] == "CNY"
    assert (found["data"][0]["cost"], found["data"][0]["unpriced_tokens"]) == (28.5, 5)
    costs = {row["model"]: row["cost"] for row in by_model["data"]}
    assert costs == {"offline": 15.5, "gpt-4o-mini-2026": 3, "gpt-4o-2026": 10, "unknown": 0}


async def test_a_conversation_is_counted_with_its_first_token_as_it_ends(
    priced: tuple[httpx.AsyncClient, Services],
) -> None:
    http, _ = priced
    session = (await http.post("/api/sessions", json={"user_id": "ada"})).json()["id"]
    for query in ("你好 🙂", "hello"):
        body = {"query": query}
        assert (await http.post(f"/api/sessions/{session}/messages", json=body)).status_code == 200

    [today] = [r for r in (await http.get("/api/stats")).json()["data"] if r["messages"]]

    assert (today["sessions"], today["messages"], today["answers"], today["runs"]) == (1, 4, 2, 2)
    assert today["tokens"]["output"] > 0
    assert today["cost"] > 0
    assert 0 <= today["first_token_ms"]["p50"] <= today["latency_ms"]["p95"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "`currency` and `models` alone"),
        ('{"models": {}}', "`currency` must be"),
        ('{"currency": "USD", "models": {"m": {"input": 1}}}', "wants `input` and `output`"),
        ('{"currency": "USD", "models": {"m": {"input": -1, "output": 1}}}', "m.input"),
        ('{"currency": "USD", "models": {"m": {"input": true, "output": 1}}}', "m.input"),
        ('{"currency": "USD", "models": {"m": {"input": "NaN", "output": 1}}}', "m.input"),
        (None, "No such file"),
    ],
)
def test_a_table_of_prices_that_is_none_stops_the_start(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    path = tmp_path / "prices.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(InvalidInputError, match=complaint):
        load(path)
