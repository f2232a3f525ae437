"""Clients that come back to a stream, at every place of it, here and elsewhere."""

import asyncio
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.acceptance.gate import Gate
from tests.acceptance.sse import Frame, collect, follow, frames
from tests.acceptance.talk import says

MODES = ["messages-tuple", "values", "updates"]


def asked(gate: Gate) -> dict[str, Any]:
    """A run that stops at the gate after its first token."""
    return {
        "assistant_id": "chat",
        "input": says(f"hold {gate.port} middle one two three four five 六 七 八"),
        "stream_mode": MODES,
    }


def raw(received: list[Frame]) -> bytes:
    return b"".join(frame.raw for frame in received)


async def test_a_client_that_comes_back_gets_exactly_the_rest(
    client: LangGraphClient, http: httpx.AsyncClient, other_http: httpx.AsyncClient, gate: Gate
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    received: list[Frame] = []
    async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=asked(gate)) as first:
        path = first.headers["location"]
        assert path == f"{first.headers['content-location']}/stream"
        received = [frame async for frame in frames(first)]
    run_id = path.split("/")[-2]

    assert len(received) > 10
    assert [frame.place for frame in received] == sorted({frame.place for frame in received})
    for where in (http, other_http):
        for url in (path, f"/runs/{run_id}/stream"):
            assert raw(await collect(where, "GET", url, last_event_id="-1")) == raw(received)
            assert raw(await collect(where, "GET", url)) == raw(received)
        for index, frame in enumerate(received):
            rest = await collect(where, "GET", path, last_event_id=frame.id)
            assert raw(rest) == raw(received[index + 1 :]), f"after {frame.id}"


async def test_a_live_run_is_joined_at_every_place_from_both_processes(
    client: LangGraphClient, http: httpx.AsyncClient, other_http: httpx.AsyncClient, gate: Gate
) -> None:
    gate.hold("middle")
    thread_id = (await client.threads.create())["thread_id"]
    received: list[Frame] = []
    followers = []
    async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=asked(gate)) as first:
        path = first.headers["location"]
        async for frame in frames(first):
            received.append(frame)
            if frame.name == "messages" and "middle" in gate.held:
                for where in (http, other_http):
                    for place in ("-1", *(known.id for known in received)):
                        follower = await follow(where, path, last_event_id=place)
                        followers.append((place, follower))
                gate.release("middle")

    for place, follower in followers:
        seen = next((n for n, frame in enumerate(received, 1) if frame.id == place), 0)
        assert raw(await follower) == raw(received[seen:]), f"after {place}"


async def test_a_client_that_only_wants_some_modes_gets_only_those(
    client: LangGraphClient, http: httpx.AsyncClient, gate: Gate
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    path = f"/threads/{thread_id}/runs/stream"
    received = await collect(http, "POST", path, json=asked(gate))
    run_id = received[0].data["run_id"]

    parts = [
        part.event
        async for part in client.runs.join_stream(thread_id, run_id, stream_mode=["updates"])
    ]

    assert parts == ["metadata", "updates", "end"]


async def test_a_client_that_leaves_does_not_stop_the_run_unless_it_says_so(
    client: LangGraphClient, http: httpx.AsyncClient, gate: Gate
) -> None:
    gate.hold("middle")
    statuses: dict[str, str] = {}
    for on_disconnect in ("continue", "cancel"):
        thread_id = (await client.threads.create())["thread_id"]
        body = {**asked(gate), "on_disconnect": on_disconnect}
        async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
            await anext(frames(response))
            await gate.arrived("middle", times=len(statuses) + 1)
        if on_disconnect == "cancel":
            await gate.left("middle")
        else:
            gate.release("middle")
        [run] = await client.runs.list(thread_id)
        await client.runs.join(thread_id, run["run_id"])
        statuses[on_disconnect] = (await client.runs.get(thread_id, run["run_id"]))["status"]
        gate.held.setdefault("middle", asyncio.Event())

    assert statuses == {"continue": "success", "cancel": "interrupted"}


@pytest.mark.parametrize("path", ["/runs/{}/stream", "/threads/{}/runs/{}/stream"])
async def test_a_run_that_does_not_exist_is_an_error_event(
    path: str, http: httpx.AsyncClient
) -> None:
    missing = "00000000-0000-7000-8000-000000000000"

    [only] = await collect(http, "GET", path.format(missing, missing))

    assert only.name == "error"
    assert only.data == {"error": "HTTPException", "message": "404: Run not found"}
