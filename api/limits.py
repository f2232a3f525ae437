"""
How much each caller may ask for at a time: requests by a rate, requests and streams under way.

Whatever is refused was not begun: 429 with ``Retry-After``, 503 where the whole process has as much as
it takes. Callers are told apart by their identity; without authentication all are one. What graphs ask
their own server is not counted. See docs/limits.md.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import ceil
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import response_to
from api.identity.auth import Caller, deny, is_late
from api.loopback import is_in_process
from api.settings import Settings
from store.errors import Error, LimitedError, OverloadedError
from store.limits import Limiter, Place, Places, Rate, Taken, key_of, open_limiter

#: For how many seconds' worth a bucket has room, unless a setting says how many it holds.
BURST_SECONDS: Final = 10.0
#: When it is worth asking again where nobody knows when something ends.
RETRY_SECONDS: Final = 1.0
#: How many refusals of one caller are told at once in a second, after how long others are, and how many
#: wait for that at a time.
QUICK_REFUSALS: Final = 5
CALM_SECONDS: Final = 3.0
MAX_HELD: Final = 2_000

#: What browsers may read of them.
HEADERS: Final = ("retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What is allowed; None for anything."""

    rate: Rate | None
    requests: Places | None
    streams: Places | None
    process_streams: int | None


class Limits:
    """What is under way in this process, and who asked for it."""

    def __init__(self, limiter: Limiter, bounds: Bounds) -> None:
        self.limiter = limiter
        self.bounds = bounds
        self.streams = 0
        #: Refusals of the second that began then, by key.
        self._refused: dict[str, int] = {}
        self._since = 0.0
        self._held = 0

    async def calm(self, key: str) -> None:
        """
        Have one who is refused again and again wait for it: who asks anew at once is slowed by that.

        Refusing costs little, but not nothing, and takes time from all others.
        """
        now = time.monotonic()
        if now - self._since > 1.0:
            self._since, self._refused = now, {}
        count = self._refused[key] = self._refused.get(key, 0) + 1
        if count <= QUICK_REFUSALS or self._held >= MAX_HELD:
            return
        self._held += 1
        try:
            await asyncio.sleep(CALM_SECONDS)
        finally:
            self._held -= 1


class Permit:
    """What one request has of its caller's."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.key = ""
        self._place: Place | None = None
        self._is_stream = False
        self._taken: Taken | None = None

    async def enter(self, identity: str, *, is_stream: bool) -> None:
        """
        Begin, as a stream or as what has yet to become one.

        Raises:
            LimitedError: The caller has asked too much.
            OverloadedError: This process has as many streams as it takes.
        """
        self.key = key_of(identity)
        bounds = self._limits.bounds
        if is_stream:
            self._count()
        await self._take(bounds.rate, bounds.streams if is_stream else bounds.requests)

    async def follow(self) -> None:
        """
        Become a stream, if it is none yet.

        Raises: as `enter`.
        """
        if self._is_stream:
            return
        self._count()
        before, self._place = self._place, None
        try:
            if self._limits.bounds.streams is not None:
                await self._take(None, self._limits.bounds.streams)
        finally:
            if before is not None:
                self._limits.limiter.give_back(before)

    async def again(self) -> None:
        """
        Count one more request of a connection that stays.

        Raises: as `enter`.
        """
        if self._limits.bounds.rate is not None:
            await self._take(self._limits.bounds.rate, None)

    def leave(self) -> None:
        """Give back what it holds."""
        if self._is_stream:
            self._limits.streams -= 1
            self._is_stream = False
        if self._place is not None:
            self._limits.limiter.give_back(self._place)
            self._place = None

    @property
    def headers(self) -> Mapping[str, str]:
        """What the answer says of the caller's bucket."""
        rate, taken = self._limits.bounds.rate, self._taken
        if rate is None or taken is None:
            return {}
        return {
            "x-ratelimit-limit": str(rate.burst),
            "x-ratelimit-remaining": str(taken.remaining),
            "x-ratelimit-reset": str(ceil(taken.full_in_seconds)),
        }

    def _count(self) -> None:
        most = self._limits.bounds.process_streams
        if most is not None and self._limits.streams >= most:
            raise OverloadedError("This server has as many streams open as it takes")
        self._limits.streams += 1
        self._is_stream = True

    async def _take(self, rate: Rate | None, places: Places | None) -> None:
        if rate is None and places is None:
            return
        taken = await self._limits.limiter.take(self.key, rate, places)
        if rate is not None:
            self._taken = taken
        if taken.place is not None:
            self._place = taken.place
        if taken.refused == "rate":
            raise LimitedError("Too many requests", retry_in_seconds=taken.retry_in_seconds)
        if taken.refused == "places" and places is not None:
            code = f"too_many_{places.kind}"
            if places.kind == "streams":
                message = f"{places.most} streams are open already"
            else:
                message = f"{places.most} requests are under way already"
            raise LimitedError(message, code=code, retry_in_seconds=RETRY_SECONDS)


#: That of the request that is being served.
_CURRENT: ContextVar[Permit | None] = ContextVar("permit", default=None)


async def enter(caller: Caller) -> None:
    """
    Begin with a WebSocket whose caller has just been found out.

    Raises: as `Permit.enter`.
    """
    if permit := _CURRENT.get():
        await permit.enter(caller.identity, is_stream=True)


async def follow() -> None:
    """
    Say that the request being served is going to follow what it is about to begin.

    Raises: as `Permit.enter`: then it is not to be begun.
    """
    if permit := _CURRENT.get():
        await permit.follow()


async def again() -> None:
    """
    Count one more request of the connection that is being served.

    Raises: as `Permit.enter`.
    """
    if permit := _CURRENT.get():
        await permit.again()


class _RefusedError(Exception):
    """Another answer was given than the one that a route had begun."""


class IdentityLimits:
    """
    Lets through what callers may ask for; behind `api.identity.auth.Authentication`.

    What has no caller is let through: everybody may see it, or its route lets the caller in.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self.app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        caller = scope.get("state", {}).get("caller")
        is_late_one = scope["type"] == "websocket" and is_late(scope)
        if is_in_process(scope) or not (isinstance(caller, Caller) or is_late_one):
            await self.app(scope, receive, send)
            return
        permit = Permit(self._limits)
        _CURRENT.set(permit)
        try:
            if isinstance(caller, Caller):
                await permit.enter(caller.identity, is_stream=scope["type"] == "websocket")
            await self.app(scope, receive, self._sender(permit, scope, receive, send))
        except _RefusedError:
            return
        except (LimitedError, OverloadedError) as exc:
            await self._refuse(exc, permit, scope, receive, send)
        finally:
            permit.leave()

    def _sender(self, permit: Permit, scope: Scope, receive: Receive, send: Send) -> Send:
        async def send_counted(message: Message) -> None:
            if message["type"] != "http.response.start":
                await send(message)
                return
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("text/event-stream"):
                # A run that is begun with it was counted before: what is refused here has begun nothing.
                try:
                    await permit.follow()
                except Error as exc:
                    await self._refuse(exc, permit, scope, receive, send)
                    raise _RefusedError from None
            headers.update(permit.headers)
            await send(message)

        return send_counted

    async def _refuse(
        self, error: Error, permit: Permit, scope: Scope, receive: Receive, send: Send
    ) -> None:
        response = response_to(error)
        response.headers.update(permit.headers)
        await self._limits.calm(permit.key)
        await deny(response, scope, receive, send)


def bounds_of(settings: Settings) -> Bounds | None:
    """What the settings allow; None if that is anything."""
    rate = None
    if per_second := settings.limit_requests_per_second:
        burst = settings.limit_request_burst or max(1, round(per_second * BURST_SECONDS))
        rate = Rate(per_second, burst)
    bounds = Bounds(
        rate=rate,
        requests=_places("requests", settings.limit_requests),
        streams=_places("streams", settings.limit_streams),
        process_streams=settings.limit_streams_per_process or None,
    )
    nothing = Bounds(rate=None, requests=None, streams=None, process_streams=None)
    return None if bounds == nothing else bounds


def _places(kind: str, most: int) -> Places | None:
    return Places(kind, most) if most else None


@asynccontextmanager
async def open_limits(settings: Settings, redis_url: str) -> AsyncIterator[Limits | None]:
    """Count what is asked for as long as the block lasts; None if nothing is limited."""
    bounds = bounds_of(settings)
    if bounds is None:
        yield None
        return
    async with open_limiter(redis_url) as limiter:
        yield Limits(limiter, bounds)
