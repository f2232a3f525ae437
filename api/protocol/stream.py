"""What happens on a thread, run after run, as events of the event-streaming protocol."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress
from dataclasses import replace

from api.bootstrap import Services
from api.errors import BrokenOffError
from api.sse import GOES_ON, frame
from graph.encode import dumps
from graph.protocol import ProtocolView
from graph.protocol_events import Numbering, ProtocolEvent, Wanted
from store import runs, threads
from store.access import EVERYTHING, Access
from store.errors import NotFoundError, UnavailableError
from store.events import START, Event, EventId, Gap
from store.models import JsonObject
from store.threads import not_found

#: Says that events are missing; clients of the protocol pass over what they do not know.
GAP = "resume_gap"

#: How long after the end of a run the next one is told of.
BREATH_SECONDS = 0.05


class Tape:
    """
    The events of one thread from a place on, for one client.

    Args:
        access: The threads that the client may read; asked again whenever a run begins.
        channels: What the client may want to see.
        since: The number of the last event that the client has; 0 for none.
    """

    def __init__(
        self,
        services: Services,
        thread_id: str,
        *,
        access: Access,
        channels: Iterable[str],
        since: int = 0,
    ) -> None:
        self._services = services
        self._thread_id = thread_id
        self._access = access
        self._channels = tuple(channels)
        self._since = since
        self._view = ProtocolView(self._channels)
        #: What `retained` found missing after the client's last event.
        self.gap: JsonObject | None = None

    async def events(self) -> AsyncGenerator[list[ProtocolEvent]]:
        """
        Everything after the client's last event, then whatever comes.

        Raises:
            BrokenOffError: This process goes.
            NotFoundError: The thread is not the client's to read any more.
        """
        try:
            async with aclosing(apart(self._events())) as batches:
                async for batch in batches:
                    yield batch
        except UnavailableError as exc:
            raise BrokenOffError(exc.message) from exc
        raise BrokenOffError(GOES_ON)

    async def _events(self) -> AsyncGenerator[list[ProtocolEvent]]:
        await self._begin()
        # From the beginning of the epoch: what was under way at that place is known again then.
        after = (self._place[0], 0) if self._since else START
        follower = self._services.follower
        with follower.watch_queued(self._thread_id) as queued:
            follow = follower.follow_thread(self._thread_id, after=after)
            async with aclosing(with_queued(follow, queued)) as batches:
                async for batch in batches:
                    if found := await self._made(batch):
                        yield found

    async def _made(self, batch: list[Event] | Gap | str) -> list[ProtocolEvent]:
        if isinstance(batch, str):
            return [replace(self._view.cancelled(batch), at=_now())]
        return await (self._missed(batch) if isinstance(batch, Gap) else self._read(batch))

    async def retained(self) -> list[ProtocolEvent]:
        """
        What there is now after the client's last event.

        Raises:
            NotFoundError: The thread is not the client's to read any more.
        """
        await self._begin()
        logged = await self._services.follower.retained(self._thread_id)
        if logged and self._since and not _reaches(logged[0].position, self._place):
            first = self._view.numbering.seq(logged[0].position, 0)
            self.gap = {"since": self._since, "min_available_seq": first}
        return await self._read(logged)

    @property
    def view(self) -> ProtocolView:
        """What was made of the log so far."""
        return self._view

    @property
    def _place(self) -> EventId:
        return self._view.numbering.place(self._since)

    async def _begin(self) -> None:
        """Learn how the thread's events are numbered; of one that is not there, nothing was seen."""
        if not await self._may_read() or self._place[0] <= self._view.numbering.base:
            self._since = 0
            return
        db = self._services.db
        newest = await self._services.follower.patiently(lambda: threads.epoch(db, self._thread_id))
        if self._place[0] > newest:
            # Of another thread, that was here under this id.
            self._since = 0

    async def _read(self, batch: list[Event]) -> list[ProtocolEvent]:
        # Asked again now that a run begins: the thread may have been made since, by whomever.
        begun = {event.run_id for event in batch if event.name == "metadata"}
        if begun:
            if not await self._knows_thread():
                raise not_found(self._thread_id)
            db = self._services.db
            self._view.graphs |= await self._services.follower.patiently(
                lambda: runs.graph_ids(db, list(begun))
            )
        now = _now()
        return [
            told if told.at else replace(told, at=now)
            for event in batch
            for told in self._view.read(event)
            if told.seq > self._since
        ]

    async def _may_read(self) -> bool:
        """
        Whether the thread is there; for who may not see every thread it must be.

        Raises:
            NotFoundError: It is not.
        """
        is_there = await self._knows_thread()
        if not is_there and self._access != EVERYTHING:
            raise not_found(self._thread_id)
        return is_there

    async def _knows_thread(self) -> bool:
        services = self._services
        thread = await services.follower.patiently(
            lambda: threads.find(services.db, self._thread_id, access=self._access)
        )
        if thread is not None:
            base = self._view.numbering.base
            self._view.know(thread)
            if base not in (0, self._view.numbering.base):
                # It was deleted, and another is here under its id.
                self._since = 0
        return thread is not None

    async def _missed(self, gap: Gap) -> list[ProtocolEvent]:
        """What stands in for events that are gone: word of it, and the thread's values now."""
        # With them the beginning of a run may be gone, at which this is asked.
        await self._may_read()
        if self._since and gap.resume_at <= self._place:
            return []
        numbering, now = self._view.numbering, _now()
        word, instead = numbering.gap(gap.resume_at)
        missing = {"since": self._since, "min_available_seq": instead + 1}
        told = [ProtocolEvent(word, f"{gap.event_id}.gap", GAP, (), dumps(missing), now)]
        if "values" in self._channels:
            services = self._services
            with suppress(NotFoundError):
                values = await services.follower.patiently(
                    lambda: services.states.values(self._thread_id, access=self._access)
                )
                if values is not None:
                    event_id = f"{gap.event_id}.values"
                    told.append(ProtocolEvent(instead, event_id, "values", (), dumps(values), now))
        return told


async def frames(tape: Tape, wanted: Wanted) -> AsyncGenerator[bytes, None]:
    """
    The tape as server-sent events: what is wanted of it, and word of what is missing.

    Raises:
        BrokenOffError: This process goes.
    """
    with suppress(NotFoundError):
        async with aclosing(tape.events()) as batches:
            async for batch in batches:
                chunk = b"".join(
                    frame(told.method, told.encode(), str(told.seq or ""))
                    for told in batch
                    if told.method == GAP or wanted.includes(told)
                )
                if chunk:
                    yield chunk


async def apart(
    batches: AsyncGenerator[list[ProtocolEvent], None],
) -> AsyncGenerator[list[ProtocolEvent], None]:
    """
    The same events, with a pause between the end of a run and what comes after it.

    `useStream` of @langchain/react 1.1 handles an end a moment after it has received it. If the next run
    begins in the same packet, as in a replay, it takes the old end for that of the new run.
    """
    clock = asyncio.get_running_loop().time
    silent_until = 0.0
    async with aclosing(batches):
        async for batch in batches:
            ends = [number for number, told in enumerate(batch, 1) if told.ends_run]
            last = ends[-1] if ends else 0
            for part in filter(None, (batch[:last], batch[last:])):
                await asyncio.sleep(max(silent_until - clock(), 0))
                yield part
                if part[-1].ends_run:
                    silent_until = clock() + BREATH_SECONDS


async def applied_through(services: Services, thread_id: str) -> int:
    """The number after all that the thread's log holds now; 0 if nothing knows."""
    with suppress(UnavailableError):
        # Tells nobody anything: who may not see the thread gets no answer to go with it.
        thread = await threads.find(services.db, thread_id, access=EVERYTHING)
        if thread is not None:
            return Numbering.of(thread).tail(await services.follower.end_of_log(thread_id))
    return 0


async def with_queued(
    follow: AsyncGenerator[list[Event] | Gap, None], queued: "asyncio.Queue[str]"
) -> AsyncGenerator[list[Event] | Gap | str, None]:
    """What is logged of a thread, and between it the runs that ended in the queue."""
    logged = asyncio.ensure_future(anext(follow))
    ended = asyncio.ensure_future(queued.get())
    try:
        while True:
            await asyncio.wait({logged, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                yield ended.result()
                ended = asyncio.ensure_future(queued.get())
            if logged.done():
                try:
                    batch = logged.result()
                except StopAsyncIteration:
                    return
                yield batch
                logged = asyncio.ensure_future(anext(follow))
    finally:
        for task in (logged, ended):
            task.cancel()
        await asyncio.wait({logged, ended})
        await follow.aclose()


def _now() -> int:
    return time.time_ns() // 1_000_000


def _reaches(first: EventId, cursor: EventId) -> bool:
    """Whether a log that begins there lacks nothing after the cursor."""
    if first <= cursor:
        return True
    return first[1] == (cursor[1] + 1 if first[0] == cursor[0] else 1)
