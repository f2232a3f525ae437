"""What many may ask for often, asked for once by all of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Fresh(Generic[T]):
    """
    What something was a moment ago, at the most.

    Args:
        ask: Finds it out; may raise, then all raise that who wait for it.
        seconds: How long it is told again.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], *, seconds: float = 1.0) -> None:
        self._ask = ask
        self._seconds = seconds
        self._asked_at = float("-inf")
        self._asking: asyncio.Future[T] | None = None

    def forget(self) -> None:
        """Ask anew at the next call."""
        self._asked_at = float("-inf")

    async def get(self) -> T:
        """As it is; raises what asking raises."""
        now = asyncio.get_running_loop().time()
        is_old = now - self._asked_at > self._seconds
        if self._asking is None or (is_old and self._asking.done()):
            self._asked_at = now
            self._asking = asyncio.ensure_future(self._ask())
            # Those who waited may all have left.
            self._asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        return await asyncio.shield(self._asking)
