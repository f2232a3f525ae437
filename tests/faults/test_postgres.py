"""PostgreSQL stops, freezes, loses its connections or its answers, and is replaced by a standby."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.embedded import Servers
from tests.acceptance.gate import Gate, open_gate
from tests.acceptance.talk import says
from tests.faults.clients import Client, join, new_thread, start
from tests.faults.stores import Network, Postgres, Trio, open_network, open_trio

DEADLINE_SECONDS = 50.0
LEASE_SECONDS = 3.0
SETTINGS = {
    "LEASE_SECONDS": str(LEASE_SECONDS),
    "HEARTBEAT_SECONDS": "0.5",
    "SSE_HEARTBEAT_SECONDS": "0.5",
    "DATABASE_POOL_TIMEOUT_SECONDS": "2",
    "DATABASE_STATEMENT_TIMEOUT_SECONDS": "2",
}
#: A request waits for a connection, or a statement; a ping of what it was given comes on top.
BOUND_SECONDS = 2 + 2 + 3 + 1.0
#: A process uses PostgreSQL again after so long.
HEALED_SECONDS = 5.0


class Store:
    """PostgreSQL as the processes see it: each through a network of its own."""

    def __init__(self, postgres: Postgres, networks: list[Network], trio: Trio) -> None:
        self.postgres = postgres
        self.networks = networks
        self.trio = trio
        self.urls = trio.urls


@pytest.fixture(scope="module")
def processes(servers: Servers) -> Iterator[Store]:
    """Two servers and a worker on a PostgreSQL of their own."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadwell-")))
        directory.chmod(0o755)
        postgres = Postgres(directory / "postgres")
        postgres.create()
        stack.callback(postgres.kill)
        address = ("127.0.0.1", postgres.port)
        networks = [stack.enter_context(open_network(address)) for _ in range(3)]
        urls = (f"postgresql://threadwell@127.0.0.1:{n.port}/postgres" for n in networks)
        common = {**SETTINGS, "REDIS_URL": servers.redis_url}
        variables = [{**common, "DATABASE_URL": url} for url in urls]
        yield Store(postgres, networks, stack.enter_context(open_trio(directory, variables)))


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


async def ask(url: str, path: str, body: Any = None) -> tuple[int, str, float]:
    """The status and the code of an answer, and how long it took."""
    began = time.monotonic()
    async with httpx.AsyncClient(timeout=DEADLINE_SECONDS) as http:
        method = "GET" if body is None else "POST"
        answer = await http.request(method, url + path, json=body)
    content = answer.json()
    if answer.status_code >= 400:
        assert set(content) == {"detail", "code"}
    code = content["code"] if answer.status_code >= 400 else ""
    return answer.status_code, code, time.monotonic() - began


async def ask_all(urls: list[str], thread_id: str) -> list[tuple[int, str, float]]:
    """Ask both servers for this and that at once."""
    run = {"assistant_id": "chat", "input": says("hi")}
    asked = [
        (f"/threads/{thread_id}", None),
        (f"/threads/{thread_id}/state", None),
        ("/threads", {}),
        ("/threads/search", {}),
        ("/runs/wait", run),
        ("/store/items?namespace=a&key=b", None),
        (f"/api/sessions/{thread_id}/messages", None),
    ]
    return await asyncio.gather(*[ask(url, path, body) for url in urls for path, body in asked])


async def healed(urls: list[str]) -> float:
    """How long it takes until both servers answer what needs PostgreSQL."""
    began = time.monotonic()
    for url in urls:
        while (await ask(url, "/ok?check_db=true"))[0] != 200:
            pass
    return time.monotonic() - began


def attempts(client: Client) -> list[int]:
    return [frame.data["attempt"] for frame in client.frames if frame.name == "metadata"]


def updated(client: Client) -> list[str]:
    return [step for frame in client.frames if frame.name == "updates" for step in frame.data]


@asynccontextmanager
async def stopped_fast(postgres: Postgres) -> AsyncIterator[None]:
    await asyncio.to_thread(postgres.stop, "fast")
    yield
    await asyncio.to_thread(postgres.start)


@asynccontextmanager
async def crashed(postgres: Postgres) -> AsyncIterator[None]:
    await asyncio.to_thread(postgres.stop, "immediate")
    yield
    await asyncio.to_thread(postgres.start)


@asynccontextmanager
async def frozen(postgres: Postgres) -> AsyncIterator[None]:
    with postgres.frozen():
        yield


@pytest.mark.parametrize("outage", [stopped_fast, crashed, frozen], ids=lambda o: o.__name__)
async def test_an_outage_shorter_than_the_lease_is_waited_for(
    outage: Any, store: Store, gate: Gate
) -> None:
    gate.hold("r:b")
    thread_id = await new_thread(store.urls[0])
    given = {"gate": gate.port, "name": "r"}
    here = await start(store.urls[0], thread_id, "steps", given, "updates")
    there = await join(store.urls[1], here.location)
    await gate.arrived("r:b")

    async with outage(store.postgres):
        asking = asyncio.create_task(ask_all(store.urls, thread_id))
        gate.release("r:b")
        await asyncio.sleep(LEASE_SECONDS / 3)
    for client in (here, there):
        await client.task
    answers = await asking

    assert gate.seen == ["r:a", "r:b", "r:c"]
    assert attempts(here) == [1]
    assert updated(here) == ["a", "b", "c"]
    assert here.frames[-1].data["status"] == "success"
    assert there.raw == here.raw
    assert {status for status, _, _ in answers} <= {200, 503}
    assert max(seconds for _, _, seconds in answers) < BOUND_SECONDS


@pytest.mark.parametrize("outage", [crashed, frozen], ids=lambda o: o.__name__)
async def test_after_an_outage_longer_than_the_lease_runs_are_resumed(
    outage: Any, store: Store, gate: Gate
) -> None:
    gate.hold("hit:b", "long:b")
    clients = {}
    for name in ("hit", "long"):
        thread_id = await new_thread(store.urls[0])
        given = {"gate": gate.port, "name": name}
        clients[name] = await start(
            store.urls[0], thread_id, "steps", given, "updates", durability="sync"
        )
        await gate.arrived(f"{name}:b")
    there = await join(store.urls[1], clients["hit"].location)

    async with outage(store.postgres):
        asking = asyncio.create_task(ask_all(store.urls, thread_id))
        await asyncio.sleep(LEASE_SECONDS)
        # Its lease may be another's by now: what it does next does not count.
        gate.release("hit:b")
        answers = await asking
    lag = await healed(store.urls)
    # This one has not noticed anything.
    gate.release("long:b")
    for client in (*clients.values(), there):
        await client.task

    assert {(status, code) for status, code, _ in answers} == {(503, "unavailable")}
    assert max(seconds for _, _, seconds in answers) < BOUND_SECONDS
    assert lag < HEALED_SECONDS
    assert gate.seen.count("hit:a") == 1
    assert [name for name in gate.seen if name.startswith("long")] == ["long:a", "long:b", "long:c"]
    assert attempts(clients["hit"]) == [1, 2]
    assert attempts(clients["long"]) == [1]
    assert clients["hit"].frames[-1].data["status"] == "success"
    assert clients["long"].frames[-1].data["status"] == "success"
    assert there.raw == clients["hit"].raw
