"""The beat that keeps a worker's leases, and what is believed when it fails."""

import asyncio
import uuid

from store import queue
from store.database import Database
from store.heartbeat import Heartbeat
from tests.store.event_logs import until
from tests.store.queues import a_worker, lose


def _heartbeat(db: Database, worker_id: str, fence_seconds: float = 60.0) -> Heartbeat:
    return Heartbeat(db.conninfo, worker_id, interval_seconds=0.02, fence_seconds=fence_seconds)


async def _is_fresh(db: Database) -> bool:
    query = "SELECT last_seen_at > now() - interval '1 minute' FROM worker"
    return await db.tuples(query, {}) == [(True,)]


async def test_a_worker_beats_although_the_event_loop_is_blocked(db: Database) -> None:
    worker_id = await a_worker(db)
    await lose(db, worker_id)
    with _heartbeat(db, worker_id) as heartbeat:
        async with asyncio.timeout(20):
            await until(lambda: _is_fresh(db))

        assert heartbeat.alive()
        assert not heartbeat.buried


async def test_a_worker_that_is_buried_learns_it_and_can_begin_anew(db: Database) -> None:
    worker_id, next_id = await a_worker(db), str(uuid.uuid4())
    with _heartbeat(db, worker_id) as heartbeat:
        await queue.retire(db, worker_id)
        await until(lambda: heartbeat.buried)
        assert not heartbeat.alive()

        await queue.register(db, worker_id=next_id, host="h", pid=1, version="0", slots=1)
        await lose(db, next_id)
        heartbeat.renew(next_id)

        assert heartbeat.alive()
        await until(lambda: _is_fresh(db))
        assert not heartbeat.buried


async def test_a_worker_without_a_database_believes_in_its_leases_for_a_while_only(
    db: Database,
) -> None:
    conninfo = "postgresql://127.0.0.1:1/nowhere"
    with Heartbeat(conninfo, "w", interval_seconds=0.02, fence_seconds=0.2) as heartbeat:
        assert heartbeat.alive()
        await until(lambda: not heartbeat.alive())
        assert not heartbeat.buried


async def test_a_heart_goes_on_after_any_error_of_the_database(db: Database) -> None:
    worker_id = await a_worker(db)
    with _heartbeat(db, worker_id, fence_seconds=0.3) as heartbeat:
        # No error of the connection: a statement that is wrong for a while.
        await db.execute("ALTER TABLE worker RENAME TO away", {})
        await until(lambda: not heartbeat.alive())
        await db.execute("ALTER TABLE away RENAME TO worker", {})

        await until(heartbeat.alive)


async def test_a_worker_that_was_without_a_database_is_not_steady_for_a_while(db: Database) -> None:
    worker_id = await a_worker(db)
    with _heartbeat(db, worker_id, fence_seconds=0.3) as heartbeat:
        assert heartbeat.steady(60)
        await db.execute("ALTER TABLE worker RENAME TO away", {})
        await until(lambda: not heartbeat.alive())
        assert not heartbeat.steady(0)
        await db.execute("ALTER TABLE away RENAME TO worker", {})
        await until(heartbeat.alive)

        assert not heartbeat.steady(60)
        await until(lambda: heartbeat.steady(0.1))
