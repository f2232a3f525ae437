"""
The queue of runs: the run's row is its entry, and a process takes up what is due.

Whoever changes the status of a run does it by a query of ``queue.sql``, in one transaction, guarded: by the
thread's row lock, by the run's epoch, and in the end by the index that allows one running run a
thread. Runs come in by `store.new_runs`, and end by `store.endings`, `store.rollback` and `store.lost_runs`.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, LiteralString, Self, TypeVar

from store.access import EVERYTHING, Access
from store.cipher import Cipher
from store.database import Database, Transaction
from store.errors import ConflictError, UnreadableError
from store.models import CancelAction, Lease, Run, ThreadStatus
from store.sql import load
from store.threads import not_found

SQL = load("queue")
Noun = TypeVar("Noun", Run, Lease)

#: How often a claim is tried again that met another one.
CLAIM_ATTEMPTS = 3
#: By priority: after how long a run counts as more urgent by one.
AGING_SECONDS = 60.0


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
    #: Why nobody can execute it: `run` is as it lies in the database. For `endings.refuse`.
    unreadable: UnreadableError | None = None

    @property
    def held(self) -> Held:
        """The run, for those who do not execute it."""
        return Held(run_id=self.run.run_id, thread_id=self.run.thread_id, epoch=self.lease.epoch)


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
            run=narrowed(self, Run),
            lease=narrowed(self, Lease),
            fairness_group=self.fairness_group,
            unreadable=self.unreadable,
        )


def narrowed(row: Any, kind: type[Noun]) -> Noun:
    """What a row has of a noun, by the names of its columns."""
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})


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


async def to_stop(db: Database, worker_id: str) -> list[tuple[str, CancelAction]]:
    """Which of the worker's runs somebody wants stopped."""
    rows = await db.tuples(SQL["to_stop"], {"worker_id": worker_id})
    return [(run_id, action) for run_id, action in rows]


async def owned(db: Database, worker_id: str) -> list[Held]:
    """The runs that are the worker's by the database; one it executes beside these is lost."""
    return await db.all(Held, SQL["owned"], {"worker_id": worker_id})


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


async def lock(tx: Transaction, thread_id: str, *, access: Access = EVERYTHING) -> None:
    """
    Keep others from the thread until the transaction ends.

    Raises:
        NotFoundError: There is no such thread that is visible.
    """
    query: LiteralString = SQL["lock"]
    if not await tx.tuples(query, {"thread_id": thread_id, "visible": access.array}):
        raise not_found(thread_id)
