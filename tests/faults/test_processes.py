"""Owners of runs that are killed, frozen, starved and told to go; what becomes of their runs."""

import asyncio
import random
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import APIStatusError
from langgraph_sdk.schema import RunCreateMetadata
from redis.asyncio import Redis

from api.processes.embedded import Servers
from tests.acceptance.conftest import Connect, empty_database
from tests.acceptance.gate import Gate
from tests.acceptance.process import BUSY_SECONDS, starting
from tests.acceptance.sse import Frame, collect, follow, frames
from tests.faults.cluster import DEAD, GRACE_SECONDS, Cluster, freeze, kill, thaw
from tests.faults.runs import Http, attempts, begin, begin_here, ended, measured, steps, until
from tests.measured import value
from tests.soak.cluster import Member
from tests.soak.turnstile import open_turnstile

#: For longer than a process believes in its lease without a beat, and not for the lease.
SHORT_OF_LEASE_SECONDS = 2.7
#: The checkpoint of the step ``a`` of `steps`.
WRITTEN = "SELECT FROM checkpoints WHERE thread_id = %s AND metadata ->> 'step' = '1'"
#: The last checkpoint of a run's second attempt before its step ``b``: greet, and a, are behind it.
WRITTEN_ANEW = """
SELECT FROM checkpoints
WHERE thread_id = %s AND metadata ->> 'run_attempt' = '2' AND metadata ->> 'step' = '2'
"""

#: What the stream of each run told: id and name of every event.
Told = dict[str, list[tuple[str | None, str]]]
Stored = Callable[[str], Awaitable[list[Any]]]
Growth = Callable[..., Awaitable[float]]


async def begin_on(
    cluster: Cluster, owner: Member, http: Http, gate: Gate, **more: Any
) -> tuple[str, str]:
    """Queue runs until this process has got one, which it begins; those before it are let go."""
    for number in range(100):
        name = f"job{number}"
        gate.hold(f"{name}:b")
        thread_id, run_id = await begin(http, steps(gate, name, **more))
        await gate.arrived(f"{name}:b")
        if cluster.owner(run_id) is owner:
            return thread_id, run_id
        gate.release(f"{name}:b")
    raise AssertionError(f"{owner.name} claims nothing")


async def hear(http: httpx.AsyncClient, path: str) -> list[Frame]:
    """What a stream tells until it is broken off."""
    heard: list[Frame] = []
    try:
        async with http.stream("GET", path) as response:
            async for frame in frames(response):
                heard += [frame]
    except (httpx.RemoteProtocolError, httpx.ReadError):
        return heard
    raise AssertionError(f"the stream ended as if it were whole, after {heard}")


@pytest.fixture
async def stored(cluster: Cluster, servers: Servers) -> AsyncIterator[Stored]:
    """All that PostgreSQL and Redis have of a thread."""
    tables = (
        "SELECT * FROM checkpoints WHERE thread_id = %s ORDER BY checkpoint_id",
        "SELECT * FROM checkpoint_writes WHERE thread_id = %s ORDER BY checkpoint_id, task_id, idx",
        "SELECT * FROM checkpoint_blobs WHERE thread_id = %s ORDER BY channel, version",
        "SELECT * FROM message WHERE conversation_id = %s ORDER BY seq",
        "SELECT * FROM run WHERE thread_id = %s",
        "SELECT * FROM thread WHERE thread_id = %s",
    )
    async with Redis.from_url(servers.redis_url) as redis:

        async def read(thread_id: str) -> list[Any]:
            rows = [cluster.sql(query, thread_id) for query in tables]
            return [*rows, await redis.xrange(f"threadwell:ev:{{{thread_id}}}")]

        yield read


@pytest.fixture
async def growth(http: Http) -> Growth:
    """By how much what a server counts has grown since the test began."""
    before = [await measured(one) for one in http]

    async def of(server: int, name: str, **labels: str) -> float:
        found = before[server], await measured(http[server])
        earlier, now = (value(one, f"threadwell_{name}_total", **labels) for one in found)
        return now - earlier

    return of


async def test_runs_of_killed_processes_resume_elsewhere_from_their_last_checkpoint(
    cluster: Cluster, http: Http, gate: Gate, growth: Growth
) -> None:
    doomed, survivor = cluster.servers
    of_worker = await begin_on(cluster, cluster.worker, http, gate, durability="async")
    held = next(iter(gate.held))
    gate.hold("job:b")
    thread_id, run_id = await begin_here(http[0], steps(gate, "job", durability="sync"))
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    following, asking = await follow(http[1], path), asyncio.create_task(hear(http[0], path))
    await gate.arrived("job:b")
    assert cluster.owner(run_id) is doomed
    # With "async" it is written while the next step runs.
    await until(lambda: cluster.sql(WRITTEN, of_worker[0]))

    await asyncio.gather(kill(doomed), kill(cluster.worker))

    begun = await asking
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
    assert attempts(received) == [1, 2]
    # What was still on its way to Redis comes anew, in the second attempt.
    [_, again] = [number for number, frame in enumerate(received) if frame.name == "metadata"]
    told = min(again, len(begun))
    assert received[:told] == begun[:told]
    assert [frame.place for frame in received] == sorted({frame.place for frame in received})
    assert cluster.in_flight() == []
    grew = [
        await growth(1, "runs_reaped", status="pending"), await growth(1, "runs_begun", how="resumed")
    ]  # fmt: skip
    assert grew == [2, 2]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_process_frozen_beyond_its_lease_writes_nothing_when_it_goes_on(
    durability: str, cluster: Cluster, http: Http, gate: Gate, stored: Stored, growth: Growth
) -> None:
    zombie = cluster.servers[0]
    gate.hold("job:a", "job:b")
    body = steps(gate, "job", assistant_id="talking_steps", durability=durability)
    thread_id, run_id = await begin_here(http[0], body)
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    following = await follow(http[0], path)
    await gate.arrived("job:a")
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
    meanwhile = await follow(http[0], path)
    assert await stored(thread_id) == before
    assert gate.seen == ["job:a", "job:a", "job:b"]
    gate.release("job:b")

    output, row = await ended(http[0], thread_id, run_id)
    received = await following
    assert (output["log"], row["status"]) == (["job:a", "job:b"], "success")
    assert attempts(received) == [1, 2]
    assert received == await meanwhile == await collect(http[1], "GET", path)
    assert cluster.in_flight() == []
    assert await growth(0, "runs_given_up", why="lost") == await growth(0, "worker_buried") == 1


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_process_frozen_almost_as_long_as_its_lease_loses_no_step(
    durability: str, cluster: Cluster, http: Http, gate: Gate
) -> None:
    gate.hold("job:b")
    thread_id, run_id = await begin_here(http[0], steps(gate, "job", durability=durability))
    await gate.arrived("job:b")
    freeze(cluster.servers[0])
    gate.release("job:b")
    await asyncio.sleep(SHORT_OF_LEASE_SECONDS)
    # It goes on with the answer to its step, and with the next beat.
    thaw(cluster.servers[0])

    output, row = await ended(http[1], thread_id, run_id)

    assert (output["log"], row["status"]) == (["job:a", "job:b", "job:c"], "success")
    assert cluster.in_flight() == []


async def test_a_process_frozen_beyond_its_lease_begins_no_step_of_a_stateless_run(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    zombie = cluster.servers[0]
    gate.hold("job:a", "job:b")
    body = steps(gate, "job", on_disconnect="continue")
    async with http[0].stream("POST", "/runs/stream", json=body) as response:
        path = response.headers["content-location"]
    await gate.arrived("job:a")
    run_id = path.split("/")[-1]
    assert cluster.owner(run_id) is zombie
    freeze(zombie)
    await gate.arrived("job:a", times=2)
    following = await follow(http[1], f"{path}/stream")
    gate.release("job:a")
    await gate.arrived("job:b")

    deaths = zombie.now.log.count(DEAD)
    thaw(zombie)
    await zombie.now.printed(DEAD, times=deaths + 1)
    assert gate.seen == ["job:a", "job:a", "job:b"]
    gate.release("job:b")

    assert (await following)[-1].data["log"] == ["job:a", "job:b", "job:c"]
    assert gate.seen == ["job:a", "job:a", "job:b", "job:c"]
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


async def test_runs_finish_within_the_grace_and_new_ones_begin_elsewhere(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    leaving = cluster.servers[0]
    gate.hold("job:b", "later:b")
    thread_id, run_id = await begin_here(http[0], steps(gate, "job"))
    asking = await follow(http[0], f"/threads/{thread_id}/runs/{run_id}/stream")
    await gate.arrived("job:b")
    assert cluster.owner(run_id) is leaving

    leaving.now.process.terminate()
    await until(lambda: cluster.sql("SELECT FROM worker WHERE draining"))
    later, later_run = await begin([http[1]], steps(gate, "later"))
    await gate.arrived("later:b")
    assert cluster.owner(later_run) is not leaving
    gate.release("job:b", "later:b")

    received = await asking
    status = await asyncio.to_thread(leaving.now.wait)
    assert received[-1].data["log"] == ["job:a", "job:b", "job:c"]
    assert status == 0
    assert gate.seen.count("job:b") == 1
    assert (await ended(http[1], later, later_run))[1]["status"] == "success"
    assert cluster.in_flight() == []


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_what_is_unfinished_after_the_grace_is_handed_over_and_loses_no_step_and_no_event(
    durability: str, cluster: Cluster, http: Http, gate: Gate
) -> None:
    leaving = cluster.servers[0]
    gate.hold("job:b")
    body = steps(gate, "job", durability=durability, stream_mode=["updates", "values"])
    thread_id, run_id = await begin_here(http[0], body)
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    asking = asyncio.create_task(hear(http[0], path))
    waiting = asyncio.create_task(http[0].get(path.replace("stream", "join")))
    following = await follow(http[1], path)
    await gate.arrived("job:b")
    assert cluster.owner(run_id) is leaving

    told_at = time.monotonic()
    leaving.now.process.terminate()
    await gate.arrived("job:b", times=2)
    taken = time.monotonic() - told_at
    begun = await asking
    with pytest.raises(httpx.RemoteProtocolError):
        await waiting
    gate.release("job:b")
    received = await following

    assert taken < GRACE_SECONDS + 1 + BUSY_SECONDS
    assert gate.seen == ["job:a", "job:b", "job:b", "job:c"]
    # Not a loss: the attempt does not count.
    assert attempts(received) == [1, 1]
    assert received[: len(begun)] == begun
    rest = await collect(http[1], "GET", path, last_event_id=begun[-1].id)
    assert begun + rest == received == await collect(http[1], "GET", path)
    assert received[-1].data["log"] == ["job:a", "job:b", "job:c"]
    assert "[error" not in leaving.now.log
    assert "Traceback" not in leaving.now.log
    assert await asyncio.to_thread(leaving.now.wait) == 0
    assert cluster.in_flight() == []


# A stream that is broken off before its first event is asked for anew, from its beginning.
@pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID")
async def test_a_rolling_restart_under_load_loses_no_run_and_no_event(
    cluster: Cluster, http: Http, clients: Connect
) -> None:
    async with open_turnstile(random.Random(1)) as turnstile:
        over = asyncio.Event()
        crowd = [
            asyncio.create_task(talk(clients(server.now), turnstile.port, over))
            for server in cluster.servers * 3
        ]
        for member in cluster.members:
            await kill(member, signal.SIGTERM)
            member.start()
            await asyncio.to_thread(cluster.wait_until_up)
        over.set()
        told = dict(pair for some in await asyncio.gather(*crowd) for pair in some.items())

    assert len(told) > len(crowd)
    rows = cluster.sql(
        "SELECT run_id::text, thread_id, status FROM run WHERE run_id::text = ANY(%s)", list(told)
    )
    assert {status for _, _, status in rows} == {"success"}
    assert len(rows) == len(told)
    for run_id, thread_id, _ in rows:
        path = f"/threads/{thread_id}/runs/{run_id}/stream"
        log = await collect(http[0], "GET", path)
        *heard, (_, last) = told[run_id]
        assert heard == [(frame.id, frame.name) for frame in log]
        assert last == "end"
    assert cluster.in_flight() == []


async def talk(client: LangGraphClient, port: int, over: asyncio.Event) -> Told:
    """Run one run after the other, as a user of the SDK does; what each stream told."""
    told: Told = {}
    work: dict[str, Any] = {"gate": port, "name": "load", "messages": [("user", "go")]}
    while not over.is_set():
        begun: list[RunCreateMetadata] = []
        try:
            thread = await client.threads.create()
            parts = client.runs.stream(
                thread["thread_id"],
                "soak",
                input=work,
                stream_mode=["values", "updates"],
                on_run_created=begun.append,
            )
            heard = [(part.id, part.event) async for part in parts]
        except (httpx.TransportError, APIStatusError):
            # Refused by a server that goes or is gone: nothing was taken in.
            assert not begun
            continue
        told[begun[0]["run_id"]] = heard
    return told


async def test_a_frozen_process_keeps_no_thread_locked(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    frozen = cluster.servers[0]
    gate.hold("job:b")
    thread_id, run_id = await begin_here(http[0], steps(gate, "job"))
    await gate.arrived("job:b")
    with cluster.connect() as ours:
        ours.execute("SELECT FROM thread WHERE thread_id = %s FOR UPDATE", (thread_id,))
        url = f"/threads/{thread_id}/runs"
        queueing = asyncio.create_task(http[0].post(url, json=steps(gate, "next")))
        await until(lambda: cluster.sql("SELECT FROM pg_locks WHERE NOT granted"))
        # It gets the lock when it cannot do anything with it any more.
        freeze(frozen)

    await gate.arrived("job:b", times=2)
    gate.release("job:b")
    assert (await ended(http[1], thread_id, run_id))[1]["status"] == "success"
    thaw(frozen)
    # It found out that it had queued nothing, and did.
    queued = (await queueing).json()["run_id"]
    assert (await ended(http[1], thread_id, queued))[1]["status"] == "success"
    assert cluster.in_flight() == []


async def test_a_process_that_is_out_of_memory_loses_its_run_to_another(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    starved = cluster.servers[0]
    gate.hold("job:hog")
    body = {"assistant_id": "hog", "input": {"gate": gate.port, "name": "job"}}
    thread_id, run_id = await begin_here(http[0], body)
    await gate.arrived("job:hog")
    assert cluster.owner(run_id) is starved
    pid = starved.now.process.pid
    used = psutil.Process(pid).memory_info().vms
    resource.prlimit(pid, resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    gate.release("job:hog")

    output, row = await ended(http[1], thread_id, run_id)
    # Whether it dies of it or only starves.
    await kill(starved)
    assert (output["log"], row["status"]) == (["hog"], "success")
    assert gate.seen == ["job:hog", "job:hog"]
    assert cluster.in_flight() == []


async def test_with_the_default_lease_a_lost_run_is_taken_up_within_25_seconds(
    servers: Servers, project: Path, gate: Gate
) -> None:
    gate.hold("job:b")
    with ExitStack() as stack:
        # Of their own: processes with a shorter lease would bury them sooner.
        database = stack.enter_context(empty_database(servers))
        urls = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
        doomed, heir = (stack.enter_context(starting(project, urls)) for _ in range(2))
        doomed.wait_until_up()
        heir.wait_until_up()
        async with (
            httpx.AsyncClient(base_url=doomed.url, timeout=30) as there,
            httpx.AsyncClient(base_url=heir.url, timeout=30) as http,
        ):
            thread_id, run_id = await begin_here(there, steps(gate, "job"))
            await gate.arrived("job:b")
            doomed.process.kill()
            killed_at = time.monotonic()
            await gate.arrived("job:b", times=2)
            seconds = time.monotonic() - killed_at
            gate.release("job:b")
            output, row = await ended(http, thread_id, run_id)

    assert seconds <= 25 + BUSY_SECONDS
    assert gate.seen == ["job:a", "job:b", "job:b", "job:c"]
    assert (output["log"], row["status"]) == (["job:a", "job:b", "job:c"], "success")
