"""Redis dies, comes back empty or old, stalls, or was never there: who notices, and what."""

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from api.processes.embedded import Servers
from store.streams import CONNECT_SECONDS
from tests.acceptance.gate import Gate, open_gate
from tests.acceptance.talk import says, tokens
from tests.faults.clients import Client, get_json, join, new_thread, start
from tests.faults.stores import Network, Trio, Valkey, open_network, open_trio

DEADLINE_SECONDS = 60.0
#: Between two events, on a busy machine; every time-out of ours is longer.
MOMENT_SECONDS = 0.95 * CONNECT_SECONDS
QUICK = {"LEASE_SECONDS": "3", "HEARTBEAT_SECONDS": "0.5", "SSE_HEARTBEAT_SECONDS": "0.5"}


class Store:
    """Redis as the processes see it: each through a network of its own."""

    def __init__(self, valkey: Valkey, networks: list[Network], trio: Trio) -> None:
        self.valkey = valkey
        self.networks = networks
        self.trio = trio
        self.urls = trio.urls


@pytest.fixture(scope="module")
def processes(servers: Servers) -> Iterator[Store]:
    """Two servers and a worker that were started before their Redis."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadwell-")))
        valkey = Valkey(directory / "valkey")
        networks = [stack.enter_context(open_network(valkey.socket)) for _ in range(3)]
        database = stack.enter_context(_database(servers.database_url))
        common = {**QUICK, "DATABASE_URL": database}
        variables = [
            {**common, "REDIS_URL": f"redis://127.0.0.1:{network.port}"} for network in networks
        ]
        trio = stack.enter_context(open_trio(directory, variables))
        valkey.start()
        stack.callback(valkey.kill)
        yield Store(valkey, networks, trio)


@contextmanager
def _database(url: str) -> Iterator[str]:
    name = f"faults_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield urlsplit(url)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(processes: Store) -> Iterator[Store]:
    """What the processes log meanwhile is shown if the test fails."""
    printed = [(member, len(member.now.lines)) for member in processes.trio.members]
    yield processes
    for member, count in printed:
        print(f"{member.name}:\n", *member.now.lines[count:], sep="")  # noqa: T201
        assert member.now.process.poll() is None, "it has died"


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    async with asyncio.timeout(DEADLINE_SECONDS), open_gate() as gate:
        yield gate


@asynccontextmanager
async def killed_and_empty(store: Store) -> AsyncIterator[None]:
    store.valkey.forget()
    store.valkey.kill()
    yield
    store.valkey.start()


@asynccontextmanager
async def killed_and_back_with_its_data(store: Store) -> AsyncIterator[None]:
    store.valkey.save()
    store.valkey.kill()
    yield
    store.valkey.start()
    store.valkey.forget()


@asynccontextmanager
async def wiped(store: Store) -> AsyncIterator[None]:
    store.valkey.wipe()
    yield


@asynccontextmanager
async def frozen(store: Store) -> AsyncIterator[None]:
    store.valkey.freeze()
    yield
    store.valkey.thaw()


@asynccontextmanager
async def slow(store: Store) -> AsyncIterator[None]:
    for network in store.networks:
        network.delay_seconds = 0.3
    yield
    for network in store.networks:
        network.delay_seconds = 0.0


@asynccontextmanager
async def cut_again_and_again(store: Store) -> AsyncIterator[None]:
    async def cut() -> None:
        while True:
            for network in store.networks:
                await asyncio.to_thread(network.cut)
            await asyncio.sleep(0.05)

    cutting = asyncio.create_task(cut())
    yield
    cutting.cancel()


@asynccontextmanager
async def swallowed_by_the_network(store: Store) -> AsyncIterator[None]:
    for network in store.networks:
        network.swallows = True
    yield
    for network in store.networks:
        network.swallows = False


FAULTS = (
    killed_and_empty,
    killed_and_back_with_its_data,
    wiped,
    frozen,
    slow,
    cut_again_and_again,
    swallowed_by_the_network,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_local_clients_notice_nothing_and_remote_ones_catch_up(
    fault: Any, store: Store, gate: Gate
) -> None:
    gate.hold("r:0", "r:1")
    thread_id = await new_thread(store.urls[0])
    given = {"gate": gate.port, "name": "r", "ticks": [20, 100, 20]}
    here = await start(store.urls[0], thread_id, "ticks", given, "custom")
    there = await join(store.urls[1], here.location)
    await gate.arrived("r:0")
    await there.until(lambda: there.said == list(range(1, 21)))

    async with fault(store):
        gate.release("r:0")
        await gate.arrived("r:1")
        await here.until(lambda: here.said == list(range(1, 121)))
        assert here.longest_pause(21, 120) < MOMENT_SECONDS
    await there.until(lambda: there.said == list(range(1, 121)))
    seen = len(there.frames)
    late = await join(store.urls[1], here.location, there.frames[-1].id)
    gate.release("r:1")
    for client in (here, there, late):
        await client.task

    assert here.said == list(range(1, 141))
    assert here.frames[-1].name == "end"
    assert there.raw == here.raw
    assert late.raw == b"".join(frame.raw for frame in here.frames[seen:])


async def test_a_run_from_beginning_to_end_without_redis(store: Store, gate: Gate) -> None:
    gate.hold("r:0")
    thread_id = await new_thread(store.urls[0])
    given = {"gate": gate.port, "name": "r", "ticks": [20]}
    async with killed_and_empty(store):
        here = await start(store.urls[0], thread_id, "ticks", given, "custom")
        there = await join(store.urls[1], here.location)
        waiting = asyncio.create_task(get_json(store.urls[1] + here.location[:-6] + "join"))
        await gate.arrived("r:0")
        gate.release("r:0")
        for client in (here, there):
            await client.task
        joined = await waiting
    late = await join(store.urls[1], here.location)
    await late.task

    assert here.said == list(range(1, 21))
    assert [frame.name for frame in there.frames] == ["metadata", "end"]
    assert there.frames[0].data["status"] == "gap"
    assert there.frames[1].data == here.frames[-1].data
    assert joined["said"] == 20
    assert late.raw == here.raw


async def test_events_that_redis_refuses_are_replaced_by_the_state_they_led_to(
    store: Store, gate: Gate
) -> None:
    # The owner's way to Redis stalls from the first word to the end of its run, so that the next
    # run of the thread, in another process, comes first there.
    gate.hold("middle")
    thread_id = await new_thread(store.urls[0])
    told = says(f"hold {gate.port} middle one two three")
    first = await start(store.urls[0], thread_id, "chat", told, "messages-tuple", "values")
    there = await join(store.urls[1], first.location)
    waiting = asyncio.create_task(get_json(store.urls[1] + first.location[:-6] + "join"))
    await gate.arrived("middle")
    await there.until(lambda: tokens(there.frames) == ["(1)"])
    store.networks[0].swallows = True
    gate.release("middle")
    await first.task
    second = await start(store.urls[1], thread_id, "chat", says("next"), "values")
    await second.task
    store.networks[0].swallows = False
    await there.task
    # The thread has gone on since, but not this run.
    late = await join(store.urls[1], first.location)
    await late.task

    expected = "(1) one two three"
    assert "".join(tokens(first.frames)) == expected
    heard = len(there.frames) - 3
    assert there.frames[:heard] == first.frames[:heard]
    assert there.frames[heard].data["status"] == "gap"
    # Whether the owner has forgotten its own by then or not.
    for client in (there, late):
        *_, snapshot, end = client.frames
        assert (snapshot.name, end.name) == ("values", "end")
        assert snapshot.data["messages"][-1]["content"] == expected
        assert end.data == first.frames[-1].data
    assert (await waiting)["messages"][-1]["content"] == expected


async def test_a_session_gets_its_messages_whole_if_it_could_not_follow_them(
    store: Store, gate: Gate
) -> None:
    gate.hold("middle")
    thread_id = await new_thread(store.urls[1])
    told = says(f"hold {gate.port} middle first")
    before = await start(store.urls[1], thread_id, "chat", told, "values")
    await gate.arrived("middle")
    async with killed_and_empty(store):
        # It waits for the one before, and then is anybody's.
        asked = Client()
        body = {"query": "and then", "stream": True, "on_busy": "enqueue"}
        url = f"{store.urls[0]}/api/sessions/{thread_id}/messages"
        await asked.read("POST", url, json=body)
        gate.release("middle")
        await before.task
        await asked.task

    ended = [frame for frame in asked.frames if frame.name == "message.end"]
    assert ended[-1].data["content"].endswith(" and then")
    assert asked.frames[-1].name == "run.end"
    assert asked.frames[-1].data["status"] == "success"
