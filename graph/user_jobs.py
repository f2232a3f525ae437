"""What is done with all that is a user's, as a durable job: how such jobs are begun, gone on with and given up."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from graph.jobs import JobFailedError, Kind
from store import user_jobs
from store.database import Database
from store.errors import NotFoundError, UnavailableError
from store.jobs import Job
from store.user_jobs import UserJob

#: How long one job works on it; what is left is the next one's.
SLICE_SECONDS: Final = 240.0
TIMEOUT_SECONDS: Final = 600.0
PAUSES_SECONDS: Final = (5.0, 30.0, 120.0, 600.0)


def kind_of(db: Database, work: Callable[[UserJob, float], Awaitable[None]]) -> Kind:
    """
    How jobs are done that work on a `UserJob`.

    Args:
        work: Does what is left of one that has not ended, or a good part of it, until about a time of
            `time.monotonic`. It is tried again if PostgreSQL does not answer.
    """

    async def work_on(job: Job) -> None:
        try:
            found = await user_jobs.get(db, job.payload["user_job_id"], user_id=None)
            if found.status in ("pending", "running"):
                await work(found, time.monotonic() + SLICE_SECONDS)
        except NotFoundError:
            return
        except UnavailableError as exc:
            raise JobFailedError(exc.message) from exc

    async def give_up(job: Job, why: str) -> None:
        found = await user_jobs.get(db, job.payload["user_job_id"], user_id=None)
        await user_jobs.finish(db, found, "error", error=why)

    return Kind(
        work=work_on,
        timeout_seconds=TIMEOUT_SECONDS,
        pauses_seconds=PAUSES_SECONDS,
        give_up=give_up,
    )
