"""
Does the durable jobs of `store.jobs`: those kinds of work that a server has beside requests and runs.

A new kind is a `Kind` in `api.bootstrap`, and whoever makes a job of it due: `store.jobs.enqueue` in the
transaction that does. What it does may happen twice, and in any process
that executes runs: a process that is lost, or cannot renew its leases, has its jobs done by another.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from store import jobs
from store.database import Database
from store.errors import UnavailableError
from store.jobs import Job

log = structlog.get_logger(__name__)

#: How many jobs a process does at once.
SLOTS: Final = 16
#: How often those that are due are looked for again, when others took them.
LOOKS: Final = 3
#: Between two looks for jobs that nothing announced: those of processes that were lost.
POLL_SECONDS: Final = 5.0
#: How much longer than a try may take its lease is at the most: for writing down what came of it.
SLACK_SECONDS: Final = 15.0
#: What a pause is multiplied with, so that many that failed together do not come back together.
SPREAD: Final = (0.9, 1.2)


#: What may come of a try to do one.
OUTCOMES: Final = ("done", "again", "given_up")


class JobFailedError(Exception):
    """
    A job was tried in vain; no answer to anybody.

    Args:
        message: Why, for the log. Holds no secret.
        for_good: Trying again is of no use.
        status: What a server answered, if one did.
    """

    def __init__(self, message: str, *, for_good: bool = False, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.for_good = for_good
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """How jobs of a kind are done."""

    #: Does it; raises `JobFailedError`, or anything else, if it is to be tried again.
    work: Callable[[Job], Awaitable[None]]
    #: How long one try may take.
    timeout_seconds: float
    #: The pauses between tries: one try more than there are pauses, and the job is given up.
    pauses_seconds: Sequence[float]
    #: Takes note of a job that is tried no more, and why; before it is forgotten.
    give_up: Callable[[Job, str], Awaitable[None]] | None = None
    #: How many a process does at once; None for as many as there are slots. Kinds that wait for strangers
    #: leave some to the others.
    most: int | None = None
    #: How many at once of those that are alike in a key of their payloads, by the key; it needs `is_apart`.
    #: Those that have nothing there are not alike.
    most_alike: Mapping[str, int] = field(default_factory=dict)
    #: Whether users have their turns, by `webhook_owner` of the payloads.
    is_apart: bool = False


class Jobs:
    """
    One process's part in the jobs.

    Args:
        kinds: What it does.
        lease_seconds: How long after it was last heard of what it does is taken up by others.
        renew_seconds: Between two times that it is heard of. So long before a lease ends that could not
            be renewed, but no longer than `SLACK_SECONDS`, it stops working at the job.
    """

    def __init__(
        self,
        *,
        db: Database,
        kinds: Mapping[str, Kind],
        lease_seconds: float,
        renew_seconds: float,
    ) -> None:
        self._db = db
        self._kinds = kinds
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._longest = {name: kind.timeout_seconds + SLACK_SECONDS for name, kind in kinds.items()}
        self._bounded = {name: kind for name, kind in kinds.items() if kind.most is not None}
        self._due = asyncio.Event()
        #: What is being done.
        self._tasks: dict[asyncio.Task[None], Job] = {}
        #: What came of tries, by kind and ``done``, ``again`` or ``given_up``.
        self.outcomes = Counter[tuple[str, str]]()
        #: Those that may be cut off, and when they are: what came of the others is being written down.
        self._trying: dict[asyncio.Task[None], asyncio.Timeout] = {}
        #: Held while leases are renewed.
        self._renewing = asyncio.Lock()

    @property
    def kinds(self) -> Collection[str]:
        """What this process does."""
        return self._kinds.keys()

    @property
    def active_count(self) -> int:
        """How many are being done here."""
        return len(self._tasks)

    def wake(self) -> None:
        """Look for jobs now."""
        self._due.set()

    async def work_forever(self) -> None:
        """
        Do what is due; when this is cancelled, what is not done is left to others.

        Raises:
            UnavailableError: PostgreSQL did not answer. What is under way goes on.
        """
        try:
            while True:
                self._due.clear()
                if not await self._claim():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_SECONDS):
                            await self._due.wait()
        except asyncio.CancelledError:
            for task in self._trying:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            raise

    async def renew_forever(self) -> None:
        """
        Keep the leases of what is being done; what cannot be kept in time is cut off.

        Raises:
            UnavailableError: PostgreSQL did not answer.
        """
        while True:
            # First: whoever begins anew, because it failed, has no time to lose.
            async with self._renewing:
                await self._renew()
            await asyncio.sleep(self._renew_seconds)

    async def _renew(self) -> None:
        held = {task: self._tasks[task] for task in self._trying}
        if not held:
            return
        asked_at = _now()
        renewed = await self._renewed(held.values())
        for task, job in held.items():
            fence = self._trying.get(task)
            if fence is not None and not fence.expired() and job.job_id in renewed:
                fence.reschedule(self._fence_at(job, asked_at))

    def _fence_at(self, job: Job, asked_at: float) -> float:
        """When work at a job has to stop whose lease, as `jobs.claim` gives it, began no sooner than this."""
        doubled = self._lease_seconds * 2.0 ** min(job.attempt - 1, 9)
        lease_seconds = min(doubled, self._longest[job.kind])
        return asked_at + lease_seconds - min(self._renew_seconds, SLACK_SECONDS)

    async def _renewed(self, held: Iterable[Job]) -> set[int]:
        return await jobs.renew(
            self._db, list(held), self._longest, lease_seconds=self._lease_seconds
        )

    async def _claim(self) -> bool:
        """Take up what is due; whether there may be more."""
        # Those first that leave room for others, so that they get what the others leave, too.
        for name, kind in self._bounded.items():
            await self._claim_bounded(name, kind)
        longest = {name: s for name, s in self._longest.items() if name not in self._bounded}
        if self._free <= 0 or not longest:
            return False
        free, asked_at = self._free, _now()
        claimed = await jobs.claim(self._db, longest, lease_seconds=self._lease_seconds, slots=free)
        self._begin(claimed, asked_at)
        return len(claimed) == free and self._free > 0

    async def _claim_bounded(self, name: str, kind: Kind) -> None:
        """Take up what is due of a kind that has not all slots."""
        assert kind.most is not None
        longest, looks = self._longest[name], LOOKS
        while looks and (room := min(self._free, kind.most - self._alike(name)[""])) > 0:
            asked_at = _now()
            if not kind.is_apart:
                claimed = await jobs.claim(
                    self._db, {name: longest}, lease_seconds=self._lease_seconds, slots=room
                )
                self._begin(claimed, asked_at)
                return
            full = {
                key: [
                    value
                    for value, count in self._alike(name, key).items()
                    if value and count >= most
                ]
                for key, most in kind.most_alike.items()
            }
            found = await jobs.claim_apart(
                self._db,
                name,
                lease_seconds=self._lease_seconds,
                longest_seconds=longest,
                full=full,
                slots=room,
            )
            if found is None:
                return
            self._begin(found, asked_at)
            looks = LOOKS if found else looks - 1

    def _alike(self, kind: str, key: str = "") -> Counter[str]:
        """Of the jobs of a kind that are being done how many are alike in a key; all in none."""
        return Counter(
            str(job.payload.get(key, "")) for job in self._tasks.values() if job.kind == kind
        )

    @property
    def _free(self) -> int:
        return SLOTS - len(self._tasks)

    def _begin(self, claimed: Sequence[Job], asked_at: float) -> None:
        for job in claimed:
            work = self._do(job, self._fence_at(job, asked_at))
            task = asyncio.create_task(work, name=f"job {job.job_id}")
            self._tasks[task] = job
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        # A slot came free.
        self.wake()

    async def _do(self, job: Job, fence_at: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout_at(fence_at) as fence:
                self._trying[task] = fence
                failure = await self._try(job)
        except TimeoutError:
            # Another may have it by now. If not, it counts as an attempt: a job that keeps its process
            # from renewing leases is to be given up in the end.
            log.warning("job lost its lease", kind=job.kind, job_id=job.job_id)
            return
        except asyncio.CancelledError:
            with suppress(UnavailableError):
                await jobs.hand_back(self._db, job)
            raise
        finally:
            self._trying.pop(task, None)
        try:
            if failure is None:
                if await jobs.done(self._db, job):
                    self.outcomes[job.kind, "done"] += 1
            else:
                await self._fail(job, failure)
        except UnavailableError as exc:
            # Its lease ends, and then it is done again.
            log.warning("job is in doubt", kind=job.kind, job_id=job.job_id, reason=exc.message)

    async def _try(self, job: Job) -> JobFailedError | None:
        """Why it could not be done; None if it was."""
        kind = self._kinds[job.kind]
        if job.attempt > len(kind.pauses_seconds) + 1:
            return JobFailedError("the processes that tried were lost", for_good=True)
        try:
            async with asyncio.timeout(kind.timeout_seconds):
                await kind.work(job)
        except JobFailedError as exc:
            return exc
        except TimeoutError:
            return JobFailedError(f"it took longer than {kind.timeout_seconds:g} seconds")
        except Exception:
            # One job: whatever is wrong with it, the others are done.
            log.exception("job failed", kind=job.kind, job_id=job.job_id)
            return JobFailedError("a fault of the server, see above")
        return None

    async def _fail(self, job: Job, failure: JobFailedError) -> None:
        facts = {"kind": job.kind, "job_id": job.job_id, "attempt": job.attempt}
        pauses = self._kinds[job.kind].pauses_seconds
        if failure.for_good or job.attempt > len(pauses):
            if not await self._renewed([job]):  # somebody else's by now
                return
            log.error("job given up", **facts, reason=failure.message)
            if give_up := self._kinds[job.kind].give_up:
                await give_up(job, failure.message)
            if await jobs.done(self._db, job):
                self.outcomes[job.kind, "given_up"] += 1
            return
        pause = pauses[job.attempt - 1] * random.uniform(*SPREAD)
        async with self._renewing:
            # A renewal that is under way would put off the next attempt.
            pass
        if not await jobs.again(self._db, job, delay_seconds=pause):
            return
        log.warning("job is tried again", **facts, seconds=round(pause, 1), reason=failure.message)
        self.outcomes[job.kind, "again"] += 1
        asyncio.get_running_loop().call_later(pause, self.wake)


def _now() -> float:
    """By the clock of `asyncio.timeout_at`, which is the event loop's own."""
    return asyncio.get_running_loop().time()
