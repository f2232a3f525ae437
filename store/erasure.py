"""
Deleting all that is a user's, table by table; see docs/retention.md for every table there is.

A user is an identity. Theirs are the rows that name it as their owner: in a column, as `owner` of their
metadata, or, where that says nothing, as `user_id` of a session. Each function is one transaction that
deletes some rows and counts them in the report; it is called until it finds none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from store import tallies, threads, user_jobs
from store.database import Database
from store.models import JsonObject
from store.sql import load
from store.user_jobs import UserJob

SQL: Final = load("erasure")
_FILES: Final = load("files")

#: Rows of one transaction.
BATCH: Final = 500
#: Threads, and assistants, that are looked up at a time; each is a transaction of its own.
PAGE: Final = 50
#: Runs that are looked through at a time.
RUNS_PAGE: Final = 5_000

#: What a statement of its own deletes, in the order in which it is done: first what could make more.
Simple = Literal[
    "keys",
    "accounts",
    "crons",
    "imports",
    "exports",
    "webhooks",
    "memberships",
    "shares",
    "feedback",
    "idempotency_keys",
    "tombstones",
    "jobs",
]
SIMPLE: Final[tuple[Simple, ...]] = (
    "keys", "accounts", "crons", "imports", "exports", "webhooks", "memberships", "shares", "feedback",
    "idempotency_keys", "tombstones", "jobs",
)  # fmt: skip
#: Of one namespace of the store.
ITEMS: Final = "items"
#: When everybody has been told of the rest.
LAST: Final = ("changes", "deliveries")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunsPage:
    """Runs of a user in sessions of others, of a stretch of all runs."""

    #: Ended ones, and the threads that they are of.
    ended: list[str]
    threads: list[str]
    #: Pairs of run and thread.
    in_flight: list[tuple[str, str]]
    #: Where the next stretch begins; None if there is none.
    after: str | None


def _params(job: UserJob, resource: str = "") -> JsonObject:
    return {
        "user_id": job.user_id,
        "limit": BATCH,
        "visible": job.access(resource).array if resource else None,
    }


async def delete_some(db: Database, job: UserJob, what: str, *, namespace: str = "") -> int:
    """Delete some of what a single statement finds: `SIMPLE`, `LAST`, ``items`` of a namespace."""
    params = {**_params(job, "crons" if what == "crons" else ""), "namespace": namespace}
    async with db.transaction() as tx:
        gone = await tx.execute(SQL[what], params)
        if gone:
            await user_jobs.count(tx, job, **{what: gone})
        return 0 if what in ("keys", "accounts", "exports") else gone


async def threads_of(db: Database, job: UserJob) -> list[str]:
    """Some threads that are the user's."""
    params = {**_params(job, "threads"), "limit": PAGE}
    return [id_ for (id_,) in await db.tuples(SQL["threads"], params)]


async def assistants_of(db: Database, job: UserJob) -> list[str]:
    """Some assistants that are the user's."""
    params = {**_params(job, "assistants"), "limit": PAGE}
    return [id_ for (id_,) in await db.tuples(SQL["assistants"], params)]


async def delete_thread(db: Database, job: UserJob, thread_id: str) -> bool:
    """Delete a thread as `threads.delete`, if it is still the user's; whether it was."""
    params = {**_params(job, "threads"), "thread_id": thread_id}
    async with db.transaction() as tx:
        await tx.tuples(SQL["wait_for_index"], params)
        found = await tx.tuples(SQL["lock_thread"], params)
        if not found:
            return False
        await threads.delete_within(tx, thread_id)
        await user_jobs.count(tx, job, sessions=1, messages=found[0][0])
        return True


async def count_assistant(db: Database, job: UserJob) -> None:
    """Count an assistant that was deleted."""
    async with db.transaction() as tx:
        await user_jobs.count(tx, job, assistants=1)


async def delete_files(db: Database, job: UserJob) -> int:
    """Delete some attachments, and what they hold unless it is somebody else's too."""
    async with db.transaction() as tx:
        gone = [id_ for (id_,) in await tx.tuples(SQL["files"], _params(job))]
        if gone:
            contents = {"content_ids": sorted(set(gone))}
            await tx.tuples(_FILES["lock_contents"], contents)
            await tx.execute(_FILES["delete_contents"], contents)
            await user_jobs.count(tx, job, files=len(gone))
        return len(gone)


async def runs_elsewhere(db: Database, job: UserJob, *, after: str | None) -> RunsPage:
    """The runs of the user that are left when their own threads are gone; the next stretch of all."""
    params = {"user_id": job.user_id, "after": after, "limit": RUNS_PAGE}
    rows = await db.tuples(SQL["runs_page"], params)
    mine = [(run_id, thread_id, flight) for run_id, thread_id, flight, is_mine in rows if is_mine]
    return RunsPage(
        ended=[run_id for run_id, _, flight in mine if not flight],
        threads=sorted({thread_id for _, thread_id, _ in mine}),
        in_flight=[(run_id, thread_id) for run_id, thread_id, flight in mine if flight],
        after=rows[-1][0] if len(rows) == RUNS_PAGE else None,
    )


async def delete_runs(
    db: Database, job: UserJob, run_ids: Sequence[str], thread_ids: Sequence[str]
) -> None:
    """
    Delete runs that have ended, in sessions of others; what was said there stays.

    Whom they were for is taken from the checkpoints of those sessions too.
    """
    params = {"user_id": job.user_id, "run_ids": list(run_ids), "thread_ids": list(thread_ids)}
    async with db.transaction() as tx:
        await tallies.mark_stale(tx, thread_ids)
        gone = await tx.execute(SQL["runs"], params)
        await tx.execute(SQL["checkpoints"], params)
        await user_jobs.count(tx, job, runs=gone)


async def is_being_told(db: Database, job: UserJob) -> bool:
    """Whether something of the user is in the outbox still."""
    return bool((await db.tuples(SQL["is_being_told"], {"user_id": job.user_id}))[0][0])
