"""Values that cannot be kept, and stored ones that cannot be read: whom they harm, and whom not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import psutil
import pytest

from tests.acceptance.gate import Gate
from tests.acceptance.sse import collect
from tests.acceptance.talk import contents, says
from tests.faults.cluster import Cluster
from tests.faults.test_strategies import ask, new_thread, runs_of, settled, wait

Http = list[httpx.AsyncClient]

REFUSED = {
    "object": "Type is not msgpack serializable: object",
    "lambda": "Type is not msgpack serializable: function",
    "big": "Integer exceeds 64-bit range",
    "keys": "string contains surrogates",
    "deep": "Recursion limit reached",
    "cycle": "Recursion limit reached",
}
KEPT = ("nul", "surrogate", "nan", "infinity", "fine")

CORRUPTIONS = {
    "bytes that are no msgpack": "UPDATE checkpoint_blobs SET blob = '\\xc1'",
    "an extension that is not known": "UPDATE checkpoint_blobs SET blob = '\\xc7016300'",
    "a type that is not known": "UPDATE checkpoint_blobs SET type = 'weird'",
    "a pickle": "UPDATE checkpoint_blobs SET type = 'pickle', blob = '\\x80'",
    "a number for the messages": "UPDATE checkpoint_blobs SET blob = '\\x01'",
    "an empty checkpoint": "UPDATE checkpoints SET checkpoint = '{}'",
    "a list for a checkpoint": "UPDATE checkpoints SET checkpoint = '[]'",
}

MEGABYTES = 50


async def reads(http: httpx.AsyncClient, thread_id: str) -> dict[str, int]:
    """The status of everything that one can ask about a thread."""
    paths: list[tuple[str, str, Any]] = [
        ("GET", f"/threads/{thread_id}", None),
        ("GET", f"/threads/{thread_id}/state", None),
        ("GET", f"/threads/{thread_id}/history", None),
        ("POST", f"/threads/{thread_id}/history", {}),
        ("POST", "/threads/search", {"ids": [thread_id]}),
        ("GET", f"/threads/{thread_id}/runs", None),
        ("GET", f"/api/sessions/{thread_id}", None),
        ("GET", f"/api/sessions/{thread_id}/messages", None),
    ]
    answers = {path: await http.request(method, path, json=body) for method, path, body in paths}
    return {path: answer.status_code for path, answer in answers.items()}


@pytest.mark.parametrize("graph", ["poison", "asks_oddly"])
@pytest.mark.parametrize("kind", REFUSED)
async def test_a_value_that_cannot_be_kept_fails_its_run_alone(
    kind: str, graph: str, cluster: Cluster, http: Http
) -> None:
    thread_id = await new_thread(http)
    body = {"assistant_id": graph, "input": {"kind": kind}}

    received = await collect(http[0], "POST", f"/threads/{thread_id}/runs/stream", json=body)

    reason = REFUSED[kind]
    if graph == "asks_oddly":
        reason = "Type is not msgpack serializable: Interrupt"
    error = {"error": "TypeError", "message": reason}
    assert (received[-1].name, received[-1].data) == ("error", error)
    thread = (await http[1].get(f"/threads/{thread_id}")).json()
    assert (thread["status"], thread["error"]) == ("error", error)
    assert set((await reads(http[1], thread_id)).values()) == {200}
    assert (await wait(http[1], thread_id, "poison", input={"kind": "fine"}))["log"][-2:] == [
        "fine",
        "after",
    ]
    assert await settled(cluster, thread_id) == "idle"


@pytest.mark.parametrize("kind", [*REFUSED, *KEPT])
async def test_whatever_a_node_tells_its_clients_does_no_harm(
    kind: str, cluster: Cluster, http: Http
) -> None:
    thread_id = await new_thread(http)
    body = {"assistant_id": "tells_oddly", "input": {"kind": kind}, "stream_mode": "custom"}

    received = await collect(http[0], "POST", f"/threads/{thread_id}/runs/stream", json=body)

    assert [frame.name for frame in received] == ["metadata", "custom"]
    assert list(runs_of(cluster, thread_id).values()) == ["success"]


async def test_of_many_runs_at_once_the_poisoned_ones_fail_and_no_other(
    cluster: Cluster, http: Http
) -> None:
    kinds = [*REFUSED, *KEPT] * 4
    threads = [await new_thread(http) for _ in kinds]

    await asyncio.gather(
        *(
            ask(http[n % 2], thread_id, "poison", input={"kind": kind}, durability="sync")
            for n, (thread_id, kind) in enumerate(zip(threads, kinds, strict=True))
        )
    )

    for thread_id, kind in zip(threads, kinds, strict=True):
        ended = "error" if kind in REFUSED else "idle"
        assert (kind, await settled(cluster, thread_id)) == (kind, ended)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_a_checkpoint_that_cannot_be_read_fails_what_needs_it_and_nothing_else(
    corruption: str, cluster: Cluster, http: Http
) -> None:
    thread_id, other = await new_thread(http), await new_thread(http)
    for talking in (thread_id, other):
        await wait(http[0], talking, "chat", input=says("hello"))
    first, *_ = runs_of(cluster, thread_id)
    cluster.sql(f"{CORRUPTIONS[corruption]} WHERE thread_id = %s RETURNING 1", thread_id)

    seen = await reads(http[1], thread_id)
    failed = await wait(http[1], thread_id, "chat", input=says("again"))
    updated = await http[0].post(f"/threads/{thread_id}/state", json={"values": says("x")})

    assert set(seen.values()) <= {200, 409}
    assert set(failed) == {"__error__"}
    assert await settled(cluster, thread_id) == "error"
    assert updated.status_code == 400
    found = (await http[0].post("/threads/search", json={"ids": [thread_id, other]})).json()
    assert {thread["thread_id"] for thread in found} == {thread_id, other}
    answer = await wait(http[1], other, "chat", input=says("again"))
    assert contents(answer)[0] == "hello"
    assert (await http[1].delete(f"/threads/{thread_id}/runs/{first}")).status_code == 204
    assert (await http[0].delete(f"/threads/{thread_id}")).status_code == 204


async def test_a_run_is_rolled_back_though_an_older_checkpoint_cannot_be_read(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    gate.hold("doomed:b")
    work = {"gate": gate.port, "name": "doomed", **says("hello")}
    await wait(http[0], thread_id, "chat", input=says("before"))
    run = (await ask(http[0], thread_id, "talking_steps", input=work, durability="sync")).json()
    await gate.arrived("doomed:b")
    cluster.sql(f"{CORRUPTIONS['a pickle']} WHERE thread_id = %s RETURNING 1", thread_id)

    path = f"/threads/{thread_id}/runs/{run['run_id']}/cancel"
    await http[1].post(path, params={"action": "rollback", "wait": True})

    assert await settled(cluster, thread_id) == "idle"
    assert list(runs_of(cluster, thread_id).values()) == ["success"]
    table = (await http[1].get(f"/api/sessions/{thread_id}/messages")).json()["data"]
    assert [row["content"] for row in table] == ["before", "(1) before"]


async def watched(pid: int, http: httpx.AsyncClient, work: Callable[[], Awaitable[Any]]) -> int:
    """Do something while a server is asked again and again; how much more memory it had then."""
    process = psutil.Process(pid)
    before: int = process.memory_info().rss
    most = before
    working = asyncio.ensure_future(work())
    while not working.done():
        assert (await http.get("/ok")).status_code == 200
        most = max(most, process.memory_info().rss)
        await asyncio.sleep(0.01)
    await working
    return most - before


async def test_a_large_state_is_kept_and_takes_no_more_memory_than_a_few_times_its_size(
    cluster: Cluster, http: Http
) -> None:
    thread_id = await new_thread(http)
    kind = f"list {MEGABYTES * 1_000_000}"
    server = cluster.servers[0]

    async def work() -> None:
        body = {"assistant_id": "large", "input": {"kind": kind}}
        answer = await http[0].post(f"/threads/{thread_id}/runs/wait", json=body, timeout=60)
        assert len(answer.content) > MEGABYTES * 1_000_000

    async with httpx.AsyncClient(base_url=server.url, timeout=30) as asking:
        taken = await watched(server.now.process.pid, asking, work)

    assert await settled(cluster, thread_id) == "idle"
    assert taken < 12 * MEGABYTES * 1_000_000
    assert (await http[0].delete(f"/threads/{thread_id}")).status_code == 204
