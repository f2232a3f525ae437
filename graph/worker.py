"""
What a process does for the queue: claim, listen, sweep; and beside it: crons and jobs.

Each is a task that is started again when it fails: PostgreSQL may be away for a while, and none
of them is needed to be right, only to be quick.
"""

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from uuid import uuid4

import structlog

from graph.changes import Changes
from graph.crons import Crons
from graph.endings import Endings
from graph.executor import Executor, emit_end
from graph.jobs import Jobs
from graph.retention import Retention
from graph.runs import Runs
from store import endings, files, lost_runs, priorities, queue, search, tallies, user_jobs
from store.database import Database
from store.errors import UnavailableError, UnreadableError
from store.events import EventLog
from store.heartbeat import Heartbeat
from store.lost_runs import GivenUp
from store.models import JsonObject
from store.queue import Claim, Held
from store.signals import Signal, listen

log = structlog.get_logger(__name__)

#: How long a claim that is under way is waited for when the process goes.
CLAIM_SECONDS = 5.0

#: After how long a side task that did not heed it is cancelled again.
CANCEL_SECONDS = 2.0

#: How many runs a claim takes at the most: whoever took all that it has slots for would leave
#: nothing to a process that was woken at the same time.
CLAIM_RUNS = 8

#: By priority: how many groups are remembered as served.
SERVED_GROUPS = 1000

#: How long after a claim that a signal led to the next one follows.
SECOND_LOOK_SECONDS = 0.05


#: Between two looks for attachments that nothing uses, in seconds, and how many are looked at.
COLLECT_SECONDS = 300.0
COLLECT_FILES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """The times of a worker, in seconds; those that no setting gives have defaults."""

    #: A worker that did not beat for so long is dead.
    lease_seconds: float
    #: Between two beats.
    heartbeat_seconds: float
    #: Between two looks for what dead workers left.
    sweep_seconds: float
    #: How long runs may go on when the process is told to stop.
    grace_seconds: float
    #: How often a run may be started.
    max_attempts: int
    #: Between two looks for threads whose time has come, and how many are looked at.
    expiry_seconds: float
    expiry_limit: int
    #: Between two looks for items of the long-term memory whose life has ended.
    item_expiry_seconds: float
    #: Between two looks for messages that are to be found by search.
    index_seconds: float
    #: After which attachments that no session uses are deleted.
    file_unused_seconds: float
    #: Between two looks for runs that no signal announced: delayed ones, and lost signals.
    poll_seconds: float = 1.0
    #: Between two looks for threads that analytics have yet to count, and for those that nobody touched.
    tally_seconds: float = 30.0
    recount_seconds: float = 600.0


class Worker:
    """
    One process's part in the queue, from `open` to its end.

    Args:
        executor: Where claimed runs go.
        runs: Told when this process drains.
        by_priority: Claim the most urgent runs first, not those that are due longest.
        most_running: By priority: how many runs of a group may be under way; None for any number.
    """

    def __init__(
        self,
        *,
        db: Database,
        executor: Executor,
        runs: Runs,
        endings: Endings,
        events: EventLog,
        heartbeat: Heartbeat,
        retention: Retention,
        crons: Crons,
        jobs: Jobs,
        changes: Changes,
        timing: Timing,
        by_priority: bool = False,
        most_running: int | None = None,
    ) -> None:
        self._by_priority = by_priority
        self._most_running = most_running
        #: The groups whose runs were claimed here, the latest last.
        self._served: dict[str, None] = {}
        self._db = db
        self._retention = retention
        self._crons = crons
        self._jobs = jobs
        self._changes = changes
        self._executor = executor
        self._runs = runs
        self._endings = endings
        self._events = events
        self._heartbeat = heartbeat
        self._timing = timing
        self._home = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        #: Runs that nobody here executes, with what was not answered yet when each was first seen.
        self._strays: dict[Held, frozenset[object]] = {}
        self._drained = False
        self._recount_at = 0.0
        # There may be more runs due than there were slots for: then a slot that comes free is news.
        self._is_short = True
        executor.on_free = self._heed_free_slot

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """
        Work until the block ends; what is not finished or drained by then is handed back.

        A process without slots only answers: it does what those need who ask it, and nothing of what
        is due by itself, be it a run, a webhook, a cron or a deletion.
        """
        side_tasks = self._for_who_asks()
        if self._executor.slots:
            side_tasks |= self._for_what_is_due()
        tasks = {
            name: asyncio.create_task(_supervised(name, job), name=name)
            for name, job in side_tasks.items()
        }
        try:
            yield
        finally:
            self._claim_no_more()
            if claiming := tasks.get("claim"):
                # A claim under way is not torn from its runs.
                await asyncio.wait({claiming}, timeout=CLAIM_SECONDS)
            await self.drain(grace_seconds=0)
            await _end(set(tasks.values()))
            with suppress(UnavailableError):
                await queue.retire(self._db, self._heartbeat.worker_id)

    def _for_who_asks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "listen": self._listen_forever,
            # Whoever cancels a run of a worker that died is not to wait for the next worker.
            "sweep": self._sweep_forever,
            "endings": self._endings.watch_forever,
            "publish": self._changes.publish_forever,
        }

    def _for_what_is_due(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "claim": self._claim_forever,
            "expire": self._expire_forever,
            "expire items": self._expire_items_forever,
            "index": self._index_forever,
            "tally": self._tally_forever,
            "collect": self._collect_forever,
            "crons": self._crons.work_forever,
            "jobs": self._jobs.work_forever,
            "leases of jobs": self._jobs.renew_forever,
            "trim": self._changes.trim_forever,
            "listeners": self._changes.listen_forever,
        }

    @property
    def executor(self) -> Executor:
        """Where claimed runs go: for what it counts."""
        return self._executor

    @property
    def jobs(self) -> Jobs:
        """What is done beside runs: for what it counts."""
        return self._jobs

    @property
    def heartbeat(self) -> Heartbeat:
        """What keeps this process's leases."""
        return self._heartbeat

    @property
    def draining(self) -> bool:
        """Whether this process takes no more runs, because it goes."""
        return self._runs.draining

    @property
    def slots(self) -> tuple[int, int]:
        """How many runs this process takes at once, and how many are under way in it."""
        return self._executor.slots, len(self._executor.running)

    async def drain(self, *, grace_seconds: float | None = None) -> None:
        """
        Take no more runs, let those under way finish within the grace, hand the rest back.

        Afterwards every follower is let go: what it waits for happens in another process.

        Args:
            grace_seconds: The timing's, unless given.
        """
        if grace_seconds is None:
            grace_seconds = self._timing.grace_seconds
        if not self._drained:
            self._drained = True
            self._claim_no_more()
            with suppress(UnavailableError):
                await queue.drain(self._db, self._heartbeat.worker_id)
        await self._executor.drain(grace_seconds=grace_seconds)
        self._endings.close()

    def abandon(self, run_id: str | None) -> None:
        """
        Give up what is on the graphs' loop, which never comes back; before this process drains.

        Its runs are handed back, which counts as no loss, but for the one that blocks it: that one is
        lost, or else it would block process after process for ever. Of any thread.

        Args:
            run_id: Which one that is; None if nobody knows: then all of them are lost.
        """
        with suppress(RuntimeError):  # closed: everything is handed back
            self._home.call_soon_threadsafe(self._executor.abandon, run_id)

    def _claim_no_more(self) -> None:
        self._runs.draining = True
        self._ready.set()

    async def _claim_forever(self) -> None:
        pause = self._timing.poll_seconds
        while not self._runs.draining:
            if await self._claim():
                continue
            # A claim passes by what is locked, be it for the moment that a checkpoint takes: so a
            # signal is worth a second look.
            signalled = await self._wait_until_ready(pause)
            pause = SECOND_LOOK_SECONDS if signalled else self._timing.poll_seconds

    async def _wait_until_ready(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        signalled = self._ready.is_set()
        self._ready.clear()
        return signalled

    async def _claim(self) -> bool:
        """Claim into the free slots; whether there may be more."""
        free = self._executor.free
        # One stays for a run that is to start at once meanwhile.
        slots = min(free - 1 or free, CLAIM_RUNS)
        if slots <= 0 or not self._heartbeat.alive() or not self._executor.reserve(slots):
            self._is_short = True
            return False
        claims = []
        with self._executor.ask():
            try:
                claims = await self._claimed(slots)
            finally:
                readable = [claim for claim in claims if claim.unreadable is None]
                self._executor.release(slots - len(readable))
            for claim in readable:
                self._executor.start(claim)
        self._is_short = len(claims) == slots
        for claim in claims:
            if claim.unreadable is not None:
                await self._refuse(claim, claim.unreadable)
        return self._is_short

    async def _refuse(self, claim: Claim, unreadable: UnreadableError) -> None:
        """End a run that cannot be decrypted, and tell those who follow; it is reaped if that fails."""
        run_id, lease = claim.run.run_id, claim.lease
        log.error("run cannot be decrypted", run_id=run_id, reason=unreadable.message)
        error: JsonObject = {"error": "UnreadableError", "message": unreadable.message}
        if await endings.refuse(self._db, claim, error):
            writer = self._events.writer(lease.thread_id, lease.epoch, run_id)
            emit_end(writer, "error", error)
            writer.close()

    def _heed_free_slot(self) -> None:
        # Or somebody has one run less than they may have.
        if self._is_short or self._most_running is not None:
            self._ready.set()

    async def _claimed(self, slots: int) -> list[Claim]:
        worker_id = self._heartbeat.worker_id
        if not self._by_priority:
            return await queue.claim(self._db, worker_id=worker_id, slots=slots)
        served, most = list(self._served), self._most_running
        claims = await queue.claim(
            self._db, worker_id=worker_id, slots=slots, served=served, most_running=most
        )
        # What came without a priority waits for a moment in which there is room.
        if not claims and await priorities.adopt(self._db):
            claims = await queue.claim(
                self._db, worker_id=worker_id, slots=slots, served=served, most_running=most
            )
        for group in (claim.fairness_group for claim in claims if claim.fairness_group):
            self._served.pop(group, None)
            self._served[group] = None
        for group in list(self._served)[:-SERVED_GROUPS]:
            del self._served[group]
        return claims

    async def _listen_forever(self) -> None:
        async with listen(self._db.conninfo) as signals:
            # What was signalled while nobody listened is found by looking.
            self._ready.set()
            self._jobs.wake()
            async for signal in signals:
                self._heed(signal)

    def _heed(self, signal: Signal) -> None:
        if signal.kind == "ready":
            self._ready.set()
        elif signal.kind == "stop":
            self._executor.stop(signal.run_id, signal.action)
        elif signal.kind == "job":
            self._jobs.wake()
        else:
            self._endings.ended(signal.run_id, queued_on=signal.queued_on)

    async def _sweep_forever(self) -> None:
        while True:
            await self._sweep()
            # Replicas that started together drift apart. Never longer than said: a lost run begins
            # again within a lease and a sweep.
            await asyncio.sleep(self._timing.sweep_seconds * random.uniform(0.6, 0.9))

    async def _sweep(self) -> None:
        if self._heartbeat.buried:
            await self._begin_anew()
        lease_seconds = self._timing.lease_seconds
        for run_id, action in await queue.to_stop(self._db, self._heartbeat.worker_id):
            self._executor.stop(run_id, action)
        for given_up in await lost_runs.reap(
            self._db,
            worker_id=self._heartbeat.worker_id,
            # Who was cut off from PostgreSQL cannot tell whether others beat meanwhile.
            lease_seconds=lease_seconds if self._heartbeat.steady(lease_seconds) else None,
            max_attempts=self._timing.max_attempts,
            strays=await self._find_strays(),
        ):
            try:
                await self._follow_up(given_up)
            except (UnreadableError, UnavailableError) as exc:
                # What it wrote cannot be taken back, or not now, which is tried again: the others
                # are not to wait for it.
                log.warning("run not rolled back", run_id=given_up.run_id, reason=exc.message)
            except Exception:
                # One run, by a checkpointer of the user's own.
                log.exception("run not rolled back", run_id=given_up.run_id)
        if self._by_priority and await priorities.adopt(self._db):
            self._ready.set()

    async def _expire_forever(self) -> None:
        while True:
            await asyncio.sleep(self._timing.expiry_seconds * random.uniform(0.8, 1.2))
            await self._retention.sweep(limit=self._timing.expiry_limit)
            await self._retention.sweep_sessions(limit=self._timing.expiry_limit)
            await self._retention.sweep_audit(limit=self._timing.expiry_limit)
            await user_jobs.delete_expired(self._db, limit=self._timing.expiry_limit)

    async def _expire_items_forever(self) -> None:
        while True:
            await asyncio.sleep(self._timing.item_expiry_seconds * random.uniform(0.8, 1.2))
            await self._retention.sweep_items(limit=self._timing.expiry_limit)
            await self._retention.sweep_keys(limit=self._timing.expiry_limit)

    async def _index_forever(self) -> None:
        """Keep the index of messages up: what changed is found within this time, and a little."""
        while True:
            if not await search.index_changed(self._db):
                await asyncio.sleep(self._timing.index_seconds * random.uniform(0.8, 1.2))

    async def _tally_forever(self) -> None:
        """Count for analytics what has settled: at most half of the time, if there is much of it."""
        while True:
            if time.monotonic() > self._recount_at:
                # Whatever fails: this looks at all threads.
                self._recount_at = time.monotonic() + self._timing.recount_seconds
                await tallies.find_changed(self._db)
            began = time.monotonic()
            is_more = await tallies.count_settled(self._db)
            took = time.monotonic() - began
            seconds = self._timing.tally_seconds * random.uniform(0.8, 1.2)
            await asyncio.sleep(took if is_more else seconds)

    async def _collect_forever(self) -> None:
        """Delete attachments that no session uses."""
        while True:
            await asyncio.sleep(COLLECT_SECONDS * random.uniform(0.8, 1.2))
            await files.collect(
                self._db, unused_seconds=self._timing.file_unused_seconds, limit=COLLECT_FILES
            )

    async def _find_strays(self) -> list[Held]:
        """The runs that are ours by the database and that nobody here executes."""
        owned = await queue.owned(self._db, self._heartbeat.worker_id)
        running, asking, before = self._executor.running, self._executor.asking, self._strays
        self._strays = {
            held: before.get(held, asking) for held in owned if held.run_id not in running
        }
        # Twice in a row, and not before every answer has come that may be about it: one that is
        # just being started is no stray, however slow its connection is.
        return [
            held
            for held, unanswered in self._strays.items()
            if held in before and not unanswered & asking
        ]

    async def _follow_up(self, given_up: GivenUp) -> None:
        """Do for a run that was lost what its owner did not: tell those who follow of its end."""
        log.warning("run without its worker", run_id=given_up.run_id, status=given_up.status)
        self._executor.meter.reaped[given_up.status] += 1
        status = given_up.status
        if status == "running":
            if not await self._executor.roll_back(given_up.held):
                return
            status = "interrupted"
        if status != "pending":
            writer = self._events.writer(given_up.thread_id, given_up.epoch, given_up.run_id)
            emit_end(writer, status, given_up.error)
            writer.close()

    async def _begin_anew(self) -> None:
        """PostgreSQL has declared us dead: our runs are others' now, and we are somebody new."""
        for run_id in list(self._executor.running):
            self._executor.stop(run_id, "lost")
        self._executor.meter.buried += 1
        worker_id = str(uuid4())
        log.warning("this worker was declared dead and begins anew", worker_id=worker_id)
        await announce(self._db, worker_id, slots=self._executor.slots)
        self._heartbeat.renew(worker_id)
        # What the dead one could not claim is waiting.
        self._ready.set()


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """
    Cancel tasks until they have ended.

    A pool of psycopg that has just come by a connection gives it to a task that is cancelled meanwhile,
    and the task goes on as if it had not been.
    """
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_SECONDS)


async def _supervised(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Run a side task for ever; when it fails, say so and start it again after a while."""
    while True:
        try:
            await job()
        except UnavailableError as exc:
            log.warning("side task waits for the database", task=name, reason=exc.message)
        except Exception:
            log.exception("side task failed", task=name)
        else:
            return
        await asyncio.sleep(random.uniform(0.5, 1.5))


async def announce(db: Database, worker_id: str, *, slots: int) -> None:
    """Put a worker of this process on the list."""
    await queue.register(
        db,
        worker_id=worker_id,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=version("threadwell"),
        slots=slots,
    )


@asynccontextmanager
async def registered(db: Database, *, slots: int, timing: Timing) -> AsyncIterator[Heartbeat]:
    """Put this process on the list of workers and keep it there by its heartbeat."""
    worker_id = str(uuid4())
    await announce(db, worker_id, slots=slots)
    with Heartbeat(
        db.conninfo,
        worker_id,
        interval_seconds=timing.heartbeat_seconds,
        fence_seconds=timing.lease_seconds - timing.heartbeat_seconds,
    ) as heartbeat:
        yield heartbeat
