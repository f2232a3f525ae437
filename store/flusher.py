"""Write the rings behind to Redis: in batches that form by themselves."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog

from store.errors import UnavailableError
from store.meters import SHORT_SECONDS, Histogram
from store.rings import BATCH_BYTES, BATCH_EVENTS, START, EventId, Ring
from store.streams import Append, Appended, Streams

#: How long the stream of a thread that is running lives without a word from its writer.
RUNNING_TTL_SECONDS = 3600.0

#: How often that time is renewed, at the most.
RENEW_SECONDS = 60.0

#: How long to wait after a failure: doubled each time.
RETRY_SECONDS = (0.05, 1.0)

#: Batches follow each other no sooner, unless somebody is in a hurry: the events of a run that goes on
#: come one by one, and sending each by itself costs more than all that was done to make it.
PACE_SECONDS = 0.004

#: How many streams are asked for their end in a round trip.
BATCH_RINGS = 200

logger = structlog.get_logger(__name__)


class Flusher:
    """
    Sends what is pending in all rings, one round trip after the other.

    A round trip takes all there is when it starts, within bounds: so an idle process sends an
    event at once, and a busy one many together.

    Args:
        fence: Is told of a ring whose thread another process has gone on with.
        ended_ttl_seconds: How long the stream of a thread outlives its run.
    """

    def __init__(
        self, streams: Streams, fence: Callable[[Ring], None], ended_ttl_seconds: float
    ) -> None:
        self._streams = streams
        self._fence = fence
        self._ended_ttl_seconds = ended_ttl_seconds
        # A run that ended elsewhere may shorten the life of this one's stream once.
        self._renew_seconds = min(RENEW_SECONDS, ended_ttl_seconds / 4)
        #: Each with the time since when it has something to send.
        self._due: dict[Ring, float] = {}
        #: Since when what is on its way, and what Redis did not answer for, has waited.
        self._sending_since = self._behind_since = math.inf
        #: Of the batches that Redis took: how long that took, and what they held.
        self.round_trips = Histogram(SHORT_SECONDS)
        self.sent_events = self.sent_bytes = 0
        #: Batches, or questions, that it did not answer.
        self.failed_count = 0
        self._sent_at = -math.inf
        self._kick = asyncio.Event()
        self._hurried = asyncio.Event()
        self._settled = asyncio.Event()
        self._sending = asyncio.Lock()

    def push(self, ring: Ring) -> None:
        """The ring has something to send. Costs nothing."""
        if ring not in self._due:
            self._due[ring] = time.monotonic()
        self._kick.set()

    @property
    def lag_seconds(self) -> float:
        """For how long the oldest event waits that Redis is not known to have; 0 if none does."""
        # The first one waits longest; what is in doubt was pushed anew, and waits since then.
        waiting = next(iter(self._due.values()), math.inf)
        since = min(waiting, self._behind_since, self._sending_since)
        return 0.0 if since == math.inf else time.monotonic() - since

    def hurry(self) -> None:
        """Send what was pushed so far without a pause: nothing comes after it for a while."""
        self._hurried.set()

    def drop(self, ring: Ring) -> None:
        """The ring has nothing to send any more."""
        self._due.pop(ring, None)

    async def dropped(self) -> None:
        """Return when nothing is on its way any more of what was dropped so far."""
        async with self._sending:
            return

    async def settled(self) -> None:
        """Return when everything pushed so far was sent."""
        self._settled.clear()
        self._kick.set()
        self.hurry()
        await self._settled.wait()

    async def run(self, rings: Callable[[], Iterable[Ring]]) -> None:
        """
        Send for ever.

        Args:
            rings: All there are: after an error each may have lost its stream.
        """
        delay, longest = 0.0, RETRY_SECONDS[1]
        self._doubt(rings())
        while True:
            if not self._due:
                self._settled.set()
            await self._kick.wait()
            self._kick.clear()
            while self._due:
                try:
                    await self._check()
                    await self._pause()
                    await self._send()
                except UnavailableError as exc:
                    self.failed_count += 1
                    self._behind_since = min(
                        self._behind_since, self._sending_since, *self._due.values()
                    )
                    if not delay:
                        logger.warning("event streams are behind", error=exc.__cause__ or exc)
                    self._doubt(rings())
                    # What the name stands for may be another server by now.
                    await self._streams.disconnect()
                    delay = min(max(RETRY_SECONDS[0], delay * 2), longest)
                    await asyncio.sleep(delay)
                else:
                    if delay:
                        logger.info("event streams go on")
                    delay = 0.0
                    self._behind_since = math.inf
                finally:
                    self._sending_since = math.inf

    async def _pause(self) -> None:
        """Let more events gather, if the last ones were sent just now."""
        seconds = self._sent_at + PACE_SECONDS - time.monotonic()
        if seconds > 0 and not self._hurried.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hurried.wait()
        self._hurried.clear()
        self._sent_at = time.monotonic()

    def _doubt(self, rings: Iterable[Ring]) -> None:
        for ring in rings:
            if ring.local:
                ring.doubted = True
                self.push(ring)

    async def _check(self) -> None:
        """Find out what the streams have that an error left in doubt."""
        doubted = [ring for ring in self._due if ring.doubted][:BATCH_RINGS]
        if not doubted:
            return
        ends = await self._streams.ends([ring.thread_id for ring in doubted])
        for ring, end in zip(doubted, ends, strict=True):
            if not ring.doubted:
                continue
            if end is None:
                raise UnavailableError(f"The stream of thread {ring.thread_id} cannot be read")
            self._settle(ring, end)

    def _settle(self, ring: Ring, end: EventId) -> None:
        ring.doubted = False
        if end > ring.top:
            self._give_up(ring)
            return
        # Lower than before if the server has lost its end, or all: the ring sends it again.
        ring.sent, ring.stored = end, end > START
        ring.renew_at = 0.0

    def _give_up(self, ring: Ring) -> None:
        self.drop(ring)
        self._fence(ring)

    async def _send(self) -> None:
        """Send one batch."""
        batch = self._batch()
        if not batch:
            return
        began_at = time.monotonic()
        async with self._sending:
            answers = await self._streams.append([append for _, append in batch])
        self.round_trips.observe(time.monotonic() - began_at)
        for (ring, append), answer in zip(batch, answers, strict=True):
            # Unless it was forgotten, or begun anew with a lower epoch, while Redis answered.
            anew = bool(append.events) and append.events[-1].position > ring.top
            if ring.local and not ring.doubted and not anew:
                self._record(ring, append, answer)
        if errors := [answer.error for answer in answers if answer.error]:
            raise UnavailableError(errors[0])

    def _batch(self) -> list[tuple[Ring, Append]]:
        batch: list[tuple[Ring, Append]] = []
        events, size = BATCH_EVENTS, BATCH_BYTES
        for ring in list(self._due):
            if events <= 0 or size <= 0:
                break
            if ring.doubted:
                continue
            self._sending_since = min(self._sending_since, self._due.pop(ring))
            append = self._append(ring, events, size)
            events -= max(1, len(append.events))
            size -= sum(event.size for event in append.events)
            batch.append((ring, append))
        return batch

    def _append(self, ring: Ring, max_events: int, max_bytes: int) -> Append:
        events = ring.after(ring.sent, max_events, max_bytes) if ring.pending else []
        trim_before = None
        if ring.trim_due and ring.events:
            ring.trim_due = False
            trim_before = ring.events[0].position
        ttl = None
        now = time.monotonic()
        if now >= ring.renew_at:
            ring.renew_at = now + self._renew_seconds if ring.lease else math.inf
            ttl = RUNNING_TTL_SECONDS if ring.lease else self._ended_ttl_seconds
        return Append(ring.thread_id, events, not ring.stored, trim_before, ttl, not ring.weighed)

    def _record(self, ring: Ring, append: Append, answer: Appended) -> None:
        if answer.accepted:
            self.sent_events += answer.accepted
            self.sent_bytes += sum(len(event.data) for event in append.events[: answer.accepted])
            ring.sent = append.events[answer.accepted - 1].position
            ring.stored = True
        ring.doubted = answer.accepted < len(append.events)
        if append.weigh:
            ring.weighed = True
            # What earlier runs left is not in this ring's budget: too much of it goes at once.
            ring.trim_due |= answer.stream_bytes > ring.max_bytes
        if ring.pending or ring.doubted or ring.trim_due:
            self.push(ring)
