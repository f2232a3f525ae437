import asyncio
import os
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from api.processes.embedded import Servers
from store.errors import InvalidInputError
from store.events import (
    START,
    EventId,
    EventLog,
    Gap,
    open_event_log,
    parse_event_id,
)
from store.streams import open_streams
from tests.store.event_logs import (
    DEADLINE_SECONDS,
    emit,
    ids,
    names,
    positions,
    read,
    replicas,
    until,
)


async def stream_length(redis_url: str, prefix: str) -> int:
    async with open_streams(redis_url, prefix, 10_000) as streams:
        return len((await streams.page("t", START, 10_000)).events)


async def until_stored(redis_url: str, prefix: str, count: int) -> None:
    async def is_stored() -> bool:
        return await stream_length(redis_url, prefix) == count

    await until(is_stored)


@pytest.mark.parametrize(
    ("text", "position"),
    [("-1", (0, 0)), ("-", (0, 0)), ("0-0", (0, 0)), ("12-345", (12, 345)), (" 1-2 ", (1, 2))],
)
def test_an_event_id_is_epoch_and_seq(text: str, position: EventId) -> None:
    assert parse_event_id(text) == position


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-2", "1-2-3", "1-x", "1--2", "+1-2", "1-٣", "9223372036854775808-1"]
)
def test_what_is_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_event_id(text)


async def test_a_client_that_reconnects_anywhere_gets_exactly_the_rest(servers: Servers) -> None:
    async with replicas(servers.redis_url) as (here, there):
        writer = here.writer("t", 3, "r")
        emit(writer, 60)

        for index in range(60):
            for log in (here, there):
                seen = await read(log, "t", (3, index), (3, 60))
                assert seen == ids(3, range(index + 1, 61))


async def test_an_event_reaches_other_replicas_as_it_was_emitted(servers: Servers) -> None:
    async with replicas(servers.redis_url) as (here, there):
        event = here.writer("t", 1, "run").emit("messages|ü", b'{"a": "\x00\xff"}')

        async with aclosing(there.follow("t", START)) as items:
            assert await anext(items) == [event]
        assert event.id == "1-1"


async def test_followers_go_with_the_thread_from_process_to_process(servers: Servers) -> None:
    async with replicas(servers.redis_url, 3) as logs:
        readers = [asyncio.create_task(read(log, "t", (1, 0), (6, 40))) for log in logs]

        for epoch in range(1, 7):
            # Epoch 4 wrote nothing, as when only the state was updated.
            if epoch != 4:
                writer = logs[epoch % 3].writer("t", epoch, "r")
                emit(writer, 20)
                await read(logs[(epoch + 1) % 3], "t", (epoch, 0), (epoch, 20))
                emit(writer, 20)
                writer.close()

        expected = [p for epoch in (1, 2, 3, 5, 6) for p in ids(epoch, range(1, 41))]
        assert await asyncio.gather(*readers) == [expected] * 3


async def test_a_client_of_an_earlier_run_catches_up_with_a_later_one_elsewhere(
    servers: Servers,
) -> None:
    prefix = names()
    async with replicas(servers.redis_url, prefix=prefix) as (here, there):
        first = here.writer("t", 1, "r1")
        emit(first, 10)
        first.close()
        await until_stored(servers.redis_url, prefix, 10)
        emit(there.writer("t", 2, "r2"), 10)
        await until_stored(servers.redis_url, prefix, 20)
        emit(here.writer("t", 3, "r3"), 10)

        expected = ids(1, range(5, 11)) + ids(2, range(1, 11)) + ids(3, range(1, 11))
        assert await read(here, "t", (1, 4), (3, 10)) == expected
        assert await read(there, "t", (1, 4), (3, 10)) == expected


async def test_a_client_at_the_end_of_a_run_goes_on_with_the_next_elsewhere(
    servers: Servers,
) -> None:
    async with replicas(servers.redis_url, keep_seconds=0.1) as (here, there):
        writer = here.writer("t", 1, "r1")
        emit(writer, 10)
        writer.close()
        reader = asyncio.create_task(read(here, "t", (1, 10), (2, 5)))
        # The thread is known as long as it is followed; its events are not kept for that.
        await until(lambda: here.memory_bytes == 0)
        assert here.thread_count == 1
        emit(there.writer("t", 2, "r2"), 5)

        assert await reader == ids(2, range(1, 6))


async def test_a_zombie_is_fenced_and_its_events_are_nowhere(servers: Servers) -> None:
    prefix = names()
    async with replicas(servers.redis_url, prefix=prefix) as (here, there):
        zombie = here.writer("t", 1, "r")
        emit(zombie, 5)
        await read(there, "t", (1, 0), (1, 5))
        writer = there.writer("t", 2, "r")
        emit(writer, 1)
        await until_stored(servers.redis_url, prefix, 6)

        emit(zombie, 5)
        async with asyncio.timeout(5):
            await zombie.fenced.wait()
        emit(zombie, 5)
        emit(writer, 1)

        expected = ids(1, range(1, 6)) + ids(2, [1, 2])
        assert await read(here, "t", (1, 0), (2, 2)) == expected
        assert await read(there, "t", (1, 0), (2, 2)) == expected
        assert not writer.fenced.is_set()
        assert await stream_length(servers.redis_url, prefix) == 7


async def test_a_reader_that_finds_a_later_run_fences_a_silent_zombie(servers: Servers) -> None:
    async with replicas(servers.redis_url) as (here, there):
        zombie = here.writer("t", 1, "r")
        emit(zombie, 5)
        await read(there, "t", (1, 0), (1, 5))
        emit(there.writer("t", 2, "r"), 1)

        assert await read(here, "t", (2, 0), (2, 1)) == [(2, 1)]
        assert zombie.fenced.is_set()


async def test_a_later_lease_in_the_same_process_fences_the_earlier_writer() -> None:
    async with open_event_log("") as log:
        first = log.writer("t", 1, "r")
        second = log.writer("t", 2, "r")
        late = log.writer("t", 1, "r")

        assert first.fenced.is_set()
        assert late.fenced.is_set()
        assert not second.fenced.is_set()
        with pytest.raises(ValueError, match="Epoch 2"):
            log.writer("t", 2, "r")


async def test_a_closed_writer_adds_nothing() -> None:
    async with open_event_log(None) as log:
        writer = log.writer("t", 1, "r")
        emit(writer, 1)
        writer.close()
        emit(writer, 1)
        writer.close()

        assert await log.tail("t") == (1, 1)


async def test_a_trimmed_log_gives_one_gap_and_then_every_event(servers: Servers) -> None:
    async with replicas(servers.redis_url, max_events=500) as (here, there):
        emit(here.writer("t", 1, "r"), 2_000)
        await read(there, "t", (1, 1_999), (1, 2_000))

        for log in (here, there):
            seen = await read(log, "t", (1, 10), (1, 2_000))
            gap = seen[0]
            assert isinstance(gap, Gap)
            # Redis trims whole nodes of 100 entries.
            assert 1_300 < gap.resume_at[1] <= 1_500
            assert seen[1:] == ids(1, range(gap.resume_at[1] + 1, 2_001))


async def test_a_lost_end_of_an_epoch_is_a_gap(servers: Servers) -> None:
    prefix = names()
    async with replicas(servers.redis_url, prefix=prefix, keep_seconds=0.05) as (here, there):
        first = here.writer("t", 1, "r")
        emit(first, 10)
        first.close()
        await read(there, "t", (1, 0), (1, 10))
        await until(lambda: here.thread_count == 0)
        async with Redis.from_url(servers.redis_url) as redis:
            await redis.delete(f"{prefix}:ev:{{t}}")
        emit(here.writer("t", 2, "r"), 3)

        for log in (here, there):
            assert await read(log, "t", (1, 4), (2, 3)) == [Gap((2, 0)), *ids(2, [1, 2, 3])]


async def test_without_redis_a_client_behind_the_ring_gets_a_gap() -> None:
    async with open_event_log("", max_events=100) as log:
        emit(log.writer("t", 1, "r"), 250)

        assert await read(log, "t", (1, 10), (1, 250)) == [Gap((1, 150)), *ids(1, range(151, 251))]
        assert await read(log, "t", (1, 200), (1, 250)) == ids(1, range(201, 251))


async def test_without_redis_a_follower_crosses_epochs_that_wrote_nothing() -> None:
    async with open_event_log("") as log:
        reader = asyncio.create_task(read(log, "t", START, (5, 2)))
        first = log.writer("t", 1, "r")
        emit(first, 2)
        first.close()
        emit(log.writer("t", 5, "r"), 2)

        assert await reader == ids(1, [1, 2]) + ids(5, [1, 2])


async def test_a_slow_local_reader_goes_on_from_redis(servers: Servers) -> None:
    # The ring holds some 500 events, the stream all of them.
    async with replicas(servers.redis_url, max_total_bytes=100_000) as (here, there):
        writer = here.writer("t", 1, "r")
        emit(writer, 100)
        async with aclosing(here.follow("t", (1, 0))) as items:
            seen = positions(await anext(items))
            for number in range(200, 3_001, 100):
                emit(writer, 100)
                await read(there, "t", (1, number - 1), (1, number))
            async for item in items:
                seen += positions(item)
                if seen[-1] == (1, 3_000):
                    break

        assert seen == ids(1, range(1, 3_001))


async def test_big_events_respect_the_byte_budget_in_memory_and_in_redis(
    servers: Servers,
) -> None:
    prefix = names()
    async with replicas(servers.redis_url, prefix=prefix) as (here, there):
        writer = here.writer("t", 1, "r")
        async with aclosing(there.follow("t", START)) as items:
            for number in range(1, 61):
                emit(writer, 1, os.urandom(1_000_000))
                assert positions(await anext(items)) == [(1, number)]
                assert here.memory_bytes <= 16 << 20
                assert there.memory_bytes <= 1_100_000
        async with Redis.from_url(servers.redis_url) as redis:
            key = f"{prefix}:ev:{{t}}"

            async def is_trimmed() -> bool:
                return (await redis.memory_usage(key, samples=0) or 0) <= 18 << 20

            await until(is_trimmed)
        assert await read(there, "t", START, (1, 60)) == [Gap((1, 44)), *ids(1, range(45, 61))]


async def test_what_every_token_repeats_is_kept_about_once(servers: Servers) -> None:
    prefix = names()
    metadata = os.urandom(1_000).hex().encode()
    async with replicas(servers.redis_url, 1, prefix=prefix) as (log,):
        emit(log.writer("t", 1, "r"), 100, metadata)
    async with Redis.from_url(servers.redis_url) as redis:
        kept = await redis.memory_usage(f"{prefix}:ev:{{t}}", samples=0) or 0
    assert 1_000 < kept < 100 * len(metadata) / 10
    assert await stream_length(servers.redis_url, prefix) == 100


async def test_runs_that_move_between_processes_do_not_pile_up_in_redis(
    servers: Servers,
) -> None:
    prefix = names()
    async with replicas(servers.redis_url, 3, prefix=prefix, max_bytes=2 << 20) as logs:
        for epoch in range(1, 10):
            writer = logs[epoch % 3].writer("t", epoch, "r")
            for number in range(1, 16):
                emit(writer, 1, os.urandom(100_000))
                await read(logs[(epoch + 1) % 3], "t", (epoch, number - 1), (epoch, number))
            writer.close()

        async with Redis.from_url(servers.redis_url) as redis:
            assert (await redis.memory_usage(f"{prefix}:ev:{{t}}", samples=0) or 0) < 5 << 20


async def test_all_rings_together_stay_within_their_bound() -> None:
    async with open_event_log("", max_total_bytes=1_000_000) as log:
        ended = [log.writer(f"ended {n}", 1, "r") for n in range(5)]
        for writer in ended:
            emit(writer, 100, bytes(1_000))
            writer.close()
        running = log.writer("running", 1, "r")

        for _ in range(400):
            emit(running, 1, bytes(1_000))
            assert log.memory_bytes <= 1_000_000

        # Room was made by those that have ended.
        assert await read(log, "running", (1, 0), (1, 400)) == ids(1, range(1, 401))


@pytest.mark.parametrize("shared", [True, False])
async def test_a_thousand_ended_threads_leave_nothing(servers: Servers, shared: bool) -> None:
    url = servers.redis_url if shared else ""
    async with replicas(url, keep_seconds=0.1, ttl_seconds=0.1) as (here, there):
        for number in range(1_000):
            writer = here.writer(f"t{number}", 1, "r")
            emit(writer, 3)
            if number % 10 == 0:
                assert await read(here, f"t{number}", START, (1, 3)) == ids(1, [1, 2, 3])
            if number % 100 == 0 and shared:
                assert await read(there, f"t{number}", START, (1, 3)) == ids(1, [1, 2, 3])
            writer.close()

        await until(lambda: here.thread_count == there.thread_count == 0)
        assert here.memory_bytes == there.memory_bytes == 0


async def test_followers_that_are_cancelled_leave_nothing(servers: Servers) -> None:
    async with replicas(servers.redis_url) as (here, there):
        tasks = {
            asyncio.create_task(read(log, f"t{n % 50}", START, (1, 2)))
            for n in range(200)
            for log in (here, there)
        }
        await until(lambda: here.thread_count == there.thread_count == 50)
        await read_all_but_the_end(here, there)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert there.thread_count == 0
        assert there.memory_bytes == 0


async def read_all_but_the_end(here: EventLog, there: EventLog) -> None:
    writers = [here.writer(f"t{n}", 1, "r") for n in range(50)]
    for writer in writers:
        emit(writer, 1)
    await asyncio.gather(*(read(there, f"t{n}", START, (1, 1)) for n in range(50)))


async def test_silence_is_told_of_and_a_stop_ends_it(servers: Servers) -> None:
    stop = asyncio.Event()
    async with replicas(servers.redis_url, 1) as (log,):
        seen: list[object] = []
        async for item in log.follow("t", START, idle_seconds=0.02, stop=stop):
            seen.append(item)
            if len(seen) == 3:
                stop.set()

        assert seen == [[], [], []]


async def test_closing_the_log_ends_its_followers(servers: Servers) -> None:
    async with open_event_log(servers.redis_url, prefix=names()) as log:
        follower = asyncio.create_task(read(log, "t", START, (1, 1)))
        await until(lambda: log.thread_count == 1)

    assert await follower == []


async def test_closing_the_log_sends_what_is_pending(servers: Servers) -> None:
    prefix = names()
    async with open_event_log(servers.redis_url, prefix=prefix) as log:
        emit(log.writer("t", 1, "r"), 5_000)

    assert await stream_length(servers.redis_url, prefix) == 5_000


async def test_the_tail_is_the_last_id_wherever_the_run_is(servers: Servers) -> None:
    async with replicas(servers.redis_url) as (here, there):
        assert await here.tail("t") == START
        writer = here.writer("t", 1, "r")
        emit(writer, 3)
        await read(there, "t", START, (1, 3))
        assert await there.tail("t") == await here.tail("t") == (1, 3)
        writer.close()
        emit(there.writer("t", 2, "r"), 1)
        await read(here, "t", (2, 0), (2, 1))

        assert await here.tail("t") == await there.tail("t") == (2, 1)


async def test_a_deleted_log_is_gone_everywhere(servers: Servers) -> None:
    prefix = names()
    async with replicas(servers.redis_url, prefix=prefix) as (here, there):
        writer = here.writer("t", 7, "r")
        emit(writer, 3)
        await read(there, "t", (7, 0), (7, 3))
        await here.delete("t")
        emit(writer, 3)

        assert writer.fenced.is_set()
        assert await here.tail("t") == await there.tail("t") == START
        # Whoever takes the id again begins with a lower epoch.
        emit(there.writer("t", 1, "r"), 2)
        assert await read(here, "t", START, (1, 2)) == ids(1, [1, 2])


async def test_a_stream_expires_some_time_after_its_run(servers: Servers) -> None:
    prefix = names()
    async with (
        replicas(servers.redis_url, prefix=prefix, ttl_seconds=100) as (here, there),
        Redis.from_url(servers.redis_url) as redis,
    ):
        key = f"{prefix}:ev:{{t}}"
        writer = here.writer("t", 1, "r")
        emit(writer, 1)
        await read(there, "t", START, (1, 1))
        assert 3_500 < await redis.ttl(key) <= 3_600

        writer.close()

        async def is_short() -> bool:
            return await redis.ttl(key) <= 100

        await until(is_short)
        emit(here.writer("t", 2, "r"), 1)
        await read(there, "t", START, (2, 1))
        assert await redis.ttl(key) > 3_500


async def test_a_client_with_an_id_from_nowhere_disturbs_nobody(servers: Servers) -> None:
    async with replicas(servers.redis_url) as (here, there):
        lost = asyncio.create_task(read(there, "t", (99, 9), (100, 1)))
        await until(lambda: there.thread_count == 1)
        assert await there.tail("t") == START
        reader = asyncio.create_task(read(there, "t", START, (1, 40)))
        writer = here.writer("t", 1, "r")
        emit(writer, 20)
        await read(there, "t", (1, 0), (1, 20))
        emit(writer, 20)

        assert await reader == ids(1, range(1, 41))
        lost.cancel()


async def test_more_threads_are_followed_than_fit_on_one_connection(servers: Servers) -> None:
    async with replicas(servers.redis_url) as (here, there):
        readers = [asyncio.create_task(read(there, f"t{n}", START, (1, 20))) for n in range(150)]
        await until(lambda: there.thread_count == 150)
        writers = [here.writer(f"t{n}", 1, "r") for n in range(150)]
        for _ in range(20):
            for writer in writers:
                emit(writer, 1)
            await asyncio.sleep(0)

        assert await asyncio.gather(*readers) == [ids(1, range(1, 21))] * 150


async def test_a_thread_is_heard_of_at_once_though_the_hub_waits_for_others(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.hub.BLOCK_SECONDS", 3600.0)
    async with (
        replicas(servers.redis_url) as (here, there),
        Redis.from_url(servers.redis_url) as redis,
    ):

        async def waits() -> bool:
            return bool((await redis.info("clients"))["blocked_clients"])

        other = asyncio.create_task(read(there, "other", START, (1, 1)))
        await until(waits)
        writer = here.writer("t", 1, "r")
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            aclosing(there.follow("t", START)) as items,
        ):
            for number in range(1, 11):
                emit(writer, 1)
                assert positions(await anext(items)) == [(1, number)]
        other.cancel()


async def test_health_is_what_redis_answers(servers: Servers) -> None:
    async with open_event_log(servers.redis_url) as log:
        await log.ping()
    async with open_event_log("") as log:
        await log.ping()


@pytest.mark.parametrize(
    "url", ["redis://:s3cr/et@host:6379", "http://user:s3cr@host", "s3cr", "redis://h:s3cr"]
)
async def test_an_invalid_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        async with open_event_log(url):
            pass

    assert "s3cr" not in str(raised.value)
    assert raised.value.__suppress_context__
