"""
The newest part of a thread's event log, in memory.

A log is ordered by (epoch, seq). Every lease on the thread has an epoch of its own, higher than
any before, and its events count from 1. A ring holds the log's end without a hole: all that came
after `floor`, up to `top`. It is filled by a writer in this process, or from Redis while a run of
another process is followed. No I/O here.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, takewhile

from store.errors import InvalidInputError

#: Epoch and sequence number.
EventId = tuple[int, int]

#: Before the first event of any log.
START: EventId = (0, 0)

#: The floor of a ring that knows nothing: no cursor is beyond it.
NOWHERE: EventId = (1 << 64, 0)

#: What an event costs in memory and in Redis beyond its data, about.
OVERHEAD_BYTES = 200

#: How much a reader, and a round trip to Redis, takes at once.
BATCH_EVENTS = 500
BATCH_BYTES = 1 << 20

_EVENT_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a thread's log."""

    epoch: int
    seq: int
    run_id: str
    name: str
    data: bytes
    #: When it was logged, in milliseconds since 1970; 0 if its writer does not say.
    at: int = 0

    @property
    def id(self) -> str:
        """As clients see it, and give it back in ``Last-Event-ID``."""
        return f"{self.epoch}-{self.seq}"

    @property
    def position(self) -> EventId:
        """Its place in the log."""
        return self.epoch, self.seq

    @property
    def size(self) -> int:
        """What it counts against a byte budget."""
        return len(self.data) + OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Gap:
    """Events may be missing here; what follows is complete after `resume_at`."""

    resume_at: EventId

    @property
    def event_id(self) -> str:
        """The place to go on from, as an event there would have it."""
        return "{}-{}".format(*self.resume_at)


def parse_event_id(text: str) -> EventId:
    """
    Read a ``Last-Event-ID``; ``-1`` and ``-`` mean from the start.

    Raises:
        InvalidInputError: It is no event id.
    """
    text = text.strip()
    if text in ("-1", "-"):
        return START
    match = _EVENT_ID.fullmatch(text)
    if match is None or max(int(part) for part in match.groups()) >= 1 << 63:
        raise InvalidInputError("An event id has the form <epoch>-<seq>")
    return int(match[1]), int(match[2])


def follows(cursor: EventId, position: EventId) -> bool:
    """Whether an event can be the next one after the cursor."""
    if position[0] == cursor[0]:
        return position[1] == cursor[1] + 1
    return position > cursor and position[1] == 1


@dataclass(slots=True)
class Memory:
    """What all rings of the process hold together, in bytes, and what was ever written to them."""

    limit: int
    used: int = 0
    written_events: int = 0
    written_bytes: int = 0


class Ring:
    """
    The end of one thread's log, and what is known of the stream behind it.

    Args:
        max_events: How many events it keeps.
        max_bytes: How many bytes it keeps; the newest event is kept whatever its size.
        memory: Counts what all rings hold.
    """

    def __init__(self, thread_id: str, max_events: int, max_bytes: int, memory: Memory) -> None:
        self.thread_id = thread_id
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.memory = memory
        self.events: deque[Event] = deque()
        self.size = 0
        self.floor = NOWHERE
        self.top = START
        # Whether the log itself, and not only the ring, is known to reach back to `floor`.
        self._reached = False
        #: Set whenever there may be something new; one for every follower.
        self.wakes: set[asyncio.Event] = set()
        #: Whether its events were written here, and not read from Redis.
        self.local = False
        #: The open writer's signal that its lease is lost; None without an open writer.
        self.lease: asyncio.Event | None = None
        #: When it may be freed, in seconds of the monotonic clock.
        self.kept_until = 0.0
        # What is known of the stream, for the flusher; meaningful while `local`.
        self.sent = START
        self.stored = False
        self.doubted = False
        self.weighed = False
        self.trim_due = False
        self.renew_at = 0.0

    def covers(self, cursor: EventId) -> bool:
        """Whether everything after the cursor that is known at all is here."""
        return cursor >= self.floor

    def reaches(self, cursor: EventId) -> bool:
        """Whether it is known that the log has no hole right after the cursor."""
        return self.floor < cursor <= self.top or (cursor == self.floor and self._reached)

    @property
    def pending(self) -> bool:
        """Whether it has events that Redis is not known to have."""
        return self.local and bool(self.events) and self.events[-1].position > self.sent

    def after(
        self, cursor: EventId, max_events: int = BATCH_EVENTS, max_bytes: int = BATCH_BYTES
    ) -> list[Event]:
        """The events after the cursor, oldest first: one at least, if there is one."""
        if cursor >= self.top:
            return []
        if cursor[0] == self.top[0]:
            count = self.top[1] - cursor[1]
        else:
            newer = takewhile(lambda event: event.position > cursor, reversed(self.events))
            count = sum(1 for _ in newer)
        start = max(0, len(self.events) - count)
        batch = []
        for event in islice(self.events, start, start + min(count, max_events)):
            batch.append(event)
            max_bytes -= event.size
            if max_bytes <= 0:
                break
        return batch

    def begin(self, epoch: int, *, alone: bool) -> None:
        """
        Make room for a writer of this process.

        Args:
            alone: No other process writes, so what is here is all there is.
        """
        if not self.local or epoch <= self.top[0]:
            self.forget()
        # An epoch in between may have been another process's: its events are in Redis.
        if not (self.local and (alone or epoch == self.top[0] + 1)):
            self.floor = (epoch, 0) if epoch > 1 else START
            self._reached = True
        self.top = epoch, 0
        self.local = True
        self.weighed = False
        self.renew_at = 0.0

    def append(self, event: Event) -> None:
        """Add the next event and wake the followers."""
        self.events.append(event)
        self.top = event.epoch, event.seq
        size = len(event.data) + OVERHEAD_BYTES
        self.size += size
        self.memory.used += size
        if self.size > self.max_bytes or len(self.events) > self.max_events:
            self._trim(self.max_events, self.max_bytes)
            self.trim_due = True
        self.wake()

    def feed(self, events: Iterable[Event], *, max_events: int, max_bytes: int) -> None:
        """
        Add what was read from Redis after `top`, or a part of it again.

        If there is a hole, the ring begins anew behind it: readers before it see the hole when
        they read from Redis.
        """
        for event in events:
            if event.position <= self.top:
                continue
            if not follows(self.top, event.position):
                self.start((event.epoch, event.seq - 1), reached=False)
            self.local = False
            self.append(event)
            self._trim(max_events, max_bytes)

    def start(self, cursor: EventId, *, reached: bool) -> None:
        """
        Begin anew at the cursor.

        Args:
            reached: Whether the log is known to reach back to it.
        """
        self.forget()
        self.floor = self.top = cursor
        self._reached = reached

    def forget(self) -> None:
        """Drop all events and all knowledge."""
        self._trim(0, 0, keep=0)
        self.floor, self.top, self.sent = NOWHERE, START, START
        self.local = self.stored = self.doubted = self.trim_due = self._reached = False

    def halve(self) -> None:
        """Drop the older half, to make room for others."""
        self._trim(len(self.events) // 2, self.max_bytes, keep=0)

    def drain(self) -> None:
        """Drop all events, and remember where the log is."""
        self._trim(0, 0, keep=0)

    def wake(self) -> None:
        """Tell the followers to look again."""
        for wake in self.wakes:
            wake.set()

    def _trim(self, max_events: int, max_bytes: int, *, keep: int = 1) -> None:
        events = self.events
        while len(events) > keep and (len(events) > max_events or self.size > max_bytes):
            event = events.popleft()
            size = len(event.data) + OVERHEAD_BYTES
            self.size -= size
            self.memory.used -= size
            if event.position > self.floor:
                self.floor, self._reached = event.position, True


class ThreadWriter:
    """
    The one who adds to a thread's log under a lease; made by `EventLog.writer`.

    `fenced` is set when the thread has gone on without it: a later lease has written, or the log
    was deleted. What it emits after that, or after `close`, is nowhere.

    Args:
        written: Is called after each event.
        hurried: Is called when nothing more is to be waited for.
        ended: Is called once, when the writer closes.
        timed: Its events say when they were logged.
    """

    def __init__(
        self,
        ring: Ring,
        epoch: int,
        run_id: str,
        written: Callable[[Ring], None],
        hurried: Callable[[], None],
        ended: Callable[[Ring], None],
        *,
        timed: bool = False,
    ) -> None:
        self.epoch = epoch
        self.run_id = run_id
        self.timed = timed
        self.fenced = asyncio.Event()
        self._seq = 0
        self._ring = ring
        self._written = written
        self._hurried = hurried
        self._ended = ended

    @property
    def event_count(self) -> int:
        """How many events were emitted."""
        return self._seq

    def emit(self, name: str, data: bytes) -> Event:
        """Add an event. Never blocks; only on the event loop's own thread."""
        self._seq += 1
        at = time.time_ns() // 1_000_000 if self.timed else 0
        event = Event(self.epoch, self._seq, self.run_id, name, data, at)
        if self._ring.lease is self.fenced:
            self._ring.append(event)
            memory = self._ring.memory
            memory.written_events += 1
            memory.written_bytes += len(data)
            self._written(self._ring)
        return event

    def hurry(self) -> None:
        """Have what was emitted sent to other processes as soon as it can be."""
        self._hurried()

    def close(self) -> None:
        """The run has ended: its events stay for a while. Calling it again does nothing."""
        if self._ring.lease is self.fenced:
            self._ring.lease = None
            self._ended(self._ring)
