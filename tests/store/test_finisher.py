"""The ends of runs, written down together."""

import asyncio

from psycopg import errors as pg

from store.database import Database
from store.endings import Ending
from store.finisher import Finisher
from store.lane import Call, Rows
from store.queue import Claim
from tests.store.queues import a_thread, a_worker, begin, put, status, thread, together

RUNS = 20


class CountingDatabase(Database):
    """Counts the transactions on the shared connection."""

    def __init__(self, db: Database) -> None:
        super().__init__(db.pool, db.lane, statement_seconds=30)
        self.transactions = 0

    async def at_once(self, *calls: Call) -> list[Rows]:
        self.transactions += 1
        return await super().at_once(*calls)


def _ending(claimed: Claim) -> Ending:
    return Ending(claimed=claimed, status="success", thread_status="idle", interrupts={})


async def test_runs_that_end_at_once_end_in_few_transactions(db: Database) -> None:
    worker = await a_worker(db)
    claims = [await begin(db, await a_thread(db), worker) for _ in range(RUNS)]
    counting = CountingDatabase(db)
    finisher = Finisher(counting)

    ended = await together(*(finisher.finish(_ending(claimed)) for claimed in claims))

    assert ended == [True] * RUNS
    assert [await status(db, claimed.run.run_id) for claimed in claims] == ["success"] * RUNS
    assert counting.transactions <= 2


async def test_of_runs_that_end_at_once_only_ours_are_changed(db: Database) -> None:
    worker = await a_worker(db)
    ours, lost = [await begin(db, await a_thread(db), worker) for _ in range(2)]
    await db.execute(
        "UPDATE run SET epoch = epoch + 1 WHERE run_id = %(id)s::uuid", {"id": lost.run.run_id}
    )
    finisher = Finisher(db)

    ended = await together(finisher.finish(_ending(ours)), finisher.finish(_ending(lost)))

    assert ended == [True, False]
    assert await status(db, lost.run.run_id) == "running"
    assert (await thread(db, lost.run.thread_id)).status == "busy"


async def test_a_thread_that_is_locked_delays_its_own_run_only(db: Database) -> None:
    worker = await a_worker(db)
    locked, other = [await begin(db, await a_thread(db), worker) for _ in range(2)]
    waiting = await put(db, other.run.thread_id)
    finisher = Finisher(db)

    async with db.transaction() as tx:
        await tx.execute(
            "SELECT FROM thread WHERE thread_id = %(id)s FOR UPDATE", {"id": locked.run.thread_id}
        )
        late = asyncio.create_task(finisher.finish(_ending(locked)))
        async with asyncio.timeout(5):
            assert await finisher.finish(_ending(other))
        assert not late.done()

    assert await late
    assert (await thread(db, other.run.thread_id)).status == "busy"
    assert await status(db, waiting.run_id) == "pending"


async def test_an_end_that_cannot_be_stored_fails_alone(db: Database) -> None:
    worker = await a_worker(db)
    bad, good = [await begin(db, await a_thread(db), worker) for _ in range(2)]
    finisher = Finisher(db)
    unknown = Ending(
        claimed=bad,
        status="lost",  # type: ignore[arg-type]
        thread_status="idle",
        interrupts={},
    )

    failed, ended = await asyncio.gather(
        finisher.finish(unknown), finisher.finish(_ending(good)), return_exceptions=True
    )

    assert isinstance(failed, pg.CheckViolation)
    assert ended is True
