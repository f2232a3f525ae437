"""Owners of runs that are killed, frozen, starved and told to go; what becomes of their runs."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from api.embedded import Servers

from tests.acceptance.gate import Gate
from tests.acceptance.sse import Frame, collect, follow
from tests.faults.cluster import Cluster, Sql, freeze, kill, thaw
from tests.soak.cluster import Member

Http = list[httpx.AsyncClient]
#: What a process says when it learns that its lease was taken from it.
DEAD = "this worker was declared dead"
#: The checkpoints of a run's second attempt.
WRITTEN_ANEW = "SELECT FROM checkpoints WHERE thread_id = %s AND metadata ->> 'run_attempt' = '2'"

Stored = Callable[[str], Awaitable[list[Any]]]


async def new_thread(http: Http) -> str:
    return str((await http[0].post("/threads", json={})).json()["thread_id"])


async def until(holds: Callable[[], Any]) -> None:
    """Wait for something in PostgreSQL that nobody tells of."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def steps(gate: Gate, name: str, **more: Any) -> dict[str, Any]:
    """A run of three steps, each of which comes by at the gate."""
    work = {"gate": gate.port, "name": name}
    return {"assistant_id": "steps", "input": work, "durability": "sync", **more}


async def begin(http: Http, body: dict[str, Any]) -> tuple[str, str]:
    """Queue a run on a new thread; the ids of both."""
    thread_id = await new_thread(http)
    run = (await http[0].post(f"/threads/{thread_id}/runs", json=body)).json()
    return thread_id, run["run_id"]


async def begin_on(cluster: Cluster, owner: Member, http: Http, gate: Gate) -> tuple[str, str]:
    """Queue runs until this process has got one, which it begins; those before it are let go."""
    for number in range(100):
        name = f"job{number}"
        gate.hold(f"{name}:b")
        thread_id, run_id = await begin(http, steps(gate, name))
        await gate.arrived(f"{name}:b")
        if cluster.owner(run_id) is owner:
            return thread_id, run_id
        gate.release(f"{name}:b")
    raise AssertionError(f"{owner.name} claims nothing")


async def ended(http: httpx.AsyncClient, thread_id: str, run_id: str) -> tuple[Any, Any]:
    """Wait for a run's end: its output, and its row."""
    url = f"/threads/{thread_id}/runs/{run_id}"
    output = (await http.get(f"{url}/join")).json()
    return output, (await http.get(url)).json()


@pytest.fixture
async def stored(cluster: Cluster, servers: Servers) -> AsyncIterator[Stored]:
    """All that PostgreSQL and Redis have of a thread."""
    tables = (
        "SELECT * FROM checkpoints WHERE thread_id = %s ORDER BY checkpoint_id",
        "SELECT * FROM checkpoint_writes WHERE thread_id = %s ORDER BY checkpoint_id, task_id, idx",
        "SELECT * FROM message WHERE conversation_id = %s ORDER BY seq",
        "SELECT * FROM run WHERE thread_id = %s",
        "SELECT * FROM thread WHERE thread_id = %s",
    )
    async with Redis.from_url(servers.redis_url) as redis:

        async def read(thread_id: str) -> list[Any]:
            rows = [cluster.sql(query, thread_id) for query in tables]
            return [*rows, await redis.xrange(f"threadwell:ev:{{{thread_id}}}")]

        yield read


async def test_runs_of_killed_processes_resume_elsewhere_from_their_last_checkpoint(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    doomed, survivor = cluster.servers
    of_worker = await begin_on(cluster, cluster.worker, http, gate)
    held = next(iter(gate.held))
    gate.hold("job:b")
    thread_id = await new_thread(http)
    asked = http[0].post(f"/threads/{thread_id}/runs/wait", json=steps(gate, "job"))
    asking = asyncio.create_task(asked)
    await gate.arrived("job:b")
    [[run_id]] = cluster.sql("SELECT run_id::text FROM run WHERE thread_id = %s", thread_id)
    assert cluster.owner(run_id) is doomed
    following = await follow(http[1], f"/threads/{thread_id}/runs/{run_id}/stream")

    await asyncio.gather(kill(doomed), kill(cluster.worker))

    with pytest.raises(httpx.RemoteProtocolError):
        await asking
    await gate.arrived("job:b", times=2)
    await gate.arrived(held, times=2)
    assert cluster.owner(run_id) is survivor
    gate.release("job:b", held)
    received = await following
    for (thread, run), name in (((thread_id, run_id), "job"), (of_worker, held[:-2])):
        output, row = await ended(http[1], thread, run)
        assert output["log"] == [f"{name}:{step}" for step in "abc"]
        assert row["status"] == "success"
        visits = [seen for seen in gate.seen if seen.startswith(f"{name}:")]
        assert visits == [f"{name}:{step}" for step in "abbc"]
    attempts = [frame.data["attempt"] for frame in received if frame.name == "metadata"]
    assert attempts == [1, 2]
    assert [frame.place for frame in received] == sorted({frame.place for frame in received})
    assert cluster.in_flight() == []


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_process_frozen_beyond_its_lease_writes_nothing_when_it_goes_on(
    durability: str, cluster: Cluster, http: Http, gate: Gate, stored: Stored
) -> None:
    zombie = cluster.servers[0]
    gate.hold("job:a", "job:b")
    thread_id = await new_thread(http)
    body = steps(gate, "job", assistant_id="talking_steps", durability=durability)
    url = f"/threads/{thread_id}/runs/stream"
    asking = asyncio.create_task(collect(http[0], "POST", url, json=body))
    await gate.arrived("job:a")
    [[run_id]] = cluster.sql("SELECT run_id::text FROM run WHERE thread_id = %s", thread_id)
    path = f"/threads/{thread_id}/runs/{run_id}"
    assert cluster.owner(run_id) is zombie
    freeze(zombie)
    await gate.arrived("job:a", times=2)
    gate.release("job:a")
    await gate.arrived("job:b")
    assert cluster.owner(run_id) is not zombie
    if durability == "async":
        # While the step runs, what the one before it did is written.
        await until(lambda: cluster.sql(WRITTEN_ANEW, thread_id))
    before = await stored(thread_id)

    deaths = zombie.now.log.count(DEAD)
    thaw(zombie)
    # Its step was let go on long ago: whatever it does about that it does now.
    await zombie.now.printed(DEAD, times=deaths + 1)
    meanwhile = await follow(http[0], f"{path}/stream")
    assert await stored(thread_id) == before
    assert gate.seen == ["job:a", "job:a", "job:b"]
    gate.release("job:b")

    output, row = await ended(http[0], thread_id, run_id)
    received = await asking
    assert output["log"] == ["job:a", "job:b"]
    assert row["status"] == "success"
    assert [frame.data["attempt"] for frame in received if frame.name == "metadata"] == [1, 2]
    assert received == await meanwhile == await collect(http[1], "GET", f"{path}/stream")
    assert cluster.in_flight() == []


async def test_the_third_loss_of_its_owner_ends_a_run_with_an_error(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    gate.hold("job:b")
    thread_id, run_id = await begin(http, steps(gate, "job"))
    path = f"/threads/{thread_id}/runs/{run_id}"
    for loss in (1, 2, 3):
        await gate.arrived("job:b", times=loss)
        owner = cluster.owner(run_id)
        await kill(owner)
        owner.start()
    cluster.wait_until_up()
    received = await collect(http[0], "GET", f"{path}/stream")
    output, row = await ended(http[1], thread_id, run_id)
    thread = (await http[1].get(f"/threads/{thread_id}")).json()
    gate.release("job:b")
    after = await http[1].post(f"/threads/{thread_id}/runs/wait", json=steps(gate, "after"))

    error = {"error": "WorkerLost", "message": "The process that ran this was lost too often"}
    assert output == {"__error__": error}
    assert (row["status"], thread["status"], thread["error"]) == ("error", "error", error)
    assert [(f.name, f.data) for f in received[-1:]] == [("error", error)]
    assert gate.seen[:4] == ["job:a", "job:b", "job:b", "job:b"]
    assert after.json()["log"] == ["job:a", "after:a", "after:b", "after:c"]
    assert cluster.in_flight() == []
