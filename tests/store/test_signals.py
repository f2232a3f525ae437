"""Wake-ups between processes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from psycopg import Rollback

from store import endings, queue, threads
from store.access import EVERYTHING
from store.database import Database
from store.errors import UnavailableError
from store.signals import Signal, listen, notify_ended, notify_ready, notify_stop
from tests.store.queues import a_thread, a_worker, begin, end, lose, put, reap


async def _take(signals: AsyncIterator[Signal], count: int) -> list[Signal]:
    async with asyncio.timeout(20):
        return [await anext(signals) for _ in range(count)]


async def test_what_is_signalled_arrives_when_it_is_committed(db: Database) -> None:
    async with listen(db.conninfo) as signals:
        async with db.transaction() as tx:
            await notify_ready(tx)
            await notify_stop(tx, "a", "rollback")
            await notify_ended(tx, "b")

        assert await _take(signals, 3) == [
            Signal(kind="ready"),
            Signal(kind="stop", run_id="a", action="rollback"),
            Signal(kind="ended", run_id="b"),
        ]


async def test_what_is_rolled_back_is_not_signalled(db: Database) -> None:
    async with listen(db.conninfo) as signals:
        async with db.transaction() as tx:
            await notify_ready(tx)
            raise Rollback
        async with db.transaction() as tx:
            await notify_ended(tx, "b")

        assert await _take(signals, 1) == [Signal(kind="ended", run_id="b")]


async def test_the_queue_signals_what_others_wait_for(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    async with listen(db.conninfo) as signals:
        queued = await put(db, thread_id)
        assert await _take(signals, 1) == [Signal(kind="ready")]

        await endings.cancel(db, thread_id, None, action="interrupt", access=EVERYTHING)
        assert await _take(signals, 2) == [
            Signal(kind="ended", run_id=queued.run_id, queued_on=thread_id),
            Signal(kind="stop", run_id=claimed.run.run_id),
        ]

        await put(db, thread_id)
        await end(db, claimed)
        await put(db, thread_id, after_seconds=60)
        assert await _take(signals, 2) == [Signal(kind="ready")] * 2

        (again,) = await queue.claim(db, worker_id=worker_id, slots=1)
        await lose(db, worker_id)
        await reap(db, await a_worker(db))
        assert await _take(signals, 1) == [Signal(kind="ready")]

        await threads.delete(db, thread_id, access=EVERYTHING)
        assert {signal.kind for signal in await _take(signals, 4)} == {"stop", "ended"}
        assert again.run.run_id


async def test_a_listener_whose_connection_is_cut_says_so(db: Database) -> None:
    async with listen(db.conninfo) as signals:
        await db.tuples(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%%' AND %(yes)s",
            {"yes": True},
        )
        with pytest.raises(UnavailableError):
            await _take(signals, 1)


async def test_a_listener_without_a_database_says_so() -> None:
    with pytest.raises(UnavailableError):
        async with listen("postgresql://127.0.0.1:1/nowhere"):
            pass
