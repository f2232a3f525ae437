"""
How many bytes of large bodies a process holds at once: what a body is made of takes several times its bytes.

Each is counted, by the size that it is announced with, from before it is read until its answer begins. One
that does not fit in waits for a while, the smaller ones first; small ones are not counted and wait for nobody.
One sender has at most half of it, and has to send: who sends slowly would keep the others out.
"""

import asyncio
from bisect import insort
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from store.errors import OverloadedError

#: A body up to so many bytes is a small one.
SMALL_BYTES: Final = 1024 * 1024
#: How long one waits for others to be done with, how many do, and of those how many of one sender.
PATIENCE_SECONDS: Final = 10.0
MAX_WAITING: Final = 100
MAX_WAITING_OF_ONE: Final = MAX_WAITING // 2
#: How long nothing of a body may come; and how much of a large one comes in a second, on average after that time.
STALLED_SECONDS: Final = 30.0
SLOWEST_BYTES_PER_SECOND: Final = 64 * 1024


@dataclass(order=True, slots=True)
class _Waiting:
    """One that waits, in the order in which they get room; of two of a size, the one that came first."""

    size: int
    number: int
    sender: str = field(compare=False)
    room: asyncio.Future[None] = field(compare=False)


class HeldBodies:
    """
    What is held in a process.

    Args:
        most: Bytes at once, and half of them of one sender; one body alone may have more.
    """

    def __init__(self, most: int, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._most = most
        self._patience_seconds = patience_seconds
        self._held: Counter[str] = Counter()
        self._bytes = 0
        self._waiting: list[_Waiting] = []
        self._numbers = count()

    @property
    def bytes(self) -> int:
        """How many are held."""
        return self._bytes

    @property
    def waiting(self) -> int:
        """How many bodies wait."""
        return len(self._waiting)

    async def take(self, size: int, sender: str) -> None:
        """
        Count a body of somebody's, as soon as there is room for it.

        Raises:
            OverloadedError: There is none in time, or too many wait for it.
        """
        if self._fits(size, sender):
            self._count(size, sender)
            return
        own = sum(one.sender == sender for one in self._waiting)
        if len(self._waiting) >= MAX_WAITING or own >= MAX_WAITING_OF_ONE:
            raise _overloaded()
        room = asyncio.get_running_loop().create_future()
        place = _Waiting(size, next(self._numbers), sender, room)
        insort(self._waiting, place)
        try:
            async with asyncio.timeout(self._patience_seconds):
                await room
        except TimeoutError:
            # It may have come just then.
            if room.cancelled():
                raise _overloaded() from None
        except asyncio.CancelledError:
            if not room.cancelled():
                self.give_back(size, sender)
            raise
        finally:
            with suppress(ValueError):  # it has got room
                self._waiting.remove(place)

    def give_back(self, size: int, sender: str) -> None:
        """Count a body no more; those who wait and fit in now go on."""
        self._count(-size, sender)
        for one in [*self._waiting]:
            if not self._fits(one.size, one.sender):
                continue
            self._waiting.remove(one)
            if not one.room.done():
                self._count(one.size, one.sender)
                one.room.set_result(None)

    def _count(self, size: int, sender: str) -> None:
        self._bytes += size
        self._held[sender] += size
        if not self._held[sender]:
            del self._held[sender]

    def _fits(self, size: int, sender: str) -> bool:
        own = self._held[sender]
        has_part = own == 0 or own + size <= self._most // 2
        return has_part and (self._bytes == 0 or self._bytes + size <= self._most)


class Hold:
    """
    What one request has of it.

    Args:
        held: None for a request of the server's own, which is not counted.
        largest: How many bytes a body may have that is read whole.
    """

    def __init__(self, held: HeldBodies | None, *, largest: int) -> None:
        self.largest = largest
        #: When it got room, by the clock of the event loop.
        self.began_at = 0.0
        self._held = held
        self._size = 0
        self._sender = ""

    @property
    def is_taken(self) -> bool:
        """Whether its body is counted."""
        return self._size > 0

    async def take(self, size: int, sender: str) -> None:
        """
        Count its body, once.

        Raises: as `HeldBodies.take`.
        """
        if self._held is None:
            return
        await self._held.take(size, sender)
        self._size, self._sender = size, sender
        self.began_at = asyncio.get_running_loop().time()

    def give_back(self) -> None:
        """Count it no more, if it is."""
        size, self._size = self._size, 0
        if size and self._held is not None:
            self._held.give_back(size, self._sender)

    def next_is_due(self, received: int) -> float | None:
        """By when, on the clock of the event loop, more of a body must come of which so much has."""
        if self._held is None:
            return None
        stalled = asyncio.get_running_loop().time() + STALLED_SECONDS
        if not self.is_taken:
            return stalled
        return min(stalled, self.began_at + STALLED_SECONDS + received / SLOWEST_BYTES_PER_SECOND)


def _overloaded() -> OverloadedError:
    return OverloadedError("This server reads as many large request bodies as it takes")
