"""The queue of runs: who gets a run, in which order, and how it ends."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, get_args

import pytest

from store import endings, lost_runs, new_runs, priorities, queue, rollback, runs, threads
from store.access import EVERYTHING
from store.database import Database, open_database
from store.endings import CANCELLED, WORKER_LOST, Ending
from store.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    ThreadBusyError,
    UnavailableError,
)
from store.models import CancelAction, MultitaskStrategy, Run
from store.new_runs import NewRun
from store.queue import Claim, Held
from store.retention import Life
from tests.faults.stores import lose_answer, network_to, through
from tests.store.event_logs import until
from tests.store.queues import (
    a_thread,
    a_worker,
    begin,
    checkpoint,
    claim_all,
    end,
    in_flight,
    lose,
    new_run,
    put,
    reap,
    status,
    thread,
    together,
)

# ------------------------------------------------------------------ starting


async def roll_back(db: Database, held: Held) -> bool:
    return await rollback.undo(db, held) and await rollback.discard(db, held)


async def delete(db: Database, thread_id: str, run_id: str) -> None:
    await rollback.forget(db, thread_id, run_id, access=EVERYTHING)
    await rollback.delete(db, thread_id, run_id)


async def test_runs_begin_and_end_beside_what_only_names_their_thread(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    first, second, third = [(await put(db, thread_id)).run_id for _ in range(3)]
    while await priorities.adopt(db):
        pass

    # As counting does for many threads together, and every row with a foreign key.
    async with db.transaction() as tx, asyncio.timeout(20):
        await tx.tuples("SELECT FROM thread FOR KEY SHARE", {})
        [claimed] = await queue.claim(db, worker_id=worker_id, slots=5)
        assert claimed.run.run_id == first
        ending = Ending(claimed=claimed, status="success", thread_status="idle", interrupts={})
        assert await endings.finish(db, [ending], wait=False) == {first}
        [claimed] = await queue.claim(db, worker_id=worker_id, slots=5, served=[])
        assert claimed.run.run_id == second
        assert await end(db, claimed)
        stopped = await endings.cancel(
            db, thread_id, [third], action="interrupt", access=EVERYTHING
        )
        assert stopped == [third]


async def test_a_run_starts_at_once_on_an_idle_thread(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)

    claimed = await begin(db, thread_id, worker_id)

    assert claimed.run == await runs.get(db, claimed.run.run_id, access=EVERYTHING)
    assert (claimed.run.status, claimed.run.attempt) == ("running", 1)
    assert (claimed.lease.epoch, claimed.run.first_epoch, claimed.run.log_epoch) == (1, 1, 1)
    found = await thread(db, thread_id)
    assert (found.status, found.metadata) == ("busy", {"graph_id": "g"})


async def test_nothing_starts_at_once_on_a_busy_or_missing_thread(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    await put(db, thread_id)

    assert await new_runs.start(db, new_run(thread_id), worker_id=worker_id) is None
    assert await new_runs.start(db, new_run("none"), worker_id=worker_id) is None


async def test_of_many_starters_of_a_thread_one_wins(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)

    claims = await together(
        *(new_runs.start(db, new_run(thread_id), worker_id=worker_id) for _ in range(12))
    )

    assert len([claimed for claimed in claims if claimed]) == 1
    assert len(await in_flight(db, ["running"], access=EVERYTHING)) == 1


async def test_starters_and_enqueuers_never_make_two_runs_run(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)

    async def submit() -> None:
        new = new_run(thread_id)
        if await new_runs.start(db, new, worker_id=worker_id) is None:
            await new_runs.enqueue(db, new)

    await together(*(submit() for _ in range(8)), *(put(db, thread_id) for _ in range(8)))

    assert len(await in_flight(db, ["running"], access=EVERYTHING)) <= 1
    assert len(await in_flight(db, ["pending", "running"], access=EVERYTHING)) == 16
    assert (await thread(db, thread_id)).status == "busy"


@asynccontextmanager
async def doubtful(
    db: Database, database_url: str, new: NewRun, worker_id: str
) -> AsyncIterator[asyncio.Task[Claim | Run | None]]:
    """A start that was done, whose answer was lost, and that finds no server until the block ends."""
    with network_to(database_url) as network:
        url = through(network, database_url)
        async with open_database(url, cipher=db.cipher) as away, asyncio.timeout(20):
            lose_answer(network, new.run_id, refuse=True)
            starting = asyncio.create_task(new_runs.start(away, new, worker_id=worker_id))
            await until(lambda: network.has_lost)
            yield starting
            network.refuses = False
            await asyncio.wait({starting})


@pytest.mark.parametrize("left", ["running", "pending", "taken over", "success"])
async def test_a_run_that_was_started_unheard_is_found_whatever_others_made_of_it(
    db: Database, database_url: str, left: str
) -> None:
    thread_id, own, other = await a_thread(db), await a_worker(db), await a_worker(db)
    new = new_run(thread_id)
    async with doubtful(db, database_url, new, own) as starting:
        if left != "running":
            await reap(db, other, strays=await queue.owned(db, own))
        if left in ("taken over", "success"):
            [claimed] = await queue.claim(db, worker_id=other, slots=1)
        if left == "success":
            assert await end(db, claimed)

    found = starting.result()
    assert isinstance(found, Claim if left == "running" else Run)
    run = found.run if isinstance(found, Claim) else found
    assert (run.run_id, run.status) == (new.run_id, "running" if left == "taken over" else left)
    assert len(await db.tuples("SELECT FROM run", {})) == 1


async def test_a_start_that_was_not_heard_of_on_a_busy_thread_is_queued(
    db: Database, database_url: str
) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    await put(db, thread_id)
    new = new_run(thread_id)
    async with doubtful(db, database_url, new, worker_id) as starting:
        pass

    queued = starting.result()
    assert isinstance(queued, Run)
    assert (queued.run_id, queued.status) == (new.run_id, "pending")


async def test_a_temporary_run_that_has_come_and_gone_unheard_is_in_doubt(
    db: Database, database_url: str
) -> None:
    thread_id, own, other = await a_thread(db), await a_worker(db), await a_worker(db)
    async with doubtful(db, database_url, new_run(thread_id, temporary=True), own) as starting:
        await reap(db, other, strays=await queue.owned(db, own))
        [claimed] = await queue.claim(db, worker_id=other, slots=1)
        assert await endings.finish_temporary(db, claimed)

    with pytest.raises(UnavailableError) as caught:
        starting.result()
    assert caught.value.code == "in_doubt"


# ----------------------------------------------------------------- enqueuing


async def test_an_enqueued_run_is_what_its_row_is(db: Database) -> None:
    thread_id = await a_thread(db)

    run = await put(db, thread_id, metadata={"a": 1})

    stored = await runs.get(db, run.run_id, access=EVERYTHING)
    assert run.created_at == stored.created_at
    assert (stored.status, stored.log_epoch, stored.metadata) == ("pending", 1, {"a": 1})
    assert (await thread(db, thread_id)).status == "busy"


@pytest.mark.parametrize("strategy", get_args(MultitaskStrategy))
async def test_nothing_is_enqueued_on_a_missing_thread(
    db: Database, strategy: MultitaskStrategy
) -> None:
    with pytest.raises(NotFoundError):
        await put(db, "none", multitask_strategy=strategy)


async def test_reject_refuses_beside_a_run_in_flight_only(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    await put(db, thread_id, multitask_strategy="reject")

    with pytest.raises(ThreadBusyError):
        await put(db, thread_id, multitask_strategy="reject")
    (claimed,) = await queue.claim(db, worker_id=worker_id, slots=1)
    with pytest.raises(ThreadBusyError):
        await put(db, thread_id, multitask_strategy="reject")

    await end(db, claimed)
    assert (await put(db, thread_id, multitask_strategy="reject")).status == "pending"


async def test_interrupt_ends_the_queued_runs_and_stops_the_running_one(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    queued = await put(db, thread_id)

    newest = await put(db, thread_id, multitask_strategy="interrupt")

    assert await status(db, queued.run_id) == "interrupted"
    assert await queue.to_stop(db, worker_id) == [(claimed.run.run_id, "interrupt")]
    await end(db, claimed, status="interrupted")
    assert await claim_all(db, worker_id) == [newest.run_id]


async def test_rollback_deletes_the_queued_runs(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    queued = await put(db, thread_id)

    await put(db, thread_id, multitask_strategy="rollback")

    assert await status(db, queued.run_id) is None
    assert await queue.to_stop(db, worker_id) == [(claimed.run.run_id, "rollback")]


# ------------------------------------------------------------------ claiming


async def test_a_claim_takes_one_run_of_each_thread_oldest_first(db: Database) -> None:
    first, second, worker_id = await a_thread(db), await a_thread(db), await a_worker(db)
    one = await put(db, first)
    await put(db, first)
    two = await put(db, second)

    assert await claim_all(db, worker_id, slots=1) == [one.run_id]
    assert await claim_all(db, worker_id) == [two.run_id]
    assert await claim_all(db, worker_id) == []


async def test_a_claim_knows_where_the_thread_stands(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    before = await begin(db, thread_id, worker_id)
    await checkpoint(db, before)
    run = await put(db, thread_id)
    await end(db, before)

    (claimed,) = await queue.claim(db, worker_id=worker_id, slots=5)

    assert claimed.run == await runs.get(db, run.run_id, access=EVERYTHING)
    assert (claimed.run.status, claimed.run.attempt) == ("running", 1)
    assert (claimed.lease.epoch, claimed.lease.head_checkpoint_id) == (3, "1")
    # The end of the one before it raised the epoch once more.
    assert (claimed.run.first_epoch, run.log_epoch) == (3, 2)


async def test_runs_of_a_thread_are_taken_up_in_order(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    wanted = [(await put(db, thread_id)).run_id for _ in range(5)]

    taken = []
    for _ in wanted:
        (claimed,) = await queue.claim(db, worker_id=worker_id, slots=5)
        taken.append(claimed.run.run_id)
        await end(db, claimed)

    assert taken == wanted


async def test_a_delayed_run_waits_and_blocks_nobody(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    delayed = await put(db, thread_id, after_seconds=3600)
    later = await put(db, thread_id)

    (claimed,) = await queue.claim(db, worker_id=worker_id, slots=5)
    await end(db, claimed)

    assert claimed.run.run_id == later.run_id
    assert (await thread(db, thread_id)).status == "busy"
    assert await claim_all(db, worker_id) == []
    await db.execute("UPDATE run SET not_before = now() WHERE status = 'pending'", {})
    assert await claim_all(db, worker_id) == [delayed.run_id]


async def test_a_delayed_run_goes_behind_those_that_were_due_before_it(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    delayed = await put(db, thread_id, after_seconds=3600)
    waiting = await put(db, thread_id)
    await db.execute(
        "UPDATE run SET not_before = now() WHERE run_id = %(id)s::uuid", {"id": delayed.run_id}
    )

    assert await claim_all(db, worker_id) == [waiting.run_id]


async def test_a_worker_that_was_buried_gets_nothing(db: Database) -> None:
    idle, busy, dead = await a_thread(db), await a_thread(db), await a_worker(db)
    await put(db, busy)
    await queue.retire(db, dead)

    assert await new_runs.start(db, new_run(idle), worker_id=dead) is None
    assert await claim_all(db, dead) == []
    assert (await thread(db, idle)).status == "idle"


async def test_many_claimers_share_the_runs_out_without_overlap(db: Database) -> None:
    workers = [await a_worker(db) for _ in range(6)]
    of_thread: dict[str, list[str]] = {}
    for thread_id in [await a_thread(db) for _ in range(8)]:
        of_thread[thread_id] = [(await put(db, thread_id)).run_id for _ in range(4)]
    taken: dict[str, list[str]] = {thread_id: [] for thread_id in of_thread}
    running: set[str] = set()

    async def work(worker_id: str) -> None:
        while sum(map(len, taken.values())) < 32:
            for claimed in await queue.claim(db, worker_id=worker_id, slots=2):
                assert claimed.run.thread_id not in running
                running.add(claimed.run.thread_id)
                taken[claimed.run.thread_id].append(claimed.run.run_id)
                await asyncio.sleep(0)
                running.discard(claimed.run.thread_id)
                assert await end(db, claimed)

    await together(*(work(worker_id) for worker_id in workers))

    assert taken == of_thread


async def test_a_claim_passes_by_a_thread_that_is_locked(db: Database) -> None:
    locked, free, worker_id = await a_thread(db), await a_thread(db), await a_worker(db)
    await put(db, locked)
    run = await put(db, free)

    async with db.transaction() as tx:
        await tx.tuples("SELECT 1 FROM thread WHERE thread_id = %(id)s FOR UPDATE", {"id": locked})
        async with asyncio.timeout(5):
            assert await claim_all(db, worker_id) == [run.run_id]


async def test_a_claim_that_meets_a_running_run_is_refused_by_the_index(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    await begin(db, thread_id, worker_id)
    run = await put(db, thread_id)

    with pytest.raises(ConflictError):
        await db.execute(
            "UPDATE run SET status = 'running' WHERE run_id = %(id)s::uuid", {"id": run.run_id}
        )


# ----------------------------------------------------------------- finishing


async def test_a_finished_run_leaves_its_thread_as_told(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    error = {"error": "ValueError", "message": "boom"}

    assert await end(
        db,
        claimed,
        status="error",
        thread_status="error",
        interrupts={"t": []},
        error=error,
        thread_error=error,
    )

    run, found = (
        await runs.get(db, claimed.run.run_id, access=EVERYTHING),
        await thread(db, thread_id),
    )
    assert (run.status, run.error) == ("error", error)
    assert (found.status, found.interrupts, found.error) == ("error", {"t": []}, error)


async def test_a_run_is_finished_once(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)

    assert await end(db, claimed)
    assert not await end(db, claimed, status="error")
    assert not await roll_back(db, claimed.held)
    assert await lost_runs.hand_back(db, claimed) is None
    assert await status(db, claimed.run.run_id) == "success"


async def test_a_run_of_an_earlier_lease_is_finished_by_nobody(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    zombie = await begin(db, thread_id, worker_id, temporary=True)
    await lost_runs.hand_back(db, zombie)
    (claimed,) = await queue.claim(db, worker_id=worker_id, slots=1)

    assert not await end(db, zombie)
    assert not await roll_back(db, zombie.held)
    assert not await endings.finish_temporary(db, zombie)
    assert await lost_runs.hand_back(db, zombie) is None
    assert await status(db, claimed.run.run_id) == "running"


async def test_nothing_is_finished_on_a_deleted_thread(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    await threads.delete(db, thread_id, access=EVERYTHING)

    assert not await end(db, claimed)
    # It is gone, as an end would have it.
    assert await endings.finish_temporary(db, claimed)
    assert await lost_runs.hand_back(db, claimed) is None
    with pytest.raises(NotFoundError):
        await roll_back(db, claimed.held)


async def test_a_thread_whose_run_ends_beside_an_enqueue_stays_busy(db: Database) -> None:
    worker_id = await a_worker(db)
    for _ in range(10):
        thread_id = await a_thread(db)
        claimed = await begin(db, thread_id, worker_id)

        _, run = await together(end(db, claimed), put(db, thread_id))

        assert (await thread(db, thread_id)).status == "busy"
        assert await claim_all(db, worker_id) == [run.run_id]


async def test_a_temporary_thread_goes_with_its_run(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id, temporary=True)

    assert await endings.finish_temporary(db, claimed)

    assert await status(db, claimed.run.run_id) is None
    with pytest.raises(NotFoundError):
        await threads.get(db, thread_id, access=EVERYTHING)


async def test_rolling_back_leaves_the_thread_as_it_was(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    first = await begin(db, thread_id, worker_id)
    await checkpoint(db, first, "1")
    # As interrupt_before leaves it: waiting, and nothing is asked.
    await end(db, first, thread_status="interrupted")
    second = await begin(db, thread_id, worker_id)
    await checkpoint(db, second, "2")

    assert await roll_back(db, second.held)

    assert await status(db, second.run.run_id) is None
    assert (await thread(db, thread_id)).status == "interrupted"
    left = await db.tuples("SELECT checkpoint_id FROM checkpoints", {})
    blobs = await db.tuples("SELECT version FROM checkpoint_blobs", {})
    head = await db.tuples("SELECT head_checkpoint_id FROM thread", {})
    assert left == blobs == head == [("1",)]


async def test_rolling_back_a_run_that_waits_to_be_resumed_takes_back_what_it_wrote(
    db: Database,
) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    begun = await begin(db, thread_id, worker_id)
    await checkpoint(db, begun, "1")
    await lost_runs.hand_back(db, begun)
    next_one = await put(db, thread_id, multitask_strategy="rollback")

    # Whoever looks for lost runs first has it, and nobody else begins meanwhile.
    assert await claim_all(db, worker_id) == []
    [given_up] = await reap(db, worker_id)
    assert given_up.status == "running"
    assert await roll_back(db, given_up.held)

    assert await status(db, begun.run.run_id) is None
    assert await db.tuples("SELECT checkpoint_id FROM checkpoints", {}) == []
    assert await claim_all(db, worker_id) == [next_one.run_id]


async def test_interrupting_a_run_that_waits_to_be_resumed_leaves_its_thread_interrupted(
    db: Database,
) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    begun = await begin(db, thread_id, worker_id)
    await checkpoint(db, begun, "1")
    await lost_runs.hand_back(db, begun)

    await endings.cancel(db, thread_id, None, action="interrupt", access=EVERYTHING)

    assert await status(db, begun.run.run_id) == "interrupted"
    assert (await thread(db, thread_id)).status == "interrupted"


# ---------------------------------------------------------------- cancelling


async def test_a_queued_run_is_cancelled_at_once_and_the_thread_is_as_before(
    db: Database,
) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    # A cancelled run leaves its error on a thread that is idle.
    await end(
        db,
        await begin(db, thread_id, worker_id),
        status="interrupted",
        thread_error=CANCELLED,
    )
    run = await put(db, thread_id)

    assert await endings.cancel(
        db, thread_id, [run.run_id], action="interrupt", access=EVERYTHING
    ) == [run.run_id]

    assert await status(db, run.run_id) == "interrupted"
    assert (await thread(db, thread_id)).status == "idle"
    assert (
        await endings.cancel(db, thread_id, [run.run_id], action="interrupt", access=EVERYTHING)
        == []
    )


async def test_cancelling_names_what_was_in_flight(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    queued = await put(db, thread_id)
    other = await put(db, await a_thread(db))

    assert (
        await endings.cancel(db, thread_id, [other.run_id], action="interrupt", access=EVERYTHING)
        == []
    )
    stopped = await endings.cancel(db, thread_id, None, action="rollback", access=EVERYTHING)

    assert sorted(stopped) == sorted([claimed.run.run_id, queued.run_id])
    assert await status(db, queued.run_id) is None
    assert await status(db, other.run_id) == "pending"
    assert (await thread(db, thread_id)).status == "busy"


async def test_nothing_is_cancelled_on_a_missing_thread(db: Database) -> None:
    with pytest.raises(NotFoundError):
        await endings.cancel(db, "none", None, action="interrupt", access=EVERYTHING)


@pytest.mark.parametrize("wishes", [("rollback", "interrupt"), ("interrupt", "rollback")])
async def test_of_two_wishes_rollback_counts(db: Database, wishes: list[CancelAction]) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)

    for action in wishes:
        await endings.cancel(db, thread_id, None, action=action, access=EVERYTHING)

    assert await queue.to_stop(db, worker_id) == [(claimed.run.run_id, "rollback")]


@pytest.mark.parametrize("action", get_args(CancelAction))
async def test_a_temporary_run_that_is_cancelled_in_the_queue_takes_its_thread_along(
    db: Database, action: CancelAction
) -> None:
    thread_id = await a_thread(db)
    await put(db, thread_id, temporary=True)

    await endings.cancel(db, thread_id, None, action=action, access=EVERYTHING)

    with pytest.raises(NotFoundError):
        await threads.get(db, thread_id, access=EVERYTHING)


async def test_a_run_is_claimed_or_cancelled_but_not_both(db: Database) -> None:
    worker_id = await a_worker(db)
    for _ in range(10):
        thread_id = await a_thread(db)
        run = await put(db, thread_id)

        claimed, stopped = await together(
            claim_all(db, worker_id),
            endings.cancel(db, thread_id, None, action="interrupt", access=EVERYTHING),
        )

        assert stopped == [run.run_id]
        if claimed:
            assert await queue.to_stop(db, worker_id) == [(run.run_id, "interrupt")]
            await queue.retire(db, worker_id)
            worker_id = await a_worker(db)
        else:
            assert await status(db, run.run_id) == "interrupted"


# ------------------------------------------------------------------ deleting


async def test_only_a_run_that_has_ended_is_deleted(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    queued = await put(db, thread_id)
    for run_id in (claimed.run.run_id, queued.run_id):
        with pytest.raises(ConflictError):
            await rollback.forget(db, thread_id, run_id, access=EVERYTHING)

    await end(db, claimed)
    await endings.cancel(db, thread_id, None, action="interrupt", access=EVERYTHING)
    await delete(db, thread_id, claimed.run.run_id)

    assert await status(db, claimed.run.run_id) is None


async def test_a_run_is_deleted_on_its_own_thread_only(db: Database) -> None:
    thread_id, other, worker_id = await a_thread(db), await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    await end(db, claimed)

    with pytest.raises(NotFoundError):
        await rollback.forget(db, other, claimed.run.run_id, access=EVERYTHING)
    with pytest.raises(NotFoundError):
        await rollback.forget(db, "none", claimed.run.run_id, access=EVERYTHING)
    assert await status(db, claimed.run.run_id) == "success"


# --------------------------------------------------------------- giving back


async def test_a_run_that_is_handed_back_loses_no_attempt(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    behind = await put(db, thread_id)

    given_up = await lost_runs.hand_back(db, claimed)

    assert given_up is not None
    assert given_up.status == "pending"
    (again,) = await queue.claim(db, worker_id=worker_id, slots=5)
    assert again.run.run_id == claimed.run.run_id != behind.run_id
    assert (again.run.attempt, again.run.first_epoch) == (1, 1)
    assert again.lease.epoch > claimed.lease.epoch


async def test_a_run_that_is_to_be_stopped_is_not_handed_back(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    await endings.cancel(db, thread_id, None, action="interrupt", access=EVERYTHING)

    given_up = await lost_runs.hand_back(db, claimed)

    assert given_up is not None
    assert given_up.status == await status(db, claimed.run.run_id) == "interrupted"
    found = await thread(db, thread_id)
    assert (found.status, found.error) == ("idle", CANCELLED)


async def test_a_dead_workers_run_goes_back_to_the_front_of_the_queue(db: Database) -> None:
    thread_id, dead, alive = await a_thread(db), await a_worker(db), await a_worker(db)
    claimed = await begin(db, thread_id, dead)
    await put(db, thread_id)
    await lose(db, dead)

    (reaped,) = await reap(db, alive)

    assert (reaped.run_id, reaped.status) == (claimed.run.run_id, "pending")
    assert (await thread(db, thread_id)).status == "busy"
    (again,) = await queue.claim(db, worker_id=alive, slots=5)
    assert (again.run.run_id, again.run.attempt) == (claimed.run.run_id, 2)
    assert await reap(db, alive) == []


async def test_a_run_whose_lease_was_taken_writes_nothing(db: Database) -> None:
    thread_id, dead, alive = await a_thread(db), await a_worker(db), await a_worker(db)
    claimed = await begin(db, thread_id, dead)
    await lose(db, dead)

    await reap(db, alive)

    epochs = await db.tuples("SELECT epoch FROM thread", {})
    assert epochs == [(claimed.lease.epoch + 1,)]
    assert not await end(db, claimed)


async def test_reaping_late_does_no_harm_to_the_next_owner(db: Database) -> None:
    thread_id, dead, alive = await a_thread(db), await a_worker(db), await a_worker(db)
    claimed = await begin(db, thread_id, dead)
    held = Held(run_id=claimed.run.run_id, thread_id=thread_id, epoch=claimed.lease.epoch)
    await lose(db, dead)
    await reap(db, alive)
    (again,) = await queue.claim(db, worker_id=alive, slots=1)

    # As a second sweeper does that found the run lost before the first one took it.
    assert await reap(db, alive, strays=[held]) == []

    assert await db.tuples("SELECT epoch FROM thread", {}) == [(again.lease.epoch,)]
    assert await end(db, again)


async def test_many_sweepers_take_a_run_once(db: Database) -> None:
    dead, alive = await a_worker(db), await a_worker(db)
    for _ in range(5):
        await begin(db, await a_thread(db), dead)
    await lose(db, dead)

    found = await together(*(reap(db, alive) for _ in range(6)))

    assert sum(map(len, found)) == 5
    assert set(await db.tuples("SELECT epoch FROM thread", {})) == {(2,)}


async def test_a_run_that_ends_while_it_is_reaped_ends_or_is_queued(db: Database) -> None:
    alive = await a_worker(db)
    for _ in range(10):
        thread_id, dead = await a_thread(db), await a_worker(db)
        claimed = await begin(db, thread_id, dead)
        await queue.retire(db, dead)

        ended, reaped = await together(end(db, claimed), reap(db, alive))

        assert ended != bool(reaped)
        wanted = ("success", "idle") if ended else ("pending", "busy")
        found = await status(db, claimed.run.run_id), (await thread(db, thread_id)).status
        assert found == wanted
        await threads.delete(db, thread_id, access=EVERYTHING)


async def test_the_third_loss_ends_a_run(db: Database) -> None:
    thread_id, alive = await a_thread(db), await a_worker(db)
    run = await put(db, thread_id)
    for _ in range(3):
        dead = await a_worker(db)
        await claim_all(db, dead)
        await lose(db, dead)
        (reaped,) = await reap(db, alive)

    assert (reaped.status, reaped.error) == ("error", WORKER_LOST)
    found = await thread(db, thread_id)
    assert (found.status, found.error) == ("error", WORKER_LOST)
    assert (await runs.get(db, run.run_id, access=EVERYTHING)).error == WORKER_LOST


async def test_a_lost_run_that_was_being_cancelled_is_interrupted(db: Database) -> None:
    thread_id, dead, alive = await a_thread(db), await a_worker(db), await a_worker(db)
    claimed = await begin(db, thread_id, dead)
    await checkpoint(db, claimed)
    behind = await put(db, thread_id)
    await endings.cancel(db, thread_id, [claimed.run.run_id], action="interrupt", access=EVERYTHING)
    await queue.retire(db, dead)

    (reaped,) = await reap(db, alive)

    assert reaped.status == await status(db, claimed.run.run_id) == "interrupted"
    assert (await thread(db, thread_id)).status == "busy"
    await endings.cancel(db, thread_id, [behind.run_id], action="interrupt", access=EVERYTHING)
    assert (await thread(db, thread_id)).status == "interrupted"


async def test_a_lost_run_that_was_being_rolled_back_leaves_no_trace(db: Database) -> None:
    thread_id, dead, alive = await a_thread(db), await a_worker(db), await a_worker(db)
    claimed = await begin(db, thread_id, dead)
    await checkpoint(db, claimed)
    await endings.cancel(db, thread_id, None, action="rollback", access=EVERYTHING)
    await lose(db, dead)

    (reaped,) = await reap(db, alive)

    assert (reaped.status, await queue.owned(db, alive)) == ("running", [reaped.held])
    # Lost too before it was through with it, that one leaves it to the next.
    assert await rollback.undo(db, reaped.held)
    await lose(db, alive)
    (again,) = await reap(db, await a_worker(db))
    assert not await roll_back(db, reaped.held)
    assert await roll_back(db, again.held)
    assert await status(db, claimed.run.run_id) is None
    assert await db.tuples("SELECT 1 FROM checkpoints", {}) == []
    assert (await thread(db, thread_id)).status == "idle"


async def test_a_temporary_run_that_ends_by_being_lost_takes_its_thread_along(
    db: Database,
) -> None:
    thread_id, dead, alive = await a_thread(db), await a_worker(db), await a_worker(db)
    await begin(db, thread_id, dead, temporary=True)
    await lose(db, dead)

    (reaped,) = await reap(db, alive, max_attempts=1)

    assert (reaped.status, reaped.error) == ("error", WORKER_LOST)
    with pytest.raises(NotFoundError):
        await threads.get(db, thread_id, access=EVERYTHING)


async def test_a_lost_run_whose_thread_is_locked_keeps_no_other_one_waiting(db: Database) -> None:
    gone, alive = await a_worker(db), await a_worker(db)
    locked, free = await a_thread(db), await a_thread(db)
    for thread_id in (locked, free):
        await begin(db, thread_id, gone)
    await lose(db, gone)
    async with db.transaction() as tx:
        await tx.execute("SELECT FROM thread WHERE thread_id = %(id)s FOR UPDATE", {"id": locked})
        reaped = await reap(db, alive)
    assert [given_up.thread_id for given_up in reaped] == [free]
    assert [given_up.thread_id for given_up in await reap(db, alive)] == [locked]


async def test_nobody_buries_itself(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    await lose(db, worker_id)

    assert await reap(db, worker_id) == []
    assert await queue.owned(db, worker_id) == [
        Held(run_id=claimed.run.run_id, thread_id=thread_id, epoch=1)
    ]


async def test_a_stray_is_taken_from_a_worker_that_lives_and_counts_as_an_attempt(
    db: Database,
) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    await begin(db, thread_id, worker_id)

    (reaped,) = await reap(db, worker_id, strays=await queue.owned(db, worker_id))
    (again,) = await queue.claim(db, worker_id=worker_id, slots=1)

    assert reaped.status == "pending"
    assert again.run.attempt == 2


# --------------------------------------------------------------- workers, errors


async def test_a_worker_is_on_the_list_until_it_retires(db: Database) -> None:
    worker_id = await a_worker(db)
    await queue.drain(db, worker_id)
    assert await db.tuples("SELECT draining, slots FROM worker", {}) == [(True, 9)]

    await queue.retire(db, worker_id)

    assert await db.tuples("SELECT 1 FROM worker", {}) == []


async def _submit_some(db: Database, thread_ids: list[str]) -> None:
    for _ in range(12):
        strategy = random.choice(get_args(MultitaskStrategy))
        with suppress(ThreadBusyError):
            await put(db, random.choice(thread_ids), multitask_strategy=strategy)


async def _work_some(db: Database, worker_id: str) -> None:
    for _ in range(40):
        for claimed in await queue.claim(db, worker_id=worker_id, slots=2):
            wanted = dict(await queue.to_stop(db, worker_id)).get(claimed.run.run_id)
            ending = "roll back" if wanted == "rollback" else random.choice(["finish", "hand back"])
            if ending == "roll back":
                assert await roll_back(db, claimed.held)
            elif ending == "finish":
                # Somebody may want it rolled back meanwhile.
                assert await end(db, claimed) or await roll_back(db, claimed.held)
            else:
                given_up = await lost_runs.hand_back(db, claimed)
                assert given_up
                if given_up.status == "running":  # somebody wanted it rolled back meanwhile
                    assert await roll_back(db, given_up.held)


async def test_chaos_leaves_no_thread_busy_and_no_run_in_flight(db: Database) -> None:
    """Everything at once; whatever the interleaving, the invariants hold in the end."""
    thread_ids = [await a_thread(db) for _ in range(3)]
    workers = [await a_worker(db) for _ in range(3)]

    await together(
        *(_submit_some(db, thread_ids) for _ in range(2)),
        *(_work_some(db, worker_id) for worker_id in workers),
    )
    # Those that were to be rolled back while they waited for another worker.
    for lost in await reap(db, workers[0]):
        assert await roll_back(db, lost.held)
    while claims := await queue.claim(db, worker_id=workers[0], slots=9):
        for claimed in claims:
            assert await end(db, claimed)

    assert await in_flight(db, ["pending", "running"], access=EVERYTHING) == []
    assert {(await thread(db, thread_id)).status for thread_id in thread_ids} == {"idle"}


async def test_a_database_that_is_away_is_unavailable_to_all(
    db: Database, database_url: str
) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    async with open_database(database_url) as away:
        pass
    calls: list[Any] = [
        new_runs.start(away, new_run(thread_id), worker_id=worker_id),
        new_runs.enqueue(away, new_run(thread_id)),
        queue.claim(away, worker_id=worker_id, slots=1),
        end(away, claimed),
        endings.finish_temporary(away, claimed),
        roll_back(away, claimed.held),
        lost_runs.hand_back(away, claimed),
        endings.cancel(away, thread_id, None, action="interrupt", access=EVERYTHING),
        delete(away, thread_id, claimed.run.run_id),
        reap(away, worker_id),
        queue.drain(away, worker_id),
        queue.retire(away, worker_id),
        queue.to_stop(away, worker_id),
        queue.owned(away, worker_id),
        runs.ended(away, [str(uuid.uuid4())]),
    ]
    for call in calls:
        with pytest.raises(UnavailableError):
            await call


async def test_a_connection_that_is_cut_is_unavailable(db: Database, database_url: str) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    async with open_database(database_url, min_size=1, max_size=1) as other:
        await other.execute("SET application_name = 'victim'", {})
        await db.tuples(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'victim'",
            {},
        )
        with pytest.raises(UnavailableError):
            await lost_runs.hand_back(other, claimed)
    assert await status(db, claimed.run.run_id) == "running"


async def test_runs_with_threads_of_their_own_are_queued_together_or_not_at_all(
    db: Database,
) -> None:
    worker_id = await a_worker(db)
    ids = [str(uuid.uuid4()) for _ in range(3)]
    asked = [
        new_run(ids[0], temporary=True),
        new_run(ids[1], after_seconds=60, thread_config={"tags": ["a"]}),
        new_run(ids[2]),
    ]

    queued = await new_runs.enqueue_new(db, asked, life=Life(ttl_minutes=5))

    assert [run.run_id for run in queued] == [new.run_id for new in asked]
    assert queued[1].created_at > queued[2].created_at
    lives = await db.tuples("SELECT thread_id FROM thread_ttl ORDER BY 1", {})
    assert [row[0] for row in lives] == sorted(ids[1:])
    claimed = await queue.claim(db, worker_id=worker_id, slots=9)
    assert [claim.run.run_id for claim in claimed] == [asked[0].run_id, asked[2].run_id]
    with pytest.raises(AlreadyExistsError):
        await new_runs.enqueue_new(db, [new_run(str(uuid.uuid4())), new_run(ids[0])], life=None)
    assert await db.tuples("SELECT count(*) FROM thread", {}) == [(3,)]


async def test_runs_in_flight_are_told_page_by_page(db: Database) -> None:
    asked = [new_run(str(uuid.uuid4())) for _ in range(runs.PAGE + 1)]
    await new_runs.enqueue_new(db, asked, life=None)
    pages = [page async for page in runs.in_flight(db, ["pending"], access=EVERYTHING)]
    assert [len(page) for page in pages] == [runs.PAGE, 1]
    found = [pair for page in pages for pair in page]
    assert found == [(new.run_id, new.thread_id) for new in asked]
