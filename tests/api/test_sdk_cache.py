"""`langgraph_sdk.cache` on this server: what it keeps, for how long, and what is loaded only once."""

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from api import sdk_cache
from api.processes.embedded import Servers
from api.sdk_cache import MAX_KEY_BYTES, MAX_VALUE_BYTES, cache_get, cache_set, swr
from store.cache import LocalCache, open_cache
from tests.api.projects import serving_project
from tests.graph.engines import until

HOUR = timedelta(hours=1)


@pytest.fixture(params=["redis", "alone"])
async def cache(
    request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    # A machine that is busy for a second is no Redis that is away.
    monkeypatch.setattr("store.cache.ANSWER_SECONDS", 20.0)
    url = servers.redis_url or ""
    async with open_cache(
        url if request.param == "redis" else "", prefix=uuid.uuid4().hex
    ) as cache:
        with sdk_cache.serving(cache):
            yield


class Counter:
    """A loader that says how often it was asked, when it may."""

    def __init__(self) -> None:
        self.times = 0
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> int:
        self.times += 1
        times = self.times
        self.began.set()
        await self.gate.wait()
        return times


@pytest.mark.usefixtures("cache")
async def test_json_comes_back_as_it_went_until_its_time_is_over() -> None:
    value = {"a": [1, None, "键 🔑"], "b": 1.5}
    await cache_set("k 键", value)
    await cache_set("short", 1, timedelta(milliseconds=1))

    async def is_over() -> bool:
        return await cache_get("short") is None

    await cache_set("for a day", 1, timedelta(days=-3))
    await until(is_over)

    assert await cache_get("k 键") == value
    assert await cache_get("for a day") == 1
    assert await cache_get("never") is None


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("k", object(), TypeError), ("k", {1: 2}, TypeError),
        ("k", "x" * MAX_VALUE_BYTES, ValueError), ("k" * (MAX_KEY_BYTES + 1), 1, ValueError),
    ],
)  # fmt: skip
async def test_what_cannot_be_kept_is_an_error(
    key: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await cache_set(key, value)

    assert await cache_get("k") is None


@pytest.mark.usefixtures("cache")
async def test_a_value_is_loaded_once_for_all_who_miss_it() -> None:
    load = Counter()

    found = await asyncio.gather(*(swr("k", load, fresh_for=HOUR) for _ in range(5)))

    assert {(each.value, each.status) for each in found} == {(1, "miss")}
    again = await swr("k", load, fresh_for=HOUR)
    assert (again.value, again.status, load.times) == (1, "fresh", 1)
    # Keys of either kind are their own.
    assert await cache_get("k") is None


@pytest.mark.usefixtures("cache")
async def test_a_stale_value_is_given_at_once_and_loaded_once_behind_the_back() -> None:
    load = Counter()
    await swr("k", load)
    load.gate.clear()

    found = [await swr("k", load) for _ in range(3)]

    assert {(each.value, each.status) for each in found} == {(1, "stale")}
    load.gate.set()

    async def is_new() -> bool:
        return (await swr("k", load, fresh_for=HOUR)).value == 2

    await until(is_new)
    assert load.times == 2


@pytest.mark.usefixtures("cache")
async def test_a_value_that_is_too_old_is_waited_for() -> None:
    load = Counter()
    await swr("k", load)
    kept_at = time.time()

    async def is_a_millisecond_old() -> bool:
        return time.time() > kept_at + 0.001

    await until(is_a_millisecond_old)

    found = await swr("k", load, max_age=timedelta(microseconds=1))

    assert (found.value, found.status) == (2, "expired")


@pytest.mark.usefixtures("cache")
async def test_a_loader_that_fails_fails_those_who_wait_and_nobody_else() -> None:
    async def fail() -> int:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await swr("k", fail)
    await swr("k", Counter())
    assert (await swr("k", fail)).value == 1
    assert (await swr("k", fail, fresh_for=HOUR)).value == 1


@pytest.mark.usefixtures("cache")
async def test_what_somebody_says_counts_more_than_a_load_under_way() -> None:
    load = Counter()
    await swr("k", load)
    load.gate.clear()
    stale = await swr("k", load)

    assert await stale.mutate(9) == stale.value == 9
    [loading] = [task for task in asyncio.all_tasks() if task.get_name() == "cache load"]
    load.gate.set()
    await loading

    assert (await swr("k", load, fresh_for=HOUR)).value == 9
    assert await stale.mutate() == stale.value == 3
    assert (await swr("k", load, fresh_for=HOUR)).value == 3


async def test_who_gives_up_waiting_takes_nobody_elses_value_along() -> None:
    load = Counter()
    load.gate.clear()
    with sdk_cache.serving(LocalCache()):
        first, second = (asyncio.create_task(swr("k", load)) for _ in range(2))
        await load.began.wait()
        first.cancel()
        load.gate.set()

        assert (await second).value == 1
    assert load.times == 1


@pytest.mark.usefixtures("cache")
async def test_models_are_kept_as_json_and_nothing_is_a_value_too() -> None:
    class Plan(BaseModel):
        name: str

    async def load() -> Plan:
        return Plan(name="计划")

    async def nothing() -> None:
        return None

    for status in ("miss", "fresh"):
        found = await swr("plan", load, fresh_for=HOUR, model=Plan)
        assert (found.value, found.status) == (Plan(name="计划"), status)
        assert (await swr("nothing", nothing, fresh_for=HOUR)).status == status
    await found.mutate(Plan(name="b"))
    assert (await swr("plan", load, fresh_for=HOUR, model=Plan)).value.name == "b"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("fresh", "age"), [(-1, 5), (0, 0), (5, 2)])
async def test_times_that_contradict_each_other_are_refused(fresh: int, age: int) -> None:
    with pytest.raises(ValueError, match="fresh_for"):
        await swr(
            "k", Counter(), fresh_for=timedelta(seconds=fresh), max_age=timedelta(seconds=age)
        )


async def test_any_event_loop_may_ask_and_all_wait_for_one_load(servers: Servers) -> None:
    began, go = threading.Event(), threading.Event()
    times: list[int] = []

    async def slow() -> str:
        times.append(1)
        began.set()
        await asyncio.to_thread(go.wait)
        return "loaded"

    async def never() -> str:
        raise AssertionError("it is loaded already")

    async def elsewhere() -> str:
        return (await swr("k", slow, fresh_for=HOUR)).value

    def in_a_thread(work: Callable[[], Awaitable[str]]) -> Any:
        async def main() -> str:
            return await work()

        return asyncio.to_thread(lambda: asyncio.run(main()))

    with sdk_cache.serving(LocalCache()):
        there = asyncio.create_task(in_a_thread(elsewhere))
        await asyncio.to_thread(began.wait)
        here = asyncio.create_task(swr("k", never, fresh_for=HOUR))
        await asyncio.sleep(0.02)
        go.set()

        assert (await there, (await here).value, len(times)) == ("loaded", "loaded", 1)


async def test_outside_a_server_there_is_no_cache() -> None:
    with pytest.raises(RuntimeError, match="No server"):
        await cache_get("k")


GRAPH = """
from datetime import timedelta
from typing import TypedDict
from langgraph.graph import START, StateGraph
from langgraph_sdk.cache import SWRResult, cache_get, cache_set, swr

class State(TypedDict, total=False):
    found: list

async def node(state):
    await cache_set("from a node", {"a": 1}, ttl=timedelta(minutes=1))
    async def load():
        return "loaded"
    found = await swr("swr", load, fresh_for=timedelta(hours=1))
    assert isinstance(found, SWRResult)
    return {"found": [await cache_get("from a node"), found.value, found.status]}

graph = StateGraph(State).add_node("node", node).add_edge(START, "node").compile()
"""


async def test_a_graph_finds_the_cache_by_the_sdk_and_so_does_every_process(
    tmp_path: Path, servers: Servers, database_url: str
) -> None:
    (tmp_path / "caching.py").write_text(GRAPH)
    graphs = {"caching": "./caching.py:graph"}
    async with serving_project(tmp_path, servers, database_url, graphs=graphs) as (client, _, _):
        found: Any = await client.runs.wait(None, "caching", input={})
        again: Any = await client.runs.wait(None, "caching", input={})
        assert await cache_get("from a node") == {"a": 1}

    assert found["found"][:2] == again["found"][:2] == [{"a": 1}, "loaded"]
    assert again["found"][2] == "fresh"
