"""One reader of a thread's log: a cursor that moves over memory and Redis as if they were one."""

import time
from collections.abc import Callable

from store.errors import UnavailableError
from store.hub import Hub
from store.rings import NOWHERE, START, Event, EventId, Gap, Ring, follows
from store.streams import Streams

#: How long a reader waits for Redis to fill a hole before it jumps to what is in memory.
PATIENCE_SECONDS = 2.0

#: How long it waits before it asks Redis again: doubled each time.
RETRY_SECONDS = (0.02, 0.5)

#: A page read from Redis grows up to so many entries, and shrinks when they are big.
PAGE_ENTRIES, PAGE_BYTES = 500, 1 << 20

Found = list[list[Event] | Gap]


class Reader:
    """
    A cursor over a thread's log, wherever its events are.

    It reads from the ring whenever that has all that comes after the cursor; if not, from Redis
    until it does. At the end of both it has the ring filled: by a writer here, or by the hub.

    Args:
        fence: Is told if the ring's writer turns out to be one of an earlier lease.
    """

    def __init__(
        self,
        ring: Ring,
        cursor: EventId,
        streams: Streams | None,
        hub: Hub | None,
        fence: Callable[[Ring], None],
    ) -> None:
        #: After how many seconds to look again even if nothing wakes the reader.
        self.retry: float | None = None
        self._ring = ring
        self._cursor = cursor
        self._streams = streams
        self._hub = hub
        self._fence = fence
        # Whether nothing can be missing between the cursor and what comes next: the log is known
        # to reach back to the cursor, or is wanted from wherever it begins.
        self._sure = cursor == START
        self._page_entries = 64
        self._stuck_at: float | None = None

    async def read(self) -> Found:
        """What is there after the cursor; nothing if there is nothing yet."""
        if self._streams is None:
            return self._read_ring() if self._ring.covers(self._cursor) else self._jump()
        # Whoever asks for a later epoch than the writer's may know that its lease is lost.
        early = self._ring.lease is not None and self._cursor[0] > self._ring.top[0]
        if self._ring.covers(self._cursor) and not early:
            return self._read_ring()
        return await self._read_stream(self._streams)

    def _read_ring(self) -> Found:
        ring = self._ring
        self._settle()
        self._sure = self._sure or ring.reaches(self._cursor)
        batch = ring.after(self._cursor)
        if not batch and self._hub and ring.lease is None:
            self._hub.watch(ring.thread_id, ring.top)
        return self._take(batch) if batch else []

    async def _read_stream(self, streams: Streams) -> Found:
        ring = self._ring
        try:
            page = await streams.page(ring.thread_id, self._cursor, self._page_entries)
        except UnavailableError:
            # A run that is here can be followed without Redis, if need be with a hole.
            return self._wait_or_jump(patient=not ring.local)
        self._sure = self._sure or (page.oldest or NOWHERE) <= self._cursor
        found = self._take_page(page.events) if page.events else []
        if page.is_last:
            self._join()
        if found or (ring.covers(self._cursor) and ring.lease is None):
            return found or self._read_ring()
        return self._wait_or_jump(patient=False)

    def _take_page(self, events: list[Event]) -> Found:
        self._settle()
        size = sum(event.size for event in events)
        if size > PAGE_BYTES:
            self._page_entries = max(1, self._page_entries // 4)
        elif size < PAGE_BYTES // 4:
            self._page_entries = min(PAGE_ENTRIES, self._page_entries * 2)
        if self._ring.lease and events[-1].epoch > self._ring.top[0]:
            self._fence(self._ring)
        return self._take(events)

    def _join(self) -> None:
        """Have the ring filled from here on, if nobody knows of anything after the cursor."""
        ring = self._ring
        # Never from further on than it is: others follow from there.
        if ring.local or ring.events or ring.covers(self._cursor):
            return
        if self._hub:
            self._hub.unwatch(ring.thread_id)
            self._hub.watch(ring.thread_id, self._cursor)
        ring.start(self._cursor, reached=self._sure)

    def _take(self, events: list[Event]) -> Found:
        """Move the cursor behind the events, and put a Gap wherever one is missing."""
        found: Found = []
        part: list[Event] = []
        for event in events:
            if not self._joins(event):
                found += [part] if part else []
                found.append(Gap((event.epoch, event.seq - 1)))
                part = []
            part.append(event)
            self._cursor = event.position
            self._sure = True
        return [*found, part]

    def _joins(self, event: Event) -> bool:
        # Another epoch begins with 1 whether or not the cursor's own has lost its end.
        return follows(self._cursor, event.position) and (
            self._sure or event.epoch == self._cursor[0]
        )

    def _jump(self) -> Found:
        """Go on where memory begins, if it does."""
        floor = self._ring.floor
        if floor == NOWHERE:
            return []
        whole = self._cursor == START and floor[1] == 0
        self._cursor, self._sure = floor, True
        self._settle()
        return self._read_ring() if whole else [Gap(floor)]

    def _wait_or_jump(self, *, patient: bool) -> Found:
        now = time.monotonic()
        if self._stuck_at is None or patient:
            self._stuck_at = now
        behind = self._cursor < self._ring.floor < NOWHERE
        if behind and now - self._stuck_at > PATIENCE_SECONDS:
            return self._jump()
        self.retry = min((self.retry or RETRY_SECONDS[0] / 2) * 2, RETRY_SECONDS[1])
        return []

    def _settle(self) -> None:
        self._stuck_at = self.retry = None
