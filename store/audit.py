"""
The audit log: who did what that matters to security, to whose what, and when.

Whoever does such an act records it, in the transaction that does it, so that neither is there without
the other. Rows are only ever added: PostgreSQL refuses whatever else is asked of the table (decision 33).
They hold identities, ids and counts; never what was said, a secret, a token, or a part of one.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from store.access import OWNER_KEYS
from store.database import Database, Transaction
from store.json import dump_json
from store.models import JsonObject
from store.sql import load

SQL: Final = load("audit")

#: What is recorded; docs/retention.md says what each tells.
Act = Literal[
    "key.created",
    "key.revoked",
    "login.refused",
    "login.locked",
    "share.created",
    "share.revoked",
    "member.added",
    "member.removed",
    "owner.changed",
    "webhook.created",
    "webhook.updated",
    "webhook.deleted",
    "session.purged",
    "sessions.exported",
    "export.requested",
    "export.done",
    "export.read",
    "erasure.requested",
    "erasure.done",
    "encryption.begun",
    "encryption.rotated",
    "invariants.repaired",
    "audit.trimmed",
]

#: Identities and subjects are cut to so many characters; details beyond so many bytes are left out.
TEXT_MAX: Final = 512
DETAILS_MAX_BYTES: Final = 8192
#: Nobody can delete a row that is younger, whatever is set.
KEEP_DAYS_AT_LEAST: Final = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An act. `actor` is None for the server itself, and empty where nobody is authenticated."""

    audit_id: int
    recorded_at: datetime
    act: str
    actor: str | None
    owner: str
    #: Its kind and its id, as ``session:7f…``.
    subject: str
    details: JsonObject


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which entries are meant; `until` is not among them."""

    act: str | None = None
    actor: str | None = None
    owner: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def record(
    where: Transaction | Database,
    act: Act,
    *,
    actor: str | None,
    owner: str,
    subject: str,
    details: JsonObject | None = None,
) -> None:
    """
    Record an act.

    In the transaction that does it, or, of what changes nothing (a login that was refused), in one of its
    own; whoever records what strangers can bring about bounds how often.

    Args:
        actor: Whose request it is; empty where nobody is authenticated, None for the server itself.
        owner: Whose the subject is; empty if it is nobody's.
        subject: Kind and id: ``key:…``, ``session:…``, ``user:…``.
        details: Ids, counts and names of fields; no content and no secret.
    """
    params = {
        "act": act,
        "actor": named(actor),
        "owner": _text(owner),
        "subject": _text(subject),
        "details": _bounded(details or {}),
    }
    await where.execute(SQL["record"], params)


async def record_of_thread(
    tx: Transaction,
    act: Act,
    thread_id: str,
    *,
    actor: str | None,
    details: JsonObject | None = None,
) -> None:
    """Record what is done to a session, as its owner's, while it is there; arguments as for `record`."""
    params = {
        "act": act,
        "actor": named(actor),
        "thread_id": thread_id,
        "details": _bounded(details or {}),
        "most": TEXT_MAX,
    }
    await tx.execute(SQL["of_thread"], params)


async def record_move(
    tx: Transaction,
    subject: str,
    before: JsonObject | None,
    after: JsonObject,
    *,
    actor: str | None,
) -> None:
    """
    Record that something has become somebody else's, as an act on whose it was; nothing if it has not.

    Args:
        before: Its metadata before the change; None: that says nothing of whose it is.
        after: Its metadata since.
    """
    if before is None or (was := owner_of(before)) == (is_now := owner_of(after)):
        return
    details = {"to": _text(is_now)}
    await record(tx, "owner.changed", actor=actor, owner=was, subject=subject, details=details)


def owner_of(metadata: JsonObject) -> str:
    """Whose something is: `thread_owner` of the database, for what is read already."""
    named = [metadata[key] for key in OWNER_KEYS if metadata.get(key) is not None]
    owner = next(iter(named), "")
    return owner if isinstance(owner, str) else dump_json(owner).decode()


async def page(
    db: Database,
    which: Filter,
    *,
    before: int | None = None,
    limit: int,
    seen_by: str | None,
) -> tuple[list[Entry], bool]:
    """
    A page of the log, the newest first, and whether there is more.

    Args:
        before: The id of the last entry that the caller has.
        seen_by: Only what this identity did, or what was done to what is theirs; None for all.
    """
    params = {
        "act": which.act,
        "actor": which.actor,
        "owner": which.owner,
        "subject": which.subject,
        "since": which.since,
        "until": which.until,
        "before": before,
        "seen_by": seen_by,
        "limit": limit + 1,
    }
    rows = await db.all(Entry, SQL["page"], params, prepare=False)
    return rows[:limit], len(rows) > limit


async def trim(db: Database, *, keep_seconds: float, limit: int) -> int:
    """
    Delete the oldest entries, and record that; safe in many processes at once.

    Args:
        keep_seconds: How old they are at least; never less than `KEEP_DAYS_AT_LEAST`.
        limit: Entries at the most.

    Returns:
        How many were deleted.
    """
    async with db.transaction() as tx:
        await tx.tuples(SQL["allow_trimming"], {})
        gone = await tx.execute(SQL["trim"], {"keep_seconds": keep_seconds, "limit": limit})
        if gone:
            details = {"entries": gone}
            await record(
                tx, "audit.trimmed", actor=None, owner="", subject="audit", details=details
            )
        return gone


def named(actor: str | None) -> str | None:
    """Who acted, as the log keeps it."""
    return None if actor is None else _text(actor)


def _text(value: str) -> str:
    return value.replace("\x00", "\ufffd")[:TEXT_MAX]


def _bounded(details: JsonObject) -> JsonObject:
    """Details that fit; what is recorded must not fail for what it would say besides."""
    return details if len(dump_json(details)) <= DETAILS_MAX_BYTES else {"left_out": True}
