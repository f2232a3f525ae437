"""
Erasures and exports of users: asked for once, done by whichever process comes to them, and reported.

One of a kind and user is under way at a time: whoever asks again is told of that one. An erasure looks at
all runs there are, so those of one user begin at intervals: one that is asked for soon after another waits. Of an export the file is kept here, in parts, until its time is over; of either the report.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from store import audit, jobs
from store.access import Access
from store.cipher import at
from store.database import Database, Transaction
from store.errors import NotFoundError
from store.models import JsonObject
from store.sql import load

SQL: Final = load("user_jobs")

Kind = Literal["erasure", "export"]
Status = Literal["pending", "running", "success", "error"]

#: The kinds of jobs that do them.
JOBS: Final[Mapping[Kind, str]] = {"erasure": "user_erasure", "export": "user_export"}
#: How long the file of an export is kept.
EXPORT_SECONDS: Final = 86_400.0
#: How long after a user's erasure the next one begins.
REST_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class UserJob:
    """An erasure or an export, and how far it is."""

    user_job_id: str
    kind: Kind
    user_id: str
    #: Who asked for it; empty where nobody is authenticated.
    actor: str
    #: By resource, what rows must contain that whoever asked may touch.
    visible: JsonObject
    status: Status
    position: JsonObject
    part_count: int
    #: How many of what.
    report: JsonObject
    error: str | None
    created_at: datetime
    updated_at: datetime

    def access(self, resource: str) -> Access:
        """The rows of a resource that whoever asked may touch."""
        return Access(tuple(self.visible.get(resource, ())))


async def begin(
    db: Database,
    user_job_id: str,
    *,
    kind: Kind,
    user_id: str,
    actor: str,
    visible: Mapping[str, Access],
) -> UserJob:
    """
    Have all that is a user's erased or exported; the one that is under way if there is one.

    Args:
        visible: By resource, the rows that whoever asks may touch.
    """
    params: JsonObject = {
        "user_job_id": user_job_id,
        "kind": kind,
        "user_id": user_id,
        "actor": actor,
        "visible": {name: list(access.visible) for name, access in visible.items()},
    }
    async with db.transaction() as tx:
        await tx.execute(SQL["forget_stale"], params)
        begun = await tx.one(UserJob, SQL["create"], params)
        if begun is not None:
            await tx.execute(SQL["forget_others"], params)
            wait = await _wait(tx, begun) if kind == "erasure" else 0.0
            payload = {"user_job_id": user_job_id}
            await jobs.enqueue(tx, JOBS[kind], payload, delay_seconds=wait)
            await _record(tx, begun, f"{kind}.requested", actor=actor)
    if begun is None:
        begun = await db.one(UserJob, SQL["under_way"], params)
    if begun is None:  # it has just ended
        return await begin(
            db, user_job_id, kind=kind, user_id=user_id, actor=actor, visible=visible
        )
    return begun


async def _wait(tx: Transaction, job: UserJob) -> float:
    """How long, in seconds, an erasure waits for one that has ended."""
    params = {"user_id": job.user_id, "rest_seconds": REST_SECONDS}
    [(seconds,)] = await tx.tuples(SQL["erasure_rests"], params)
    return float(seconds)


async def _record(tx: Transaction, job: UserJob, act: Any, *, actor: str | None) -> None:
    details = {"job_id": job.user_job_id, **(job.report if act.endswith(".done") else {})}
    await audit.record(
        tx, act, actor=actor, owner=job.user_id, subject=f"user:{job.user_id}", details=details
    )


async def get(db: Database, user_job_id: str, *, user_id: str | None) -> UserJob:
    """
    An erasure or an export.

    Args:
        user_id: Whose it must be; None for the server's own use.

    Raises:
        NotFoundError: There is no such one.
    """
    params = {"user_job_id": user_job_id, "user_id": user_id}
    found = await db.one(UserJob, SQL["get"], params)
    if found is None:
        raise NotFoundError(f"Job {user_job_id} not found")
    return found


async def newest_export(db: Database, user_id: str) -> UserJob:
    """
    The last export of a user that was asked for.

    Raises:
        NotFoundError: There is none, or not any more.
    """
    found = await db.one(UserJob, SQL["newest_export"], {"user_id": user_id})
    if found is None:
        raise NotFoundError("There is no export of this user: ask for one")
    return found


async def count(tx: Transaction, job: UserJob, **counts: int) -> None:
    """Add to a report, in the transaction of what is counted."""
    await tx.execute(SQL["add"], {"user_job_id": job.user_job_id, "counts": counts})


async def advance(
    db: Database,
    job: UserJob,
    *,
    before: int,
    parts: list[bytes],
    position: JsonObject,
    counts: Mapping[str, int],
) -> bool:
    """
    Add to the file of an export, with how far it is.

    Args:
        before: How many parts it is believed to have.

    Returns:
        False if somebody else is at work on it, or it is gone: then nothing was written.
    """
    params: JsonObject = {
        "user_job_id": job.user_job_id,
        "before": before,
        "parts": len(parts),
        "position": position,
    }
    async with db.transaction() as tx:
        if not await tx.execute(SQL["advance"], params):
            return False
        for number, content in enumerate(parts, before):
            sealed = tx.cipher.seal(content, _place(job.user_job_id, number))
            await tx.execute(SQL["add_part"], {**params, "number": number, "content": sealed})
        if counts:
            await count(tx, job, **counts)
        return True


def _place(user_job_id: str, number: int) -> bytes:
    return at("user_job_part", user_job_id, str(number))


async def part(db: Database, user_job_id: str, number: int) -> bytes | None:
    """A part of an export's file; None beyond its end."""
    rows = await db.tuples(SQL["part"], {"user_job_id": user_job_id, "number": number})
    return db.cipher.open(bytes(rows[0][0]), _place(user_job_id, number)) if rows else None


async def go_on(db: Database, job: UserJob, *, delay_seconds: float = 0.0) -> None:
    """Have it gone on with by another job, after a pause."""
    async with db.transaction() as tx:
        payload = {"user_job_id": job.user_job_id}
        await jobs.enqueue(tx, JOBS[job.kind], payload, delay_seconds=delay_seconds)


async def finish(db: Database, job: UserJob, status: Status, *, error: str | None = None) -> None:
    """Write down that it has ended; a second time changes nothing."""
    params = {"user_job_id": job.user_job_id, "status": status, "error": error}
    async with db.transaction() as tx:
        ended = await tx.tuples(SQL["finish"], params)
        if ended and status == "success":
            [(report,)] = ended
            owner = {"job_id": job.user_job_id, **report}
            await audit.record(
                tx,
                "erasure.done" if job.kind == "erasure" else "export.done",
                actor=None,
                owner=job.user_id,
                subject=f"user:{job.user_id}",
                details=owner,
            )


async def delete_expired(db: Database, *, limit: int) -> int:
    """Delete exports whose time is over, and old reports; how many. Safe in many processes at once."""
    return await db.execute(SQL["delete_expired"], {"keep_seconds": EXPORT_SECONDS, "limit": limit})


async def account(db: Database, user_id: str) -> list[JsonObject]:
    """The account of a user, if there is one; not its password."""
    rows = await db.tuples(SQL["account"], {"user_id": user_id})
    return [{"id": id_, "username": name, "create_time": at} for id_, name, at in rows]
