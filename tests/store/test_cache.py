"""Values that may be lost: kept for a while, in bounds, and never an error of whoever asks."""

import asyncio

import pytest

from api.processes.embedded import Servers
from store.cache import LocalCache, RedisCache, open_cache
from tests.store.event_logs import until


async def test_a_value_is_there_for_as_long_as_it_was_meant_to_in_every_process(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that is busy for a second is no Redis that is away.
    monkeypatch.setattr("store.cache.ANSWER_SECONDS", 20.0)
    async with open_cache(servers.redis_url) as one, open_cache(servers.redis_url) as other:
        await one.put("kept 键", b"\x00\xff", ttl_seconds=60)
        await one.put("gone", b"2", ttl_seconds=3)
        assert isinstance(one, RedisCache)
        assert await other.get("gone") == b"2"

        async def is_gone() -> bool:
            return await other.get("gone") is None

        await until(is_gone)
        assert await other.get("kept 键") == b"\x00\xff"
        assert await other.get("never") is None


async def test_without_redis_a_process_keeps_a_bounded_number_of_its_own() -> None:
    async with open_cache("") as opened:
        assert isinstance(opened, LocalCache)
    cache = LocalCache(max_entries=3, max_bytes=30)
    for key in "abc":
        await cache.put(key, b"123", ttl_seconds=60)
    assert await cache.get("a") == b"123"
    await cache.put("d", b"1234", ttl_seconds=60)
    assert [await cache.get(key) for key in "abcd"] == [b"123", None, b"123", b"1234"]
    await cache.put("e", b"x" * 24, ttl_seconds=60)
    assert [await cache.get(key) for key in "acde"] == [None, None, b"1234", b"x" * 24]
    await cache.put("huge", b"x" * 31, ttl_seconds=60)
    assert [await cache.get(key) for key in ("e", "huge")] == [None, None]
    await cache.put("short", b"1", ttl_seconds=0)
    assert await cache.get("short") is None


async def test_while_redis_says_nothing_nothing_is_known_and_nobody_waits_for_it() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    mute = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    began = asyncio.get_running_loop().time()
    async with mute, open_cache(f"redis://127.0.0.1:{port}") as cache:
        for _ in range(20):
            await cache.put("k", b"2", ttl_seconds=60)
            assert await cache.get("k") is None

    # In turn they would have waited for 20 seconds.
    assert asyncio.get_running_loop().time() - began < 12
