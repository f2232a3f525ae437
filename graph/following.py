"""
Follow runs: what a reader may believe of the log of a thread, and what only PostgreSQL knows.

A log tells everything once and in order, as long as nothing of it is lost. What it may have lost is
what a `Follower` looks after: a run that is cancelled in the queue logs nothing, the first event of
a thread's next run closes the log to the end of the one before, and a log goes with its Redis.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from typing import TypeVar

import orjson
from langgraph.types import Interrupt

from graph.encode import dumps
from graph.endings import Endings
from graph.executor import Result
from graph.snapshots import interrupt_of, open_interrupts
from store import runs, threads
from store.access import EVERYTHING
from store.database import Database
from store.errors import UnavailableError
from store.events import START, Event, EventId, EventLog, Gap
from store.models import JsonObject, Run

#: Statuses after which a run never changes.
ENDED = frozenset({"success", "error", "timeout", "interrupted"})

#: What those get who waited for a stateless run whose log is lost.
RESULT_LOST: JsonObject = {
    "error": "ResultLost",
    "message": "The run has ended, and what it came to is not known any more",
}

#: How long after PostgreSQL did not answer somebody who waits asks again.
RETRY_SECONDS = 0.5

#: How long the log of a followed thread is quiet before PostgreSQL is asked for its run's end.
QUIET_SECONDS = 5.0

#: The events that say what a run came to, and those that say what it asks, under this key.
_RESULTS = frozenset({"values", "error", "end"})
_ASKING = frozenset({"values", "updates"})
_INTERRUPT = "__interrupt__"
_QUOTED = b'"__interrupt__"'

T = TypeVar("T")


class Follower:
    """
    Reads the logs of threads for those who follow their runs, and who were found to be allowed to.

    Args:
        endings: Knows of ends that no log has, and when this process goes.
    """

    def __init__(self, db: Database, events: EventLog, endings: Endings) -> None:
        self._db = db
        self._events = events
        self._endings = endings

    @property
    def leaving(self) -> bool:
        """Whether those who follow are let go, because this process goes."""
        return self._endings.closed

    async def follow(
        self, run: Run, *, after: EventId | None = None
    ) -> AsyncGenerator[list[Event] | Gap, None]:
        """
        Yield the events of a run after a position, in order, none missing and none twice.

        Ends with the run, or when this process goes. Events come in lists: all that there were at
        a time. A `Gap` says that the log does not reach back so far any more. Close it when done.

        Args:
            after: The last event that the client has; None for all of them.
        """
        begin = max(after or START, (run.log_epoch, 0))
        part = _Part(run, begin)
        with self._endings.watch(run.run_id, ended=run.status in ENDED) as stop:
            # From here on its end is noticed; it may have been cancelled in the queue before.
            if run.status == "pending" and not await self.patiently(lambda: self._has_log(run)):
                return
            events = self._events.follow(run.thread_id, begin, stop=stop)
            async with aclosing(events):
                async for batch in events:
                    for item in await self._of_run(part, batch, stopped=stop.is_set()):
                        yield item
                    if part.is_over or self._endings.closed:
                        return

    async def follow_thread(
        self, thread_id: str, *, after: EventId
    ) -> AsyncGenerator[list[Event] | Gap, None]:
        """
        Yield the events of all runs of a thread after a position, and then whatever comes.

        In order, none missing and none twice, until this process goes. Of every run that begins
        the end comes too, before the next one begins or soon, though its log has lost it.
        """
        events = self._events.follow(
            thread_id, after, idle_seconds=QUIET_SECONDS, stop=self._endings.leaving
        )
        # Of a run that was not seen to end.
        last: Event | None = None
        async with aclosing(self._of_thread(thread_id, events)) as batches:
            async for batch in batches:
                if isinstance(batch, Gap):
                    last = None
                    yield batch
                    continue
                found, last = await self._with_ends(batch, last)
                for item in found:
                    yield item

    async def retained(self, thread_id: str) -> list[Event]:
        """
        What the log of a thread has now, from wherever it begins.

        If Redis does not answer, what is in memory here.
        """
        now = asyncio.Event()
        now.set()
        found: list[Event] = []
        events = self._events.follow(thread_id, START, stop=now)
        async with aclosing(self._of_thread(thread_id, events)) as batches:
            async for batch in batches:
                found += [] if isinstance(batch, Gap) else batch
        return found

    async def end_of_log(self, thread_id: str) -> EventId:
        """
        Where the log of a thread ends now: `follow_thread` from there gives what comes next.

        START if there is none.

        Raises:
            UnavailableError: The thread's run is not here, and Redis does not answer.
        """
        return await self._events.tail(thread_id)

    def watch_queued(self, thread_id: str) -> AbstractContextManager["asyncio.Queue[str]"]:
        """The ids of a thread's runs that end while they are queued, which its log never has."""
        return self._endings.watch_queued(thread_id)

    async def result(self, run: Run) -> Result:
        """
        Wait for a run to end, wherever it is executed, and say what it came to.

        Raises:
            UnavailableError: This process goes before the run ends.
        """
        logged = _Logged()
        async with aclosing(self.follow(run)) as batches:
            async for batch in batches:
                logged.take(batch)
        if (result := logged.result()) is not None and _logs_what_it_asks(run):
            return result
        return await self.patiently(lambda: self._stored_result(run))

    async def patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """
        Ask PostgreSQL until it answers: for those who wait for a run anyway.

        Raises:
            UnavailableError: It does not answer, and this process goes.
        """
        while True:
            try:
                return await read()
            except UnavailableError:
                if self._endings.closed:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def _has_log(self, run: Run) -> bool:
        """Whether the run has logged something by now, or will."""
        found = await runs.find(self._db, run.run_id, access=EVERYTHING)
        return found is not None and (found.status not in ENDED or found.first_epoch is not None)

    async def _of_thread(
        self, thread_id: str, events: AsyncGenerator[list[Event] | Gap, None]
    ) -> AsyncGenerator[list[Event] | Gap, None]:
        """
        What a log has of this thread, and not what is left of one that had its id and was deleted.

        Deleting a thread does not reach the memory of other processes, nor Redis while it is away.
        """
        base = newest = 0
        async with aclosing(events):
            async for batch in events:
                epoch = _last_epoch(batch)
                if epoch > newest:
                    # With a new lease it may be another thread than a moment ago.
                    newest = epoch
                    base = await self.patiently(lambda: threads.base_epoch(self._db, thread_id))
                if not isinstance(batch, Gap) and epoch > base:
                    batch = [event for event in batch if event.epoch > base]
                if epoch > base or not epoch:
                    yield batch

    async def _of_run(
        self, part: "_Part", batch: list[Event] | Gap, *, stopped: bool
    ) -> list[list[Event] | Gap]:
        """What a piece of a thread's log has of a run; with its end, if the log has lost that."""
        if isinstance(batch, Gap):
            part.skipped = batch.resume_at
            return [batch] if await self._is_missed(part.run_id, batch) else []
        ours = part.take(batch)
        found: list[list[Event] | Gap] = [ours] if ours else []
        if stopped and not ours:
            part.is_over = True
        elif not part.is_over and part.place is not None and batch[-1].epoch != part.place[0]:
            lost = await self._lost_end(part.run_id, part.place, part.skipped)
            part.is_over = bool(lost)
            found += lost
        return found

    async def _is_missed(self, run_id: str, gap: Gap) -> bool:
        """Whether something of a run is in a gap: not if it begins after it, or has yet to."""
        run = await self.patiently(lambda: runs.find(self._db, run_id, access=EVERYTHING))
        if run is None:
            return True
        return run.first_epoch is not None and gap.resume_at > (run.first_epoch, 0)

    async def _with_ends(
        self, batch: list[Event], last: Event | None
    ) -> tuple[list[list[Event] | Gap], Event | None]:
        """Events with the ends that their log has lost, and the last one of a run still open."""
        if not batch and last:
            ending = await self._lost_end(last.run_id, last.position)
            return ending, None if ending else last
        found: list[list[Event] | Gap] = []
        events: list[Event] = []
        for event in batch:
            if last and event.run_id not in ("", last.run_id):
                found += [events, *await self._lost_end(last.run_id, last.position)]
                events = []
            if event.run_id:
                last = None if event.name == "end" else event
            events.append(event)
        return [item for item in [*found, events] if item], last

    async def _lost_end(
        self, run_id: str, place: EventId, skipped: EventId = START
    ) -> list[list[Event] | Gap]:
        """
        The end of a run that the next one of its thread overtook in the log; nothing if it goes on.

        A run's end is logged after it is written down, and from then on another process may begin
        the thread's next run: its first event closes the log to those of the epochs before it. If
        Redis is slower than that, more than the end is lost.

        Args:
            place: Its last event that was there.
            skipped: Where the last gap that was yielded ends.
        """
        run = await self.patiently(lambda: runs.ending(self._db, run_id))
        if run is not None and run.status not in ENDED:
            return []
        content: JsonObject = {"error": run.error} if run and run.error else {}
        content["end"] = {"run_id": run_id, "status": run.status if run else "interrupted"}
        epoch, seq = max(place, skipped)
        end = [
            Event(epoch, seq + number, run_id, name, dumps(data))
            for number, (name, data) in enumerate(content.items(), 1)
        ]
        had = run.event_count if run is not None and run.epoch == epoch else None
        is_known = skipped > place or (had is not None and had <= seq)
        return [end] if is_known else [Gap(place), end]

    async def _stored_result(self, run: Run) -> Result:
        ended = await runs.find(self._db, run.run_id, access=EVERYTHING)
        if ended is None:
            # A stateless run that came to something took it along.
            return Result(status="interrupted", error=RESULT_LOST if run.temporary else None)
        if ended.status not in ENDED:
            raise UnavailableError("The run goes on in another process")
        thread = await threads.get(self._db, ended.thread_id, access=EVERYTHING)
        # What a later run asks is not this one's, and what this one asked is over then.
        is_open = await runs.left_in(self._db, run.run_id) == "interrupted"
        return Result(
            status=ended.status,
            interrupted=is_open,
            interrupts=open_interrupts(thread.interrupts) if is_open else (),
            error=ended.error,
        )


class _Part:
    """A run's part of the log of its thread, as far as it was read."""

    def __init__(self, run: Run, begin: EventId) -> None:
        self.run_id = run.run_id
        #: Its last event; None as long as it may not have begun.
        self.place = begin if run.first_epoch is not None else None
        #: Where the last gap ends.
        self.skipped = START
        #: Nothing more of it comes.
        self.is_over = False

    def take(self, batch: list[Event]) -> list[Event]:
        """Its events among those of the thread."""
        ours = [event for event in batch if event.run_id == self.run_id]
        if ours:
            self.place = ours[-1].position
            self.is_over = ours[-1].name == "end"
        return ours


def _logs_what_it_asks(run: Run) -> bool:
    """Whether the log of a run has what it asks; of a temporary one there is nothing else."""
    return run.temporary or not _ASKING.isdisjoint(run.kwargs["stream_mode"])


class _Logged:
    """What a run came to, by its log."""

    def __init__(self) -> None:
        self._is_whole = True
        self._last: dict[str, bytes] = {}
        #: By id; each task tells its own, and others of its step tell of something else after it.
        self._asked: dict[str, Interrupt] = {}
        self._interrupted = False

    def take(self, batch: list[Event] | Gap) -> None:
        """Take note of a piece of it."""
        if isinstance(batch, Gap):
            self._is_whole = False
            return
        for event in batch:
            self._hear(event)

    def result(self) -> Result | None:
        """None if it has no end, or something before it may be missing."""
        if not self._is_whole or "end" not in self._last:
            return None
        last = {name: orjson.loads(data) for name, data in self._last.items()}
        values = last.get("values")
        if isinstance(values, dict):
            values.pop(_INTERRUPT, None)
        result = Result(
            status=last["end"]["status"], values=values or None, error=last.get("error")
        )
        if result.status != "success":  # and whatever it asked before is not answered yet
            return result
        asked = tuple(self._asked.values())
        return replace(result, interrupted=self._interrupted, interrupts=asked)

    def _hear(self, event: Event) -> None:
        if event.name == "metadata":
            # Another attempt: it asks anew what is to be asked.
            self._asked, self._interrupted = {}, False
        elif event.name in _ASKING and _QUOTED in event.data:
            self._note(event)
        elif event.name in _RESULTS:
            self._last[event.name] = event.data

    def _note(self, event: Event) -> None:
        """An update, or values, in which a task may ask something."""
        content = orjson.loads(event.data)
        asked = content.get(_INTERRUPT) if isinstance(content, dict) else None
        if asked is not None:
            self._interrupted = True
            self._asked |= {found["id"]: interrupt_of(found) for found in asked}
        # A graph with one channel for its output tells nothing but what is asked.
        if event.name == "values" and (asked is None or len(content) > 1):
            self._last[event.name] = event.data


def _last_epoch(batch: list[Event] | Gap) -> int:
    """The newest epoch of what a log has; 0 of nothing."""
    if isinstance(batch, Gap):
        return batch.resume_at[0]
    return batch[-1].epoch if batch else 0
