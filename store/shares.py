"""
Sharing a session: links for whoever has them, and members by their identities.

A link is a row; its token is kept as a hash alone. Members are a key of the thread's metadata, so
that who may see a session stays containment (decisions 12 and 24). Both go with the session.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from store import audit, sessions
from store.access import Access, Role
from store.cipher import at, open_name
from store.database import Database, Transaction, repeated
from store.errors import ConflictError, NotFoundError
from store.models import JsonObject
from store.search import opened_content
from store.sql import load

SQL = load("shares")

Mode = Literal["snapshot", "live"]

#: Links, and members, of a session at the most.
MAX_LINKS: Final = 50
MAX_MEMBERS: Final = 100
#: Wrong passwords of a link at the most, and within how many seconds.
MAX_FAILURES: Final = 10
FAILURES_WINDOW_SECONDS: Final = 900


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A link to a session, as its owner sees it."""

    share_id: str
    thread_id: str
    mode: Mode
    has_password: bool
    #: The newest checkpoint when a snapshot was made.
    checkpoint_id: str | None
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What a token leads to."""

    share_id: str
    thread_id: str
    token_hash: bytes
    mode: Mode
    password_hash: str | None
    name: str
    #: Whether the name is the snapshot's own.
    is_named: bool
    graph_id: str | None
    created_at: datetime
    expires_at: datetime | None
    is_expired: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedMessage:
    """A message of a shared session, and no more of it than its text."""

    seq: int
    id: str
    role: str
    content: str
    message_type: str
    create_time: datetime


async def create(
    db: Database,
    thread_id: str,
    *,
    share_id: str,
    token_hash: bytes,
    mode: Mode,
    password_hash: str | None,
    expires_at: datetime | None,
    created_by: str | None,
    actor: str,
    access: Access,
) -> Link:
    """
    Make a link to a session; a snapshot keeps what the session says at this moment.

    Args:
        created_by: As whom; None where nobody is known.
        actor: Who does it, for the audit log; here and below.

    Raises:
        NotFoundError: There is no such session that is visible.
        ConflictError: It has `MAX_LINKS` already.
    """
    params: JsonObject = {
        "thread_id": thread_id,
        "share_id": share_id,
        "token_hash": token_hash,
        "mode": mode,
        "password_hash": password_hash,
        "expires_at": expires_at,
        "created_by": created_by,
        "most": MAX_LINKS,
        "visible": access.array,
    }
    async with db.transaction() as tx:
        await tx.execute(SQL["forget_expired"], params)
        created = await tx.one(Link, SQL["create"], params)
        if created is not None and mode == "snapshot":
            await tx.execute(SQL["snapshot"], params)
            await _seal_name(tx, share_id)
        if created is not None:
            details = {
                "share_id": share_id,
                "mode": mode,
                "has_password": password_hash is not None,
                "expires_at": expires_at,
            }
            await audit.record_of_thread(
                tx, "share.created", thread_id, actor=actor, details=details
            )
    if created is not None:
        return created
    await sessions.get(db, thread_id, access=access)
    raise ConflictError(f"A session has {MAX_LINKS} links at the most: revoke one")


async def _seal_name(tx: Transaction, share_id: str) -> None:
    """What a snapshot is called was sealed where its session is."""
    if tx.cipher.is_on:
        [(name,)] = await tx.tuples(SQL["name"], {"share_id": share_id})
        sealed = tx.cipher.seal_text(open_name(tx.cipher, name), at("share.name", share_id))
        await tx.execute(SQL["set_name"], {"share_id": share_id, "name": sealed})


async def links(db: Database, thread_id: str, *, access: Access) -> list[Link]:
    """The links of a session, the oldest first; none of one that is not visible."""
    params = {"thread_id": thread_id, "visible": access.array}
    return await db.all(Link, SQL["list"], params)


async def delete(
    db: Database, thread_id: str, share_id: str, *, actor: str, access: Access
) -> None:
    """
    Revoke a link.

    Raises:
        NotFoundError: There is no such link of a session that is visible.
    """
    params = {"thread_id": thread_id, "share_id": share_id, "visible": access.array}
    async with db.transaction() as tx:
        if not await tx.execute(SQL["delete"], params):
            raise NotFoundError(f"Share {share_id} not found")
        details = {"share_id": share_id}
        await audit.record_of_thread(tx, "share.revoked", thread_id, actor=actor, details=details)


async def revoke_all(db: Database, thread_id: str, *, actor: str, access: Access) -> None:
    """
    Share a session with nobody any more.

    Raises:
        NotFoundError: There is no such session that is visible.
    """
    params = {"thread_id": thread_id, "visible": access.array}
    async with db.transaction() as tx:
        if not await tx.execute(SQL["remove_members"], params):
            raise sessions.not_found(thread_id)
        links = await tx.execute(SQL["revoke"], params)
        details = {"links": links, "members": "all"}
        await audit.record_of_thread(tx, "share.revoked", thread_id, actor=actor, details=details)


async def find(db: Database, token_hash: bytes) -> Shared:
    """
    What a token leads to, expired or not.

    Raises:
        NotFoundError: Nothing: it was revoked, or never made, or the session is deleted.
    """
    params = {"token_hash": token_hash}
    found = await repeated(lambda: db.one(Shared, SQL["find"], params))
    if found is None:
        raise NotFoundError("The share does not exist")
    cipher = db.cipher
    if not cipher.is_on:
        return found
    if found.is_named:
        name = cipher.open_text(found.name, at("share.name", found.share_id))
    else:
        name = open_name(cipher, found.name)
    return replace(found, name=name)


async def begin_attempt(db: Database, share_id: str) -> bool:
    """Count an attempt at a link's password before it is made; whether it may be made."""
    params = {
        "share_id": share_id,
        "most": MAX_FAILURES,
        "window_seconds": FAILURES_WINDOW_SECONDS,
    }
    return bool(await db.execute(SQL["attempt"], params))


async def forgive_attempt(db: Database, share_id: str) -> None:
    """Take back what `begin_attempt` counted: the password was right."""
    await db.execute(SQL["succeeded"], {"share_id": share_id})


async def messages(
    db: Database, shared: Shared, *, after_seq: int, limit: int
) -> tuple[list[SharedMessage], bool]:
    """A page of what a link shows, and whether there is more."""
    query = SQL["snapshot_messages" if shared.mode == "snapshot" else "live_messages"]
    params = {
        "share_id": shared.share_id,
        "thread_id": shared.thread_id,
        "after_seq": after_seq,
        "limit": limit + 1,
    }
    rows = await db.all(SharedMessage, query, params)
    page = rows[:limit]
    if db.cipher.is_on:
        page = [
            replace(row, content=opened_content(db.cipher, shared.thread_id, row.id, row.content))
            for row in page
        ]
    return page, len(rows) > limit


async def members(db: Database, thread_id: str, *, access: Access) -> dict[str, Role]:
    """
    Whom a session is shared with.

    Raises:
        NotFoundError: There is no such session that is visible.
    """
    params = {"thread_id": thread_id, "visible": access.array}
    rows = await db.tuples(SQL["members"], params)
    if not rows:
        raise sessions.not_found(thread_id)
    found: dict[str, Role] = rows[0][0]
    return found


async def add_members(
    db: Database,
    thread_id: str,
    users: Sequence[str],
    *,
    role: Role,
    actor: str,
    access: Access,
) -> dict[str, Role]:
    """
    Share a session with some more, or in another role.

    Returns:
        All members now.

    Raises:
        NotFoundError: There is no such session that is visible.
        ConflictError: They would be more than `MAX_MEMBERS`.
    """
    params = {
        "thread_id": thread_id,
        "members": dict.fromkeys(users, role),
        "most": MAX_MEMBERS,
        "visible": access.array,
    }
    async with db.transaction() as tx:
        rows = await tx.tuples(SQL["add_members"], params)
        if rows:
            details = {"users": list(users), "role": role}
            await audit.record_of_thread(
                tx, "member.added", thread_id, actor=actor, details=details
            )
            found: dict[str, Role] = rows[0][0]
            return found
    await sessions.get(db, thread_id, access=access)
    raise ConflictError(f"A session has {MAX_MEMBERS} members at the most")


async def remove_member(
    db: Database, thread_id: str, user: str, *, actor: str, access: Access
) -> None:
    """
    Share a session with one fewer.

    Raises:
        NotFoundError: There is no such session that is visible, or no such member.
    """
    params = {"thread_id": thread_id, "user": user, "visible": access.array}
    async with db.transaction() as tx:
        if not await tx.execute(SQL["remove_member"], params):
            raise NotFoundError("The session is not shared with this user")
        details = {"users": [user]}
        await audit.record_of_thread(tx, "member.removed", thread_id, actor=actor, details=details)
