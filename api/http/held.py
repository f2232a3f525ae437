"""
How many bytes of large bodies a process holds at once: what a body is made of takes several times its bytes.

Each is counted, by the size that it is announced with, from before it is read until its answer begins. One
that does not fit in waits for a while, the smaller ones first; small ones are not counted and wait for nobody.
"""

import asyncio
from bisect import insort
from contextlib import suppress
from itertools import count
from typing import Final

from store.errors import OverloadedError

#: A body up to so many bytes is a small one.
SMALL_BYTES: Final = 1024 * 1024
#: How long one waits for others to be done with, how many do, and how long nothing of one may come that has room.
PATIENCE_SECONDS: Final = 10.0
MAX_WAITING: Final = 100
STALLED_SECONDS: Final = 30.0


class HeldBodies:
    """
    What is held in a process.

    Args:
        most: Bytes at once; one body alone may have more.
    """

    def __init__(self, most: int, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._most = most
        self._patience_seconds = patience_seconds
        self._held = 0
        # In the order in which they get room; of two of a size, the one that came first.
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()

    @property
    def bytes(self) -> int:
        """How many are held."""
        return self._held

    @property
    def waiting(self) -> int:
        """How many bodies wait."""
        return len(self._waiting)

    async def take(self, size: int) -> None:
        """
        Count a body, as soon as there is room for it.

        Raises:
            OverloadedError: There is none in time, or too many wait for it.
        """
        if self._fits(size):
            self._held += size
            return
        if len(self._waiting) >= MAX_WAITING:
            raise _overloaded()
        room = asyncio.get_running_loop().create_future()
        place = (size, next(self._numbers), room)
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
                self.give_back(size)
            raise
        finally:
            with suppress(ValueError):  # it has got room
                self._waiting.remove(place)

    def give_back(self, size: int) -> None:
        """Count a body no more; who waits and fits in now goes on."""
        self._held -= size
        while self._waiting and self._fits(self._waiting[0][0]):
            waiting, _, room = self._waiting.pop(0)
            if not room.done():
                self._held += waiting
                room.set_result(None)

    def _fits(self, size: int) -> bool:
        return self._held == 0 or self._held + size <= self._most


class Hold:
    """What one request has of it."""

    def __init__(self, held: HeldBodies) -> None:
        self._held = held
        self._size = 0

    @property
    def is_taken(self) -> bool:
        """Whether its body is counted."""
        return self._size > 0

    async def take(self, size: int) -> None:
        """
        Count its body, once.

        Raises: as `HeldBodies.take`.
        """
        await self._held.take(size)
        self._size = size

    def give_back(self) -> None:
        """Count it no more, if it is."""
        size, self._size = self._size, 0
        if size:
            self._held.give_back(size)


def _overloaded() -> OverloadedError:
    return OverloadedError("This server reads as many large request bodies as it takes")
