"""What a run wrote is taken back, and its row with it."""

from store import endings, queue, tallies
from store.access import Access
from store.database import Database, Transaction
from store.endings import ROLLED_BACK
from store.errors import ConflictError, NotFoundError
from store.queue import Held
from store.signals import notify_ready
from store.sql import load

SQL = load("queue")


async def is_to_undo(db: Database, held: Held) -> bool:
    """Whether a run is ours still, and somebody wants it rolled back."""
    params = {"run_id": held.run_id, "epoch": held.epoch}
    return bool(await db.tuples(SQL["to_undo"], params))


async def undo(db: Database, held: Held) -> bool:
    """
    Take back everything that a run of ours wrote. It keeps its thread.

    The message table is stale afterwards: the caller has it projected again before it lets the
    next run begin, by `discard`.

    Returns:
        False if the run was not ours any more.
    """
    async with db.transaction() as tx:
        await queue.lock(tx, held.thread_id)
        params = {"run_id": held.run_id, "epoch": held.epoch}
        if not await tx.tuples(SQL["held"], params):
            return False
        await _forget(tx, held.run_id, held.thread_id)
    return True


async def discard(db: Database, held: Held) -> bool:
    """
    Delete a run that is ours; the thread is as before it.

    Returns:
        False if the run was not ours any more.
    """
    async with db.transaction() as tx:
        await queue.lock(tx, held.thread_id)
        params = {"run_id": held.run_id, "epoch": held.epoch}
        gone = await tx.tuples(SQL["discard"], params)
        if not gone:
            return False
        await endings.enqueue_webhook(tx, gone[0][0], "rollback", ROLLED_BACK)
        await tx.execute(SQL["settle"], {"thread_id": held.thread_id})
        await notify_ready(tx)
    return True


async def forget(db: Database, thread_id: str, run_id: str, *, access: Access) -> None:
    """
    Take back everything that a run wrote which has ended.

    The message table is stale afterwards: the caller has it projected again, and then `delete`s
    the run. Until then the run is there to be deleted, should the caller be lost.

    Raises:
        NotFoundError: There is no such run on the thread, or that is not visible.
        ConflictError: A run is in flight on the thread, and may build on those checkpoints.
    """
    async with db.transaction() as tx:
        await queue.lock(tx, thread_id, access=access)
        if await tx.tuples(SQL["in_flight"], {"thread_id": thread_id}):
            raise ConflictError(f"Thread {thread_id} has a run in flight", code="run_in_flight")
        if not await tx.tuples(SQL["ended"], {"thread_id": thread_id, "run_id": run_id}):
            raise NotFoundError(f"Run {run_id} not found")
        await _forget(tx, run_id, thread_id)


async def delete(db: Database, thread_id: str, run_id: str) -> None:
    """Delete the row of a run that has ended."""
    async with db.transaction() as tx:
        await tallies.mark_stale(tx, [thread_id])
        await tx.execute(SQL["delete_run"], {"thread_id": thread_id, "run_ids": [run_id]})


async def _forget(tx: Transaction, run_id: str, thread_id: str) -> None:
    """Delete what a run wrote, and move the thread's head back to what was before."""
    params = {"run_id": run_id, "thread_id": thread_id}
    await tx.execute(SQL["forget_writes"], params)
    await tx.execute(SQL["forget_checkpoints"], params)
    await tx.execute(SQL["forget_blobs"], params)
    await tx.execute(SQL["forget_messages"], params)
    await tx.execute(SQL["reset_head"], params)
