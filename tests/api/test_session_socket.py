"""Sessions over a WebSocket, by the `websockets` client."""

import asyncio
import json
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect

from api import presence
from api.app import create_app
from api.bootstrap import Services, open_services
from api.custom_app import Theirs
from api.identity.auth import Authentication, Caller
from api.processes.embedded import Servers
from api.processes.sockets import MAX_BYTES_OF_UNKNOWN
from api.sessions import socket as session_socket
from api.settings import Settings
from store.rooms import Rooms
from tests.acceptance.sse import frames
from tests.graph.flood import PIECES
from tests.serving import serving

ADA, EVE = {"authorization": "Bearer ada"}, {"authorization": "Bearer eve"}
DEADLINE_SECONDS = 60.0
UNKNOWN = "00000000-0000-7000-8000-00000000dead"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    graphs = {
        name: f"tests.graph.sample_graphs:{name}"
        for name in ("chat", "tools", "ask_user", "endless", "halting")
    }
    graphs["flood"] = "tests.graph.flood:flood"
    sections = {"graphs": graphs, "auth": {"path": "tests.api.auths:owners"}}
    config.write_text(json.dumps(sections))
    return Settings(
        config=config,
        cors_allow_origins=("https://good.example",),
        request_body_max_bytes=1 << 16,
        access_look_seconds=0.2,
    )


class Client:
    """A socket, whose answers and events are kept apart."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[Any] = []
        self._number = 0

    async def ask(self, method: str, **params: Any) -> Any:
        """The answer to a command."""
        self._number += 1
        await self.socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            told = await self._read()
            if told["type"] != "event":
                assert told["id"] == self._number
                return told

    async def do(self, method: str, **params: Any) -> Any:
        """The result of a command that succeeds."""
        answer = await self.ask(method, **params)
        assert answer["type"] == "success", answer
        return answer["result"]

    async def until(self, method: str, times: int = 1) -> list[Any]:
        """The events so far, once one came so often."""
        while sum(event["method"] == method for event in self.events) < times:
            await self._read()
        return self.events

    def of(self, *methods: str) -> list[Any]:
        return [event["params"] for event in self.events if event["method"] in methods]

    async def _read(self) -> Any:
        async with asyncio.timeout(DEADLINE_SECONDS):
            told = json.loads(await self.socket.recv())
        if told["type"] == "event":
            self.events.append(told)
        return told


@asynccontextmanager
async def connected(
    url: str, who: dict[str, str] | None = ADA, **more: Any
) -> AsyncIterator[Client]:
    address = url.replace("http", "ws", 1) + "/api/ws"
    async with connect(address, additional_headers=who, max_size=None, **more) as socket:
        yield Client(socket)


async def a_session(http: httpx.AsyncClient, graph: str = "chat", who: Any = ADA) -> str:
    answer = await http.post("/api/sessions", json={"assistant_id": graph}, headers=who)
    return str(answer.json()["id"])


def parts(events: list[Any]) -> list[tuple[str, Any, str]]:
    """Events as the stream of a session has them: no session in what is of one."""
    return [
        (
            event["method"],
            {k: v for k, v in event["params"].items() if k != "session_id"},
            event.get("event_id", ""),
        )
        for event in events
        if event["method"] not in ("presence", "typing")
    ]


async def test_a_socket_tells_of_a_session_what_its_stream_tells_under_the_same_ids(
    http: httpx.AsyncClient, url: str
) -> None:
    session_id = await a_session(http, "tools")
    body = {"query": "add 2 3", "stream": True}
    async with connected(url) as client:
        await client.do("session.subscribe", session_id=session_id)
        path = f"/api/sessions/{session_id}/messages"
        async with http.stream("POST", path, json=body, headers=ADA) as response:
            streamed = [frame async for frame in frames(response)]
        heard = await client.until("run.end")

        told = [
            (f.name, {k: v for k, v in f.data.items() if k != "session_id"}, f.id) for f in streamed
        ]
        assert parts(heard) == told
        assert {"tool.start", "tool.end", "message.delta"} <= {name for name, _, _ in told}
        numbers = [event["seq"] for event in heard if "seq" in event]
        assert numbers == sorted(set(numbers))
        assert len(numbers) == len(told)

    # Every place to come back from: by number and by id, whatever was told before the socket broke.
    events = [event for event in heard if "seq" in event]
    async with connected(url) as again:
        for place, event in enumerate(events):
            for since in filter(None, (event["seq"], event.get("event_id"))):
                again.events.clear()
                await again.do("session.subscribe", session_id=session_id, since=since)
                rest = events[place + 1 :]
                while len([e for e in again.events if "seq" in e]) < len(rest):
                    await again._read()
                assert [e for e in again.events if "seq" in e] == rest, since
        again.events.clear()
        await again.do("session.subscribe", session_id=session_id, since=-1)
        await again.until("run.end")
        assert parts(again.events) == told


async def test_messages_are_sent_once_stopped_and_answered_over_one_socket(
    http: httpx.AsyncClient, url: str
) -> None:
    first, second, asking = [
        await a_session(http, graph) for graph in ("chat", "endless", "ask_user")
    ]
    async with connected(url) as client:
        for session_id in (first, second, asking):
            await client.do("session.subscribe", session_id=session_id)

        asked = {"session_id": first, "query": "hello", "idempotency_key": "k"}
        sent = await client.do("message.send", **asked)
        await client.until("run.end")
        assert (await client.do("message.send", **asked))["run_id"] == sent["run_id"]
        endless = await client.do("message.send", session_id=second, query="x")
        busy = await client.ask("message.send", session_id=second, query="y")
        stopped = await client.do("run.stop", session_id=second)
        await client.until("run.end", 2)
        await client.do("message.send", session_id=asking, query="x")
        await client.until("run.end", 3)
        [interrupt] = client.of("interrupt")
        answer = {"session_id": asking, "interrupt_id": interrupt["id"], "value": "blue"}
        await client.do("input.respond", **answer)
        await client.until("run.end", 4)
        idle = await client.ask("run.stop", session_id=first)
        assert "time" in await client.do("ping")

    assert busy["error"] == "session_busy"
    assert (stopped["run_id"], stopped["status"]) == (endless["run_id"], "stopped")
    assert idle["error"] == "session_idle"
    ends = client.of("run.end")
    assert [end["session_id"] for end in ends] == [first, second, asking, asking]
    assert [end["status"] for end in ends] == ["success", "interrupted", "success", "success"]
    answered = await http.get(f"/api/sessions/{asking}/messages", headers=ADA)
    assert answered.json()["data"][-1]["content"] == "You said blue"
    history = await http.get(f"/api/sessions/{first}/messages", headers=ADA)
    assert len(history.json()["data"]) == 2


async def test_what_is_not_understood_or_not_the_callers_is_answered_and_the_socket_stays(
    http: httpx.AsyncClient, url: str
) -> None:
    of_eve = await a_session(http, who=EVE)
    mine, asking = await a_session(http), await a_session(http, "ask_user")
    await http.post(f"/api/sessions/{asking}/messages", json={"query": "x"}, headers=ADA)
    async with connected(url) as client:
        for method, params, code in (
            ("session.subscribe", {"session_id": of_eve}, "not_found"),
            ("session.subscribe", {"session_id": UNKNOWN}, "not_found"),
            ("session.subscribe", {"session_id": "x"}, "invalid_input"),
            ("session.subscribe", {}, "invalid_input"),
            ("session.subscribe", {"session_id": mine, "since": "x"}, "invalid_input"),
            ("session.subscribe", {"session_id": mine, "since": [1]}, "invalid_input"),
            ("session.unsubscribe", {"session_id": mine}, "not_found"),
            ("message.send", {"session_id": of_eve, "query": "x"}, "not_found"),
            ("message.send", {"session_id": mine}, "invalid_input"),
            ("message.send", {"session_id": mine, "query": 5}, "invalid_input"),
            ("message.send", {"session_id": mine, "query": "x", "idempotency_key": 5},
             "invalid_input"),
            ("run.stop", {"session_id": of_eve}, "not_found"),
            ("input.respond", {"session_id": mine}, "invalid_input"),
            ("input.respond", {"session_id": mine, "value": "x"}, "not_interrupted"),
            ("input.respond", {"session_id": asking, "value": "x", "interrupt_id": "y"},
             "not_interrupted"),
            ("typing", {"session_id": mine}, "not_found"),
            ("explode", {}, "unknown_command"),
        ):  # fmt: skip
            answer = await client.ask(method, **params)
            assert (answer["type"], answer["error"]) == ("error", code), (method, params, answer)
            assert answer["message"].isascii()
        for raw in ("{", "[]", '{"id": "x", "method": "ping"}', b"\xff"):
            await client.socket.send(raw)
            told = json.loads(await client.socket.recv())
            assert (told["type"], told["id"]) == ("error", None)
        await client.socket.send(json.dumps({"id": 1, "method": "ping", "params": "x" * (1 << 16)}))
        assert json.loads(await client.socket.recv())["error"] == "too_large"
    async with connected(url, {**ADA, "Accept-Language": "zh"}) as client:
        answer = await client.ask("session.subscribe", session_id=UNKNOWN)
        assert (answer["error"], answer["message"]) == ("not_found", f"找不到会话 {UNKNOWN}")


async def test_a_socket_says_who_it_is_in_its_subprotocol_or_first_frame_or_is_closed(
    http: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await a_session(http)
    async with connected(url, None, subprotocols=["bearer", "ada"]) as client:
        assert client.socket.subprotocol == "bearer"
        await client.do("session.subscribe", session_id=session_id)
    async with connected(url, None) as client:
        assert await client.do("auth", token="ada") == {"identity": "ada"}
        await client.do("session.subscribe", session_id=session_id)
    async with connected(url, None, subprotocols=["bearer", "eve"]) as client:
        assert (await client.ask("session.subscribe", session_id=session_id))[
            "error"
        ] == "not_found"

    async def code(frame: str | None, who: dict[str, str] | None = None, **more: Any) -> int | None:
        async with connected(url, who, **more) as client:
            if frame is not None:
                await client.socket.send(frame)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await client.socket.wait_closed()
            return client.socket.close_code

    assert await code('{"id": 1, "method": "ping"}') == 4401
    assert await code("{") == 4401
    # Not read, before anybody is known: it would be right.
    long = {"token": "ada", "more": "x" * 40_000}
    assert await code(json.dumps({"id": 1, "method": "auth", "params": long})) == 4401
    assert await code('{"id": 1, "method": "auth", "params": {"token": ""}}') == 4401
    assert await code(None, ADA, origin="https://evil.example") == 4403
    monkeypatch.setattr("api.routes.session_socket.AUTH_SECONDS", 0.1)
    assert await code(None) == 4401


async def test_no_frame_is_inflated_and_a_stranger_sends_short_ones(
    http: httpx.AsyncClient, url: str
) -> None:
    long = json.dumps({"id": 9, "method": "ping", "params": "x" * MAX_BYTES_OF_UNKNOWN})
    async with connected(url, None, compression="deflate") as stranger:
        assert stranger.socket.response is not None
        assert "Sec-WebSocket-Extensions" not in stranger.socket.response.headers
        await stranger.socket.send(long)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await stranger.socket.wait_closed()
        assert stranger.socket.close_code == 1009
    thread = (await http.post("/threads", json={}, headers=ADA)).json()["thread_id"]
    stream = url.replace("http", "ws", 1) + f"/threads/{thread}/stream/events"
    async with connect(stream, additional_headers=ADA, compression="deflate") as socket:
        assert socket.response is not None
        assert "Sec-WebSocket-Extensions" not in socket.response.headers

    # Once it is known who sends it, a long one is read, by whatever way that was said.
    for who, token in ((ADA, None), (None, "ada")):
        async with connected(url, who) as client:
            if token is not None:
                await client.do("auth", token=token)
            await client.do("ping")
            await client.socket.send(long)
            assert json.loads(await client.socket.recv())["error"] == "too_large"


async def test_a_long_frame_may_be_the_first_thing_that_a_known_client_sends(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    knock, accept = Authentication._let_in, WebSocket.accept

    async def slow(authentication: Authentication, scope: Any, token: str | None) -> Caller:
        caller = await knock(authentication, scope, token)
        happened.append("known")
        return caller

    async def accepted(socket: WebSocket, *args: Any, **more: Any) -> None:
        happened.append("accepted")
        await accept(socket, *args, **more)

    monkeypatch.setattr(Authentication, "_let_in", slow)
    monkeypatch.setattr(WebSocket, "accept", accepted)
    long = json.dumps({"id": 9, "method": "ping", "params": "x" * MAX_BYTES_OF_UNKNOWN})
    for who, more in ((ADA, {}), (None, {"subprotocols": ["bearer", "ada"]})):
        happened.clear()
        async with connected(url, who, **more) as client:
            await client.socket.send(long)
            assert json.loads(await client.socket.recv())["error"] == "too_large"
        # However long it takes to know it: what a client sends comes after.
        assert happened == ["known", "accepted"]


async def test_frames_are_short_on_our_own_socket_alone_however_its_path_is_written(
    services: Services,
) -> None:
    long = "x" * (MAX_BYTES_OF_UNKNOWN + 1)

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(str(len(await socket.receive_text())))

    routes: list[Any] = [Mount("/x", routes=[WebSocketRoute("/api/ws", echo)])]
    app = create_app(services, custom=Theirs(Starlette(routes=routes)))
    async with serving(app) as url:
        address = url.replace("http", "ws", 1)
        async with connect(address + "/x/api/ws", additional_headers=ADA) as theirs:
            await theirs.send(long)
            assert await theirs.recv() == str(len(long))
        async with connect(address + "/api/%77s") as ours:
            await ours.send(long)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await ours.wait_closed()
            assert ours.close_code == 1009


async def test_those_who_are_in_a_session_know_of_each_other_across_processes(
    http: httpx.AsyncClient,
    url: str,
    settings: Settings,
    servers: Servers,
    database_url: str,
) -> None:
    session_id = await a_session(http)
    urls = {"database_url": database_url, "redis_url": servers.redis_url}
    async with (
        open_services(settings, **urls) as second,
        second.worker.working(),
        serving(create_app(second)) as elsewhere,
        connected(url) as here,
    ):
        await here.do("session.subscribe", session_id=session_id)
        async with connected(elsewhere) as there:
            await there.do("session.subscribe", session_id=session_id)
            await _members(there, 2)
            await _members(here, 2)
            await there.do("typing", session_id=session_id)
            await here.until("typing")
            assert here.of("typing") == [{"session_id": session_id, "user": "ada", "typing": True}]
            assert there.of("typing") == []
            # What is asked in one process is told in the other.
            await there.do("message.send", session_id=session_id, query="hello")
            mine, theirs = await here.until("run.end"), await there.until("run.end")
            assert parts(mine) == parts(theirs)
        await _members(here, 1)


async def test_who_may_not_read_an_idle_session_any_more_hears_nothing_of_who_is_there(
    http: httpx.AsyncClient, url: str, services: Services
) -> None:
    session_id = await a_session(http)
    async with connected(url) as member:
        await member.do("session.subscribe", session_id=session_id)
        await services.db.execute(
            "UPDATE thread SET metadata = metadata || %(to)s WHERE thread_id = %(id)s",
            {"to": {"owner": "eve"}, "id": session_id},
        )
        await member.until("session.unsubscribed")
        refused = await member.ask("typing", session_id=session_id)

    [told] = member.of("session.unsubscribed")
    assert told == {"session_id": session_id, "reason": "not_found"}
    assert refused["type"] == "error"


async def test_what_cannot_be_told_of_one_session_keeps_nobody_of_others_from_being_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "TELL_SECONDS", 0.01)
    said: dict[str, list[Any]] = {"crowded": [], "other": []}
    twice = asyncio.Event()
    say = Rooms.say

    async def heard(rooms: Rooms, room: str, message: bytes) -> None:
        if room == "odd":
            raise ValueError
        await say(rooms, room, message)
        said[room].append(json.loads(message)["here"])
        if len(said["other"]) >= 3 and len(said["crowded"]) > 61:
            twice.set()

    monkeypatch.setattr(Rooms, "say", heard)
    async with presence.open_presence(Rooms(None, "x")) as here:
        await here.join("odd", "a", "ada", lambda method, params: None)
        for number in range(60):
            name = f"{number:03}" + "字" * presence.MAX_USER
            await here.join("crowded", f"{number:032}", name, lambda method, params: None)
        await here.join("other", "b", "bob", lambda method, params: None)
        # By whom it is told from time to time, too.
        async with asyncio.timeout(DEADLINE_SECONDS):
            await twice.wait()

    assert said["other"][-1] == [["b", "bob"]]
    assert 20 < len(said["crowded"][-1]) < presence.TOLD_AT_ONCE


async def _members(client: Client, count: int) -> None:
    """Wait until so many connections are known to be there."""
    while True:
        told = client.of("presence")
        if told and sum(one["connections"] for one in told[-1]["members"]) == count:
            return
        await client._read()


async def test_a_client_that_does_not_keep_up_loses_pieces_and_no_whole(
    http: httpx.AsyncClient, url: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await a_session(http, "flood")
    waiting: list[int] = []
    add = session_socket.Outgoing._add

    def measured(outgoing: session_socket.Outgoing, event: bytes) -> None:
        add(outgoing, event)
        waiting.append(outgoing._bytes)

    monkeypatch.setattr(session_socket.Outgoing, "_add", measured)
    address = httpx.URL(url)
    narrow = sockets.socket()
    narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    narrow.connect((address.host, address.port))
    async with connected(url, sock=narrow, max_queue=1, compression=None) as slow:
        await slow.do("session.subscribe", session_id=session_id)
        # It is asked elsewhere, and this client takes nothing until the answer is whole.
        asked = {"query": "x"}
        await http.post(f"/api/sessions/{session_id}/messages", json=asked, headers=ADA)
        await slow.until("run.end")

    [whole] = [event for event in slow.events if event["method"] == "message.end"]
    pieces = sum(event["method"] == "message.delta" for event in slow.events)
    assert whole["params"]["content"].endswith("in all")
    assert 0 < pieces < PIECES
    assert pieces + whole["dropped"] == PIECES
    assert max(waiting) <= session_socket.SOFT_BYTES + 16 * 1024


async def test_a_client_that_does_not_keep_up_learns_that_a_stopped_answer_is_not_whole(
    http: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if there was never room for a piece.
    monkeypatch.setattr(session_socket, "SOFT_BYTES", -1)
    said = asyncio.Event()
    piece = session_socket.Outgoing.piece

    def heard(outgoing: session_socket.Outgoing, *said_in: Any) -> None:
        piece(outgoing, *said_in)
        if outgoing.unfinished(session_id):
            said.set()

    monkeypatch.setattr(session_socket.Outgoing, "piece", heard)
    session_id, other = await a_session(http, "halting"), await a_session(http)
    async with connected(url) as client:
        await client.do("session.subscribe", session_id=session_id)
        await client.do("session.subscribe", session_id=other)
        await client.do("message.send", session_id=session_id, query="hello")
        await client.do("message.send", session_id=other, query="hello")
        await client.until("run.end")
        async with asyncio.timeout(DEADLINE_SECONDS):
            await said.wait()
        stopped = await client.do("run.stop", session_id=session_id)
        await client.until("run.end", 2)

    told = [e for e in client.events if e["params"]["session_id"] == session_id]
    gap, whole, end = [e for e in told if e["method"] not in ("presence", "run.start")][-3:]
    history = await http.get(f"/api/sessions/{session_id}/messages", headers=ADA)
    kept = history.json()["data"][-1]
    assert (gap["method"], whole["method"], end["method"]) == ("gap", "message.end", "run.end")
    assert whole["params"]["message_id"] == kept["id"] == stopped["message_id"]
    assert whole["params"]["content"] == kept["content"] != ""
    assert whole["dropped"] >= 1
    # Nothing is missing of the other one, whose answer was told whole.
    assert [e["session_id"] for e in client.of("gap")] == [session_id]
