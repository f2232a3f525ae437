"""Threads: the state lines that conversations are kept on."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from store import audit, resealing
from store.access import EVERYTHING, MEMBERS, OWNER_KEYS, Access, looking_for
from store.cipher import Cipher, at
from store.database import Database, Transaction, repeated
from store.errors import (
    AlreadyExistsError,
    ConnectionLostError,
    NotFoundError,
    QuotaError,
    ThreadBusyError,
)
from store.models import CONFIG, JsonObject, Lease, Thread, ThreadStatus
from store.ordering import Order, among, first, ordered
from store.retention import Life
from store.signals import notify_ended, notify_stop
from store.sql import load

SQL = load("threads")
_COPY_CHECKPOINTS = load("whole_threads")["copy_thread"]

SortBy = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]

#: How far a search looks for its page in the order of the list, in rows: so many, and so many more
#: for each row of the page.
WINDOW_ROWS, WINDOW_ROWS_EACH = 1_000, 20
#: What a LIMIT can be.
_MAX_ROWS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Size:
    """How many of something there are, and how many bytes they take."""

    count: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """What a thread takes; `channels` are the values in blobs, by channel, one for each version."""

    checkpoints: Size
    pending_writes: Size
    channels: Mapping[str, Size]


def not_found(thread_id: str) -> NotFoundError:
    """The error for a thread that is not there."""
    return NotFoundError(f"Thread with ID {thread_id} not found")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewThread:
    """A thread that is to be made; its attributes as for `create`."""

    thread_id: str
    metadata: JsonObject
    life: Life | None
    expires_at: datetime | None = None
    temporary: bool = False

    def row(self, cipher: Cipher, **more: Any) -> JsonObject:
        """Parameters of the statement that makes it."""
        return {
            "thread_id": self.thread_id,
            "metadata": cipher.seal_values(self.metadata),
            "config": {},
            "strategy": self.life and self.life.strategy,
            "ttl_minutes": self.life and self.life.ttl_minutes,
            "expires_at": self.expires_at,
            "temporary": self.temporary,
            **more,
        }


async def create_within(tx: Transaction, new: NewThread) -> None:
    """Create a thread, whose id is new, as a part of a transaction."""
    await tx.execute(SQL["create"], new.row(tx.cipher))


async def create(
    db: Database,
    thread_id: str,
    *,
    metadata: JsonObject | None = None,
    config: JsonObject | None = None,
    if_exists: Literal["raise", "do_nothing"] = "raise",
    life: Life | None = None,
    expires_at: datetime | None = None,
    temporary: bool = False,
    access: Access,
) -> Thread:
    """
    Create a thread, or find it when `if_exists` says so.

    Args:
        life: How long it lives unused; None for ever.
        expires_at: When it ends as a session, used or not; None for never.
        temporary: It goes with its run, and nobody is told of it.
        access: Which threads may be found.

    Raises:
        AlreadyExistsError: The id is taken, and `if_exists` is ``raise`` or the thread not visible.
    """
    new = NewThread(
        thread_id=thread_id,
        metadata=metadata or {},
        life=life,
        expires_at=expires_at,
        temporary=temporary,
    )
    sealed = db.cipher.seal_values(config or {}, CONFIG)
    params = new.row(db.cipher, config=sealed, visible=access.array)
    try:
        created = await db.one(Thread, SQL["create"], params)
    except ConnectionLostError:
        created = await db.one(Thread, SQL["create_again"], params)
    if created is not None:
        return created
    found = await find(db, thread_id, access=access) if if_exists == "do_nothing" else None
    if found is None:
        raise AlreadyExistsError(f"Thread with ID {thread_id} already exists")
    return found


async def find(db: Database, thread_id: str, *, access: Access) -> Thread | None:
    """The thread, if there is one and it is visible."""
    params = {"thread_id": thread_id, "visible": access.array}
    return await repeated(lambda: db.one(Thread, SQL["get"], params))


async def get(db: Database, thread_id: str, *, access: Access) -> Thread:
    """
    Read a thread.

    Raises:
        NotFoundError: There is none with this id that is visible.
    """
    found = await find(db, thread_id, access=access)
    if found is None:
        raise not_found(thread_id)
    return found


async def require_visible(
    db: Database, thread_id: str, *, metadata: JsonObject, access: Access
) -> None:
    """
    See that a thread with this metadata would be visible, before it is made.

    Raises:
        NotFoundError: It would not.
    """
    params = {"metadata": db.cipher.seal_values(metadata), "visible": access.array}
    if not await db.tuples(SQL["would_be_visible"], params):
        raise not_found(thread_id)


async def exists(db: Database, thread_id: str) -> bool:
    """Whether there is such a thread, for the server's own use."""
    return bool(await db.tuples(SQL["exists"], {"thread_id": thread_id}))


async def is_unused(db: Database, thread_id: str) -> bool:
    """Whether a thread has had no run and has no state, for the server's own use."""
    return bool(await db.tuples(SQL["is_unused"], {"thread_id": thread_id}))


async def epoch(db: Database, thread_id: str) -> int:
    """The newest epoch of a thread, 0 if it is not there; asks nobody who may know."""
    rows = await db.tuples(SQL["epoch"], {"thread_id": thread_id})
    return int(rows[0][0]) if rows else 0


async def base_epoch(db: Database, thread_id: str) -> int:
    """
    The epoch that all leases of a thread are above; asks nobody who may know.

    What the event log has of this epoch and of those below is of another thread, that had the id before.

    Returns:
        0 if the thread is not there, or was made before this was kept.
    """
    rows = await db.tuples(SQL["base_epoch"], {"thread_id": thread_id})
    return int(rows[0][0]) if rows else 0


async def search(
    db: Database,
    *,
    metadata: JsonObject,
    status: ThreadStatus | None = None,
    ids: list[str] | None = None,
    limit: int = 10,
    offset: int = 0,
    sort_by: SortBy = "updated_at",
    order: Order = "desc",
    access: Access,
) -> list[Thread]:
    """
    List the visible threads whose metadata contains `metadata`.

    What most threads match is found by reading them in their order, what few match by its index;
    PostgreSQL cannot tell which when those few come last in that order. So a page is first looked
    for among the rows that come first.
    """
    place = (sort_by, order)
    looked_for, query = looking_for(db.cipher, metadata, SQL["search"])
    params: JsonObject = {
        **looked_for,
        "status": status,
        "ids": ids,
        "limit": limit,
        "offset": offset,
        "visible": access.array,
        "window": min(WINDOW_ROWS + WINDOW_ROWS_EACH * (offset + limit), _MAX_ROWS),
    }
    in_order = ordered(SQL["every"], *place, tie_break="thread_id")
    if access == EVERYTHING and not metadata and status is None and ids is None:
        return await db.all(Thread, in_order, params, lenient=True)
    window = first(SQL["every"], *place, tie_break="thread_id")
    matching = ordered(query, *place, tie_break="thread_id")
    # Planned anew for each filter: a plan for any would be one for none.
    found = await db.all(
        Thread, among("thread", window, matching), params, prepare=False, lenient=True
    )
    if len(found) == limit:
        return found
    return await db.all(
        Thread, among("thread", query, in_order), params, prepare=False, lenient=True
    )


async def count(
    db: Database, *, metadata: JsonObject, status: ThreadStatus | None = None, access: Access
) -> int:
    """How many threads `search` would find."""
    looked_for, query = looking_for(db.cipher, metadata, SQL["count"])
    params = {**looked_for, "status": status, "visible": access.array}
    rows = await db.tuples(query, params, prepare=False)
    return int(rows[0][0])


async def count_owned(db: Database, owner: str | None, *, most: int) -> int:
    """
    How many threads are somebody's, by the key ``owner`` of their metadata, up to a number.

    Those of deleted sessions are there until they are purged.

    Args:
        owner: Their identity; None for everybody.
    """
    params = {"owned": {} if owner is None else {"owner": owner}, "most": most}
    return int((await db.tuples(SQL["count_owned"], params, prepare=False))[0][0])


async def require_room(db: Database, owner: str | None, *, most: int, count: int = 1) -> None:
    """
    See that somebody may have so many threads more, before they are made.

    Args:
        owner: As for `count_owned`.
        most: How many they may have.

    Raises:
        QuotaError: They would have more.
    """
    # One with more than may be had is not counted to the end.
    if await count_owned(db, owner, most=most) + count > most:
        raise QuotaError(f"You may have {most} sessions")


async def update(
    db: Database,
    thread_id: str,
    *,
    metadata: JsonObject,
    keep_seconds: float | None = None,
    actor: str | None = None,
    access: Access,
) -> Thread:
    """
    Merge `metadata` into the thread's, key by key.

    With the status ``deleted`` it is as `store.sessions.delete` leaves one, shared with nobody any more.

    Args:
        keep_seconds: After which one that is deleted by this is purged; None for never.
        actor: Who does it, for the audit log, which has it if others may see it since, or fewer; None for the
            server itself.

    Raises:
        NotFoundError: There is no such thread that is visible.
    """
    params = {
        "thread_id": thread_id,
        "metadata": db.cipher.seal_values(metadata),
        "keep_seconds": keep_seconds,
        "visible": access.array,
    }
    async with db.transaction() as tx:
        before = await before_change(tx, thread_id, metadata, access=access)
        updated = await tx.one(Thread, SQL["update"], params)
        if updated is None:
            raise not_found(thread_id)
        await audit.record_move(tx, f"session:{thread_id}", before, updated.metadata, actor=actor)
        if metadata.get("status") == "deleted":
            await unshare(tx, thread_id, before, actor=actor)
    return updated


async def before_change(
    tx: Transaction, thread_id: str, changes: JsonObject, *, access: Access
) -> JsonObject | None:
    """
    The metadata of a thread before a change of who may see it, for the audit log after it.

    Nobody changes it meanwhile. None if it is no such change, or the thread is not visible.
    """
    if changes.keys().isdisjoint(OWNER_KEYS) and changes.get("status") != "deleted":
        return None
    params = {"thread_id": thread_id, "visible": access.array}
    rows = await tx.tuples(SQL["metadata_to_change"], params)
    return rows[0][0] if rows else None


async def unshare(
    tx: Transaction, thread_id: str, before: JsonObject | None, *, actor: str | None
) -> None:
    """
    Revoke the links to a thread, as a part of a transaction that has made it a deleted session.

    Args:
        before: Its metadata before that, with its members.
        actor: Who has, for the audit log; None for the server itself.
    """
    links = await tx.execute(SQL["unshare"], {"thread_id": thread_id})
    if links or (before or {}).get(MEMBERS):
        details = {"links": links, "members": "all"}
        await audit.record_of_thread(tx, "share.revoked", thread_id, actor=actor, details=details)


async def delete(db: Database, thread_id: str, *, actor: str | None = None, access: Access) -> None:
    """
    Delete a thread with its runs, messages, checkpoints and writes, in one transaction.

    A run that is still going is told to stop; whatever it writes afterwards is refused. Those who
    follow one are told that it has ended.

    Args:
        actor: Who asked for it, for the audit log; None: it is no act of anybody's.

    Raises:
        NotFoundError: There is no such thread that is visible.
    """
    async with db.transaction() as tx:
        # The lock waits for a commit of the run that is under way, so that its rows go too.
        if not await tx.tuples(SQL["lock"], {"thread_id": thread_id, "visible": access.array}):
            raise not_found(thread_id)
        if actor is not None:
            await audit.record_of_thread(tx, "session.purged", thread_id, actor=actor)
        await delete_within(tx, thread_id)


async def delete_within(tx: Transaction, thread_id: str) -> None:
    """As `delete`, as a part of a transaction that has locked the thread."""
    in_flight = await tx.tuples(SQL["in_flight"], {"thread_id": thread_id})
    await tx.execute(SQL["delete"], {"thread_id": thread_id})
    for (run_id,) in in_flight:
        await notify_stop(tx, run_id, "interrupt")
        await notify_ended(tx, run_id)


async def delete_leased(db: Database, lease: Lease, *, has_ended: bool = False) -> bool:
    """
    Delete a thread as `delete` does, unless somebody took it since the lease.

    Args:
        has_ended: Its life has, so the audit log has it as the server's act; else it is none.

    Returns:
        Whether it was deleted.
    """
    async with db.transaction() as tx:
        params = {"thread_id": lease.thread_id, "epoch": lease.epoch}
        if not await tx.tuples(SQL["lock_leased"], params):
            return False
        # A run that was queued since has not raised the epoch yet.
        if await tx.tuples(SQL["in_flight"], {"thread_id": lease.thread_id}):
            return False
        if has_ended:
            await audit.record_of_thread(tx, "session.purged", lease.thread_id, actor=None)
        await tx.execute(SQL["delete"], {"thread_id": lease.thread_id})
        return True


async def lease(db: Database, thread_id: str, *, access: Access) -> Lease:
    """
    Take the right to write to an idle thread, for a change of state that is no run.

    It is held until a run or another change takes the thread, and then lost: there is nothing
    to give back.

    Raises:
        NotFoundError: There is no such thread that is visible.
        ThreadBusyError: A run is pending or running on it.
    """
    params = {"thread_id": thread_id, "visible": access.array}
    leased = await db.one(Lease, SQL["lease"], params)
    if leased is not None:
        return leased
    await get(db, thread_id, access=access)
    raise ThreadBusyError(f"Thread {thread_id} has a run in flight")


async def settle(
    db: Database,
    lease: Lease,
    *,
    status: ThreadStatus,
    interrupts: JsonObject,
) -> bool:
    """
    Record what a change of state left the thread in, unless another writer took it meanwhile.

    That one does it then.

    Returns:
        Whether the thread is there, and nobody took it.
    """
    changed = await db.execute(
        SQL["settle"],
        {
            "thread_id": lease.thread_id,
            "epoch": lease.epoch,
            "status": status,
            "interrupts": db.cipher.seal_json(interrupts, at("thread.interrupts", lease.thread_id)),
        },
    )
    return bool(changed)


async def copy(
    db: Database, source_id: str, target_id: str, *, metadata: JsonObject, access: Access
) -> None:
    """
    Make a thread that is as another one at one moment: what it knows, its past, its messages.

    The one may be in the middle of a run; the copy is left as by a run that was stopped there. It
    has no runs, and a life of its own that is as long.

    Args:
        target_id: A new id.
        metadata: Merged into that of the copy.
        access: Which threads may be copied.

    Raises:
        NotFoundError: There is no such thread that is visible.
        AlreadyExistsError: The new id is taken.
    """
    params = {
        "source": source_id,
        "target": target_id,
        "metadata": db.cipher.seal_values(metadata),
        "visible": access.array,
    }
    async with db.transaction() as tx:
        # All statements see one state of the source, and nothing has to be locked for it.
        await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", {})
        if not await tx.tuples(SQL["copy"], params):
            raise not_found(source_id)
        await tx.execute(_COPY_CHECKPOINTS, params)
        await resealing.move(tx, source_id, target_id)


async def candidates(
    db: Database,
    *,
    values: JsonObject,
    metadata: JsonObject,
    status: ThreadStatus | None = None,
    ids: list[str] | None = None,
    limit: int,
    sort_by: SortBy = "updated_at",
    order: Order = "desc",
    access: Access,
) -> list[str]:
    """
    Which visible threads may have values that contain `values`, in an order; all those that do, and more.

    Only values that are text, a number, true, false or null are compared, and of no DeltaChannel.

    Args:
        limit: Ids at the most.
    """
    looked_for, query = looking_for(db.cipher, metadata, SQL["candidates"])
    params: JsonObject = {
        "values": values,
        **looked_for,
        "status": status,
        "ids": ids,
        "limit": limit,
        "offset": 0,
        "visible": access.array,
    }
    query = ordered(query, sort_by, order, tie_break="thread_id")
    return [row[0] for row in await db.tuples(query, params, prepare=False)]


async def of_assistant(db: Database, assistant_id: str, *, limit: int, access: Access) -> list[str]:
    """The ids of visible threads whose last run was one of the assistant's, `limit` at the most."""
    params = {"assistant_id": assistant_id, "limit": limit, "visible": access.array}
    return [row[0] for row in await db.tuples(SQL["of_assistant"], params)]


async def storage(db: Database, thread_id: str, *, access: Access) -> Storage:
    """
    Measure what a thread takes.

    Raises:
        NotFoundError: There is no such thread that is visible.
    """
    await get(db, thread_id, access=access)
    rows = await db.tuples(SQL["storage"], {"thread_id": thread_id})
    sizes = {(kind, channel): Size(count, size) for kind, channel, count, size in rows}
    return Storage(
        checkpoints=sizes.pop(("checkpoints", None)),
        pending_writes=sizes.pop(("pending_writes", None)),
        channels={channel: size for (_, channel), size in sizes.items()},
    )


async def find_all(
    db: Database,
    ids: list[str],
    *,
    metadata: JsonObject,
    status: ThreadStatus | None = None,
    access: Access,
) -> dict[str, Thread]:
    """Those of the threads that `search` would find, by their ids."""
    looked_for, query = looking_for(db.cipher, metadata, SQL["search"])
    params = {**looked_for, "status": status, "ids": ids, "visible": access.array}
    found = await db.all(Thread, query, params, prepare=False, lenient=True)
    return {thread.thread_id: thread for thread in found}
