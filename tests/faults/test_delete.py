"""Threads and sessions that are deleted while a run of theirs is under way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from redis.asyncio import Redis

from api.processes.embedded import Servers
from tests.acceptance.gate import Gate
from tests.acceptance.sse import collect, follow
from tests.acceptance.talk import says
from tests.faults.cluster import Cluster, freeze, thaw
from tests.faults.test_cancel import model, stream_until
from tests.faults.test_strategies import ask, new_thread, wait
from tests.openai_server import OpenAIServer, Reply

__all__ = ["model"]

Http = list[httpx.AsyncClient]
Traces = Callable[[str], Awaitable[dict[str, int]]]

#: Many enough not to be through before the test is.
WORDS = tuple(f"word{number} " for number in range(50_000))
TABLES = {
    "thread": "thread_id",
    "run": "thread_id",
    "message": "conversation_id",
    "checkpoints": "thread_id",
    "checkpoint_blobs": "thread_id",
    "checkpoint_writes": "thread_id",
}


@pytest.fixture
async def traces(cluster: Cluster, servers: Servers) -> AsyncIterator[Traces]:
    """Where there is something of a thread, and how much."""
    async with Redis.from_url(servers.redis_url) as redis:

        async def find(thread_id: str) -> dict[str, int]:
            found = {"keys": len(await redis.keys(f"*{thread_id}*"))}
            for table, column in TABLES.items():
                query = f"SELECT count(*) FROM {table} WHERE {column} = %s"
                [(found[table],)] = cluster.sql(query, thread_id)
            return {where: count for where, count in found.items() if count}

        yield find


async def until(holds: Callable[[], Awaitable[object]], complaint: str) -> None:
    """Wait until something does not hold any more that nobody tells of."""
    holding: object = None
    try:
        async with asyncio.timeout(30):
            while holding := await holds():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{complaint}: {holding}") from None


async def is_listed(cluster: Cluster, pid: int) -> bool:
    return bool(cluster.sql("SELECT 1 FROM worker WHERE pid = %s", pid))


async def gone(traces: Traces, thread_id: str) -> None:
    """Wait until nothing is left of a thread."""
    await until(lambda: traces(thread_id), "it left something behind")


async def speak(http: httpx.AsyncClient, thread_id: str) -> asyncio.Task[object]:
    """Begin an answer that goes on and on."""
    _, streaming = await stream_until(http, thread_id, 10, input=says("go"))
    return streaming


async def stays_gone(http: Http, traces: Traces, thread_id: str) -> None:
    """Nothing is left, and nothing was on its way: other runs have gone it since."""
    await gone(traces, thread_id)
    for server in http:
        await wait(server, await new_thread(http), "chat", input=says("hello"))
    assert await traces(thread_id) == {}


@pytest.mark.parametrize(("path", "way"), [("/threads", ""), ("/api/sessions", "?purge=true")])
@pytest.mark.parametrize("by", [0, 1])
async def test_a_thread_whose_answer_is_coming_leaves_nothing_when_it_is_deleted(
    path: str, way: str, by: int, cluster: Cluster, http: Http, model: OpenAIServer, traces: Traces
) -> None:
    for _ in range(2):
        thread_id = await new_thread(http)
        model.replies.append(Reply(tokens=WORDS))
        streaming = await speak(http[0], thread_id)

        answer = await http[by].delete(f"{path}/{thread_id}{way}")

        assert answer.status_code == 204
        await streaming
        await stays_gone(http, traces, thread_id)
        assert (await http[1 - by].get(f"{path}/{thread_id}")).status_code == 404


@pytest.mark.parametrize("awake", ["at once", "after its lease"])
async def test_an_owner_that_slept_while_its_thread_was_deleted_brings_nothing_back(
    awake: str, cluster: Cluster, http: Http, model: OpenAIServer, traces: Traces
) -> None:
    thread_id = await new_thread(http)
    model.replies.append(Reply(tokens=WORDS))
    streaming = await speak(http[0], thread_id)
    owner = cluster.servers[0]
    freeze(owner)

    assert (await http[1].delete(f"/threads/{thread_id}")).status_code == 204
    if awake == "after its lease":
        await until(lambda: is_listed(cluster, owner.now.process.pid), "it is not buried")
    thaw(owner)

    await streaming
    await stays_gone(http, traces, thread_id)


async def test_a_worker_whose_thread_is_deleted_leaves_nothing_and_its_followers_end(
    cluster: Cluster, http: Http, gate: Gate, traces: Traces
) -> None:
    thread_id = await new_thread(http)
    gate.hold("job:b")
    work = {"gate": gate.port, "name": "job", **says("hello")}
    run = (await ask(http[0], thread_id, "talking_steps", input=work, durability="sync")).json()
    queued = (await ask(http[1], thread_id, "talking_steps", input=work)).json()
    await gate.arrived("job:b")
    followers = [
        await follow(server, f"/threads/{thread_id}/runs/{one['run_id']}/stream")
        for one in (run, queued)
        for server in http
    ]
    joiners = [
        asyncio.create_task(server.get(f"/threads/{thread_id}/runs/{run['run_id']}/join"))
        for server in http
    ]

    await http[1].delete(f"/threads/{thread_id}")

    await gate.left("job:b")
    async with asyncio.timeout(30):
        await asyncio.gather(*followers)
        assert [answer.status_code for answer in await asyncio.gather(*joiners)] == [200, 200]
    await stays_gone(http, traces, thread_id)


async def test_a_thread_made_anew_under_the_id_of_one_that_was_deleted_is_a_new_one(
    cluster: Cluster, http: Http, model: OpenAIServer
) -> None:
    thread_id = await new_thread(http)
    model.replies.append(Reply(tokens=WORDS))
    streaming = await speak(http[0], thread_id)

    await http[1].delete(f"/threads/{thread_id}")
    await http[1].post("/threads", json={"thread_id": thread_id})
    body = {"assistant_id": "chat", "input": says("hello")}
    received = await collect(http[1], "POST", f"/threads/{thread_id}/runs/stream", json=body)

    await streaming
    [run_id] = [row["run_id"] for row in (await http[0].get(f"/threads/{thread_id}/runs")).json()]
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    assert [m["content"] for m in received[-1].data["messages"]] == ["hello", "(1) hello"]
    for server in http:
        assert await collect(server, "GET", path, last_event_id="-1") == received


async def test_a_run_that_is_deleted_takes_what_it_wrote_with_it(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    for name in ("one", "two"):
        work = {"gate": gate.port, "name": name, **says(name)}
        await wait(http[0], thread_id, "talking_steps", input=work)
    second = (await http[0].get(f"/threads/{thread_id}/runs")).json()[0]["run_id"]

    assert (await http[1].delete(f"/threads/{thread_id}/runs/{second}")).status_code == 204

    values = (await http[0].get(f"/threads/{thread_id}/state")).json()["values"]
    table = (await http[1].get(f"/api/sessions/{thread_id}/messages")).json()["data"]
    said = ["one", "working for one"]
    assert [m["content"] for m in values["messages"]] == said
    assert [row["content"] for row in table] == said
    assert (await http[1].delete(f"/threads/{thread_id}/runs/{second}")).status_code == 404
