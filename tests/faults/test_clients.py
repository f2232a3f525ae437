"""Clients that are cut off, at any place, any number of times, from any server."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from api.processes.embedded import Servers
from tests.acceptance.gate import Gate
from tests.acceptance.process import ServerProcess, serving
from tests.acceptance.sse import Frame, collect, follow, frames
from tests.acceptance.talk import says
from tests.faults.cluster import QUICK, Cluster
from tests.faults.runs import Http, begin, begin_here, ended, new_thread, steps, until
from tests.faults.scissors import open_scissors

MODES = ["messages-tuple", "values", "updates"]


def words(count: int, gate: Gate) -> dict[str, Any]:
    """A run that says so many words, and stops at the gate after the first."""
    text = " ".join(f"word{number}" for number in range(count))
    asked = says(f"hold {gate.port} middle {text}")
    return {"assistant_id": "chat", "input": asked, "stream_mode": MODES}


async def persist(url: str, path: str, *, after: str = "-1", count: int = 0) -> list[Frame]:
    """Read a stream to its end, or so many events, coming back whenever it is cut off."""
    heard: list[Frame] = []
    async with httpx.AsyncClient(base_url=url, timeout=20) as http:
        while not await read(http, path, heard, after, count):
            pass
    return heard


async def read(
    http: httpx.AsyncClient, path: str, heard: list[Frame], after: str, count: int
) -> bool:
    """Hear the rest on one connection; whether it is there."""
    headers = {"Last-Event-ID": heard[-1].id if heard else after, "Connection": "close"}
    with suppress(httpx.ReadError, httpx.RemoteProtocolError):
        async with http.stream("GET", path, headers=headers) as response:
            async for frame in frames(response):
                heard += [frame]
                if len(heard) == count:
                    break
            return True
    return False


async def test_a_client_that_is_cut_off_everywhere_gets_each_event_once(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    gate.hold("middle")
    thread_id, run_id = await begin_here(http[0], words(60, gate))
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    following = await follow(http[0], path)
    rng = random.Random(1)
    ports = [server.port for server in cluster.servers]
    async with open_scissors(ports, (rng.randrange(1, 1500) for _ in range(200))) as scissors:
        persisting = asyncio.create_task(persist(scissors.url, path))
        await gate.arrived("middle")
        gate.release("middle")
        received = await following
        assert await persisting == received
        assert scissors.count > 20
    assert len(received) > 60
    assert received == await collect(http[1], "GET", path)


async def test_the_sdk_comes_back_by_itself_and_gets_each_event_once(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    ports = [server.port for server in cluster.servers]
    async with (
        open_scissors(ports, [2_000, 1_500]) as scissors,
        get_client(url=scissors.url) as sdk,
    ):
        run = words(30, gate)
        parts = [
            part
            async for part in sdk.runs.stream(
                thread_id, "chat", input=run["input"], stream_mode=run["stream_mode"]
            )
        ]
        assert scissors.count == 2

    [row] = (await http[1].get(f"/threads/{thread_id}/runs")).json()
    log = await collect(http[1], "GET", f"/threads/{thread_id}/runs/{row['run_id']}/stream")
    assert [(part.id, part.event, part.data) for part in parts[:-1]] == [
        (frame.id, frame.name, frame.data) for frame in log
    ]
    assert parts[-1].event == "end"


async def test_a_thread_is_followed_across_its_runs_from_any_place_and_any_server(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    path = f"/threads/{thread_id}/stream?stream_mode=run_modes,state_update"
    url = f"/threads/{thread_id}/runs/wait"
    live = asyncio.create_task(persist(cluster.servers[1].url, path, count=13))
    for name in ("one", "two"):
        await http[0].post(url, json=steps(gate, name, stream_mode="values"))
    await http[1].post(f"/threads/{thread_id}/state", json={"values": {"name": "three"}})

    received = await live
    assert [frame.name for frame in received] == [
        *("metadata", "values", "values", "values", "values", "metadata"),
        *("metadata", "values", "values", "values", "values", "metadata"),
        "state_update",
    ]
    assert [frame.place for frame in received] == sorted({frame.place for frame in received})
    done = [frame.data for frame in received if frame.data.get("status")]
    assert done == [
        {"status": "run_done", "run_id": received[0].data["run_id"]},
        {"status": "run_done", "run_id": received[6].data["run_id"]},
    ]
    told = received[-1].data
    assert (told["thread_id"], told["state"]["values"]["name"]) == (thread_id, "three")
    ports = [server.port for server in cluster.servers]
    cuts = (random.Random(2).randrange(1, 3000) for _ in range(40))
    async with open_scissors(ports, cuts) as scissors:
        assert await persist(scissors.url, path, count=13) == received
    for number, frame in enumerate(received[:-1], 1):
        for server in cluster.servers:
            rest = await persist(server.url, path, after=frame.id, count=13 - number)
            assert rest == received[number:], f"after {frame.id}"


async def test_the_lifecycle_of_a_thread_is_two_events_a_run_and_begins_now(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    url = f"/threads/{thread_id}/runs/wait"
    await http[0].post(url, json=steps(gate, "before"))
    path = f"/threads/{thread_id}/stream?stream_mode=lifecycle"
    async with http[1].stream("GET", path) as response:
        await http[0].post(url, json=steps(gate, "after"))
        live = frames(response)
        told = [await anext(live), await anext(live)]
    async with get_client(url=cluster.servers[1].url) as sdk:
        parts = await sdk.threads.join_stream(
            thread_id, stream_mode=["lifecycle"], last_event_id="-1"
        )
        replayed = [await anext(parts) for _ in range(4)]

    [run, _] = (await http[0].get(f"/threads/{thread_id}/runs")).json()
    assert [(frame.name, frame.data) for frame in told] == [
        ("metadata", {"run_id": run["run_id"], "attempt": 1}),
        ("metadata", {"run_id": run["run_id"], "status": "run_done"}),
    ]
    assert [part.id for part in replayed[2:]] == [frame.id for frame in told]
    assert [part.data.get("status") for part in replayed] == [None, "run_done"] * 2


async def test_a_thread_stream_that_cannot_be_is_refused(http: Http) -> None:
    thread_id = await new_thread(http)
    missing = "00000000-0000-7000-8000-000000000000"

    wrong = await http[0].get(f"/threads/{thread_id}/stream?stream_mode=values")
    bad_id = await http[0].get(f"/threads/{thread_id}/stream", headers={"Last-Event-ID": "x"})
    unknown = await http[0].get(f"/threads/{missing}/stream")

    assert [answer.status_code for answer in (wrong, bad_id, unknown)] == [422, 422, 404]


@pytest.fixture(scope="module")
def narrow(servers: Servers, database: str, project: Path) -> Iterator[ServerProcess]:
    """A server that keeps few events of each thread."""
    urls = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
    with serving(project, {**QUICK, **urls, "EVENT_LOG_MAX_EVENTS": "50"}) as server:
        yield server


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_past_the_bounds_of_the_log_comes_the_runs_own_state_and_then_what_is_live(
    elsewhere: bool, narrow: ServerProcess, cluster: Cluster, http: Http, gate: Gate
) -> None:
    """Also when the thread has another run by then, and by an id to go on from."""
    async with httpx.AsyncClient(base_url=narrow.url, timeout=30) as there:
        thread_id, run_id = await begin_here(there, words(400, gate))
        path = f"/threads/{thread_id}/runs/{run_id}/stream"
        whole = await follow(there, path)
        output, _ = await ended(there, thread_id, run_id)
        await there.post(f"/threads/{thread_id}/runs/wait", json=words(3, gate))
        reader = http[0] if elsewhere else there
        first = (await whole)[0]
        received = await collect(reader, "GET", path, last_event_id=first.id)
        updates = await collect(
            reader, "GET", f"{path}?stream_mode=updates", last_event_id=first.id
        )
        again = await collect(reader, "GET", path, last_event_id=received[1].id)

    note, snapshot, *rest = received
    assert (note.name, note.data) == ("metadata", {"run_id": run_id, "status": "gap"})
    assert note.id == ""
    assert (snapshot.name, snapshot.data) == ("values", output)
    assert [frame.id for frame in rest] == [frame.id for frame in (await whole)[-len(rest) :]]
    assert rest[0].place == (snapshot.place[0], snapshot.place[1] + 1)
    assert again == rest
    assert [(frame.name, frame.id) for frame in updates[:1]] == [("metadata", snapshot.id)]
    assert {frame.name for frame in updates[1:]} == {"updates"}


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_past_the_bounds_of_the_log_a_threads_stream_has_its_state_and_then_what_is_live(
    elsewhere: bool, narrow: ServerProcess, cluster: Cluster, http: Http, gate: Gate
) -> None:
    told: list[Frame] = []
    async with httpx.AsyncClient(base_url=narrow.url, timeout=30) as there:
        thread_id, run_id = await begin_here(there, words(400, gate))
        state, _ = await ended(there, thread_id, run_id)
        reader, path = http[0] if elsewhere else there, f"/threads/{thread_id}/stream"
        first = {"Last-Event-ID": "1-1"}
        async with reader.stream("GET", path, headers=first) as response:
            async for frame in frames(response):
                told.append(frame)
                if frame.data == {"status": "run_done", "run_id": run_id}:
                    break

    # The events of the end come after it is known, and may push out what is just being read.
    gaps = [
        number for number, frame in enumerate(told) if frame.name == "metadata" and not frame.id
    ]
    assert gaps[0] == 0
    note, snapshot, *rest = told[gaps[-1] :]
    assert (note.name, note.data) == ("metadata", {"thread_id": thread_id, "status": "gap"})
    assert (snapshot.name, snapshot.data) == ("values", state)
    assert rest[0].place == (snapshot.place[0], snapshot.place[1] + 1)
    assert [frame.place for frame in rest] == [
        (rest[0].place[0], rest[0].place[1] + number) for number in range(len(rest))
    ]


async def test_who_follows_a_queued_run_misses_nothing_that_was_before_it(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    body = steps(gate, "job", after_seconds=1)
    thread_id, run_id = await begin(http, body)
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    following = [await follow(one, path) for one in http]
    # As by others who took the thread, and told of it in a log that is lost.
    cluster.sql("UPDATE thread SET epoch = epoch + 5 WHERE thread_id = %s RETURNING 1", thread_id)

    for received in [await one for one in following]:
        assert received[0].data == {"run_id": run_id, "attempt": 1}
        assert [frame.name for frame in received[1:]] == ["values"] * 4


@pytest.mark.parametrize("on_disconnect", ["cancel", "continue"])
@pytest.mark.parametrize("way", ["stream", "wait", "join", "join stream", "stateless wait"])
async def test_a_client_that_leaves_cancels_its_run_only_if_it_says_so(
    way: str, on_disconnect: str, cluster: Cluster, http: Http, gate: Gate
) -> None:
    gate.hold("middle")
    body = {**words(3, gate), "on_disconnect": on_disconnect}
    thread_id = await new_thread(http)
    path = f"/threads/{thread_id}/runs"
    if way.startswith("join"):
        run_id = (await http[0].post(path, json=words(3, gate))).json()["run_id"]
        query = {"cancel_on_disconnect": on_disconnect == "cancel"}
        url = f"{path}/{run_id}/{way.split()[-1]}"
        leaving = http[1].stream("GET", url, params=query)
    else:
        url = "/runs/wait" if way == "stateless wait" else f"{path}/{way}"
        leaving = http[0].stream("POST", url, json=body)

    async with leaving as response:
        assert response.status_code == 200
        await gate.arrived("middle")

    if on_disconnect == "cancel":
        await gate.left("middle")
    gate.release("middle")
    if way != "stateless wait":
        [run] = (await http[1].get(path)).json()
        _, row = await ended(http[1], thread_id, run["run_id"])
        assert row["status"] == {"cancel": "interrupted", "continue": "success"}[on_disconnect]
    await until(lambda: not cluster.in_flight())
