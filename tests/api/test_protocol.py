"""The event-streaming protocol: numbers, what a client wants to see, gaps, and who may open a socket."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from api.protocol.stream import BREATH_SECONDS, apart
from api.settings import Settings
from graph.encode import dumps
from graph.protocol import ProtocolView
from graph.protocol_events import Numbering, ProtocolEvent, Wanted, wanted
from store.errors import InvalidInputError
from store.events import START, Event
from store.models import Thread
from tests.acceptance.protocol import ALL, Followed, data, following, is_end, socket, start

MADE_AT = datetime(2026, 11, 26, 11, 0, tzinfo=UTC)
BASE = round(MADE_AT.timestamp() * 1000)
RUN = str(uuid.UUID(int=1))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"chat": "tests.graph.sample_graphs:chat"}}))
    return Settings(
        config=config, event_log_max_events=20, cors_allow_origins=("https://good.example",)
    )


def thread() -> Thread:
    return Thread(
        thread_id="t", status="idle", metadata={"graph_id": "chat"}, config={}, interrupts={},
        error=None, created_at=MADE_AT, updated_at=MADE_AT, state_updated_at=MADE_AT,
    )  # fmt: skip


def told(method: str, *namespace: str, name: str = "") -> ProtocolEvent:
    return ProtocolEvent(1, "1-1.1", method, namespace, b"{}", 1, name=name)


def test_a_number_names_a_place_and_rises_with_it() -> None:
    numbering = Numbering.of(thread())
    places = [((BASE, 1), 64), ((BASE, 1), 65), ((BASE, 2), 0), ((BASE + 1, 1), 0)]
    seqs = [numbering.seq(place, part) for place, part in places]

    assert seqs == sorted(set(seqs))
    assert [numbering.place(seq) for seq in seqs] == [place for place, _ in places]
    assert numbering.tail((BASE, 1)) < seqs[2]
    assert numbering.tail(START) == 0
    assert numbering.seq((BASE + (1 << 20) - 2, (1 << 24) - 1), 511) < 1 << 53


@pytest.mark.parametrize(
    ("asked", "event", "seen"),
    [
        (Wanted(frozenset({"values"})), told("values", "a:1"), True),
        (Wanted(frozenset({"values"})), told("updates"), False),
        (Wanted(frozenset({"input"})), told("input.requested"), True),
        (Wanted(frozenset({"custom"})), told("custom", name="a"), True),
        (Wanted(frozenset({"custom:a"})), told("custom", name="a"), True),
        (Wanted(frozenset({"custom:a"})), told("custom", name="b"), False),
        (Wanted(frozenset({"custom:a"})), told("custom"), False),
        (Wanted(frozenset({"values"}), (("a",),)), told("values", "a:1", "b:2"), True),
        (Wanted(frozenset({"values"}), (("a:1",),)), told("values", "a:1", "b:2"), True),
        (Wanted(frozenset({"values"}), (("a:2",),)), told("values", "a:1"), False),
        (Wanted(frozenset({"values"}), (("a",),), 0), told("values", "a:1", "b:2"), False),
        (
            Wanted(frozenset({"values"}), (("a",), ("a", "b")), 0),
            told("values", "a:1", "b:2"),
            True,
        ),
        (Wanted(frozenset({"values"}), ((),), 0), told("values"), True),
        (Wanted(frozenset({"values"}), (("a", "b"),)), told("values", "a:1"), False),
    ],
)
def test_a_client_sees_what_it_asked_for(asked: Wanted, event: ProtocolEvent, seen: bool) -> None:
    assert asked.includes(event) is seen


@pytest.mark.parametrize("channels", [None, [], "values", ["odd"], ["custom:"], [5]])
def test_channels_that_are_none_are_refused(channels: Any) -> None:
    with pytest.raises(InvalidInputError):
        wanted(channels)


def test_a_reader_that_wants_less_counts_the_same() -> None:
    log = [
        Event(BASE, number, RUN, name, json.dumps(content).encode())
        for number, (name, content) in enumerate(
            [
                ("metadata", {"run_id": RUN, "attempt": 1}),
                ("values|a:1", {"x": 1}),
                ("updates", {"a": {"x": 1}, "b": {"x": 2}}),
                ("updates", {"__interrupt__": [{"id": "i", "value": "?"}]}),
                ("values", {"x": 1, "__interrupt__": [{"id": "i", "value": "?"}]}),
                ("end", {"run_id": RUN, "status": "success"}),
            ],
            1,
        )
    ]

    def read(*channels: str) -> list[tuple[int, str, str]]:
        view = ProtocolView(channels)
        view.know(thread())
        asked = wanted(list(channels))
        found = [event for entry in log for event in view.read(entry) if asked.includes(event)]
        return [(event.seq, event.event_id, event.method) for event in found]

    everything = read(*ALL)
    assert [method for _, _, method in everything] == [
        "lifecycle", "lifecycle", "values", "updates", "updates", "input.requested", "values",
        "lifecycle", "lifecycle",
    ]  # fmt: skip
    for channels in (["input"], ["values", "lifecycle"], ["updates"], ["messages"]):
        assert read(*channels) == [
            event for event in everything if event[2].partition(".")[0] in channels
        ]


def test_a_question_is_told_once_by_a_log_that_lost_its_beginning() -> None:
    asked = {"id": "i", "value": "?"}
    view = ProtocolView(["input"])
    view.know(thread())
    told = [
        event.method
        for number, (name, content) in enumerate(
            [
                ("values", {"x": 1, "__interrupt__": [asked]}),
                ("v2:input.requested", {"interrupt_id": "i", "payload": "?", "value": "?"}),
            ],
            7,
        )
        for event in view.read(Event(BASE, number, RUN, name, json.dumps(content).encode(), at=1))
        if event.channel == "input"
    ]

    assert told == ["input.requested"]


async def test_a_run_begins_a_moment_after_the_one_before_it_has_ended() -> None:
    view = ProtocolView(["lifecycle", "values"])
    view.know(thread())
    log: list[tuple[str, dict[str, Any]]] = [
        ("metadata", {"attempt": 1}),
        ("values", {"x": 1}),
        ("end", {"status": "success"}),
    ]
    one, two, three = (
        [
            told
            for number, (name, content) in enumerate(log, 1)
            for told in view.read(Event(BASE + run, number, str(run), name, dumps(content)))
        ]
        for run in (1, 2, 3)
    )

    async def batches() -> AsyncGenerator[list[ProtocolEvent], None]:
        # Two that are over and one that goes on, as a log has them.
        yield [*one, *two, *three[:1]]
        yield three[1:]

    clock = asyncio.get_running_loop().time
    heard = [(clock(), batch) async for batch in apart(batches())]
    (ended_at, over), (begun_at, begun), (_, rest) = heard
    assert (over, begun, rest) == ([*one, *two], three[:1], three[1:])
    assert begun_at - ended_at >= BREATH_SECONDS


async def test_what_the_log_does_not_reach_back_to_is_said(http: httpx.AsyncClient) -> None:
    thread_id = str(uuid.uuid4())
    text = " ".join(f"word{number}" for number in range(60))
    async with following(http, thread_id) as whole:
        await start(http, thread_id, "chat", input=_says("hello"))
        first = (await whole.until(is_end))["seq"]
        await start(http, thread_id, "chat", input=_says(text))
        await whole.until(is_end, times=2)
    async with following(http, thread_id, since=first) as late:
        await late.until(is_end)
    async with socket(str(http.base_url).rstrip("/"), thread_id) as opened:
        answer = await opened.command("subscription.subscribe", channels=ALL, since=first)
        await opened.followed.until(is_end)

    gap, values, *rest = late.events
    assert gap["method"] == "resume_gap"
    assert data(gap)["since"] == first < data(gap)["min_available_seq"] <= rest[0]["seq"]
    assert (values["method"], len(data(values)["messages"])) == ("values", 4)
    # The other reader may have been too slow for the small log as well.
    assert rest[-5:] == whole.events[-5:]
    assert answer["result"]["resume_gap"]["since"] == first
    assert _comparable(opened.followed) == _comparable(late)


def _says(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def _comparable(followed: Followed) -> list[Any]:
    return [(event["event_id"], event["seq"], data(event)) for event in followed.events]


async def test_a_page_of_another_origin_opens_no_socket(http: httpx.AsyncClient) -> None:
    url = str(http.base_url).replace("http", "ws", 1)
    address = f"{url}/threads/{uuid.uuid4()}/stream/events"
    for origin in ("https://good.example", str(http.base_url).rstrip("/"), None):
        async with connect(address, origin=Origin(origin) if origin else None) as opened:
            await opened.send(json.dumps({"id": 1, "method": "agent.getTree"}))
            assert json.loads(await opened.recv())["error"] == "no_such_run"
    async with connect(address, origin=Origin("https://evil.example")) as opened:
        with pytest.raises(ConnectionClosed) as closed:
            await opened.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4403


async def test_subscriptions_that_are_sent_together_are_played_together(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As `useStream` sends them: what it receives of a run after its end, it does not show.
    monkeypatch.setattr("api.protocol.socket.TOGETHER_SECONDS", 2.0)
    thread_id = str(uuid.uuid4())
    async with following(http, thread_id) as followed:
        await start(http, thread_id, "chat", input=_says("hello"))
        await followed.until(is_end)
    async with socket(str(http.base_url), thread_id) as opened:
        await opened.command("subscription.subscribe", channels=["lifecycle"])
        await opened.command("subscription.subscribe", channels=["lifecycle", "values"])
        await opened.followed.until(is_end)

    assert opened.followed.events == followed.of("lifecycle", "values")


async def test_a_thread_that_was_made_again_is_another_one(http: httpx.AsyncClient) -> None:
    thread_id = str(uuid.uuid4())
    async with following(http, thread_id) as first:
        for count in (1, 2):
            await start(http, thread_id, "chat", input=_says("hello"))
            await first.until(is_end, times=count)
    seen = first.events[-1]["seq"]
    await http.delete(f"/threads/{thread_id}")
    await start(http, thread_id, "chat", input=_says("hello again"))
    async with following(http, thread_id, since=seen) as again:
        await again.until(is_end)

    assert data(again.of("values")[0])["messages"][0]["content"] == "hello again"
