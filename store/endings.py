"""How runs end: by themselves, or because somebody wants them stopped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from store import jobs, queue, webhooks
from store.access import Access
from store.cipher import Cipher, at
from store.database import Database, Transaction
from store.errors import LockedError, UnreadableError
from store.json import dump_json
from store.lane import Statement
from store.models import CancelAction, JsonObject, RunStatus, ThreadStatus
from store.queue import Claim
from store.sealing import shown_of_error
from store.signals import JOB, READY, notify_ended, notify_stop
from store.sql import load

SQL = load("queue")
log = structlog.get_logger(__name__)

#: What every run does.
_LOCK_ALL, _FINISH = (Statement(SQL[name]) for name in ("lock_all_at_once", "finish"))

WORKER_LOST: JsonObject = {
    "error": "WorkerLost",
    "message": "The process that ran this was lost too often",
}
CANCELLED: JsonObject = {
    "error": "UserInterrupt",
    "message": "interrupt requested via POST /threads/{thread_id}/runs/{run_id}/cancel",
}
ROLLED_BACK: JsonObject = {
    "error": "UserRollback",
    "message": "rollback requested via POST /threads/{thread_id}/runs/{run_id}/cancel",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """What a run that is ours came to, and what its thread is left in."""

    claimed: Claim
    status: RunStatus
    thread_status: ThreadStatus
    interrupts: JsonObject
    error: JsonObject | None = None
    thread_error: JsonObject | None = None
    #: How many events its log has before those of the end.
    event_count: int | None = None
    #: After how long the first token was streamed, in milliseconds.
    first_token_ms: int | None = None
    #: What its webhook is to be sent, by `store.webhooks.delivery`.
    webhook: JsonObject | None = None


async def finish(db: Database, endings: Sequence[Ending], *, wait: bool = True) -> set[str] | None:
    """
    End runs that are ours and settle their threads; the next run of each thread is announced.

    May be repeated when its answer was lost.

    Args:
        wait: For the threads that somebody else holds locked.

    Returns:
        The ids of those that were ours still, and that nobody wants rolled back: the others were not
        changed. None if a thread was locked and not waited for: then nothing was changed.
    """
    params = _endings(endings, db.cipher)
    # The second statement sees what was committed before the first one got its locks.
    if wait:
        async with db.transaction() as tx:
            await tx.execute(SQL["lock_all"], params)
            rows = await tx.tuples(SQL["finish"], params)
    else:
        try:
            _, rows = await db.at_once((_LOCK_ALL, params), (_FINISH, params))
        except LockedError:
            return None
    return {run_id for run_id, _ in rows}


def _endings(endings: Sequence[Ending], cipher: Cipher) -> JsonObject:
    rows = [
        {
            "run_id": ending.claimed.run.run_id,
            "epoch": ending.claimed.lease.epoch,
            "status": ending.status,
            "error": run_error(cipher, ending.claimed.run.run_id, ending.error),
            "thread_status": ending.thread_status,
            "interrupts": cipher.seal_json(
                ending.interrupts, at("thread.interrupts", ending.claimed.run.thread_id)
            ),
            "thread_error": cipher.seal_json(
                ending.thread_error, at("thread.error", ending.claimed.run.thread_id)
            ),
            "event_count": ending.event_count,
            "first_token_ms": ending.first_token_ms,
            "webhook": _sealed_delivery(cipher, ending.webhook),
        }
        for ending in endings
    ]
    return {
        "thread_ids": dump_json([ending.claimed.run.thread_id for ending in endings]).decode(),
        "endings": dump_json(rows).decode(),
        "signal": READY,
        "job_signal": JOB,
    }


def _sealed_delivery(cipher: Cipher, webhook: JsonObject | None) -> JsonObject | None:
    """What a webhook is sent, as the job that sends it keeps it."""
    return None if webhook is None else jobs.sealed(cipher, webhooks.KIND, webhook)


async def finish_temporary(
    db: Database, claimed: Claim, *, webhook: JsonObject | None = None
) -> bool:
    """
    End a run that is ours by deleting its thread, which was made for it alone.

    May be repeated when its answer was lost: a run that is gone has ended.

    Args:
        webhook: What its webhook is to be sent, by `store.webhooks.delivery`.

    Returns:
        False if the run was not ours any more.
    """
    params = {
        "run_id": claimed.run.run_id,
        "epoch": claimed.lease.epoch,
        "webhook": _sealed_delivery(db.cipher, webhook),
        "job_signal": JOB,
    }
    return bool(await db.tuples(SQL["finish_temporary"], params))


async def refuse(db: Database, claimed: Claim, error: JsonObject) -> bool:
    """
    End a run that was claimed and that nobody can execute; its webhook, if any, is not told.

    Returns:
        False if the run was not ours any more, or somebody wants it rolled back.
    """
    if claimed.run.temporary:
        return await finish_temporary(db, claimed)
    ending = Ending(
        claimed=claimed,
        status="error",
        thread_status="error",
        interrupts={},
        error=error,
        thread_error=error,
    )
    return bool(await finish(db, [ending]))


async def cancel(
    db: Database,
    thread_id: str,
    run_ids: list[str] | None,
    *,
    action: CancelAction,
    access: Access,
) -> list[str]:
    """
    Stop runs of a thread, all in flight if none are named.

    Queued ones end here. The owner of a running one is told; if it is dead, reaping ends the run.

    Returns:
        The ids of the runs that were in flight.

    Raises:
        NotFoundError: There is no such thread that is visible.
    """
    async with db.transaction() as tx:
        await queue.lock(tx, thread_id, access=access)
        stopped = await stop(tx, thread_id, run_ids, action)
        if stopped:
            await tx.execute(SQL["settle"], {"thread_id": thread_id})
        return stopped


async def stop(
    tx: Transaction, thread_id: str, run_ids: list[str] | None, action: CancelAction
) -> list[str]:
    """As `cancel`, in a transaction that has the thread locked and settles it."""
    params = {"thread_id": thread_id, "run_ids": run_ids, "action": action}
    await tx.execute(SQL["cancel_begun"], params)
    cancelled = await tx.tuples(SQL["cancel_pending"], params)
    ended = [run_id for run_id, _, _, _ in cancelled]
    for _, _, _, with_webhook in cancelled:
        if action == "rollback":
            await enqueue_webhook(tx, with_webhook, "rollback", ROLLED_BACK)
        else:
            await enqueue_webhook(tx, with_webhook, "interrupted", CANCELLED)
    stopping = [row[0] for row in await tx.tuples(SQL["cancel_running"], params)]
    if ended and action == "rollback":
        await tx.execute(SQL["delete_run"], {"thread_id": thread_id, "run_ids": ended})
    if any(temporary for _, temporary, _, _ in cancelled):
        await tx.execute(SQL["delete_thread"], {"thread_id": thread_id})
    for run_id in (run_id for run_id, _, begun, _ in cancelled if begun):
        left = {"run_id": run_id, "status": "interrupted"}
        await settle_given_up(tx, {"thread_id": thread_id, **left}, CANCELLED)
    for run_id, _, begun, _ in cancelled:
        await notify_ended(tx, run_id, queued_on="" if begun else thread_id)
    for run_id in stopping:
        await notify_stop(tx, run_id, action)
    return ended + stopping


async def settle_given_up(tx: Transaction, params: JsonObject, error: JsonObject) -> None:
    """Say in the thread's row what a run leaves that nobody goes on with."""
    sealed = tx.cipher.seal_json(error, at("thread.error", params["thread_id"]))
    await tx.execute(SQL["settle_given_up"], {**params, "error": sealed})


async def enqueue_webhook(
    tx: Transaction, run: JsonObject | None, status: webhooks.Status, error: JsonObject
) -> None:
    """Have the webhook of a run, if it has one, called for an end that nobody executed it to."""
    if run is not None:
        try:
            run = _opened(tx.cipher, run)
        except UnreadableError as unreadable:
            # Where it is nobody knows, and the end counts more.
            log.warning("webhook not called", run_id=run["run_id"], reason=unreadable.message)
            return
        payload = webhooks.delivery(run, status=status, error=error, values=None)
        payload["run_started_at"] = run["started_at"]
        await jobs.enqueue(tx, webhooks.KIND, payload)


def _opened(cipher: Cipher, run: JsonObject) -> JsonObject:
    if not cipher.is_on:
        return run
    kwargs = cipher.open_json(run["kwargs"], at("run.kwargs", run["run_id"]))
    return {**run, "kwargs": kwargs, "metadata": cipher.open_values(run["metadata"])}


def run_error(cipher: Cipher, run_id: str, error: JsonObject | None) -> Any:
    """A run's error as it is kept: what kind it is, is told to those who follow sessions."""
    shown = shown_of_error(error) if error else None
    return cipher.seal_json(error, at("run.error", run_id), shown=shown)
