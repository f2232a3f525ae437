"""What happens to sessions: as a stream, to webhooks, and to listeners in the process."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.bootstrap import Services, open_services
from api.processes.embedded import Servers
from api.settings import Settings
from graph import listeners
from store import outbox
from tests.receiver import Heard, Receiver, receiving
from tests.serving import serving

ADA, EVE = {"authorization": "Bearer ada"}, {"authorization": "Bearer eve"}
DEADLINE_SECONDS = 60.0
#: What deleting a session is told as.
DELETED = "session.deleted"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    sections = {
        "graphs": {"chat": "tests.graph.sample_graphs:chat"},
        "auth": {"path": "tests.api.auths:owners"},
        "webhooks": {"url": {"require_https": False, "disable_loopback": False}},
    }
    config.write_text(json.dumps(sections))
    return Settings(config=config, webhook_retry_seconds=(0.05, 0.05))


class Listening:
    """A client of the stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.events: list[Any] = []
        self.names: list[str] = []
        self.last_id = ""
        self._lines = response.aiter_lines()

    async def until(self, name: str, times: int = 1) -> list[Any]:
        """All events so far, once one was told so often."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.names.count(name) < times:
                await self._read()
        return self.events

    def clear(self) -> None:
        """Forget what was told."""
        self.events, self.names = [], []

    async def _read(self) -> None:
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line:
                break
            name, _, value = line.partition(": ")
            fields[name] = value
        self.last_id = fields.get("id", self.last_id)
        if "event" in fields:
            self.names.append(fields["event"])
            self.events.append(json.loads(fields["data"]))


@asynccontextmanager
async def listening(
    http: httpx.AsyncClient, last_event_id: str = "", who: dict[str, str] = ADA, **params: str
) -> AsyncIterator[Listening]:
    headers = {**who, **({"Last-Event-ID": last_event_id} if last_event_id else {})}
    async with http.stream("GET", "/api/events", params=params, headers=headers) as response:
        assert response.status_code == 200
        yield Listening(response)


async def a_session(http: httpx.AsyncClient, who: dict[str, str] = ADA, **more: Any) -> str:
    answer = await http.post("/api/sessions", json=more, headers=who)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def a_webhook(http: httpx.AsyncClient, url: str, **more: Any) -> Any:
    answer = await http.post("/api/webhooks", json={"url": url, **more}, headers=ADA)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_stream_tells_what_happens_to_the_callers_sessions_and_goes_on_where_it_broke(
    http: httpx.AsyncClient,
) -> None:
    async with listening(http, "-1") as mine, listening(http, "-1", EVE) as hers:
        session_id = await a_session(http, name="First")
        await http.patch(f"/api/sessions/{session_id}", json={"name": "Second"}, headers=ADA)
        asked = {"query": "say hello"}
        answer = (
            await http.post(f"/api/sessions/{session_id}/messages", json=asked, headers=ADA)
        ).json()
        found = await mine.until("run.ended")
        of_eve = await a_session(http, EVE)
        [only] = await hers.until("session.created")

    assert mine.names == [
        "session.created", "session.updated", "run.started", "message.created", "message.created",
        "run.ended",
    ]  # fmt: skip
    assert [event["seq"] for event in found] == sorted(event["seq"] for event in found)
    assert {event["type"]: event["data"]["session_id"] for event in found} == dict.fromkeys(
        mine.names, session_id
    )
    updated, ended = found[1]["data"], found[-1]["data"]
    assert (updated["changed"], updated["name"]) == (["name"], "Second")
    assert ended == {
        "session_id": session_id, "run_id": answer["run_id"], "status": "success",
    }  # fmt: skip
    told = [(e["data"]["role"], e["data"]["message_id"]) for e in found if "role" in e["data"]]
    assert told == [("user", answer["user_message_id"]), ("assistant", answer["id"])]
    assert only["data"]["session_id"] == of_eve

    await http.delete(f"/api/sessions/{session_id}", headers=ADA)
    async with listening(http, mine.last_id) as again:
        [gone] = await again.until(DELETED)
        assert gone["data"]["session_id"] == session_id
        await http.delete(f"/api/sessions/{session_id}", params={"purge": "true"}, headers=ADA)
        [_, purged] = await again.until("session.purged")
        assert purged["data"] == {"session_id": session_id}


async def test_what_is_changed_of_messages_forked_and_shared_is_told_and_no_copy_as_new(
    http: httpx.AsyncClient,
) -> None:
    session_id = await a_session(http)
    path = f"/api/sessions/{session_id}"

    async def ask(path: str) -> Any:
        answer = await http.post(f"{path}/messages", json={"query": "say a"}, headers=ADA)
        return answer.json()

    async with listening(http) as mine:
        first = await ask(path)
        await mine.until("run.ended")
        mine.clear()
        said = f"{path}/messages/{first['id']}"
        answers = [
            await http.patch(said, json={"content": "else"}, headers=ADA),
            await http.delete(said, headers=ADA),
            forked := await http.post(f"{path}/fork", json={}, headers=ADA),
            shared := await http.post(f"{path}/shares", json={"mode": "live"}, headers=ADA),
        ]
        assert [a.status_code for a in answers] == [200, 204, 200, 200]
        await http.delete(f"{path}/shares/{shared.json()['id']}", headers=ADA)
        # What a run has said by then may be told with a change before it.
        await mine.until("session.unshared")
        fork = forked.json()["id"]
        again = await ask(f"/api/sessions/{fork}")
        found = await mine.until("run.ended")

    told = [event for event in found if event["type"] != "session.updated"]
    assert [event["type"] for event in told] == [
        "message.updated", "message.deleted", "session.created", "session.shared",
        "session.unshared", "run.started", "message.created", "message.created", "run.ended",
    ]  # fmt: skip
    ids = [event["data"].get("message_id") for event in told]
    assert ids[:2] == [first["id"]] * 2
    assert ids[6:8] == [again["user_message_id"], again["id"]]
    assert told[2]["data"]["copied_from"] == session_id
    assert told[3]["data"]["share_id"] == told[4]["data"]["share_id"] == shared.json()["id"]


async def test_that_somebody_thinks_something_of_a_message_is_told_and_not_what(
    http: httpx.AsyncClient,
) -> None:
    path = f"/api/sessions/{(session_id := await a_session(http))}/messages"
    answer = (await http.post(path, json={"query": "say a"}, headers=ADA)).json()
    opinion = f"{path}/{answer['id']}/feedback"
    async with listening(http, types="feedback.*") as mine:
        for status, asked in (
            (200, http.put(opinion, json={"score": 1, "reason": "no"}, headers=ADA)),
            (404, http.put(f"{path}/none/feedback", json={"score": 1}, headers=ADA)),
            (204, http.delete(opinion, headers=ADA)),
            (404, http.delete(opinion, headers=ADA)),
        ):
            assert (await asked).status_code == status
        await http.put(opinion, json={"rating": "like"}, headers=ADA)
        found = await mine.until("feedback.given", 2)

    assert mine.names == ["feedback.given", "feedback.withdrawn", "feedback.given"]
    data = {"session_id": session_id, "message_id": answer["id"]}
    assert [event["data"] for event in found] == [data] * 3


async def test_messages_in_the_place_of_those_of_a_run_that_was_taken_back_are_told_too(
    http: httpx.AsyncClient,
) -> None:
    session_id = await a_session(http)

    async def ask() -> Any:
        path = f"/api/sessions/{session_id}/messages"
        return (await http.post(path, json={"query": "say a"}, headers=ADA)).json()

    async with listening(http, types="message.created,run.ended") as mine:
        await ask()
        taken_back = await ask()
        await mine.until("run.ended", 2)
        run = f"/threads/{session_id}/runs/{taken_back['run_id']}"
        assert (await http.delete(run, headers=ADA)).status_code == 204
        mine.clear()
        last = await ask()
        found = await mine.until("run.ended")

    ids = [event["data"].get("message_id") for event in found]
    assert ids == [last["user_message_id"], last["id"], None]


async def test_a_stream_has_a_filter_and_refuses_what_is_no_name_and_no_place(
    http: httpx.AsyncClient,
) -> None:
    session_id = await a_session(http)
    other = await a_session(http)
    for one in (other, session_id):
        await http.patch(f"/api/sessions/{one}", json={"name": "x"}, headers=ADA)
    async with listening(http, "-1", types="session.updated,run.*", session_id=session_id) as some:
        [updated] = await some.until("session.updated")
    assert updated["data"]["session_id"] == session_id

    for params, status in (
        ({"types": "session.exploded"}, 400),
        ({"types": ""}, 400),
        ({"since": "yesterday"}, 400),
        ({"since": "9" * 30}, 400),
        ({"session_id": "x"}, 422),
    ):
        answer = await http.get("/api/events", params=params, headers=ADA)
        assert (answer.status_code, set(answer.json())) == (status, {"detail", "code"}), params


async def test_a_client_that_was_away_for_too_long_is_told_of_a_gap(
    http: httpx.AsyncClient, services: Services
) -> None:
    for _ in range(4):
        await a_session(http)
    await services.changes.head()
    await outbox.trim(services.db, keep_count=1, keep_seconds=3600)

    async with listening(http, "1") as late:
        await late.until("session.created")

    assert late.names == ["gap", "session.created"]
    assert late.events[0] == {"since": 1, "trimmed_through": 3}
    assert late.last_id == "4"


async def test_two_processes_tell_their_followers_the_same(
    http: httpx.AsyncClient,
    settings: Settings,
    servers: Servers,
    database_url: str,
) -> None:
    urls = {"database_url": database_url, "redis_url": servers.redis_url}
    async with (
        open_services(settings, **urls) as second,
        second.worker.working(),
        serving(create_app(second)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as elsewhere,
        listening(http, "-1") as here,
        listening(elsewhere, "-1") as there,
    ):
        made = await asyncio.gather(
            *[a_session(client) for client in (http, elsewhere) for _ in range(20)]
        )
        for one in (here, there):
            await one.until("session.created", len(made))
        await second.worker.drain(grace_seconds=0)

    assert here.events == there.events
    assert {event["data"]["session_id"] for event in here.events} == set(made)


def is_signed(heard: Heard, secret: str, raw: bytes) -> bool:
    """What a receiver checks, as Standard Webhooks has it."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    headers = heard.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + raw
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    is_new = abs(time.time() - int(headers["webhook-timestamp"])) < 60
    return is_new and headers["webhook-signature"] == f"v1,{digest}"


async def test_a_webhook_is_told_signed_again_and_again_until_it_is_dead_and_can_be_replayed(
    http: httpx.AsyncClient,
) -> None:
    async with receiving() as receiver:
        hook = await a_webhook(http, receiver.url, events=["session.created"])
        receiver.statuses = [500, 200]
        session_id = await a_session(http, name="a")
        await a_session(http, EVE)
        first, second = await _heard(receiver, 2)

        assert first.body["data"]["session_id"] == session_id
        assert is_signed(first, hook["secret"], first.raw)
        assert is_signed(second, hook["secret"], second.raw)
        assert second.headers["webhook-id"] == first.headers["webhook-id"]
        assert second.body == first.body
        [sent] = await _deliveries(http, hook, "delivered")
        assert (sent["attempts"], sent["event"]) == (2, first.body)

        receiver.statuses = [503, 503, 503]
        other = await a_session(http)
        await _heard(receiver, 5)
        [dead] = await _deliveries(http, hook, "dead")
        assert (dead["attempts"], dead["last_status"]) == (3, 503)
        assert dead["event"]["data"]["session_id"] == other

        path = f"/api/webhooks/{hook['id']}/deliveries/{dead['id']}/replay"
        assert (await http.post(path, headers=EVE)).status_code == 404
        assert (await http.post(path, headers=ADA)).json()["status"] == "pending"
        replayed = (await _heard(receiver, 6))[-1]
        assert replayed.headers["webhook-id"] == f"msg_{dead['id']}"
        assert len(await _deliveries(http, hook, "delivered", 2)) == 2
        # Nothing of another's session was ever sent; nor is anything while the webhook is off.
        await http.patch(f"/api/webhooks/{hook['id']}", json={"enabled": False}, headers=ADA)
        await http.post(path, headers=ADA)
        [off] = await _deliveries(http, hook, "dead")
        assert off["id"] == dead["id"]
        assert len(receiver.heard) == 6


async def _heard(receiver: Receiver, times: int) -> list[Heard]:
    await receiver.told(times)
    return receiver.heard


async def _deliveries(http: httpx.AsyncClient, hook: Any, status: str, count: int = 1) -> list[Any]:
    path = f"/api/webhooks/{hook['id']}/deliveries"
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            answer = await http.get(path, params={"status": status}, headers=ADA)
            found: list[Any] = answer.json()["data"]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


async def test_a_webhook_is_its_owners_and_shows_its_secret_once(http: httpx.AsyncClient) -> None:
    async with receiving() as receiver:
        hook = await a_webhook(http, receiver.url, description="mine")
        path = f"/api/webhooks/{hook['id']}"
        secret = hook.pop("secret")
        assert secret.startswith("whsec_")

        assert (await http.get(path, headers=ADA)).json() == hook
        listed = await http.get("/api/webhooks", headers=ADA)
        assert listed.json() == {"data": [hook], "next_cursor": None, "has_more": False}
        assert (await http.get("/api/webhooks", headers=EVE)).json()["data"] == []
        for method, tail, body in (
            ("GET", "", None), ("PATCH", "", {"enabled": False}), ("DELETE", "", None),
            ("GET", "/deliveries", None),
        ):  # fmt: skip
            answer = await http.request(method, path + tail, json=body, headers=EVE)
            assert answer.status_code == 404, method
        changed = await http.patch(path, json={"enabled": False}, headers=ADA)
        assert (changed.json()["enabled"], changed.json()["url"]) == (False, receiver.url)
        await a_session(http)
        await http.patch(path, json={"enabled": True, "events": ["run.*"]}, headers=ADA)
        await a_session(http)
        assert (await http.get(f"{path}/deliveries", headers=ADA)).json()["data"] == []
        assert (await http.delete(path, headers=ADA)).status_code == 204
        assert (await http.get(path, headers=ADA)).status_code == 404

        refused: list[tuple[Any, int]] = [
            ({"url": "http://169.254.169.254/latest"}, 422),
            ({"url": receiver.url, "events": ["session.exploded"]}, 422),
            ({"url": receiver.url, "events": []}, 422),
            ({"url": receiver.url, "secret": "whsec_short"}, 422),
            ({}, 422),
        ]
        for body, status in refused:
            answer = await http.post("/api/webhooks", json=body, headers=ADA)
            assert (answer.status_code, set(answer.json())) == (status, {"detail", "code"}), body


async def test_a_webhook_leads_into_no_private_network_unless_that_is_said(
    http: httpx.AsyncClient, services: Services
) -> None:
    inside = {"url": "http://10.0.0.5:9200/_search", "enabled": False}
    refused = await http.post("/api/webhooks", json=inside, headers=ADA)
    assert refused.status_code == 422
    assert "private IP range" in refused.json()["detail"]
    async with receiving() as receiver:
        hook = await a_webhook(http, receiver.url, events=["session.created"])
    moved = await http.patch(f"/api/webhooks/{hook['id']}", json=inside, headers=ADA)
    assert moved.status_code == 422

    # One of before, or whose name has come to lead there.
    await services.db.execute("UPDATE webhook SET url = 'http://10.0.0.5:9200/'", {})
    await a_session(http)
    [dead] = await _deliveries(http, hook, "dead")
    assert (dead["attempts"], dead["last_status"]) == (1, None)
    assert "private IP range" in dead["last_error"]


async def test_listeners_are_told_at_least_once_and_one_that_fails_disturbs_nobody(
    http: httpx.AsyncClient, services: Services
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    later: list[Any] = []
    done = asyncio.get_running_loop().create_future()
    home = asyncio.get_running_loop()

    @listeners.on("session.created", name="test.fails")
    async def fails(event: Any) -> None:
        home.call_soon_threadsafe(heard.put_nowait, event["data"]["session_id"])
        raise RuntimeError("of the listener")

    @listeners.on(("session.*", "run.*"), name="test.sync")
    def works(event: Any) -> None:
        later.append(event)
        if event["type"] == "session.updated":
            home.call_soon_threadsafe(done.set_result, None)

    try:
        await _registered(services, 2)
        first, second = [await a_session(http) for _ in range(2)]
        await http.patch(f"/api/sessions/{second}", json={"name": "x"}, headers=ADA)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await done
            assert [await heard.get(), await heard.get()] == [first, second]
    finally:
        listeners.off(fails)
        listeners.off(works)

    assert [event["type"] for event in later] == ["session.created"] * 2 + ["session.updated"]
    with pytest.raises(ValueError, match="Nothing is told"):
        listeners.on("session.exploded", print)


async def _registered(services: Services, count: int) -> None:
    """Wait until the process has taken the listeners up: they begin with what comes then."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if len(await services.db.tuples("SELECT name FROM listener", {})) == count:
                return
            await asyncio.sleep(0.05)
