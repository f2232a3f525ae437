"""
How soon a client hears its first token, and whether a node that blocks delays anybody else.

`BENCH_AEGRA_URL` names an Aegra server that serves the same graphs: then it is asked in turn.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from tests.acceptance.process import serving
from tests.bench import graphs
from tests.bench.servers import load, project, quantile, size

SINGLE, MANY, CONCURRENCY = size("SINGLE", 100), size("MANY", 320), 32
AEGRA_URL = os.environ.get("BENCH_AEGRA_URL", "")
#: At one client, above the raw loop, and at 32 in times of Aegra's: the targets.
ABOVE_MS, OF_AEGRA = 8.0, 0.2
#: While a node sleeps, or computes.
SLEEP_SECONDS = 6.0
#: What answers may take then. One that sleeps leaves Python's lock to others, which is the target; one
#: that computes gives it away every 5 ms.
ANSWER_MS = {"asleep": 100.0, "computing": 300.0}
INPUT = {"messages": [{"role": "user", "content": "hello"}]}

#: Seconds to the first token of a run.
First = Callable[[], Awaitable[float]]


@pytest.mark.bench
def test_the_first_token_comes_soon(tmp_path: Path) -> None:
    with serving(project(tmp_path), {}, data_dir=tmp_path / "data") as server:
        single, many = uvloop.run(_first_tokens(server.url))

    above = {
        name: quantile(found[1], 0.5) - quantile(found[0], 0.5) for name, found in single.items()
    }
    print(f"\n{load()}")
    for name, milliseconds in above.items():
        raw, served = (quantile(found, 0.5) for found in single[name])
        print(f"{name}: raw {raw:.1f} ms, served {served:.1f} ms: {milliseconds:.1f} above")
    for where, found in many.items():
        print(
            f"32 at once, {where}: p50 {quantile(found, 0.5):.0f} ms, p99 {quantile(found, 0.99):.0f}"
        )
    # Twice the target, on a machine that is not ours alone.
    assert max(above.values()) < 2 * ABOVE_MS
    if AEGRA_URL:
        times = quantile(many["ours"], 0.99) / quantile(many[AEGRA_URL], 0.99)
        print(f"p99 {times:.2f} x Aegra's (target {OF_AEGRA})")
        assert times < 2 * OF_AEGRA


@pytest.mark.bench
def test_nobody_waits_for_a_node_that_sleeps_or_computes_without_awaiting(tmp_path: Path) -> None:
    with serving(project(tmp_path), {}, data_dir=tmp_path / "data") as server:
        answers = {
            (graph, path): found
            for graph in ANSWER_MS
            for path, found in asyncio.run(_while_blocked(server.url, graph)).items()
        }

    print(f"\n{load()}")
    for (graph, path), found in answers.items():
        p50, p99 = (1000 * quantile(found, share) for share in (0.5, 0.99))
        print(f"{graph}, {path}: {len(found)} answers, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    for (graph, path), found in answers.items():
        assert 1000 * quantile(found, 0.99) <= ANSWER_MS[graph], (graph, path)


async def _first_tokens(
    url: str,
) -> tuple[dict[str, tuple[list[float], list[float]]], dict[str, list[float]]]:
    """Milliseconds by graph, raw and served, one at a time; and by server, 32 at a time."""
    limits = httpx.Limits(max_connections=None)
    single: dict[str, tuple[list[float], list[float]]] = {}
    many: dict[str, list[float]] = {}
    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        for name in ("echo", "tokens"):
            ways = (_raw(name), _served(http, url, name))
            single[name] = ([], [])
            for number in range(SINGLE + 5):
                for found, way in zip(single[name], ways, strict=True):
                    seconds = await way()
                    if number >= 5:  # the first ones warm up
                        found.append(1000 * seconds)
        for where in filter(None, ("ours", AEGRA_URL)):
            first = _served(http, url if where == "ours" else where, "echo")
            many[where] = [1000 * seconds for seconds in await _at_once(first, MANY)]
    return single, many


async def _at_once(first: First, count: int) -> Sequence[float]:
    left = iter(range(count))
    found: list[float] = []

    async def work() -> None:
        for _ in left:
            found.append(await first())  # noqa: PERF401

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return found


def _raw(name: str) -> First:
    graph: Any = getattr(graphs, name)

    async def first() -> float:
        began = time.perf_counter()
        seconds = 0.0
        async for _ in graph.astream(INPUT, stream_mode="messages"):
            seconds = seconds or time.perf_counter() - began
        return seconds

    return first


def _served(http: httpx.AsyncClient, url: str, name: str) -> First:
    async def first() -> float:
        thread_id = (await http.post(f"{url}/threads", json={})).json()["thread_id"]
        body = {"assistant_id": name, "input": INPUT, "stream_mode": "messages-tuple"}
        began = time.perf_counter()
        seconds = 0.0
        path = f"{url}/threads/{thread_id}/runs/stream"
        async with http.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200
            async for chunk in answer.aiter_raw():
                if not seconds and b"event: messages" in chunk:
                    seconds = time.perf_counter() - began
        return seconds

    return first


async def _while_blocked(url: str, graph: str) -> dict[str, list[float]]:
    """How long answers took while a node did not await, by path, in seconds."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        given = {"assistant_id": graph, "input": {"seconds": SLEEP_SECONDS}}
        sleeping = asyncio.create_task(
            http.post(f"/threads/{thread_id}/runs/wait", json=given, timeout=60)
        )
        path = f"/threads/{thread_id}"
        while (await http.get(path)).json()["status"] != "busy":
            pass
        found: dict[str, list[float]] = {"/ok": [], path: [], f"{path}/state": [], "/threads": []}
        while not sleeping.done():
            for asked, times in found.items():
                began = time.perf_counter()
                post = asked == "/threads"
                answer = await (http.post(asked, json={}) if post else http.get(asked))
                times.append(time.perf_counter() - began)
                assert answer.status_code == 200
        assert (await sleeping).json()["slept"] >= SLEEP_SECONDS
    # The first one of each warms up.
    return {asked.replace(thread_id, "{thread_id}"): times[1:] for asked, times in found.items()}
