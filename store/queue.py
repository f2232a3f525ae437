"""
The queue of runs: the run's row is its entry.

Whoever changes the status of a run does it here, in one transaction, guarded: by the thread's
row lock, by the run's epoch, and in the end by the index that allows one running run a thread.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, LiteralString, Self, TypeVar

import structlog

from store import jobs, priorities, runs, tallies, webhooks
from store.access import EVERYTHING, Access
from store.cipher import Cipher, at
from store.database import Database, Transaction, in_doubt, made_once
from store.errors import (
    AlreadyExistsError,
    ConflictError,
    ConnectionLostError,
    Error,
    InDoubtError,
    LockedError,
    NotFoundError,
    ThreadBusyError,
    UnavailableError,
    UnreadableError,
)
from store.json import dump_json
from store.lane import Rows, Statement
from store.models import (
    CONFIG,
    CancelAction,
    JsonObject,
    Lease,
    MultitaskStrategy,
    Run,
    RunStatus,
    ThreadStatus,
)
from store.retention import Life
from store.sealing import shown_of_error, shown_of_kwargs
from store.signals import JOB, READY, notify_ended, notify_ready, notify_stop
from store.sql import load
from store.threads import not_found

SQL = load("queue")
log = structlog.get_logger(__name__)
Noun = TypeVar("Noun", Run, Lease)
#: What every run does.
_ENQUEUE, _LOCK_ALL, _FINISH = (
    Statement(SQL[name]) for name in ("enqueue", "lock_all_at_once", "finish")
)

#: How long a lost run waits for its thread's lock: others wait behind it.
_HURRY = "500ms"

BUSY = (
    "Thread is already running a task. Wait for it to finish or choose a different "
    "multitask strategy."
)
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
#: How often a claim is tried again that met another one.
CLAIM_ATTEMPTS = 3
#: By priority: after how long a run counts as more urgent by one.
AGING_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRun:
    """A run as it was asked for."""

    run_id: str
    thread_id: str
    assistant_id: str
    multitask_strategy: MultitaskStrategy
    metadata: JsonObject
    kwargs: JsonObject
    #: Merged into the thread's metadata.
    thread_metadata: JsonObject
    #: On which threads it may begin.
    access: Access
    #: Merged into the thread's config.
    thread_config: JsonObject = field(default_factory=dict)
    temporary: bool = False
    after_seconds: float = 0.0
    #: If there are priorities: what was decided for its thread.
    priority: priorities.Urgency | None = None

    def row(self, cipher: Cipher, **more: Any) -> JsonObject:
        """Parameters of the statements that insert it."""
        own = self.priority if self.priority and self.priority.is_of_run else None
        row = {
            "run_id": self.run_id,
            "thread_id": self.thread_id,
            "assistant_id": self.assistant_id,
            "multitask_strategy": self.multitask_strategy,
            "metadata": self.metadata,
            "kwargs": self.kwargs,
            "thread_metadata": self.thread_metadata,
            "thread_config": self.thread_config,
            "temporary": self.temporary,
            # What is a thread's is copied from it, by `priorities.mark`.
            "priority": own.priority if own else None,
            "fairness_group": own.fairness_group if own else None,
            "visible": self.access.array,
            **more,
        }
        return self._sealed(row, cipher) if cipher.is_on else row

    def _sealed(self, row: JsonObject, cipher: Cipher) -> JsonObject:
        place = at("run.kwargs", self.run_id)
        shown = shown_of_kwargs(self.kwargs)
        return row | {
            "metadata": cipher.seal_values(self.metadata),
            "kwargs": cipher.seal_json(self.kwargs, place, shown=shown),
            "thread_metadata": cipher.seal_values(self.thread_metadata),
            "thread_config": cipher.seal_values(self.thread_config, CONFIG),
        }

    def run(self, created_at: datetime, *, epoch: int, begun: bool) -> Run:
        """The row that was just inserted, without reading it again."""
        return Run(
            run_id=self.run_id,
            thread_id=self.thread_id,
            assistant_id=self.assistant_id,
            status="running" if begun else "pending",
            multitask_strategy=self.multitask_strategy,
            metadata=self.metadata,
            kwargs=self.kwargs,
            attempt=1 if begun else 0,
            first_epoch=epoch if begun else None,
            log_epoch=epoch,
            temporary=self.temporary,
            error=None,
            created_at=created_at,
            updated_at=created_at,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A running run, and the epoch of its lease."""

    run_id: str
    thread_id: str
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A run that is ours to execute, and the right to write to its thread."""

    run: Run
    lease: Lease
    #: If it was claimed by priority: with whom it shares.
    fairness_group: str | None = None
    #: Why nobody can execute it: `run` is as it lies in the database. It is to be given to `refuse`.
    unreadable: UnreadableError | None = None

    @property
    def held(self) -> Held:
        """The run, for those who do not execute it."""
        return Held(run_id=self.run.run_id, thread_id=self.run.thread_id, epoch=self.lease.epoch)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenUp:
    """A run that lost its lease, and what became of it."""

    run_id: str
    thread_id: str
    status: RunStatus
    error: JsonObject | None
    #: In which no run writes: what is to be told of the end goes here.
    epoch: int

    @property
    def held(self) -> Held:
        """The run, if it is still ``running``: whoever took it away is to roll it back."""
        return Held(run_id=self.run_id, thread_id=self.thread_id, epoch=self.epoch)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Started(Lease):
    """What `start` gives: the lease, and when the run was created."""

    created_at: datetime

    def claim(self, new: NewRun) -> Claim:
        run = new.run(self.created_at, epoch=self.epoch, begun=True)
        return Claim(run=run, lease=_narrowed(self, Lease))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Claimed(Run):
    """What `claim` gives: the run, and beside it what its lease has."""

    epoch: int
    head_checkpoint_id: str | None
    projected_checkpoint_id: str | None
    settled_status: ThreadStatus
    head_is_newest: bool
    checkpoint_count: int
    fairness_group: str | None
    unreadable: UnreadableError | None = None

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals; as it lies, with the reason, if it cannot be read."""
        try:
            # By name: zero-argument super() is lost in a class with slots.
            return super(_Claimed, self).opened(cipher)
        except UnreadableError as error:
            # It is ours already, and so are those beside it.
            return replace(self, unreadable=error)

    def claim(self) -> Claim:
        return Claim(
            run=_narrowed(self, Run),
            lease=_narrowed(self, Lease),
            fairness_group=self.fairness_group,
            unreadable=self.unreadable,
        )


def _narrowed(row: Any, kind: type[Noun]) -> Noun:
    """What a row has of a noun, by the names of its columns."""
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})


_START = Statement(SQL["start"], _Started)


async def start(db: Database, new: NewRun, *, worker_id: str) -> Claim | Run | None:
    """
    Start the run at once on a thread that has none in flight; the caller executes it.

    Returns:
        The claim; None if the thread is busy or missing, or the worker: then `enqueue` decides. The
        run, if the answer was lost and it is not the caller's to execute: then it is queued, or
        whatever others made of it meanwhile.

    Raises:
        InDoubtError: The run may have been started; then it is executed like one that lost its
            worker.
        ThreadBusyError: After a lost answer, as for `enqueue`; so is NotFoundError.
    """
    row = new.row(db.cipher, worker_id=worker_id)
    if new.priority is not None and not new.priority.is_of_run:
        await priorities.keep(db, new.thread_id, new.priority)
    try:
        [rows] = await db.at_once((_START, row))
        return rows[0].claim(new) if rows else None
    except LockedError:
        return None
    except ConnectionLostError:
        with _in_doubt(new):
            return await _start_again(db, new, row)


async def _start_again(db: Database, new: NewRun, row: JsonObject) -> Claim | Run:
    """Start a run that may have been started by a first try; if it is not ours, queue or find it."""
    # It has ended already, if it is there and its thread is idle.
    with suppress(AlreadyExistsError):
        # Either it was done, or it is done now: on a busy thread nothing is started, and whatever
        # of the first try is still under way finds it busy too.
        started = await db.one(_Started, SQL["start"], row)
        started = started or await db.one(_Started, SQL["started"], row)
        if started:
            return started.claim(new)
    # It was taken from us meanwhile, or the thread is busy with another one, behind which the first
    # try may still be waiting.
    return await _enqueue(db, new, again=True)


@contextmanager
def _in_doubt(new: NewRun) -> Iterator[None]:
    with in_doubt():
        try:
            yield
        except NotFoundError as exc:
            if not new.temporary:
                raise
            # It has ended, and took its thread along.
            raise UnavailableError(exc.message) from exc


async def enqueue(db: Database, new: NewRun) -> Run:
    """
    Queue the run behind those of its thread, as its multitask strategy says.

    ``interrupt`` and ``rollback`` end the queued runs here and tell the owner of the running one
    to stop; the new run starts when that one has ended.

    Raises:
        NotFoundError: There is no such thread.
        ThreadBusyError: The strategy is ``reject`` and a run is in flight.
        InDoubtError: The run may have been queued.
    """
    try:
        return await _enqueue(db, new)
    except ConnectionLostError:
        with _in_doubt(new):
            return await _enqueue(db, new, again=True)


async def _enqueue(db: Database, new: NewRun, *, again: bool = False) -> Run:
    row = new.row(db.cipher, after_seconds=new.after_seconds, signal=READY)
    queued: Rows = []
    is_plain = new.priority is None or new.priority.is_of_run
    if new.multitask_strategy == "enqueue" and is_plain and not again:
        with suppress(LockedError):
            queued = (await db.at_once((_ENQUEUE, row)))[0]
    if not queued:
        async with db.transaction() as tx:
            await lock(tx, new.thread_id, access=new.access)
            # Nobody else inserts it: a first try that is still under way waits for the lock in vain.
            if again and (known := await tx.one(Run, runs.SQL["get"], row)):
                return known
            return await put(tx, new)
    return _queued(new, queued)


async def put(tx: Transaction, new: NewRun) -> Run:
    """
    Queue a run as a part of a transaction that has the thread's row locked, by `lock`.

    Raises:
        NotFoundError: There is no such thread.
        ThreadBusyError: The strategy is ``reject`` and a run is in flight.
    """
    await _make_way(tx, new)
    row = new.row(tx.cipher, after_seconds=new.after_seconds, signal=READY)
    queued = _queued(new, await tx.tuples(SQL["enqueue"], row))
    await _mark(tx, [new])
    return queued


async def _mark(tx: Transaction, runs: Sequence[NewRun]) -> None:
    """Give queued runs the priorities that were decided for their threads, if there are any."""
    marked = [
        (new.run_id, new.thread_id, new.priority)
        for new in runs
        if new.priority and not new.priority.is_of_run
    ]
    if marked:
        await priorities.mark(tx, marked)


def _queued(new: NewRun, queued: Rows) -> Run:
    if not queued:  # it was made for a run that has just been cancelled
        raise not_found(new.thread_id)
    created_at, epoch, _ = queued[0]
    return new.run(created_at, epoch=epoch, begun=False)


async def enqueue_new(db: Database, runs: Sequence[NewRun], *, life: Life | None) -> list[Run]:
    """
    Queue runs on threads that are made for them: all or none.

    Args:
        life: Of those threads that do not go with their runs.

    Raises:
        AlreadyExistsError: One of the threads is there.
        InDoubtError: They may have been queued.
    """
    known = {"run_ids": [new.run_id for new in runs]}
    rows = await made_once(
        lambda: _enqueue_new(db, runs, life), lambda: db.tuples(SQL["queued"], known)
    )
    queued = {run_id: (created_at, epoch) for run_id, created_at, epoch, *_ in rows}
    if len(queued) < len(runs):
        # Stateless ones, which have ended by now.
        raise InDoubtError("The runs were taken in, and some of them are gone already")
    return [
        new.run(created_at, epoch=epoch, begun=False)
        for new in runs
        for created_at, epoch in [queued[new.run_id]]
    ]


async def _enqueue_new(db: Database, runs: Sequence[NewRun], life: Life | None) -> Rows:
    asked = [new.row(db.cipher, after_seconds=new.after_seconds, visible=None) for new in runs]
    params = {
        "runs": dump_json(asked).decode(),
        "strategy": life and life.strategy,
        "ttl_minutes": life and life.ttl_minutes,
        "signal": READY,
    }
    if any(new.priority and not new.priority.is_of_run for new in runs):
        async with db.transaction() as tx:
            rows = await tx.tuples(SQL["enqueue_new"], params)
            await _mark(tx, runs)
            return rows
    return await db.tuples(SQL["enqueue_new"], params)


async def _make_way(tx: Transaction, new: NewRun) -> None:
    """Do to the runs in flight what the strategy of a new one says."""
    if not await tx.tuples(SQL["in_flight"], {"thread_id": new.thread_id}):
        return
    if new.multitask_strategy == "reject":
        raise ThreadBusyError(BUSY)
    if new.multitask_strategy != "enqueue":
        await _stop(tx, new.thread_id, None, new.multitask_strategy)


async def claim(
    db: Database,
    *,
    worker_id: str,
    slots: int,
    served: Sequence[str] | None = None,
    most_running: int | None = None,
) -> list[Claim]:
    """
    Lease the runs that are due longest and whose threads are free, `slots` at the most.

    One statement, so two workers never get the same run and two runs of a thread never overlap.
    Does not wait for a run to appear. A run whose owner dies right after is reaped like any other.
    One that cannot be decrypted is `unreadable`, and the others are there all the same.

    Args:
        served: Claims the most urgent ones instead, their groups in turn; see decision 27. The
            groups that the caller served, the latest last.
        most_running: By priority: how many of a group may be under way, about; None for any number.
    """
    query, params = SQL["claim"], {"worker_id": worker_id, "slots": slots}
    if served is not None:
        query = SQL["claim_by_priority"]
        params |= {
            "served": list(served),
            "aging_seconds": AGING_SECONDS,
            "most_running": most_running,
        }
    for _ in range(CLAIM_ATTEMPTS):
        # Another process may take up a run of one of the threads while we wait for its row.
        with suppress(ConflictError):
            return [row.claim() for row in await db.all(_Claimed, query, params)]
    return []


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
            "error": _run_error(cipher, ending.claimed.run.run_id, ending.error),
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


def _run_error(cipher: Cipher, run_id: str, error: JsonObject | None) -> Any:
    """A run's error as it is kept: what kind it is, is told to those who follow sessions."""
    shown = shown_of_error(error) if error else None
    return cipher.seal_json(error, at("run.error", run_id), shown=shown)


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
        await lock(tx, held.thread_id)
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
        await lock(tx, held.thread_id)
        params = {"run_id": held.run_id, "epoch": held.epoch}
        gone = await tx.tuples(SQL["discard"], params)
        if not gone:
            return False
        await _enqueue_webhook(tx, gone[0][0], "rollback", ROLLED_BACK)
        await tx.execute(SQL["settle"], {"thread_id": held.thread_id})
        await notify_ready(tx)
    return True


async def _forget(tx: Transaction, run_id: str, thread_id: str) -> None:
    """Delete what a run wrote, and move the thread's head back to what was before."""
    params = {"run_id": run_id, "thread_id": thread_id}
    await tx.execute(SQL["forget_writes"], params)
    await tx.execute(SQL["forget_checkpoints"], params)
    await tx.execute(SQL["forget_blobs"], params)
    await tx.execute(SQL["forget_messages"], params)
    await tx.execute(SQL["reset_head"], params)


async def hand_back(db: Database, claimed: Claim) -> GivenUp | None:
    """
    Give up a run unfinished, for another worker to resume from its last checkpoint.

    It counts as no attempt. A run that somebody wants stopped ends instead; one that is to leave
    no trace stays ``running``, under a new epoch, for the caller to `undo` and `discard`.

    Returns:
        None if the run was not ours any more.
    """
    return await _give_up(db, claimed.held, worker_id=None, max_attempts=None)


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
        await lock(tx, thread_id, access=access)
        stopped = await _stop(tx, thread_id, run_ids, action)
        if stopped:
            await tx.execute(SQL["settle"], {"thread_id": thread_id})
        return stopped


async def _stop(
    tx: Transaction, thread_id: str, run_ids: list[str] | None, action: CancelAction
) -> list[str]:
    params = {"thread_id": thread_id, "run_ids": run_ids, "action": action}
    await tx.execute(SQL["cancel_begun"], params)
    cancelled = await tx.tuples(SQL["cancel_pending"], params)
    ended = [run_id for run_id, _, _, _ in cancelled]
    for _, _, _, with_webhook in cancelled:
        if action == "rollback":
            await _enqueue_webhook(tx, with_webhook, "rollback", ROLLED_BACK)
        else:
            await _enqueue_webhook(tx, with_webhook, "interrupted", CANCELLED)
    stopping = [row[0] for row in await tx.tuples(SQL["cancel_running"], params)]
    if ended and action == "rollback":
        await tx.execute(SQL["delete_run"], {"thread_id": thread_id, "run_ids": ended})
    if any(temporary for _, temporary, _, _ in cancelled):
        await tx.execute(SQL["delete_thread"], {"thread_id": thread_id})
    for run_id in (run_id for run_id, _, begun, _ in cancelled if begun):
        left = {"run_id": run_id, "status": "interrupted"}
        await _settle_given_up(tx, {"thread_id": thread_id, **left}, CANCELLED)
    for run_id, _, begun, _ in cancelled:
        await notify_ended(tx, run_id, queued_on="" if begun else thread_id)
    for run_id in stopping:
        await notify_stop(tx, run_id, action)
    return ended + stopping


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
        await lock(tx, thread_id, access=access)
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


async def reap(
    db: Database,
    *,
    worker_id: str,
    lease_seconds: float | None,
    max_attempts: int,
    strays: Sequence[Held] = (),
) -> list[GivenUp]:
    """
    Take the runs of dead workers away from them.

    A run goes back to the queue, or ends: as it was being cancelled, or with ``error`` after its
    last attempt. One that is to leave no trace is ``running`` under its new epoch, as one of
    `worker_id`: the caller is to `undo` and `discard` it.

    Args:
        worker_id: Who asks; it is alive.
        lease_seconds: A worker that did not beat for so long, by the database's clock, is dead.
            None declares nobody dead.
        max_attempts: How often a run may be started.
        strays: Runs that are to be taken away too, because their owner does not execute them.
    """
    if lease_seconds is not None:
        await db.execute(SQL["bury"], {"lease_seconds": lease_seconds, "worker_id": worker_id})
    lost = [*strays, *await db.all(Held, SQL["lost"], {})]
    reaped: list[GivenUp] = []
    for held in lost:
        try:
            given_up = await _give_up(db, held, worker_id=worker_id, max_attempts=max_attempts)
        except LockedError:
            # The others are not to wait for that.
            log.warning("a lost run waits: its thread is locked", run_id=held.run_id)
            continue
        except UnavailableError as error:
            if not reaped:
                raise
            # The caller has to end what was given up so far; the rest is found by the next sweep.
            log.warning("lost runs wait for the database", reason=error.message)
            break
        except Error as error:
            # One run, which the next one to ask may have better luck with.
            log.warning("a lost run is not given up", run_id=held.run_id, reason=error.message)
            continue
        if given_up:
            reaped.append(given_up)
    return reaped


async def _give_up(
    db: Database, held: Held, *, worker_id: str | None, max_attempts: int | None
) -> GivenUp | None:
    params = {
        "run_id": held.run_id,
        "thread_id": held.thread_id,
        "epoch": held.epoch,
        "worker_id": worker_id,
        "max_attempts": max_attempts,
        "error": _run_error(db.cipher, held.run_id, WORKER_LOST),
        "visible": EVERYTHING.array,
    }
    async with db.transaction() as tx:
        await tx.tuples(SQL["hurry"], {"lock_timeout": _HURRY})
        await tx.execute(SQL["lock"], params)
        rows = await tx.tuples(SQL["give_up"], params)
        if not rows:
            return None
        status, temporary, epoch, with_webhook = rows[0]
        if status not in ("pending", "running"):
            await _enqueue_webhook(
                tx, with_webhook, status, WORKER_LOST if status == "error" else CANCELLED
            )
            await _end_given_up(tx, held, status, temporary=temporary)
        await notify_ready(tx)
    return GivenUp(
        run_id=held.run_id,
        thread_id=held.thread_id,
        status=status,
        error=WORKER_LOST if status == "error" else None,
        epoch=epoch,
    )


async def _end_given_up(tx: Transaction, held: Held, status: RunStatus, *, temporary: bool) -> None:
    params = {"run_id": held.run_id, "thread_id": held.thread_id}
    if temporary:
        await tx.execute(SQL["delete_thread"], params)
    else:
        error = WORKER_LOST if status == "error" else CANCELLED
        await _settle_given_up(tx, {**params, "status": status}, error)
        await tx.execute(SQL["settle"], params)


async def _settle_given_up(tx: Transaction, params: JsonObject, error: JsonObject) -> None:
    sealed = tx.cipher.seal_json(error, at("thread.error", params["thread_id"]))
    await tx.execute(SQL["settle_given_up"], {**params, "error": sealed})


async def _enqueue_webhook(
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


async def register(
    db: Database, *, worker_id: str, host: str, pid: int, version: str, slots: int
) -> None:
    """Announce a worker, and the key that its process seals with; from now on it must beat."""
    params = {
        "worker_id": worker_id,
        "host": host,
        "pid": pid,
        "version": version,
        "slots": slots,
        "key_id": db.cipher.key_id,
    }
    await db.execute(SQL["register"], params)


async def drain(db: Database, worker_id: str) -> None:
    """Say that the worker takes no more runs."""
    await db.execute(SQL["drain"], {"worker_id": worker_id})


async def retire(db: Database, worker_id: str) -> None:
    """Take the worker off the list; a run it still has is reaped at once."""
    await db.execute(SQL["retire"], {"worker_id": worker_id})


@dataclass(frozen=True, slots=True)
class Stats:
    """The queue of all processes at a moment; the waits are None if nothing waits."""

    pending: int
    running: int
    longest_wait_seconds: float | None
    median_wait_seconds: float | None
    longest_unblocked_wait_seconds: float | None
    """Of the runs that do not wait for another one of their thread."""


async def stats(db: Database) -> Stats:
    """Count what waits and runs; costs what it counts."""
    return (await db.all(Stats, SQL["stats"], {}))[0]


async def to_stop(db: Database, worker_id: str) -> list[tuple[str, CancelAction]]:
    """Which of the worker's runs somebody wants stopped."""
    rows = await db.tuples(SQL["to_stop"], {"worker_id": worker_id})
    return [(run_id, action) for run_id, action in rows]


async def owned(db: Database, worker_id: str) -> list[Held]:
    """The runs that are the worker's by the database; one it executes beside these is lost."""
    return await db.all(Held, SQL["owned"], {"worker_id": worker_id})


async def lock(tx: Transaction, thread_id: str, *, access: Access = EVERYTHING) -> None:
    """
    Keep others from the thread until the transaction ends.

    Raises:
        NotFoundError: There is no such thread that is visible.
    """
    query: LiteralString = SQL["lock"]
    if not await tx.tuples(query, {"thread_id": thread_id, "visible": access.array}):
        raise not_found(thread_id)
