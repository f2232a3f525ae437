"""
One process's part in telling what happened: publishes, wakes those who follow, calls listeners.

Nothing of it is on the way of a run. A process looks for what has committed, and publishes it, while
somebody waits for it here or a webhook anywhere; those who come at the same time leave it to one. While
nobody waits nothing is published: whoever comes is told what is there, in the same order.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import uuid4

import structlog

from graph.endings import Endings
from graph.listeners import Listener, is_async, registered
from graph.loop import Backing, Place
from store import outbox, subscriptions
from store.access import EVERYTHING, Access
from store.database import Database
from store.errors import UnavailableError
from store.models import JsonObject
from store.outbox import Change

log = structlog.get_logger(__name__)

#: Between two looks: while somebody waits here, or a webhook anywhere, and otherwise.
TICK_SECONDS: Final = 0.2
IDLE_SECONDS: Final = 5.0
#: How long it may take to publish all that nobody has waited for before.
PUBLISH_SECONDS: Final = 15.0
#: Between two looks for what is not to be kept any more.
TRIM_SECONDS: Final = 60.0
#: How many changes a follower is given at a time.
PAGE: Final = 500
#: After so long without a change that a follower may see, it is told how far it has come.
PLACE_SECONDS: Final = 15.0
#: How long a listener may take for a change, and how long it is one process's to call.
CALL_SECONDS: Final = 30.0
HELD_SECONDS: Final = 90.0
#: How long a listener that is another process's is left alone.
ELSEWHERE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Missed:
    """Changes that are not kept any more lie between these."""

    since: int
    trimmed_through: int


@dataclass(frozen=True, slots=True)
class Reached:
    """There is nothing else up to here."""

    seq: int


@dataclass(eq=False, slots=True)
class _Waiting:
    access: Access
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Changes:
    """
    What happened, for those who want to be told in this process.

    Args:
        place: Where listeners are called.
        endings: Say when this process goes.
        keep_count: How many changes are kept.
        keep_seconds: How long.
    """

    def __init__(
        self,
        *,
        db: Database,
        place: Place,
        endings: Endings,
        keep_count: int,
        keep_seconds: float,
    ) -> None:
        self._db = db
        self._place = place
        self._endings = endings
        self._keep_count = keep_count
        self._keep_seconds = keep_seconds
        self._head = 0
        self._waiting: set[_Waiting] = set()
        #: Somebody began to wait.
        self._wanted = asyncio.Event()
        self._holder = str(uuid4())

    def hurry(self) -> None:
        """Look now: somebody has just registered for what happens."""
        self._wanted.set()

    async def publish_forever(self) -> None:
        """
        Publish what has committed, if anybody waits for it; runs until it is cancelled.

        Raises:
            UnavailableError: PostgreSQL did not answer.
        """
        while True:
            self._wanted.clear()
            look = await outbox.look(self._db)
            is_awaited = bool(self._waiting or look.has_webhooks or registered())
            if is_awaited:
                await self._publish(look)
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS if is_awaited else IDLE_SECONDS):
                    await self._wanted.wait()
                # Those who come together are one.
                await asyncio.sleep(TICK_SECONDS / 4)

    async def _publish(self, look: outbox.Look) -> None:
        """Publish what has committed, and wake whom that or another's publishing concerns."""
        while look.is_waiting and await outbox.publish(self._db) == outbox.BATCH:
            pass
        head = (await outbox.look(self._db)).head if look.is_waiting else look.head
        if head != self._head:
            await self._wake(head)

    async def head(self) -> int:
        """
        The last change of those that have committed by now: what comes after it comes later.

        Raises:
            UnavailableError: It is not published in time.
        """
        look = await outbox.look(self._db)
        newest = look.newest or 0
        deadline = asyncio.get_running_loop().time() + PUBLISH_SECONDS
        while look.oldest is not None and look.oldest <= newest:
            if not await outbox.publish(self._db):
                if asyncio.get_running_loop().time() > deadline:
                    raise UnavailableError("What happened was not published in time")
                await asyncio.sleep(TICK_SECONDS / 4)
            look = await outbox.look(self._db)
        return look.head

    async def _wake(self, head: int) -> None:
        after, self._head = self._head, head
        by_access: dict[str, list[_Waiting]] = {}
        for waiting in self._waiting:
            by_access.setdefault(waiting.access.array, []).append(waiting)
        groups = list(by_access.values())
        if len(groups) > 1:
            asked = [group[0].access for group in groups]
            found = await outbox.concerned(self._db, asked, after=after, through=head)
            groups = [group for place, group in enumerate(groups) if place in found]
        for waiting in (waiting for group in groups for waiting in group):
            waiting.wake.set()

    async def trim_forever(self) -> None:
        """Delete what is not to be kept any more; runs until it is cancelled."""
        while True:
            await outbox.trim(
                self._db, keep_count=self._keep_count, keep_seconds=self._keep_seconds
            )
            await subscriptions.sweep(self._db)
            await asyncio.sleep(TRIM_SECONDS)

    async def follow(
        self,
        access: Access,
        *,
        after: int,
        names: Sequence[str] | None = None,
        thread_id: str | None = None,
    ) -> AsyncGenerator[list[Change] | Missed | Reached, None]:
        """
        What happened after a place, in order, each change once, and then whatever happens.

        It ends when this process goes. Access is not asked for again: who may follow a thread, and
        what is seen of it, is decided by its metadata whenever something is read.

        Args:
            after: The last change that the client has; `head` for those from now on, -1 for all
                that are kept.
            names: As for `outbox.read`.

        Raises:
            UnavailableError: PostgreSQL did not answer.
        """
        read = partial(
            outbox.read, self._db, names=names, thread_id=thread_id, limit=PAGE, access=access
        )
        with self._wait(access) as waiting:
            place, is_quiet = after, False
            while not self._endings.closed:
                waiting.wake.clear()
                page, before = await read(after=max(place, 0)), place
                if 0 <= before < page.trimmed_through or before > page.head:
                    # What is behind the head is of a database that was another one then.
                    yield Missed(before, min(page.trimmed_through, page.head))
                place = min(max(page.through, page.trimmed_through), page.head)
                if found := [c for c in page.changes if c.seq > page.trimmed_through]:
                    yield found
                elif is_quiet and place > before:
                    yield Reached(place)
                is_quiet = place >= page.head and not await self._woken(waiting)

    @contextmanager
    def _wait(self, access: Access) -> Iterator[_Waiting]:
        waiting = _Waiting(access)
        self._waiting.add(waiting)
        self.hurry()
        try:
            yield waiting
        finally:
            self._waiting.discard(waiting)

    async def _woken(self, waiting: _Waiting) -> bool:
        """Wait until there is something, or this process goes; False after a while."""
        leaving = asyncio.ensure_future(self._endings.leaving.wait())
        woken = asyncio.ensure_future(waiting.wake.wait())
        try:
            done, _ = await asyncio.wait(
                {leaving, woken}, timeout=PLACE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            return bool(done)
        finally:
            leaving.cancel()
            woken.cancel()

    async def listen_forever(self) -> None:
        """
        Call the listeners of this process; when this is cancelled, others take over.

        Raises:
            UnavailableError: PostgreSQL did not answer.
        """
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for task in tasks.values():
                    if task.done():
                        task.result()
                for listener in registered():
                    if listener.name not in tasks or tasks[listener.name].done():
                        tasks[listener.name] = asyncio.create_task(
                            self._serve(listener), name=f"listener {listener.name}"
                        )
                await asyncio.sleep(1.0)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            if tasks:
                with suppress(UnavailableError):
                    await outbox.let_go(self._db, holder=self._holder)

    async def _serve(self, listener: Listener) -> None:
        """Tell a listener what happens for as long as it is there, and ours."""
        with suppress(UnavailableError), self._wait(EVERYTHING) as waiting:
            # It begins with what comes now, if it is new.
            await self.head()
            while any(one is listener for one in registered()):
                waiting.wake.clear()
                seq = await outbox.hold(
                    self._db, listener.name, holder=self._holder, seconds=HELD_SECONDS
                )
                if seq is None:
                    await asyncio.sleep(ELSEWHERE_SECONDS)
                    continue
                if not await self._catch_up(listener, seq):
                    await self._woken(waiting)

    async def _catch_up(self, listener: Listener, after: int) -> bool:
        """Tell a listener what is there after a place; whether there may be more."""
        page = await outbox.read(
            self._db, after=after, names=listener.events, limit=PAGE, access=EVERYTHING
        )
        if after < page.trimmed_through:
            log.error("a listener was away for too long", listener=listener.name, after=after,
                      kept_after=page.trimmed_through)  # fmt: skip
            return await self._advance(listener, page.trimmed_through)
        for change in page.changes:
            await self._call(listener, change)
            if not await self._advance(listener, change.seq):
                return False
        if page.through > after and not await self._advance(listener, page.through):
            return False
        return page.through < page.head

    async def _advance(self, listener: Listener, seq: int) -> bool:
        return await outbox.advance(
            self._db, listener.name, seq=seq, holder=self._holder, seconds=HELD_SECONDS
        )

    async def _call(self, listener: Listener, change: Change) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                if is_async(listener.function):
                    await self._place.run(partial(_awaited, listener, change.body))
                else:
                    await asyncio.to_thread(listener.function, change.body)
        except Exception:
            # One call of one listener: the others, and the next change, are told all the same.
            log.exception("a listener failed", listener=listener.name, told=change.name,
                          seq=change.seq)  # fmt: skip


async def _awaited(listener: Listener, body: JsonObject, _: Backing) -> Any:
    return await listener.function(body)
