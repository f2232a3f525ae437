"""
Runs in the background: how soon one starts, how fast a queue of 2,000 is drained, and by two workers.

`BENCH_QUEUED` makes the queue shorter. `BENCH_AEGRA_URL` names an Aegra server that serves the same
graphs: then it drains as many in turn, under the same API.
"""

import asyncio
import os
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from api.embedded import Servers, embedded_servers
from store.signals import READY
from tests.acceptance.process import serving
from tests.bench.servers import load, project, quantile, size, working

QUEUED, SINGLE = size("QUEUED", 2000), size("SINGLE", 200)
CONCURRENCY, ROUNDS = 16, 3
START_MS = 8.0
AEGRA_URL = os.environ.get("BENCH_AEGRA_URL", "")
AEGRA_TIMES = 10.0
#: CPU of a run's graph in milliseconds, and how much faster two workers have to be than one. With
#: little of it, on few cores, it is PostgreSQL that the second worker takes the CPU from.
GRAPH_MS = {10: 1.3, 50: 1.7}


@pytest.mark.bench
def test_a_queued_run_starts_at_once_and_a_queue_is_drained_fast(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, durable=True) as servers:
        variables = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
        with (
            serving(project(tmp_path), variables) as server,
            psycopg.connect(servers.database_url, autocommit=True) as sql,
        ):
            waits = asyncio.run(_start_one_by_one(server.url, sql))
            asyncio.run(_post(server.url, QUEUED, "echo", "hello", after_seconds=3600))
            processes = [psutil.Process(server.process.pid), _postmaster(tmp_path)]
            before = [_cpu_seconds(process) for process in processes]
            rate = _drain(sql)
            cpu = [
                1000 * (_cpu_seconds(process) - used) / QUEUED
                for process, used in zip(processes, before, strict=True)
            ]
            ours, theirs = _against_aegra(server.url)

    p50, p99 = quantile(waits, 0.5), quantile(waits, 0.99)
    print(f"\n{load()}\nqueued to started: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(f"{QUEUED} queued runs drained: {rate:.0f}/s, CPU of each {cpu[0]:.1f} ms in the server,")
    print(f"{cpu[1]:.1f} ms in PostgreSQL")
    assert p50 <= START_MS
    if theirs:
        times = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        print(
            f"queued and drained over HTTP: {_shown(ours)}/s; Aegra {_shown(theirs)}/s; {times:.1f} times"
        )
        assert times >= AEGRA_TIMES


@pytest.mark.bench
def test_two_workers_drain_almost_twice_as_fast_as_one(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, durable=False) as servers:
        ratios = {ms: _two_against_one(tmp_path, servers, ms) for ms in GRAPH_MS}

    print(f"\n{load()}")
    for ms, seen in ratios.items():
        print(
            f"two workers, {ms} ms of CPU in each graph: {statistics.median(seen):.2f} times one {seen}"
        )
    for ms, least in GRAPH_MS.items():
        assert statistics.median(ratios[ms]) >= least, ms


def _two_against_one(directory: Path, servers: Servers, ms: int) -> list[float]:
    """How many times as fast two workers are, in each round."""
    variables = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
    config = project(directory)
    count = QUEUED * 2 // ms
    ratios = []
    with psycopg.connect(servers.database_url, autocommit=True) as sql:
        for _ in range(ROUNDS):
            rates = []
            for workers in (1, 2):
                with serving(config, variables) as server:
                    asyncio.run(_post(server.url, count, "busy", str(ms), after_seconds=3600))
                with ExitStack() as stack:
                    for _ in range(workers):
                        stack.enter_context(working(config, variables))
                    rates.append(_drain(sql))
            ratios.append(round(rates[1] / rates[0], 2))
    return ratios


async def _start_one_by_one(url: str, sql: psycopg.Connection[Any]) -> list[float]:
    """How many milliseconds each of some runs was queued, the server having nothing else to do."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for _ in range(SINGLE + 20):
            thread_id, run_id = await _queue(http, "echo", "hello")
            await http.get(f"/threads/{thread_id}/runs/{run_id}/join")
    rows = sql.execute(
        "SELECT 1000 * extract(epoch FROM started_at - created_at)::float FROM run ORDER BY seq"
    ).fetchall()
    return [waited for (waited,) in rows[20:]]


def _drain(sql: psycopg.Connection[Any]) -> float:
    """Make everything due that is queued, wait until it is done; runs a second."""
    released = sql.execute(
        "UPDATE run SET not_before = now() WHERE status = 'pending' RETURNING now()"
    ).fetchall()
    sql.execute("SELECT pg_notify('threadwell', %s)", (READY,))
    deadline = time.monotonic() + 300
    while sql.execute("SELECT FROM run WHERE status IN ('pending', 'running') LIMIT 1").fetchall():
        assert time.monotonic() < deadline, "the queue is not drained"
        time.sleep(0.1)
    (seconds, failed), *_ = sql.execute(
        "SELECT extract(epoch FROM max(ended_at) - %s)::float,"
        " count(*) FILTER (WHERE status <> 'success') FROM run",
        released[0],
    ).fetchall()
    assert failed == 0
    return len(released) / float(seconds)


async def _post(url: str, count: int, graph: str, text: str, **more: Any) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await _each(range(count), lambda _: _queue(http, graph, text, **more))


async def _queue(
    http: httpx.AsyncClient, graph: str, text: str, *, thread_id: str | None = None, **more: Any
) -> tuple[str, str]:
    thread_id = thread_id or str(uuid.uuid4())
    asked = {"messages": [{"role": "user", "content": text}]}
    body = {"assistant_id": graph, "input": asked, "if_not_exists": "create", **more}
    answer = await http.post(f"/threads/{thread_id}/runs", json=body)
    assert answer.status_code == 200, answer.text
    return thread_id, answer.json()["run_id"]


async def _each(items: Sequence[Any], do: Callable[[Any], Awaitable[Any]]) -> list[Any]:
    left = iter(items)

    async def work() -> list[Any]:
        return [await do(item) for item in left]

    done = await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return [each for of_one in done for each in of_one]


def _against_aegra(url: str) -> tuple[list[float], list[float]]:
    """The runs a second of both, as clients see them, in turn."""
    rounds = [[asyncio.run(_drain_over_http(to)) for to in (url, AEGRA_URL)] for _ in _rounds()]
    return [ours for ours, _ in rounds], [theirs for _, theirs in rounds]


def _rounds() -> Iterator[int]:
    return iter(range(ROUNDS if AEGRA_URL else 0))


async def _drain_over_http(url: str) -> float:
    """Queue runs on threads that are there, wait for all of them; runs a second."""
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:

        async def create(_: int) -> str:
            return str((await http.post("/threads", json={})).json()["thread_id"])

        threads = await _each(range(QUEUED), create)
        began = time.monotonic()
        runs = await _each(
            threads, lambda thread_id: _queue(http, "echo", "hello", thread_id=thread_id)
        )

        async def join(run: tuple[str, str]) -> None:
            answer = await http.get("/threads/{}/runs/{}/join".format(*run))
            assert "echo: hello" in answer.text, answer.text

        await _each(runs, join)
        return QUEUED / (time.monotonic() - began)


def _postmaster(data_dir: Path) -> psutil.Process:
    pid = (data_dir / "postgres/data/postmaster.pid").read_text().split()[0]
    return psutil.Process(int(pid))


def _cpu_seconds(root: psutil.Process) -> float:
    """Of a process and its children, those that have ended included."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _shown(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:.0f}" for rate in rates)
