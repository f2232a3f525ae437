"""Runs as they are asked for: started at once on an idle thread, or queued."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from store import endings, priorities, queue, runs
from store.access import Access
from store.cipher import Cipher, at
from store.database import Database, Transaction, in_doubt, made_once
from store.errors import (
    AlreadyExistsError,
    ConnectionLostError,
    InDoubtError,
    LockedError,
    NotFoundError,
    ThreadBusyError,
    UnavailableError,
)
from store.json import dump_json
from store.lane import Rows, Statement
from store.models import CONFIG, JsonObject, Lease, MultitaskStrategy, Run
from store.queue import Claim
from store.retention import Life
from store.sealing import shown_of_kwargs
from store.signals import READY
from store.sql import load
from store.threads import not_found

SQL = load("queue")

#: What every run does.
_ENQUEUE = Statement(SQL["enqueue"])
BUSY = (
    "Thread is already running a task. Wait for it to finish or choose a different "
    "multitask strategy."
)


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
class _Started(Lease):
    """What `start` gives: the lease, and when the run was created."""

    created_at: datetime

    def claim(self, new: NewRun) -> Claim:
        run = new.run(self.created_at, epoch=self.epoch, begun=True)
        return Claim(run=run, lease=queue.narrowed(self, Lease))


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
            await queue.lock(tx, new.thread_id, access=new.access)
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
        await endings.stop(tx, new.thread_id, None, new.multitask_strategy)
