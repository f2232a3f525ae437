"""How much one may ask for at a time: counted for all processes, and by each while Redis is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from api.processes.embedded import Servers
from store.limits import Limiter, Place, Places, Rate, key_of, open_limiter
from tests.store.event_logs import until

SLOW = Rate(per_second=0.01, burst=3)
TWO = Places("streams", 2)


@pytest.fixture
def key() -> str:
    return key_of(uuid4().hex)


@pytest.fixture
async def pair(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Limiter, Limiter]]:
    # Who has no answer for half a second counts by itself: not because the machine is busy.
    monkeypatch.setattr("store.limits.ANSWER_SECONDS", 20.0)
    async with open_limiter(servers.redis_url) as one, open_limiter(servers.redis_url) as other:
        yield one, other


async def held(limiter: Limiter, key: str, places: Places = TWO) -> Place:
    taken = await limiter.take(key, None, places)
    assert taken.refused is None
    assert taken.place is not None
    return taken.place


async def freed(limiter: Limiter, key: str, places: Places = TWO) -> Place:
    """A place, as soon as one is to be had."""
    async with asyncio.timeout(10):
        while True:
            place = (await limiter.take(key, None, places)).place
            if place is not None:
                return place
            await asyncio.sleep(0.01)


async def test_a_burst_is_let_through_once_by_all_processes_together(
    pair: tuple[Limiter, Limiter], key: str
) -> None:
    one, other = pair
    taken = [await limiter.take(key, SLOW, None) for limiter in (one, other, one, other, one)]

    assert [t.refused for t in taken] == [None, None, None, "rate", "rate"]
    assert [t.remaining for t in taken] == [2, 1, 0, 0, 0]
    assert 99 < taken[0].full_in_seconds <= 100
    assert 299 < taken[2].full_in_seconds <= 300
    assert 95 < taken[3].retry_in_seconds <= 100
    assert 95 < taken[4].retry_in_seconds <= 100
    assert (await one.take(key_of("somebody else"), SLOW, None)).refused is None


async def test_many_at_once_get_exactly_the_burst(pair: tuple[Limiter, Limiter], key: str) -> None:
    rate = Rate(per_second=0.01, burst=20)
    taken = await asyncio.gather(
        *(limiter.take(key, rate, None) for limiter in pair for _ in range(50))
    )

    assert [t.refused for t in taken].count(None) == 20


async def test_a_bucket_fills_at_its_rate(pair: tuple[Limiter, Limiter], key: str) -> None:
    rate = Rate(per_second=0.5, burst=1)
    assert (await pair[0].take(key, rate, None)).refused is None
    wait = (await pair[1].take(key, rate, None)).retry_in_seconds
    assert 0 < wait <= 2
    async with asyncio.timeout(wait + 5):
        while True:
            if (await pair[0].take(key, rate, None)).refused is None:
                return
            await asyncio.sleep(0.05)


async def test_places_are_held_until_they_are_given_back_by_whichever_process(
    pair: tuple[Limiter, Limiter], key: str
) -> None:
    one, other = pair
    first, second = await held(one, key), await held(other, key)
    assert (await one.take(key, None, TWO)).refused == "places"
    assert (await other.take(key, None, TWO)).refused == "places"
    assert (await other.take(key, None, Places("requests", 1))).refused is None

    other.give_back(second)
    third = await freed(one, key)
    assert len({first.member, second.member, third.member}) == 3


async def test_who_gets_no_place_keeps_its_token_and_who_gets_no_token_no_place(
    pair: tuple[Limiter, Limiter], key: str
) -> None:
    one, other = pair
    rate = Rate(per_second=0.01, burst=2)
    place = (await one.take(key, rate, Places("requests", 1))).place
    assert place is not None
    refused = await other.take(key, rate, Places("requests", 1))
    assert (refused.refused, refused.remaining) == ("places", 1)
    one.give_back(place)

    again = await freed(other, key, Places("requests", 1))
    other.give_back(again)
    assert (await one.take(key, rate, None)).refused is None
    assert (await one.take(key, rate, Places("requests", 1))).refused == "rate"
    await freed(other, key, Places("requests", 1))


async def test_a_process_that_dies_gives_its_places_back_and_one_that_lives_keeps_them(
    servers: Servers, key: str
) -> None:
    most = Places("streams", 2)
    async with open_limiter(servers.redis_url, lease_seconds=0.4) as living:
        await held(living, key, most)
        async with open_limiter(servers.redis_url, lease_seconds=0.4) as dying:
            await held(dying, key, most)
        assert (await living.take(key, None, most)).refused == "places"

        await freed(living, key, most)
        # Its places are renewed until all would have been over twice.
        async with Redis.from_url(servers.redis_url) as redis:
            [name] = [name async for name in redis.scan_iter(match=f"*{key}*")]

            async def first_over() -> float:
                found: Any = await redis.zrange(name, 0, -1, withscores=True)
                return min(float(over_at) for _, over_at in found)

            begun = await first_over()

            async def renewed() -> bool:
                return await first_over() > begun + 2 * 0.4 * 1_000_000

            await until(renewed)
        assert (await living.take(key, None, most)).refused == "places"


async def test_a_redis_that_was_wiped_learns_what_is_held(
    servers: Servers, pair: tuple[Limiter, Limiter], key: str
) -> None:
    await held(pair[0], key)
    await held(pair[0], key)
    async with Redis.from_url(servers.redis_url) as redis:
        found = [name async for name in redis.scan_iter(match=f"*{key}*")]
        assert await redis.delete(*found) == 1
        await pair[0].renew()

        assert (await pair[1].take(key, None, TWO)).refused == "places"
        # Nothing is kept of who has gone.
        assert 0 < await redis.pttl(found[0]) <= 60_000


async def test_nobody_is_named_in_redis_and_what_was_used_up_goes(
    servers: Servers, pair: tuple[Limiter, Limiter]
) -> None:
    key = key_of("ada@example.org \0 \ud800")
    assert (await pair[0].take(key, Rate(per_second=1000, burst=2), None)).refused is None
    async with Redis.from_url(servers.redis_url) as redis:
        assert key.isalnum()
        assert not await redis.keys("*example*")
        async with asyncio.timeout(5):
            while True:
                if not await redis.keys(f"*{key}*"):
                    break
                await asyncio.sleep(0.01)


async def test_without_redis_a_process_counts_by_itself(key: str) -> None:
    async with open_limiter("") as limiter:
        taken = [await limiter.take(key, SLOW, None) for _ in range(4)]
        assert [(t.refused, t.remaining) for t in taken] == [
            (None, 2), (None, 1), (None, 0), ("rate", 0),
        ]  # fmt: skip
        assert 99 < taken[3].retry_in_seconds <= 100
        assert (await limiter.take(key, SLOW, TWO)).place is None
        other = key_of("other")
        place, _ = await held(limiter, other), await held(limiter, other)
        refused = await limiter.take(other, SLOW, TWO)
        assert (refused.refused, refused.remaining) == ("places", 3)
        limiter.give_back(place)
        limiter.give_back(place)
        assert (await limiter.take(other, SLOW, TWO)).remaining == 2
        assert (await limiter.take(other, SLOW, TWO)).refused == "places"


async def test_while_redis_says_nothing_limits_hold_and_nobody_waits_for_it(key: str) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    mute = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    began = asyncio.get_running_loop().time()
    async with mute, open_limiter(f"redis://127.0.0.1:{port}") as limiter:
        taken = [await limiter.take(key, SLOW, TWO) for _ in range(10)]
        for one in taken:
            if one.place:
                limiter.give_back(one.place)
        await held(limiter, key)

    assert [t.refused for t in taken] == [None, None, *["places"] * 8]
    # In turn they would have waited for 5 seconds.
    assert asyncio.get_running_loop().time() - began < 4.5


async def test_a_clock_that_is_set_back_makes_nobody_wait_longer_than_for_an_empty_bucket(
    servers: Servers, pair: tuple[Limiter, Limiter], key: str
) -> None:
    rate = Rate(per_second=4, burst=2)
    async with Redis.from_url(servers.redis_url) as redis:
        # Full again in an hour, said a clock that was ahead.
        at = (time.time() + 3600) * 1e6
        await redis.set(f"threadwell:limit:{{{key}}}:rate", f"{at:.0f}", ex=7200)
    wait = (await pair[0].take(key, rate, None)).retry_in_seconds
    assert 0 < wait <= 0.25
    async with asyncio.timeout(5):
        while (await pair[0].take(key, rate, None)).refused:  # noqa: ASYNC110 - of Redis' clock
            await asyncio.sleep(0.02)
