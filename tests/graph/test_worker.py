"""What a process does for the queue, when signals, connections, leases and processes are lost."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import orjson
import pytest

from api.processes.embedded import Servers
from graph.runs import Submitted
from graph.worker import CLAIM_RUNS
from store import endings, queue, runs, tallies
from store.access import EVERYTHING
from store.database import Database, open_database
from store.endings import WORKER_LOST
from store.errors import UnavailableError
from store.signals import notify_ended, notify_ready
from tests.faults.stores import network_to, through
from tests.graph.engines import Gate, Process, gated, process, soon, until, until_status
from tests.store.queues import a_worker, begin, lose


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def one(db: Database, gate: Gate) -> AsyncIterator[Process]:
    async with process(db, {"gated": gated(gate)}) as one:
        yield one


async def _listeners(db: Database) -> list[int]:
    query = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
    )
    return [row[0] for row in await db.tuples(query, {"x": 1})]


async def _kill(db: Database, pids: list[int]) -> None:
    await db.tuples(
        "SELECT pg_terminate_backend(pid) FROM unnest(%(pids)s::int[]) AS pid", {"pids": pids}
    )


async def _listens(db: Database) -> bool:
    return bool(await _listeners(db))


async def test_a_listener_that_is_killed_comes_back_and_nothing_waits_for_it(
    one: Process, gate: Gate
) -> None:
    gate.opened.set()
    await until(lambda: _listens(one.db))
    killed = await _listeners(one.db)
    await _kill(one.db, killed)

    submitted = await one.submit(await one.thread(), attached=False)

    assert (await one.names(submitted))[-1] == "end"
    await until(lambda: _listens(one.db))
    assert set(await _listeners(one.db)).isdisjoint(killed)


async def test_a_stop_is_found_without_its_signal(one: Process, gate: Gate) -> None:
    submitted = await one.submit(await one.thread())
    await soon(gate.entered)

    await one.db.execute("UPDATE run SET cancel_action = 'interrupt'", {})

    assert (await one.runs.join(submitted)).status == "interrupted"


async def test_an_end_is_found_without_its_signal(one: Process, gate: Gate) -> None:
    thread_id = await one.thread()
    await one.submit(thread_id)
    queued = await one.submit(thread_id)
    following = asyncio.create_task(one.names(queued))
    await soon(gate.entered)

    await one.db.execute(
        "UPDATE run SET status = 'interrupted' WHERE run_id = %(id)s::uuid",
        {"id": queued.run.run_id},
    )

    assert await following == []


async def test_a_signal_that_nobody_understands_stops_nothing(one: Process, gate: Gate) -> None:
    gate.opened.set()
    await until(lambda: _listens(one.db))
    for payload in ("", "{}", '{"kind":"newer"}'):
        await one.db.execute("SELECT pg_notify('threadwell', %(p)s)", {"p": payload})
    async with one.db.transaction() as tx:
        await notify_ended(tx, "nobody")

    submitted = await one.submit(await one.thread(), attached=False)

    assert (await one.names(submitted))[-1] == "end"


async def test_a_delayed_run_starts_when_it_is_due(one: Process, gate: Gate) -> None:
    gate.opened.set()
    submitted = await one.submit(await one.thread(), after_seconds=0.3)

    assert (await one.runs.join(submitted)).status == "success"


async def test_processes_share_a_queue_that_one_has_room_for(db: Database, gate: Gate) -> None:
    graphs = {"gated": gated(gate)}
    queued = 8 * CLAIM_RUNS
    async with (
        process(db, graphs, slots=2 * queued) as one,
        process(db, graphs, slots=2 * queued) as other,
    ):
        for _ in range(queued):
            await one.submit(await one.thread(), after_seconds=3600)
        async with db.transaction() as tx:
            await tx.execute("UPDATE run SET not_before = now()", {})
            await notify_ready(tx)

        async def taken() -> bool:
            return len(one.executor.running) + len(other.executor.running) == queued

        await until(taken)
        shares = sorted(len(each.executor.running) for each in (one, other))
        gate.opened.set()

    assert shares[0] >= CLAIM_RUNS


async def test_a_run_of_a_dead_process_is_resumed_by_another(
    db: Database, servers: Servers, gate: Gate
) -> None:
    graphs = {"gated": gated(gate)}
    url = servers.redis_url
    async with (
        process(db, graphs, redis_url=url, working=False) as dead,
        process(db, graphs, redis_url=url, sweep_seconds=0.1) as alive,
    ):
        submitted = await dead.submit(await dead.thread(), durability="sync")
        await soon(gate.entered)
        following = asyncio.create_task(
            alive.heard(await alive.runs.attach(submitted.run.run_id, access=EVERYTHING))
        )
        gate.reset()
        dead.executor.stop(submitted.run.run_id, "lost")
        await queue.retire(db, dead.heartbeat.worker_id)
        await soon(gate.entered)
        gate.opened.set()
        events = await following

    assert gate.ran == ["first", "wait", "wait", "last"]
    attempts = [orjson.loads(e.data)["attempt"] for e in events if e.name == "metadata"]
    assert attempts == [1, 2]
    assert events[-1].name == "end"


async def test_a_process_that_only_answers_hands_a_dead_ones_run_on_and_does_nothing_that_is_due(
    db: Database, servers: Servers, gate: Gate
) -> None:
    graphs = {"gated": gated(gate)}
    url = servers.redis_url
    async with (
        process(db, graphs, redis_url=url, working=False) as dead,
        process(db, graphs, redis_url=url, slots=0, sweep_seconds=0.1) as answering,
    ):
        submitted = await dead.submit(await dead.thread(), durability="sync")
        await soon(gate.entered)
        dead.executor.stop(submitted.run.run_id, "lost")
        await queue.retire(db, dead.heartbeat.worker_id)
        await until_status(answering, submitted, "pending")

        names = {task.get_name() for task in asyncio.all_tasks()}
        assert {"listen", "sweep", "endings", "publish"} <= names
        due = {"claim", "jobs", "leases of jobs", "crons", "listeners", "expire", "collect"}
        assert not due & names
    assert gate.ran == ["first", "wait"]


async def test_the_last_loss_of_a_run_is_told_to_those_who_follow_it(
    db: Database, servers: Servers, gate: Gate
) -> None:
    graphs = {"gated": gated(gate)}
    url = servers.redis_url
    async with (
        process(db, graphs, redis_url=url, working=False) as dead,
        process(db, graphs, redis_url=url, max_attempts=1) as alive,
    ):
        submitted = await dead.submit(None, temporary=True)
        await soon(gate.entered)
        there = await alive.runs.attach(submitted.run.run_id, access=EVERYTHING)
        joining = asyncio.create_task(alive.runs.join(there))
        dead.executor.stop(submitted.run.run_id, "lost")
        await queue.retire(db, dead.heartbeat.worker_id)
        async with asyncio.timeout(20):
            result = await joining

    assert (result.status, result.error) == ("error", WORKER_LOST)
    assert await db.tuples("SELECT 1 FROM thread", {}) == []


async def test_a_lost_run_that_is_rolled_back_is_told_too(db: Database, gate: Gate) -> None:
    dead = str(uuid.uuid4())
    async with process(db, {"gated": gated(gate)}) as one:
        thread_id = await one.thread()
        await queue.register(db, worker_id=dead, host="h", pid=1, version="0", slots=1)
        claimed = await begin(db, thread_id, dead)
        # Its own events are in another process.
        after = (claimed.lease.epoch + 1, 0)
        following = asyncio.create_task(one.names(Submitted(claimed.run, None), after))
        await endings.cancel(db, thread_id, None, action="rollback", access=EVERYTHING)
        await lose(db, dead)

        assert await following == ["end"]
        assert await runs.find(db, claimed.run.run_id, access=EVERYTHING) is None
        assert await one.thread_status(thread_id) == "idle"


async def test_a_buried_worker_begins_anew_and_goes_on(one: Process, gate: Gate) -> None:
    thread_id = await one.thread()
    submitted = await one.submit(thread_id, durability="sync")
    await soon(gate.entered)
    gate.reset()
    before = one.heartbeat.worker_id

    # As another process does it that saw no beat: this one slept.
    await queue.retire(one.db, before)
    await soon(gate.entered)
    gate.opened.set()
    await until_status(one, submitted, "success")

    assert one.heartbeat.worker_id != before
    assert gate.ran == ["first", "wait", "wait", "last"]
    run = await runs.get(one.db, submitted.run.run_id, access=EVERYTHING)
    assert run.attempt == 2
    assert (await one.runs.join(submitted)).status == "success"


async def test_a_run_that_nobody_executes_is_taken_up_again(one: Process, gate: Gate) -> None:
    gate.opened.set()
    thread_id = await one.thread()
    submitted = await one.submit(thread_id, attached=False, after_seconds=60)
    # As if its starter had been torn off after the commit.
    await one.db.execute(
        "UPDATE run SET status = 'running', epoch = 1, attempt = 1, worker_id = %(id)s::uuid,"
        " not_before = now()",
        {"id": one.heartbeat.worker_id},
    )

    await until_status(one, submitted, "success")
    run = await runs.get(one.db, submitted.run.run_id, access=EVERYTHING)
    assert run.attempt == 2


async def test_a_run_is_no_stray_while_the_answer_to_its_claim_is_under_way(
    one: Process, gate: Gate
) -> None:
    gate.opened.set()
    granted = await one.submit(await one.thread(), attached=False, after_seconds=60)
    with one.executor.ask():
        await _own(one, granted)
        # Each is found after two looks, and the one above would be, too.
        for _ in range(2):
            lost = await one.submit(await one.thread(), attached=False, after_seconds=60)
            gone = await a_worker(one.db)
            await _own(one, lost, worker_id=gone)
            await lose(one.db, gone)
            await until_status(one, lost, "success")
        assert await one.status(granted) == "running"
    await until_status(one, granted, "success")


async def _own(one: Process, submitted: Submitted, *, worker_id: str | None = None) -> None:
    """As if a worker had been given the run."""
    await one.db.execute(
        "UPDATE run SET status = 'running', epoch = 1, attempt = 1, worker_id = %(id)s::uuid,"
        " not_before = now() WHERE run_id = %(run_id)s::uuid",
        {"id": worker_id or one.heartbeat.worker_id, "run_id": submitted.run.run_id},
    )


class _Broken:
    """A checkpointer of a user's own that fails for one run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    async def forget_run(self, run_id: str) -> None:
        if run_id == self.run_id:
            raise RuntimeError("of the user's own")


async def test_a_rollback_that_fails_keeps_no_other_lost_run_waiting(one: Process) -> None:
    dead = await a_worker(one.db)
    lost = [await begin(one.db, await one.thread(), dead) for _ in range(2)]
    one.executor.retention.custom = _Broken(lost[0].run.run_id)  # type: ignore[assignment]
    for claimed in lost:
        await endings.cancel(
            one.db, claimed.run.thread_id, None, action="rollback", access=EVERYTHING
        )
    await lose(one.db, dead)
    await until_status(one, Submitted(lost[1].run, None), None)
    assert await one.status(Submitted(lost[0].run, None)) == "running"


async def test_a_run_that_can_never_settle_ends(one: Process, gate: Gate) -> None:
    """However often it is taken up again, the attempts come to an end."""
    thread_id = await one.thread()
    submitted = await one.submit(thread_id)
    for _ in range(3):
        await soon(gate.entered)
        gate.reset()
        one.executor.stop(submitted.run.run_id, "lost")

    await until_status(one, submitted, "error")
    assert await one.thread_status(thread_id) == "error"


async def test_all_threads_are_compared_once_in_a_while_also_if_counting_fails(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Database] = []
    tried: list[Database] = []

    async def compare(db: Database) -> int:
        compared.append(db)
        return 0

    async def fail(db: Database) -> bool:
        tried.append(db)
        raise UnavailableError("The database did not answer in time")

    monkeypatch.setattr(tallies, "find_changed", compare)
    monkeypatch.setattr(tallies, "count_settled", fail)
    one.worker._recount_at = 0.0
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await one.worker._tally_forever()

    assert len(tried) >= 2
    assert len(compared) == 1


async def test_leaving_hands_the_runs_on_and_retires(db: Database, gate: Gate) -> None:
    async with process(db, {"gated": gated(gate)}) as one:
        submitted = await one.submit(await one.thread())
        await soon(gate.entered)
        await one.submit(await one.thread(), attached=False, after_seconds=60)

    run = await runs.get(db, submitted.run.run_id, access=EVERYTHING)
    assert (run.status, run.attempt) == ("pending", 0)
    assert await db.tuples("SELECT 1 FROM worker", {}) == []


async def test_a_draining_process_takes_nothing_more(one: Process, gate: Gate) -> None:
    await one.worker.drain()

    submitted = await one.submit(await one.thread())

    assert submitted.execution is None
    assert await one.db.tuples("SELECT draining FROM worker", {}) == [(True,)]
    assert await one.status(submitted) == "pending"


async def test_a_claim_under_way_is_not_torn_from_its_runs(db: Database, gate: Gate) -> None:
    async with process(db, {"gated": gated(gate)}) as one:
        submitted = await one.submit(await one.thread(), attached=False)

    run = await runs.get(db, submitted.run.run_id, access=EVERYTHING)
    assert (run.status, run.attempt) == ("pending", 0)


async def test_an_outage_of_the_database_is_survived(db: Database, gate: Gate) -> None:
    async with process(db, {"gated": gated(gate)}) as one:
        submitted = await one.submit(await one.thread())
        await soon(gate.entered)
        with suppress(UnavailableError):
            await db.tuples(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_type = 'client backend'"
                " ORDER BY pid = pg_backend_pid()",
                {},
            )
        gate.opened.set()

        await until(lambda: _has_succeeded(one, submitted))


async def _has_succeeded(one: Process, submitted: Submitted) -> bool:
    with suppress(UnavailableError):
        return await one.status(submitted) == "success"
    return False


async def _is(holds: Callable[[], bool], wanted: bool) -> bool:
    return holds() is wanted


async def test_a_process_that_was_cut_off_declares_nobody_dead_for_a_lease(
    db: Database, database_url: str, gate: Gate
) -> None:
    lease_seconds = 1.0
    with network_to(database_url) as network:
        url = through(network, database_url)
        async with (
            open_database(url, timeout_seconds=0.5) as cut_off,
            process(cut_off, {"gated": gated(gate)}, lease_seconds=lease_seconds) as one,
        ):
            network.refuses = True
            await asyncio.to_thread(network.cut)
            await until(lambda: _is(one.heartbeat.alive, False))
            other = await a_worker(db)
            await lose(db, other)
            network.refuses = False
            await until(lambda: _is(one.heartbeat.alive, True))
            returned_at = one.heartbeat._returned_at

            async def is_declared_dead() -> bool:
                query = "SELECT worker_id FROM worker WHERE worker_id = %(id)s::uuid"
                return not await db.tuples(query, {"id": other})

            await until(is_declared_dead)
            assert time.monotonic() - returned_at > lease_seconds
