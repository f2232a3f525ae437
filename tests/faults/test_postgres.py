"""PostgreSQL stops, freezes, loses its connections or its answers, and is replaced by a standby."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.processes.embedded import Servers
from tests.acceptance.gate import Gate, open_gate
from tests.acceptance.process import BUSY_SECONDS
from tests.acceptance.talk import says
from tests.faults.clients import Client, get_json, join, new_thread, start
from tests.faults.cluster import DEAD
from tests.faults.stores import Network, Postgres, Trio, lose_answer, open_network, open_trio
from tests.store.event_logs import until

DEADLINE_SECONDS = 90.0
LEASE_SECONDS = 8.0
SETTINGS = {
    "LEASE_SECONDS": str(LEASE_SECONDS),
    "HEARTBEAT_SECONDS": "0.5",
    "SSE_HEARTBEAT_SECONDS": "0.5",
    "DATABASE_POOL_TIMEOUT_SECONDS": "4",
    "DATABASE_STATEMENT_TIMEOUT_SECONDS": "2",
}
#: A request waits for a connection and for a statement; pings come on top.
BOUND_SECONDS = 4 + 2 + 2 + 2 + BUSY_SECONDS
#: A process uses PostgreSQL again after so long.
HEALED_SECONDS = 2 + BUSY_SECONDS
#: Less than between two looks for what no signal told: of `Succession`, whose beats are far apart for that.
MOMENT_SECONDS = 8.9


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
    async with httpx.AsyncClient(timeout=DEADLINE_SECONDS, verify=False) as http:
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
        await asyncio.sleep(1)
    for client in (here, there):
        await client.task
    answers = await asking

    assert gate.seen == ["r:a", "r:b", "r:c"]
    assert attempts(here) == [1]
    assert updated(here) == ["a", "b", "c"]
    assert here.frames[-1].data["status"] == "success"
    assert there.raw == here.raw
    assert {status for status, code, _ in answers if code != "in_doubt"} <= {200, 503}
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

    workers = "SELECT worker_id FROM worker ORDER BY 1"
    before = store.postgres.sql(workers)

    async with outage(store.postgres):
        asking = asyncio.create_task(ask_all(store.urls, thread_id))
        await asyncio.sleep(LEASE_SECONDS)
        # Its lease may be another's by now: what it does next does not count.
        gate.release("hit:b")
        answers = await asking
    lag = await healed(store.urls)
    beats = "SELECT count(*) FROM worker WHERE last_seen_at > now() - interval '1 second'"
    await until(lambda: store.postgres.sql(beats) == [(3,)])
    # This one has not noticed anything.
    gate.release("long:b")
    for client in (*clients.values(), there):
        await client.task

    assert {(status, code) for status, code, _ in answers} == {(503, "unavailable")}
    assert max(seconds for _, _, seconds in answers) < BOUND_SECONDS
    assert lag < HEALED_SECONDS
    # Nobody was declared dead for what befell all.
    assert store.postgres.sql(workers) == before
    assert gate.seen.count("hit:a") == 1
    assert [name for name in gate.seen if name.startswith("long")] == ["long:a", "long:b", "long:c"]
    assert attempts(clients["hit"]) == [1, 2]
    assert attempts(clients["long"]) == [1]
    assert clients["hit"].frames[-1].data["status"] == "success"
    assert clients["long"].frames[-1].data["status"] == "success"
    assert there.raw == clients["hit"].raw


@contextmanager
def unanswered(network: Network) -> Iterator[None]:
    network.swallows = True
    yield
    network.swallows = False
    network.cut()


@contextmanager
def refused(network: Network) -> Iterator[None]:
    network.refuses = True
    network.cut()
    yield
    network.refuses = False


@pytest.mark.parametrize("partition", [unanswered, refused], ids=lambda p: p.__name__)
async def test_an_owner_alone_cut_off_for_longer_than_the_lease_is_replaced(
    partition: Any, store: Store, gate: Gate
) -> None:
    """The others have PostgreSQL, all have Redis, and its clients stay connected to it."""
    gate.hold("r:b")
    thread_id = await new_thread(store.urls[0])
    given = {"gate": gate.port, "name": "r"}
    here = await start(store.urls[0], thread_id, "steps", given, "updates", durability="sync")
    there = await join(store.urls[1], here.location)
    await gate.arrived("r:b")

    owner = store.trio.members[0].now
    deaths = owner.log.count(DEAD)
    with partition(store.networks[0]):
        await gate.arrived("r:b", times=2)
        # Both go on with the step: one of them may not write it.
        gate.release("r:b")
        for client in (here, there):
            await client.task
    await owner.printed(DEAD, times=deaths + 1)

    assert gate.seen == ["r:a", "r:b", "r:b", "r:c"]
    assert attempts(there) == [1, 2]
    assert there.frames[-1].data["status"] == "success"
    assert here.raw == there.raw
    assert (await get_json(f"{store.urls[1]}/threads/{thread_id}/state"))["next"] == []
    await healed(store.urls)


async def test_lost_connections_are_replaced_before_anybody_asks_for_them(store: Store) -> None:
    thread_id = await new_thread(store.urls[0])
    opened = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
    while len(store.postgres.sql(opened)) < 20:
        await read_often(store.urls[0], thread_id)

    tries: list[tuple[float, float]] = []
    # Once may be by something else that the machine does.
    while len(tries) < 3 and not any(is_prompt(*one) for one in tries):
        usual = await read_often(store.urls[0], thread_id)
        terminate(store.postgres)
        # From now on each is asked whether it is there before it is used.
        await asyncio.sleep(1.1)
        first = await ask(store.urls[0], f"/threads/{thread_id}")
        others = await read_often(store.urls[0], thread_id)
        assert {status for status, _, _ in [first, *others]} == {200}
        tries.append((slowest(usual), slowest([first, *others])))

    assert any(is_prompt(*one) for one in tries), tries


def is_prompt(before: float, after: float) -> bool:
    """Whether nobody found a broken connection: that costs a second, and what a request costs beside it."""
    return after < max(1.0, before + 0.7)


def slowest(answers: list[tuple[int, str, float]]) -> float:
    return max(seconds for _, _, seconds in answers)


async def read_often(url: str, thread_id: str) -> list[tuple[int, str, float]]:
    """Have many connections of a server's in use at once."""
    return await asyncio.gather(*[ask(url, f"/threads/{thread_id}/state") for _ in range(40)])


def terminate(postgres: Postgres) -> None:
    """Have PostgreSQL end every connection of ours."""
    postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )


class Load:
    """Clients that have runs answered, one after the other, and what they were told."""

    def __init__(self, urls: list[str]) -> None:
        self.told: Counter[tuple[int, str]] = Counter()
        self.answered: dict[str, int] = Counter()
        self.doubtful: dict[str, int] = Counter()
        self.slowest = 0.0
        self._urls = urls
        self._stopping = asyncio.Event()

    async def begin(self, clients: int) -> asyncio.Task[None]:
        """Have so many talk until `stop`, on threads that are there when this returns."""
        urls = [self._urls[number % len(self._urls)] for number in range(clients)]
        thread_ids = [await new_thread(url) for url in urls]
        return asyncio.create_task(self._run(list(zip(urls, thread_ids, strict=True))))

    async def _run(self, clients: list[tuple[str, str]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for url, thread_id in clients:
                tasks.create_task(self._talk(url, thread_id))

    async def succeed(self, times: int) -> None:
        """Wait for so many more answers."""
        enough = self.told[200, ""] + times

        await until(lambda: self.told[200, ""] >= enough)

    def stop(self) -> None:
        """Let every client finish what it does."""
        self._stopping.set()

    async def _talk(self, url: str, thread_id: str) -> None:
        body = {"assistant_id": "chat", "input": says("hi")}
        while not self._stopping.is_set():
            status, code, seconds = await ask(url, f"/threads/{thread_id}/runs/wait", body)
            self.told[status, code] += 1
            self.slowest = max(self.slowest, seconds)
            self.answered[thread_id] += status == 200
            self.doubtful[thread_id] += code == "in_doubt"

    def check(self, postgres: Postgres) -> None:
        """Whatever was answered is there, once; what was refused is not."""
        query = "SELECT run_id FROM run WHERE thread_id = %s AND status = 'success'"
        said = "SELECT role FROM message WHERE conversation_id = %s ORDER BY seq"
        for thread_id, answered in self.answered.items():
            made = len(postgres.sql(query, thread_id))
            assert answered <= made <= answered + self.doubtful[thread_id], self.told
            spoken = [role for (role,) in postgres.sql(said, thread_id)]
            assert spoken == ["user", "assistant"] * made
        left = "SELECT thread_id FROM thread WHERE status <> 'idle' AND thread_id = ANY(%s)"
        assert postgres.sql(left, list(self.answered)) == []


async def test_connections_that_are_killed_again_and_again_under_load_lose_nothing(
    store: Store,
) -> None:
    load = Load(store.urls)
    running = await load.begin(8)
    kills = 0
    async with asyncio.timeout(DEADLINE_SECONDS):
        while kills < 12 or load.told[200, ""] <= 20:
            await asyncio.sleep(0.25)
            await asyncio.to_thread(terminate, store.postgres)
            kills += 1
    load.stop()
    await running
    await settled(store.postgres)

    assert {status for status, code in load.told if code != "in_doubt"} <= {200, 503}
    assert load.slowest < 2 * BOUND_SECONDS
    load.check(store.postgres)


async def settled(postgres: Postgres) -> None:
    """Wait until no run is in flight."""
    query = "SELECT run_id FROM run WHERE status IN ('pending', 'running')"

    async def is_settled() -> bool:
        return not await asyncio.to_thread(postgres.sql, query)

    await until(is_settled)


async def run_ids(store: Store, thread_id: str) -> list[str]:
    return [run["run_id"] for run in await get_json(f"{store.urls[0]}/threads/{thread_id}/runs")]


async def test_a_run_that_was_started_and_not_heard_of_runs_once(store: Store, gate: Gate) -> None:
    thread_id = await new_thread(store.urls[0])
    lose_answer(store.networks[0], "doubtful-start")
    given = {"gate": gate.port, "name": "doubtful-start"}
    client = await start(store.urls[0], thread_id, "steps", given, "updates")
    await client.task

    assert store.networks[0].has_lost
    assert len(await run_ids(store, thread_id)) == 1
    assert gate.seen == ["doubtful-start:a", "doubtful-start:b", "doubtful-start:c"]
    assert attempts(client) == [1]
    assert client.frames[-1].data["status"] == "success"


async def test_a_question_whose_answer_was_lost_is_asked_again(store: Store) -> None:
    thread_id = await new_thread(store.urls[0])
    lose_answer(store.networks[0], thread_id)
    status, _, _ = await ask(store.urls[0], f"/threads/{thread_id}")

    assert store.networks[0].has_lost
    assert status == 200


async def test_a_run_that_was_queued_and_not_heard_of_runs_once(store: Store, gate: Gate) -> None:
    thread_id = await new_thread(store.urls[0])
    lose_answer(store.networks[0], "doubtful-queued")
    given = {"gate": gate.port, "name": "doubtful-queued"}
    body = {"assistant_id": "steps", "input": given, "multitask_strategy": "reject"}
    status, _, _ = await ask(store.urls[0], f"/threads/{thread_id}/runs", body)
    await gate.arrived("doubtful-queued:c")
    await settled(store.postgres)

    assert store.networks[0].has_lost
    assert status == 200
    assert len(await run_ids(store, thread_id)) == 1
    assert gate.seen == [f"doubtful-queued:{step}" for step in "abc"]


async def test_an_end_that_was_written_and_not_heard_of_is_told(store: Store, gate: Gate) -> None:
    gate.hold("r:c")
    thread_id = await new_thread(store.urls[0])
    given = {"gate": gate.port, "name": "r"}
    here = await start(store.urls[0], thread_id, "steps", given, "updates")
    there = await join(store.urls[1], here.location)
    await gate.arrived("r:c")
    [run_id] = await run_ids(store, thread_id)
    lose_answer(store.networks[0], run_id, "success")
    gate.release("r:c")
    for client in (here, there):
        await client.task

    assert store.networks[0].has_lost
    assert here.frames[-1].data == {"run_id": run_id, "status": "success"}
    # From the log, and not by asking for it later.
    assert here.frames[-1].id
    assert there.raw == here.raw


async def test_the_end_of_a_run_without_a_thread_that_was_not_heard_of_is_told(
    store: Store, gate: Gate
) -> None:
    gate.hold("r:c")
    given = {"gate": gate.port, "name": "r"}
    here = await start(store.urls[0], None, "steps", given, "values")
    await gate.arrived("r:c")
    lose_answer(store.networks[0], here.frames[0].data["run_id"])
    gate.release("r:c")
    await here.task

    assert store.networks[0].has_lost
    assert here.frames[-1].data["status"] == "success"
    assert here.frames[-2].data["log"] == ["r:a", "r:b", "r:c"]


async def test_a_run_that_was_claimed_and_not_heard_of_runs_once(store: Store, gate: Gate) -> None:
    thread_id = await new_thread(store.urls[0])
    for network in store.networks:
        network.lose_answer(
            asked=lambda data: True, answered=lambda data: b"doubtful-claim" in data
        )
    given = {"gate": gate.port, "name": "doubtful-claim"}
    status, _, _ = await ask(
        store.urls[0], f"/threads/{thread_id}/runs", {"assistant_id": "steps", "input": given}
    )
    await until(lambda: any(network.has_lost for network in store.networks))
    for network in store.networks:
        network.lose_no_answer()
    await gate.arrived("doubtful-claim:c")
    await settled(store.postgres)

    assert status == 200
    assert len(await run_ids(store, thread_id)) == 1
    assert gate.seen == [f"doubtful-claim:{step}" for step in "abc"]


async def test_a_session_that_was_created_and_not_heard_of_is_there_once(store: Store) -> None:
    lose_answer(store.networks[0], "doubtful-session")
    body = {"id": str(uuid4()), "user_id": "doubtful-session", "name": "n"}
    status, _, _ = await ask(store.urls[0], "/api/sessions", body)
    again = await ask(store.urls[0], "/api/sessions", body)
    found = await get_json(f"{store.urls[0]}/api/sessions?user_id=doubtful-session")

    assert store.networks[0].has_lost
    assert status < 300
    assert again[:2] == (409, "already_exists")
    assert [row["id"] for row in found["data"]] == [body["id"]]


@pytest.mark.parametrize("path", ["/runs/batch", "/runs/crons"])
async def test_what_was_queued_or_planned_and_not_heard_of_is_there_once(
    store: Store, path: str
) -> None:
    lose_answer(store.networks[0], "doubtful-plan")
    mark = {"plan": f"doubtful-plan {path}"}
    body: Any = {"assistant_id": "chat", "metadata": mark, "input": says("hi")}
    if path == "/runs/batch":
        body = [{**body, "on_completion": "keep"} for _ in range(3)]
    else:
        body = {**body, "schedule": "0 0 1 1 *"}
    async with httpx.AsyncClient(base_url=store.urls[0], timeout=DEADLINE_SECONDS) as http:
        answer = await http.post(path, json=body)
        found = "/threads/search" if path == "/runs/batch" else "/runs/crons/search"
        there = (await http.post(found, json={"metadata": mark})).json()

    assert store.networks[0].has_lost
    assert answer.status_code == 200
    made = answer.json() if path == "/runs/batch" else [answer.json()]
    key = "thread_id" if path == "/runs/batch" else "cron_id"
    assert sorted(row[key] for row in there) == sorted(row[key] for row in made)


async def test_a_run_that_nobody_can_tell_of_is_said_to_be_in_doubt(
    store: Store, gate: Gate
) -> None:
    thread_id = await new_thread(store.urls[0])
    lose_answer(store.networks[0], "doubtful-run", refuse=True)
    given = {"gate": gate.port, "name": "doubtful-run"}
    body = {"assistant_id": "steps", "input": given}
    async with httpx.AsyncClient(timeout=DEADLINE_SECONDS, verify=False) as http:
        answer = await http.post(f"{store.urls[0]}/threads/{thread_id}/runs/wait", json=body)
    store.networks[0].refuses = False
    await gate.arrived("doubtful-run:c")
    await settled(store.postgres)

    # No status that an SDK repeats a request for by itself.
    assert answer.status_code == 409
    assert answer.json()["code"] == "in_doubt"
    assert "retry-after" not in answer.headers
    assert gate.seen == [f"doubtful-run:{step}" for step in "abc"]


class Succession:
    """Servers of which each is to take over from the one before, and the processes on them."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.servers = [Postgres(directory / name) for name in ("first", "second", "third")]
        self.servers[0].create()
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        self.variables = {
            **SETTINGS,
            "DATABASE_URL": f"postgresql://threadwell@{hosts}/postgres"
            "?target_session_attrs=read-write",
            "REDIS_URL": redis_url,
            "LEASE_SECONDS": "45",
            "HEARTBEAT_SECONDS": "15",
        }

    def pair(self) -> tuple[Postgres, Postgres]:
        """The primary, and a standby that has all that was acknowledged."""
        primary, standby, *_ = self.servers
        standby.follow(primary)
        del self.servers[0]
        return primary, standby


@pytest.fixture(scope="module")
def succession(servers: Servers) -> Iterator[tuple[Succession, Trio]]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadwell-")))
        directory.chmod(0o755)
        succession = Succession(directory, servers.redis_url)
        for server in succession.servers:
            stack.callback(server.kill)
        yield succession, stack.enter_context(open_trio(directory, [succession.variables] * 3))


@asynccontextmanager
async def dead(primary: Postgres) -> AsyncIterator[None]:
    await asyncio.to_thread(primary.kill)
    yield


@asynccontextmanager
async def hanging(primary: Postgres) -> AsyncIterator[None]:
    with primary.frozen():
        yield
        # It must not come back: a URL with several hosts would lead to it again.
        primary.kill()


@pytest.mark.parametrize(
    "primary_is",
    [dead, pytest.param(hanging, marks=pytest.mark.bench)],
    ids=lambda p: p.__name__,
)
async def test_a_standby_takes_over_and_nothing_acknowledged_is_lost(
    primary_is: Any, succession: tuple[Succession, Trio], gate: Gate
) -> None:
    primary, standby = succession[0].pair()
    urls = succession[1].urls
    gate.hold("goes on:b", "stops:b")
    goes_on, stops = [await hold(urls[0], gate, name) for name in ("goes on", "stops")]
    load = Load(urls)
    loading = await load.begin(6)
    await load.succeed(20)

    async with primary_is(primary):
        gate.release("goes on:b")
        during = await ask_all(urls, goes_on.location.split("/")[2])
        await asyncio.to_thread(standby.promote)
        await load.succeed(20)
        load.stop()
        await loading
        await goes_on.task
        listening = "SELECT pid FROM pg_stat_activity WHERE application_name = 'threadwell-signals'"
        await until(lambda: len(standby.sql(listening)) == 3)
        cancelled, _, cancelling = await ask(urls[1], f"{path_of(stops)}/cancel?wait=true", {})
        await stops.task
        await settled(standby)

    assert {status for status, code, _ in during if code != "in_doubt"} == {503}
    assert max(seconds for _, _, seconds in during) < BOUND_SECONDS
    assert {status for status, code in load.told if code != "in_doubt"} <= {200, 503}
    assert load.slowest < 2 * BOUND_SECONDS
    load.check(standby)
    assert [name for name in gate.seen if name.startswith("goes")] == [
        f"goes on:{s}" for s in "abc"
    ]
    assert attempts(goes_on) == [1]
    assert goes_on.frames[-1].data["status"] == "success"
    assert (cancelled, stops.frames[-1].data["status"]) == (200, "interrupted")
    assert cancelling < MOMENT_SECONDS


async def hold(url: str, gate: Gate, name: str) -> Client:
    """Have a run wait at its second step; who follows it."""
    given = {"gate": gate.port, "name": name}
    client = await start(url, await new_thread(url), "steps", given, "updates")
    await gate.arrived(f"{name}:b")
    return client


def path_of(client: Client) -> str:
    """Where the run is that is followed."""
    return client.location.removesuffix("/stream")
