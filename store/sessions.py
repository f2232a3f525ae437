"""
Sessions: threads, as people who think in conversations list, name, pin, archive and delete them.

A session that was deleted, or whose time has come, is not there: `get` and all else raise NotFoundError.
It can be restored, and listed as ``deleted``, until it is purged. What is there is said once, by the
function ``session_is_there`` of the database, for statements elsewhere that join with ``thread``.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, LiteralString

from store import audit, jobs, threads
from store.access import EVERYTHING, Access, looking_for
from store.cipher import TEXT_MARK, Cipher
from store.database import Database, repeated
from store.errors import AlreadyExistsError, ChangedError, GoneError, NotFoundError
from store.models import JsonObject, Session
from store.ordering import Order, among, first, ordered
from store.retention import Life
from store.sql import load

SQL = load("sessions")

#: What a session is called that nobody gave a name, as by ``session_name`` of the database.
UNNAMED: Final = "新对话"
#: The kind of the jobs that have titles made by the model.
TITLE_JOB: Final = "title"
#: How long it is known that a session was purged.
TOMBSTONE_SECONDS: Final = 90 * 86400
#: Folders and tags that `counts` names, of each.
COUNTED: Final = 100
#: Sessions whose folders and tags are counted, at the most: those that were touched last.
COUNTED_SESSIONS: Final = 10_000

SortBy = Literal["update_time", "create_time"]
_COLUMNS: Final = {"update_time": "updated_at", "create_time": "created_at"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """
    Which sessions are meant.

    Attributes:
        status: ``active``, ``archived`` or ``deleted``; None for the first two.
        attributes: What their metadata contains.
        title: A part of their names.
        ids: Sessions that are found by something else than their names, beside those that are.
    """

    user_id: str | None = None
    status: str | None = "active"
    pinned: bool | None = None
    attributes: JsonObject | None = None
    title: str | None = None
    ids: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """The last session that a client has of a list: pinned or not, its time in the list, its id."""

    pinned: bool
    at: datetime
    id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """
    How many sessions there are: by status, and of the active ones by folder and by tag.

    Attributes:
        of_latest: Of how many of the active ones folders and tags are counted, those that were touched
            last; None for all.
    """

    statuses: dict[str, int]
    pinned: int
    folders: dict[str, int]
    tags: dict[str, int]
    of_latest: int | None = None


def not_found(session_id: str) -> NotFoundError:
    """The error for a session that is not there."""
    return NotFoundError(f"Session {session_id} not found")


async def create(
    db: Database,
    session_id: str,
    *,
    metadata: JsonObject,
    expires_at: datetime | None = None,
    life: Life | None = None,
    access: Access,
) -> Session:
    """
    Create a session.

    Args:
        metadata: Its attributes, ``user_id`` and ``name`` among them, and whatever else is kept.
        expires_at: When it ends; None for never.
        life: How long it lives unused; None for ever.

    Raises:
        AlreadyExistsError: The id is taken.
    """
    try:
        await threads.create(
            db, session_id, metadata=metadata, expires_at=expires_at, life=life, access=access
        )
    except AlreadyExistsError:
        raise AlreadyExistsError(f"Session {session_id} already exists") from None
    return await get(db, session_id, access=EVERYTHING)


async def get(db: Database, session_id: str, *, access: Access) -> Session:
    """
    Read a session.

    Raises:
        NotFoundError: There is none with this id that is visible and not deleted.
    """
    params = {"id": session_id, "visible": access.array}
    found = await repeated(lambda: db.one(Session, SQL["get"], params))
    if found is None:
        raise not_found(session_id)
    return found


async def list_page(
    db: Database,
    which: Filter,
    *,
    sort_by: SortBy = "update_time",
    order: Order = "desc",
    pinned_first: bool = False,
    after: Place | None = None,
    limit: int,
    sees_many: bool = True,
    access: Access,
) -> tuple[list[Session], bool]:
    """
    A page of the visible sessions.

    Args:
        pinned_first: Those that are pinned come before all others, each in the order.
        after: The last session that the client has.
        limit: Rows at the most.
        sees_many: False has all names that are visible compared, which for few of them is faster.

    Returns:
        The page, and whether there is more.
    """
    if not pinned_first:
        parts = [which.pinned]
    else:
        # Each by an index of its own; most of the time the first has but a few.
        parts = [True, False] if after is None or after.pinned else [False]
    conditions, query = _conditions(db.cipher, which, access, SQL["list"])
    place = (_COLUMNS[sort_by], order)
    # Sealed names have no parts in the index.
    by_index = bool(which.title) and sees_many and not db.cipher.is_on
    rows: list[Session] = []
    for pinned in parts:
        begun = after if not pinned_first or (after and after.pinned == pinned) else None
        params = {
            **conditions,
            **_place(begun, sort_by, order),
            "pinned": pinned,
            "limit": limit + 1 - len(rows),
            "offset": 0,
        }
        if by_index:
            rows += await _named(db, query, params, place)
        else:
            rows += await _all(db, ordered(query, *place, tie_break="thread_id"), params)
        if len(rows) > limit:
            break
    return rows[:limit], len(rows) > limit


async def _named(
    db: Database, query: LiteralString, params: JsonObject, place: tuple[str, Order]
) -> list[Session]:
    """
    Sessions with a text in their names.

    One that many have is soon found in the order of the list, one that few have by its index. PostgreSQL
    cannot tell which, so they are first looked for among the threads that come first: each query reads some
    rows under the name of the table ``thread``.
    """
    latest = first(SQL["in_order"], *place, tie_break="thread_id")
    matching = ordered(query, *place, tie_break="thread_id")
    params = {**params, "window": threads.WINDOW_ROWS}
    found = await _all(db, among("thread", latest, matching), params)
    if len(found) == params["limit"]:
        return found
    candidates = SQL["by_name"]
    if params["part"] in UNNAMED:
        candidates += " UNION ALL " + SQL["without_name"]
    if params["ids"]:
        candidates += " UNION ALL " + SQL["by_id"]
    page = ordered(SQL["session"], *place, tie_break="thread_id")
    return await _all(db, among("thread", candidates, page), params)


async def _all(db: Database, query: LiteralString, params: JsonObject) -> list[Session]:
    # Planned anew for each filter: a plan for any would be one for none.
    return await db.all(Session, query, params, prepare=False, lenient=True)


def _conditions(
    cipher: Cipher, which: Filter, access: Access, query: LiteralString
) -> tuple[JsonObject, LiteralString]:
    """The parameters of a filter, and the query that takes them."""
    looked_for, query = looking_for(cipher, which.attributes or {}, query)
    params = {
        **looked_for,
        "user_id": which.user_id,
        "status": which.status,
        "title": _title(cipher, which.title),
        "part": which.title,
        "ids": list(which.ids),
        "visible": access.array,
    }
    return params, query


def _title(cipher: Cipher, title: str | None) -> str | None:
    """A pattern of names. Those that are sealed have none: `search.sessions` finds them by their words."""
    if title is None:
        return None
    return "" if cipher.is_on else f"%{_literally(title)}%"


def _literally(text: str) -> str:
    """A text as a pattern of LIKE that finds just it."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _place(after: Place | None, sort_by: SortBy, order: Order) -> JsonObject:
    beyond = f"{sort_by.removesuffix('_time')}d_{'before' if order == 'desc' else 'after'}"
    names = ("updated_before", "updated_after", "created_before", "created_after")
    place: JsonObject = dict.fromkeys(names)
    return {**place, beyond: after and after.at, "place_id": after and after.id}


async def counts(db: Database, which: Filter, *, access: Access) -> Counts:
    """
    Count the visible sessions of a user, or all; a look at each, and more at some (`COUNTED_SESSIONS`).

    Args:
        which: Only `user_id` and `attributes` count.
    """
    asked = Filter(user_id=which.user_id, attributes=which.attributes)
    params, query = _conditions(db.cipher, asked, access, SQL["counts"])
    most = {"limit": COUNTED, "most": COUNTED_SESSIONS}
    rows = await db.tuples(query, {**params, **most}, prepare=False)

    def of(kind: str) -> dict[str, int]:
        return {name: count for found, name, count in rows if found == kind}

    def named(kind: str, key: str) -> dict[str, int]:
        # While keys are changed there may be two forms of one name.
        found: Counter[str] = Counter()
        for name, count in of(kind).items():
            # A number, or whatever else was written there, is told as its JSON.
            is_sealed = db.cipher.is_on and name.startswith(TEXT_MARK)
            found[db.cipher.open_values(name, [key]) if is_sealed else name] += count
        return dict(found)

    statuses = of("status")
    return Counts(
        statuses=statuses,
        pinned=of("pinned")[""],
        folders=named("folder", "folder"),
        tags=named("tag", "tags"),
        of_latest=COUNTED_SESSIONS if statuses.get("active", 0) > COUNTED_SESSIONS else None,
    )


async def update(
    db: Database,
    session_id: str,
    *,
    changes: JsonObject | None = None,
    removed: Sequence[str] = (),
    expiry: tuple[datetime | None] | None = None,
    etags: Sequence[str] | None = None,
    touches: bool = True,
    actor: str | None = None,
    access: Access,
) -> Session:
    """
    Change attributes of a session.

    Args:
        changes: Keys of its metadata.
        removed: Keys that it loses.
        expiry: When it ends from now on; left as it is unless given.
        etags: Change it only if it has one of these.
        touches: Whether it counts as used by this.
        actor: Who does it, for the audit log, which has it if the owner changes; None for the server itself.

    Raises:
        NotFoundError: There is no such session that is visible.
        ChangedError: It is another one than `etags` say.
    """
    params = {
        "id": session_id,
        "changes": db.cipher.seal_values(changes or {}),
        "removed": list(removed),
        "sets_expiry": expiry is not None,
        "expires_at": expiry and expiry[0],
        "etags": etags if etags is None else list(etags),
        "touches": touches,
        "actor": audit.named(actor),
        "most": audit.TEXT_MAX,
        "visible": access.array,
    }
    changed = await db.one(Session, SQL["change"], params)
    if changed is None:
        await get(db, session_id, access=access)
        raise ChangedError(f"Session {session_id} has changed")
    return changed


async def delete(
    db: Database,
    session_id: str,
    *,
    keep_seconds: float | None,
    actor: str | None = None,
    access: Access,
) -> None:
    """
    Delete a session so that it can be restored; its run in flight, if any, goes on.

    Args:
        keep_seconds: After which it is purged; None for never.
        actor: Who does it, for the audit log, which has it if it was shared; None for the server itself.

    Raises:
        NotFoundError: There is no such session that is visible.
    """
    params = {"id": session_id, "keep_seconds": keep_seconds, "visible": access.array}
    deleted: JsonObject = {"status": "deleted"}
    async with db.transaction() as tx:
        before = await threads.before_change(tx, session_id, deleted, access=access)
        if not await tx.tuples(SQL["delete"], params):
            raise not_found(session_id)
        await threads.unshare(tx, session_id, before, actor=actor)


async def restore(db: Database, session_id: str, *, access: Access) -> Session:
    """
    Take a deletion back; a session that is not deleted stays as it is.

    Raises:
        NotFoundError: There is no such session that is visible.
        GoneError: It was purged, or its time has come.
    """
    params = {"id": session_id, "visible": access.array}
    await db.tuples(SQL["restore"], params)
    found = await repeated(lambda: db.one(Session, SQL["get"], params))
    if found is not None:
        return found
    if await db.tuples(SQL["tombstone"], params):
        raise GoneError(f"Session {session_id} was deleted for good")
    raise not_found(session_id)


async def purge(
    db: Database,
    session_id: str,
    *,
    only_if_ended: bool = False,
    actor: str | None = None,
    access: Access,
) -> None:
    """
    Delete a session for good, with all that it has, in one transaction, and remember that it was.

    A run that is still going is told to stop; whatever it writes afterwards is refused. What is left is
    a `tombstone`: its id, and under which conditions the caller saw it.

    Args:
        only_if_ended: Leave one alone whose time has not come.
        actor: Who does it, for the audit log; None for the server itself.

    Raises:
        NotFoundError: There is no such session that is visible, deleted or not.
    """
    params = {"id": session_id, "ended": only_if_ended, "visible": access.array}
    async with db.transaction() as tx:
        if not await tx.tuples(SQL["lock"], params):
            raise not_found(session_id)
        await tx.execute(SQL["bury"], params)
        await audit.record_of_thread(tx, "session.purged", session_id, actor=actor)
        await threads.delete_within(tx, session_id)


async def ended(db: Database, *, limit: int) -> list[str]:
    """The ids of sessions whose time has come, those that it came for first; to be purged."""
    return [row[0] for row in await db.tuples(SQL["ended"], {"limit": limit})]


async def forget_tombstones(db: Database) -> int:
    """Forget sessions that were purged long ago; how many."""
    return await db.execute(SQL["forget_tombstones"], {"keep_seconds": TOMBSTONE_SECONDS})


async def enqueue_title(db: Database, session_id: str, *, language: str | None) -> None:
    """
    Have the model give a session its title, as a durable job; twice does no harm.

    Args:
        language: Of the title, as ``zh``; None for that of what is said.
    """
    async with db.transaction() as tx:
        await jobs.enqueue(tx, TITLE_JOB, {"thread_id": session_id, "language": language})


async def set_title(db: Database, session_id: str, title: str) -> bool:
    """
    Give a session a title by the model, if it has no name of its own and no such title yet.

    Returns:
        Whether it has it now. One that is gone is not made again.
    """
    sealed = db.cipher.seal_values(title, ["name"])
    return bool(await db.tuples(SQL["title"], {"id": session_id, "title": sealed}))
