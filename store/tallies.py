"""
What analytics count in advance: of each thread, by quarters of an hour, what was said and run.

A thread is counted when it has settled, and whenever it settles anew. A tally is never added to, always made
from the thread's messages and runs: doing it again, or in two processes, comes to the same. Which threads are
not as they were counted is known (`uncounted`), so that a sum of the tallies of all others and of what those
say is right to the last message.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import psycopg
import structlog

from store.database import Database, Transaction
from store.errors import Error
from store.sql import load

_SQL: Final = load("tallies")
log = structlog.get_logger(__name__)

#: How long a thread is left alone before it is counted: a conversation under way is counted once. Also
#: how long a transaction may take without what it changes being overlooked.
SETTLE_SECONDS: Final = 300.0
#: Of one transaction, at the most: threads, and messages and runs unless one thread has more.
_THREADS, _ROWS = 500, 20_000
#: After which a thread is tried again that could not be counted.
_RETRY_SECONDS: Final = 6 * 3600.0
_NO_LIMIT: Final = datetime.max.replace(tzinfo=UTC)


async def count_settled(db: Database, *, settle_seconds: float = SETTLE_SECONDS) -> bool:
    """
    Count some threads that have settled since they were counted, those touched first first.

    Safe in any number of processes at once: one of them does it. Where it fails fewer are tried at once; a
    thread that fails alone is set aside: it is read, as if it changed all the time, and tried again late.

    Args:
        settle_seconds: For how long nobody has touched them.

    Returns:
        Whether there may be more to do.
    """
    most = _THREADS
    while True:
        taken: list[str] = []
        try:
            return await _count_some(db, taken, settle_seconds=settle_seconds, most=most)
        except (Error, psycopg.Error) as error:
            if not taken:
                raise
            if len(taken) == 1:
                log.warning("thread not counted", thread_id=taken[0], error=error)
                aside = {"thread_id": taken[0], "retry_seconds": _RETRY_SECONDS}
                await db.execute(_SQL["set_aside"], aside)
                return True
            most = len(taken) // 2


async def _count_some(
    db: Database, thread_ids: list[str], *, settle_seconds: float, most: int
) -> bool:
    """In one transaction; which threads are counted stands in `thread_ids` also when it fails."""
    async with db.transaction() as tx:
        held = await tx.tuples(_SQL["progress"], {})
        if not held:
            return False
        params = {
            "touched_at": held[0][0],
            "settle_seconds": settle_seconds,
            "limit": _THREADS,
            "most": _ROWS,
        }
        due = await tx.tuples(_SQL["due"], params, prepare=False)
        taken = _some(due, most)
        thread_ids += [id_ for id_, *_ in taken]
        counted = await _count(tx, thread_ids)
        # Up to the last one that was counted, or to the first that could not be.
        is_complete = len(due) < _THREADS and len(taken) == len(due)
        touched = [at for _, _, at in taken if at is not None]
        passed_by = [at for id_, _, at in taken if at is not None and id_ not in counted]
        reached = _NO_LIMIT if is_complete else max(touched, default=held[0][0])
        progress = {**params, "touched_at": min([reached, *passed_by])}
        await tx.execute(_SQL["advance"], progress)
        return not is_complete


def _some(
    due: Sequence[tuple[str, int, datetime | None]], most: int
) -> list[tuple[str, int, datetime | None]]:
    taken: list[tuple[str, int, datetime | None]] = []
    rows = 0
    for row in due[:most]:
        rows += row[1]
        if taken and rows > _ROWS:
            break
        taken.append(row)
    return taken


async def _count(tx: Transaction, thread_ids: Sequence[str]) -> set[str]:
    if not thread_ids:
        return set()
    held = await tx.tuples(_SQL["hold"], {"thread_ids": list(thread_ids)})
    counted = [id_ for (id_,) in held]
    await tx.execute(_SQL["count"], {"thread_ids": counted})
    return set(counted)


async def find_changed(db: Database) -> int:
    """Have all threads counted again that are not as they were counted, and that nobody touched."""
    return await db.execute(_SQL["mark_changed"], {})


async def mark_stale(tx: Transaction, thread_ids: Sequence[str]) -> None:
    """Have threads counted again whose messages or runs this transaction changes otherwise than by a run."""
    await tx.execute(_SQL["mark_stale"], {"thread_ids": list(thread_ids)})


async def uncounted(tx: Transaction, *, limit: int) -> list[str] | None:
    """The threads that are not as they were counted; None if they are more than a limit."""
    rows = await tx.tuples(_SQL["uncounted"], {"limit": limit + 1})
    return None if len(rows) > limit else [id_ for (id_,) in rows]
