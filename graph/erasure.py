"""
Erasing a user: all that is theirs in PostgreSQL, in Redis, and in a checkpointer of the user's own.

A durable job. It finds what is there, deletes it and looks again until there is nothing; so it may be broken
off at any place, by a crash too, and whoever goes on with it begins at the top.
"""

import time
from collections.abc import Sequence
from typing import Final

import structlog

from graph.jobs import Kind
from graph.retention import Retention
from graph.runs import Runs, few_at_once
from graph.threads import Threads
from graph.user import label_of
from graph.user_jobs import kind_of
from store import erasure, outbox, user_jobs
from store.database import Database
from store.user_jobs import UserJob

log = structlog.stdlib.get_logger(__name__)

#: How long runs that were stopped, and news that are being told, are waited for; and how often.
WAIT_SECONDS: Final = 1.0
MAX_WAITS: Final = 120


class Erasures:
    """
    Does jobs of the kind ``user_erasure``.

    Args:
        namespaces: Which namespaces of the store are a user's: labels with dots, one of them ``{user}``.
    """

    def __init__(
        self,
        *,
        db: Database,
        runs: Runs,
        threads: Threads,
        retention: Retention,
        namespaces: Sequence[str],
    ) -> None:
        self._db = db
        self._runs = runs
        self._threads = threads
        self._retention = retention
        self._namespaces = namespaces

    def kind(self) -> Kind:
        """How they are done."""
        return kind_of(self._db, self._work)

    async def _work(self, job: UserJob, until: float) -> None:
        steps = (self._simple, self._assistants, self._own_threads, self._elsewhere, self._news)
        for step in steps:
            if not await step(job, until):
                await self._later(job, until)
                return
        await user_jobs.finish(self._db, job, "success")
        log.info("user erased", user_job_id=job.user_job_id)

    async def _later(self, job: UserJob, until: float) -> None:
        """Go on with what took too long; or with what waits for others, within bounds."""
        if time.monotonic() >= until:
            await user_jobs.go_on(self._db, job)
            return
        waits = int(job.position.get("waits", 0)) + 1
        if waits > MAX_WAITS:
            await user_jobs.finish(
                self._db, job, "error", error="Runs of the user could not be stopped in time"
            )
            return
        position = {"waits": waits}
        await user_jobs.advance(
            self._db, job, before=job.part_count, parts=[], position=position, counts={}
        )
        await user_jobs.go_on(self._db, job, delay_seconds=WAIT_SECONDS)

    async def _simple(self, job: UserJob, until: float) -> bool:
        for what in erasure.SIMPLE:
            if not await self._until_none(job, until, what):
                return False
        for pattern in self._namespaces:
            for label in _labels(job.user_id):
                namespace = pattern.replace("{user}", label)
                if not await self._until_none(job, until, erasure.ITEMS, namespace):
                    return False
        while await erasure.delete_files(self._db, job):
            if time.monotonic() >= until:
                return False
        return True

    async def _until_none(self, job: UserJob, until: float, what: str, namespace: str = "") -> bool:
        while await erasure.delete_some(self._db, job, what, namespace=namespace):
            if time.monotonic() >= until:
                return False
        return True

    async def _assistants(self, job: UserJob, until: float) -> bool:
        access = job.access("assistants")
        while found := await erasure.assistants_of(self._db, job):
            for assistant_id in found:
                await self._threads.delete_assistant(
                    assistant_id, access=access, thread_access=None
                )
                await erasure.count_assistant(self._db, job)
            if time.monotonic() >= until:
                return False
        return True

    async def _own_threads(self, job: UserJob, until: float) -> bool:
        async def delete(thread_id: str) -> None:
            if await erasure.delete_thread(self._db, job, thread_id):
                await self._retention.forget(thread_id)

        while found := await erasure.threads_of(self._db, job):
            await few_at_once(dict.fromkeys(found), delete)
            if time.monotonic() >= until:
                return False
        return True

    async def _elsewhere(self, job: UserJob, until: float) -> bool:
        """Runs in sessions of others: those in flight are stopped, and come to next time."""
        after, stopped = None, False
        while True:
            page = await erasure.runs_elsewhere(self._db, job, after=after)
            if page.ended:
                await erasure.delete_runs(self._db, job, page.ended, page.threads)
            if page.in_flight:
                await self._runs.cancel_each(page.in_flight, action="interrupt")
                stopped = True
            after = page.after
            if after is None:
                return not stopped
            if time.monotonic() >= until:
                return False

    async def _news(self, job: UserJob, until: float) -> bool:
        # Nobody publishes while nobody follows.
        while await erasure.is_being_told(self._db, job):
            if not await outbox.publish(self._db) or time.monotonic() >= until:
                return False
        for what in erasure.LAST:
            if not await self._until_none(job, until, what):
                return False
        return True


def _labels(identity: str) -> dict[str, None]:
    """
    How an identity may stand in a namespace: as its label, and as graphs write it that know of no labels.

    Not so where it has a dot or a percent sign: that may be somebody else's label, or below it.
    """
    is_plain = "." not in identity and "%" not in identity
    return dict.fromkeys((label_of(identity), identity) if is_plain else (label_of(identity),))
