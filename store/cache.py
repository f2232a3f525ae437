"""
Values that may be lost at any time: in Redis, shared by all processes, or in this one alone.

For what is dear to find out and cheap to lose. Nothing here is a truth: a value that is too old, or
that Redis has thrown out, or cannot say at the moment, is not there.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from store.cipher import CLEAR, Cipher, at
from store.errors import InvalidInputError, UnavailableError, UnreadableError
from store.streams import CONNECT_SECONDS, answered

log = structlog.get_logger(__name__)

#: How long Redis may take: who waits longer than that could as well find the value out.
ANSWER_SECONDS: Final = 1.0
#: How long Redis is not asked after it did not answer.
PAUSE_SECONDS: Final = 2.0
CONNECTIONS: Final = 8

#: What a process without Redis keeps at the most.
MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 64 << 20


class Cache(Protocol):
    """Bytes by key, for a while. No method raises for what is kept in being away."""

    async def get(self, key: str) -> bytes | None:
        """What was last put there; None if it is not known any more."""
        ...

    async def put(self, key: str, value: bytes, *, ttl_seconds: float) -> None:
        """Keep a value for so long at the most; the caller bounds its size."""
        ...

    async def count(self, key: str, *, ttl_seconds: float) -> int | None:
        """Count one more of what is counted from its first time on for so long; None if nobody knows."""
        ...


class LocalCache:
    """Of one process; what was used least is thrown out."""

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def get(self, key: str) -> bytes | None:
        """See `Cache`."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] <= time.monotonic():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return found[1]

    async def put(self, key: str, value: bytes, *, ttl_seconds: float) -> None:
        """See `Cache`."""
        self._drop(key)
        self._entries[key] = (time.monotonic() + ttl_seconds, value)
        self._bytes += len(key) + len(value)
        while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._drop(next(iter(self._entries)))

    async def count(self, key: str, *, ttl_seconds: float) -> int | None:
        """See `Cache`."""
        known = await self.get(key)
        left = self._entries[key][0] - time.monotonic() if known is not None else ttl_seconds
        counted = int(known or 0) + 1
        await self.put(key, b"%d" % counted, ttl_seconds=left)
        return counted

    def _drop(self, key: str) -> None:
        found = self._entries.pop(key, None)
        self._bytes -= len(key) + len(found[1]) if found else 0


class RedisCache:
    """
    Of all processes; for one event loop. While Redis is away nothing is known, and nothing kept.

    Args:
        cipher: Seals the values; the names of keys are blind then. What cannot be opened is not there.
    """

    def __init__(self, client: "Redis", prefix: str, *, cipher: Cipher = CLEAR) -> None:
        self._client = client
        self._cipher = cipher
        self._prefix = prefix
        self._away_until = 0.0

    async def get(self, key: str) -> bytes | None:
        """See `Cache`."""
        found: bytes | None = await self._asked("GET", self._key(key))
        if found is None:
            return None
        try:
            return self._cipher.open(found, at("cache", key))
        except UnreadableError:
            return None

    async def put(self, key: str, value: bytes, *, ttl_seconds: float) -> None:
        """See `Cache`."""
        sealed = self._cipher.seal(value, at("cache", key))
        await self._asked("SET", self._key(key), sealed, "PX", max(1, int(ttl_seconds * 1000)))

    async def count(self, key: str, *, ttl_seconds: float) -> int | None:
        """See `Cache`."""
        counted: int | None = await self._asked("INCR", self._key(key))
        # One that was left without an end gets it with the next.
        await self._asked("PEXPIRE", self._key(key), max(1, int(ttl_seconds * 1000)), "NX")
        return counted

    def _key(self, key: str) -> str:
        if self._cipher.is_on:
            key = self._cipher.blind(key, "cache").hex()
        return f"{self._prefix}:cache:{key}"

    async def _asked(self, *command: str | bytes | int) -> Any:
        if time.monotonic() < self._away_until:
            return None
        try:
            async with answered(ANSWER_SECONDS):
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except UnavailableError:
            self._away_until = time.monotonic() + PAUSE_SECONDS
            log.warning("the cache waits for Redis")
            return None


@asynccontextmanager
async def open_cache(
    redis_url: str, *, prefix: str = "threadwell", cipher: Cipher = CLEAR
) -> AsyncIterator[Cache]:
    """
    Open the cache; Redis need not answer yet, or ever.

    Args:
        redis_url: Empty for a process that is alone.
        prefix: The beginning of all keys.
        cipher: Seals what is kept in Redis.

    Raises:
        InvalidInputError: The URL is not valid.
    """
    if not redis_url:
        yield LocalCache()
        return
    try:
        client = Redis.from_url(
            redis_url,
            protocol=2,
            max_connections=CONNECTIONS,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=CONNECT_SECONDS,
        )
    except ValueError:
        # Its message may hold a part of the password.
        raise InvalidInputError("The Redis URL is not valid") from None
    async with client:
        yield RedisCache(client, prefix, cipher=cipher)
