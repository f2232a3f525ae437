"""
Durable jobs: what is to be done after a transaction, once that has committed, at least once.

A job is enqueued by the transaction that makes it due, with `enqueue` or by SQL of its own, so
that neither is there without the other. Any process does it, under a lease in time that it renews:
one that does not come back is taken up by another. A job is a few statements and no run: see decision 14.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from store import sealing
from store.cipher import Cipher, at
from store.database import Database, Transaction
from store.errors import UnreadableError
from store.models import JsonObject
from store.signals import JOB
from store.sql import load

SQL = load("jobs")

log = structlog.get_logger(__name__)

#: How many jobs that are due `claim_apart` looks at, of those that it does not pass over.
LOOK: Final = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Something to be done; `payload` is all that whoever does it knows."""

    job_id: int
    #: Who does it.
    kind: str
    payload: JsonObject
    #: Which try this is, from 1: those of processes that were lost count.
    attempt: int
    #: When the transaction began that made it due.
    created_at: datetime


async def enqueue(
    tx: Transaction, kind: str, payload: JsonObject, *, delay_seconds: float = 0.0
) -> None:
    """
    Have something done when this transaction has committed, or some seconds later.

    Args:
        kind: A kind that `graph.jobs` knows; one that no process knows stays until one does.
        payload: Bounded by the caller; it is kept until the job is done.
    """
    kept = sealed(tx.cipher, kind, payload)
    params = {"kind": kind, "payload": kept, "delay_seconds": delay_seconds, "signal": JOB}
    await tx.execute(SQL["enqueue"], params)


async def claim(
    db: Database, longest: Mapping[str, float], *, lease_seconds: float, slots: int
) -> list[Job]:
    """
    Take up the jobs that are due longest, `slots` at the most.

    Nobody else gets them before their leases end; by then a job is to be `done`, done `again`, or its
    lease to be renewed with `renew`.

    Args:
        longest: The kinds that the caller does, and how long a lease of each is at the most, in seconds.
        lease_seconds: How long the lease of a first attempt is; of each further one it is twice as long.
    """
    params = {
        "kinds": list(longest),
        "longest": dict(longest),
        "lease": lease_seconds,
        "slots": slots,
    }
    return list(_readable(db.cipher, await db.all(Job, SQL["claim"], params)))


async def claim_apart(
    db: Database,
    kind: str,
    *,
    lease_seconds: float,
    longest_seconds: float,
    full: Mapping[str, Collection[str]],
    slots: int,
) -> list[Job] | None:
    """
    Take up jobs of one kind that are due, of each user one, so that nobody waits behind another.

    Args:
        lease_seconds: As for `claim`.
        longest_seconds: How long a lease is at the most.
        full: By keys of their payloads: those with one of these values are left.
        slots: Jobs at the most.

    Returns:
        None if there is none. It may be empty, if others took them just now: ask again.
    """
    params = {
        "kind": kind,
        "full": {key: list(values) for key, values in full.items()},
        "look": LOOK,
        "slots": slots,
    }
    due = [job_id for (job_id,) in await db.tuples(SQL["due_apart"], params)]
    if not due:
        return None
    claim = {"job_ids": due, "lease": lease_seconds, "longest": {kind: longest_seconds}}
    return list(_readable(db.cipher, await db.all(Job, SQL["claim_these"], claim)))


async def renew(
    db: Database, held: Sequence[Job], longest: Mapping[str, float], *, lease_seconds: float
) -> set[int]:
    """
    Begin the leases of jobs anew, as `claim` would.

    Returns:
        The ids of those that it was done for. The others are somebody else's or gone, or locked just now.
    """
    params = {
        "job_ids": [job.job_id for job in held],
        "attempts": [job.attempt for job in held],
        "longest": dict(longest),
        "lease": lease_seconds,
    }
    return {job_id for (job_id,) in await db.tuples(SQL["renew"], params)}


def place(kind: str) -> bytes:
    """What a payload is sealed for."""
    return at("job.payload", kind)


def sealed(cipher: Cipher, kind: str, payload: JsonObject) -> JsonObject:
    """A payload as it is kept."""
    return sealing.seal_job(cipher, payload, place(kind)) if cipher.is_on else payload


def _readable(cipher: Cipher, jobs: Iterable[Job]) -> Iterator[Job]:
    """Those that can be opened; the others are left, and come again when their leases end."""
    for job in jobs:
        try:
            yield _opened(cipher, job)
        except UnreadableError as error:
            log.warning(
                "job cannot be read", job_id=job.job_id, kind=job.kind, reason=error.message
            )


def _opened(cipher: Cipher, job: Job) -> Job:
    if not cipher.is_on:
        return job
    opened = sealing.open_job(cipher, job.payload, place(job.kind))
    return replace(job, payload=opened)


async def done(db: Database, job: Job) -> bool:
    """Forget a job; False if it was lost and is somebody else's, or gone."""
    return bool(await db.execute(SQL["done"], {"job_id": job.job_id, "attempt": job.attempt}))


async def again(db: Database, job: Job, *, delay_seconds: float) -> bool:
    """Have a job done again after a pause; False if it was lost and is somebody else's, or gone."""
    params = {"job_id": job.job_id, "attempt": job.attempt, "delay_seconds": delay_seconds}
    return bool(await db.execute(SQL["again"], params))


async def hand_back(db: Database, job: Job) -> None:
    """Leave a job that was not tried to the end to others, at once; it counts as no attempt."""
    params = {"job_id": job.job_id, "attempt": job.attempt, "signal": JOB}
    await db.execute(SQL["hand_back"], params)
