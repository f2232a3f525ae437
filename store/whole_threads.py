"""Everything that a thread has but its row: deleted, deleted of some runs, copied."""

from collections.abc import Sequence
from typing import Final

from store import resealing, tallies
from store.database import Database
from store.sql import load

_SQL: Final = load("whole_threads")


async def delete(db: Database, thread_id: str) -> None:
    """
    Delete everything a thread has but its row, whose epoch rises.

    A run that still writes is refused: nothing comes back.
    """
    params = {"thread_id": thread_id}
    async with db.transaction() as tx:
        await tx.execute(_SQL["fence_thread"], params)
        await tallies.mark_stale(tx, [thread_id])
        await tx.execute(_SQL["delete_thread"], params)


async def delete_runs(db: Database, run_ids: Sequence[str], *, thread_id: str | None) -> None:
    """
    Delete the checkpoints and writes of runs; the head of each thread moves back.

    The messages have to be made again afterwards: `messages.rebuild`.

    Args:
        thread_id: The runs' thread. Without it every checkpoint of the database is looked at.
    """
    runs = {"run_ids": list(run_ids), "thread_id": thread_id}
    async with db.transaction() as tx:
        found = await tx.tuples(_SQL["threads_of_runs"], runs)
        if not found:
            return
        thread_ids = [thread for (thread,) in found]
        params = {**runs, "thread_ids": thread_ids}
        await tx.execute(_SQL["lock_threads"], params)
        await tallies.mark_stale(tx, thread_ids)
        await tx.execute(_SQL["delete_runs"], params)
        await tx.execute(_SQL["delete_garbage_blobs"], params)
        await tx.execute(_SQL["move_heads"], params)


async def copy(db: Database, source: str, target: str) -> None:
    """Copy checkpoints, writes and messages, as the source is at one moment."""
    async with db.transaction() as tx:
        await tx.execute(_SQL["copy_thread"], {"source": source, "target": target})
        await resealing.move(tx, source, target)


async def forget_context(db: Database, thread_ids: Sequence[str]) -> None:
    """Take note that threads have no checkpoint any more; their messages stay as history."""
    await db.execute(_SQL["forget_context"], {"thread_ids": list(thread_ids)})
