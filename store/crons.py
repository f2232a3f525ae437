"""
Crons: runs that are to begin by the clock.

Every process that executes runs looks for those that are due. Which of them makes the run, the cron's row decides: it
is locked, and the run is made and the row moved on to its next time in one transaction.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from store import audit, new_runs, queue, threads
from store.access import EVERYTHING, Access
from store.cipher import Cipher, at
from store.database import Database, Transaction, made_once
from store.errors import (
    ConflictError,
    NotFoundError,
    UnreadableError,
)
from store.json import dump_json
from store.models import JsonObject, Run
from store.new_runs import NewRun
from store.ordering import Order, ordered
from store.sql import load
from store.threads import NewThread

SQL = load("crons")

#: What of a cron is sealed as a whole; its metadata value by value.
_SEALED: Final = ("payload", "injected", "error")

#: How many runs of a cron may wait.
MAX_WAITING: Final = 10

SortBy = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "created_at",
    "updated_at",
    "next_run_at",
    "end_time",
]
OnRunCompleted = Literal["delete", "keep"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NewCron:
    """A cron as it was asked for."""

    cron_id: str
    assistant_id: str
    #: None: every run has a thread of its own.
    thread_id: str | None
    user_id: str
    #: Five fields and an IANA time zone; UTC without one.
    schedule: str
    timezone: str | None
    #: When it fires no more.
    end_time: datetime | None
    enabled: bool
    #: What becomes of the threads of its own runs.
    on_run_completed: OnRunCompleted | None
    #: What was asked for, as it was asked for: each run is made of it.
    payload: JsonObject
    metadata: JsonObject
    #: What is injected into the runs: who asked for them.
    injected: JsonObject
    #: `Access.visible` of who asked: to threads, and to assistants.
    visible_threads: list[JsonObject]
    visible_assistants: list[JsonObject]
    #: None for never.
    next_run_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cron(NewCron):
    """A cron as it is."""

    #: Why there was no run when one was due last.
    error: JsonObject | None
    created_at: datetime
    updated_at: datetime


def not_found(cron_id: str) -> NotFoundError:
    """The error for a cron that is not there."""
    return NotFoundError(f"Cron '{cron_id}' not found")


async def create(db: Database, new: NewCron) -> Cron:
    """
    Create a cron.

    Raises:
        NotFoundError: Its assistant or thread has just been deleted.
        InDoubtError: It may have been created.
    """
    row = _row(db.cipher, new)
    known = {"cron_id": new.cron_id, "visible": EVERYTHING.array}
    created = await made_once(
        lambda: db.one(Cron, SQL["create"], row), lambda: db.one(Cron, SQL["get"], known)
    )
    assert created is not None
    return _opened(db.cipher, created)


def _row(cipher: Cipher, cron: NewCron) -> JsonObject:
    row = {name: getattr(cron, name) for name in NewCron.__dataclass_fields__}
    row["metadata"] = cipher.seal_values(row["metadata"])
    for name in ("payload", "injected"):
        row[name] = cipher.seal_json(row[name], _at(name, cron.cron_id))
    for name in ("visible_threads", "visible_assistants"):
        # A list would be an array of PostgreSQL's.
        row[name] = dump_json(row[name]).decode()
    return row


def _at(column: str, cron_id: str) -> bytes:
    return at(f"cron.{column}", cron_id)


def _opened(cipher: Cipher, cron: Cron) -> Cron:
    if not cipher.is_on:
        return cron
    opened: dict[str, Any] = {
        name: cipher.open_json(getattr(cron, name), _at(name, cron.cron_id)) for name in _SEALED
    }
    return replace(cron, metadata=cipher.open_values(cron.metadata), **opened)


async def get(db: Database, cron_id: str, *, access: Access) -> Cron:
    """
    Read a cron.

    Raises:
        NotFoundError: There is none with this id that is visible.
    """
    found = await db.one(Cron, SQL["get"], {"cron_id": cron_id, "visible": access.array})
    if found is None:
        raise not_found(cron_id)
    return _opened(db.cipher, found)


async def search(
    db: Database,
    *,
    metadata: JsonObject,
    assistant_id: str | None = None,
    thread_id: str | None = None,
    enabled: bool | None = None,
    limit: int = 10,
    offset: int = 0,
    sort_by: SortBy = "created_at",
    order: Order = "desc",
    access: Access,
) -> list[Cron]:
    """List the visible crons whose metadata contains `metadata`."""
    query = ordered(SQL["search"], sort_by, order, tie_break="cron_id")
    params = {
        "metadata": Access(tuple(db.cipher.forms(metadata))).array,
        "assistant_id": assistant_id,
        "thread_id": thread_id,
        "enabled": enabled,
        "limit": limit,
        "offset": offset,
        "visible": access.array,
    }
    return [_opened(db.cipher, cron) for cron in await db.all(Cron, query, params)]


async def count(
    db: Database,
    *,
    metadata: JsonObject,
    assistant_id: str | None = None,
    thread_id: str | None = None,
    enabled: bool | None = None,
    access: Access,
) -> int:
    """How many crons `search` would find."""
    params = {
        "metadata": Access(tuple(db.cipher.forms(metadata))).array,
        "assistant_id": assistant_id,
        "thread_id": thread_id,
        "enabled": enabled,
        "visible": access.array,
    }
    rows = await db.tuples(SQL["count"], params)
    return int(rows[0][0])


async def count_of_user(db: Database, user_id: str) -> int:
    """How many crons somebody has made; of those without a name, all."""
    return int((await db.tuples(SQL["count_of_user"], {"user_id": user_id}))[0][0])


async def update(
    db: Database,
    cron_id: str,
    change: Callable[[Cron], Cron],
    *,
    actor: str | None = None,
    access: Access,
) -> Cron:
    """
    Change a cron; a run that is being made of it meanwhile is made of what it was.

    Args:
        change: What it becomes; called in the transaction, so that nothing comes between. What it
            raises undoes it. Ids, and who asked for it, stay as they are.
        actor: Who does it, for the audit log, which has it if the owner changes.

    Raises:
        NotFoundError: There is none with this id that is visible.
    """
    async with db.transaction() as tx:
        found = await tx.one(
            Cron, SQL["get_to_change"], {"cron_id": cron_id, "visible": access.array}
        )
        if found is None:
            raise not_found(cron_id)
        row = _row(db.cipher, change(_opened(db.cipher, found)))
        changed = await tx.one(Cron, SQL["update"], row)
        assert changed is not None
        subject = f"cron:{cron_id}"
        await audit.record_move(tx, subject, found.metadata, changed.metadata, actor=actor)
        return _opened(db.cipher, changed)


async def delete(db: Database, cron_id: str, *, access: Access) -> None:
    """
    Delete a cron; its runs stay.

    Raises:
        NotFoundError: There is none with this id that is visible.
    """
    if not await db.tuples(SQL["delete"], {"cron_id": cron_id, "visible": access.array}):
        raise not_found(cron_id)


async def look(db: Database, *, now: datetime | None = None) -> tuple[datetime, datetime | None]:
    """
    What time it is, by the database's clock unless it is given, and when the next cron is due.

    The latter may be past; None if no cron will ever fire.
    """
    [(time, next_at)] = await db.tuples(SQL["look"], {"now": now})
    return time, next_at


async def due(
    db: Database, *, now: datetime, limit: int
) -> list[tuple[Cron, UnreadableError | None]]:
    """The crons that are due longest; with one that cannot be decrypted, why: it can be `refuse`d."""
    found: list[tuple[Cron, UnreadableError | None]] = []
    for cron in await db.all(Cron, SQL["due"], {"now": now, "limit": limit}):
        try:
            found.append((_opened(db.cipher, cron), None))
        except UnreadableError as error:
            found.append((cron, error))
    return found


async def fire(
    db: Database,
    cron: Cron,
    new: NewRun,
    thread: NewThread | None,
    *,
    next_run_at: datetime | None,
) -> Run | None:
    """
    Queue the run of a cron that is due, and move the cron on: both, or neither.

    Times that were missed since are not made up for: `next_run_at` is after them.

    Args:
        cron: As `due` gave it.
        thread: To be made for the run; None if it has one.

    Returns:
        None if somebody else did it, or the cron was changed meanwhile.

    Raises:
        NotFoundError: The thread is not there any more, or not visible.
        ThreadBusyError: The strategy is ``reject`` and a run is in flight.
        ConflictError: `MAX_WAITING` of its runs have not begun yet: they would only pile up.
    """
    async with db.transaction() as tx:
        if thread is None:
            await queue.lock(tx, new.thread_id, access=new.access)
        if not await _take(tx, cron):
            return None
        waiting = await tx.tuples(SQL["waiting"], {"cron_id": cron.cron_id, "most": MAX_WAITING})
        if len(waiting) >= MAX_WAITING:
            raise ConflictError(f"{MAX_WAITING} runs of this cron are waiting already")
        if thread is not None:
            await threads.create_within(tx, thread)
        run = await new_runs.put(tx, new)
        params = {
            "cron_id": cron.cron_id,
            "run_id": run.run_id,
            "scheduled_for": cron.next_run_at,
        }
        await tx.execute(SQL["mark"], params)
        await _advance(tx, cron, next_run_at, None)
        return run


async def refuse(
    db: Database, cron: Cron, error: JsonObject, *, next_run_at: datetime | None
) -> bool:
    """
    Move a cron on without a run, and keep why.

    Returns:
        False if somebody else moved it on, or it was changed meanwhile.
    """
    async with db.transaction() as tx:
        if not await _take(tx, cron):
            return False
        await _advance(tx, cron, next_run_at, error)
        return True


async def _take(tx: Transaction, cron: Cron) -> bool:
    params = {
        "cron_id": cron.cron_id,
        "scheduled_for": cron.next_run_at,
        "updated_at": cron.updated_at,
    }
    return bool(await tx.tuples(SQL["take"], params))


async def _advance(
    tx: Transaction, cron: Cron, next_run_at: datetime | None, error: JsonObject | None
) -> None:
    sealed = tx.cipher.seal_json(error, _at("error", cron.cron_id))
    params = {"cron_id": cron.cron_id, "next_run_at": next_run_at, "error": sealed}
    await tx.execute(SQL["advance"], params)
