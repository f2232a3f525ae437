"""
What 2,000 clients cost that wait for runs which do not begin, each on a thread of its own.

`BENCH_FOLLOWERS` makes it smaller.
"""

import asyncio
import resource
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.acceptance.process import serving
from tests.bench.servers import load, project, quantile, size

FOLLOWERS = size("FOLLOWERS", 2000)
#: What one may cost the server, in memory.
BYTES_EACH = 60 * 1024
HEARTBEAT_SECONDS, HEARTBEATS = 5.0, 6
#: How late the keep-alive of a client may come, which of a hundred are 99 below.
LATE_SECONDS = 0.5


@pytest.mark.bench
def test_a_client_that_waits_costs_little_memory(tmp_path: Path) -> None:
    allow_files(FOLLOWERS + 500)
    variables = {"SSE_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS)}
    with serving(project(tmp_path), variables, data_dir=tmp_path / "data") as server:
        found = asyncio.run(_follow(server.url, psutil.Process(server.process.pid)))
    each, cpu, gaps = found
    late = [abs(gap - HEARTBEAT_SECONDS) for gap in gaps]

    print(f"\n{FOLLOWERS} followers, {load()}")
    print(f"memory of each: {each / 1024:.1f} KiB; CPU while they wait: {cpu:.1%} of a core")
    p50, p99 = quantile(late, 0.5), quantile(late, 0.99)
    print(
        f"heartbeats: {len(gaps)}, off by p50 {p50:.3f} s, p99 {p99:.3f} s, at most {max(late):.3f} s"
    )
    assert each <= BYTES_EACH
    assert len(gaps) >= FOLLOWERS * (HEARTBEATS - 2)
    assert p99 <= LATE_SECONDS


def allow_files(count: int) -> None:
    """Let this process, and those it starts, open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


async def _follow(url: str, process: psutil.Process) -> tuple[float, float, list[float]]:
    """Bytes of a follower, CPU of all of them in cores, and the seconds between their heartbeats."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        paths = await _waiting_runs(http, FOLLOWERS + 50)
    # What the first ones cost is not theirs alone: code and buffers that all share.
    async with asyncio.TaskGroup() as first:
        for path in paths[FOLLOWERS:]:
            first.create_task(_listen(url, path, heartbeats=1))
    before = process.memory_info().rss
    followers = [
        asyncio.create_task(_listen(url, p, heartbeats=HEARTBEATS)) for p in paths[:FOLLOWERS]
    ]
    await asyncio.sleep(2 * HEARTBEAT_SECONDS)
    cpu, since = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(2 * HEARTBEAT_SECONDS)
    cpu = (sum(process.cpu_times()[:2]) - cpu) / (time.monotonic() - since)
    memory = process.memory_info().rss - before
    assert not any(follower.done() for follower in followers)
    heard = await asyncio.gather(*followers)
    memory = process.memory_info().rss - before
    return memory / FOLLOWERS, cpu, [gap for gaps in heard for gap in gaps]


async def _waiting_runs(http: httpx.AsyncClient, count: int) -> list[str]:
    """The streams of runs that begin in an hour."""
    left = iter(range(count))
    paths = []

    async def create() -> None:
        for _ in left:
            body = {"assistant_id": "echo", "input": {"messages": []}, "after_seconds": 3600}
            thread_id = (await http.post("/threads", json={})).json()["thread_id"]
            run = (await http.post(f"/threads/{thread_id}/runs", json=body)).json()
            paths.append(f"/threads/{thread_id}/runs/{run['run_id']}/stream")

    await asyncio.gather(*(create() for _ in range(16)))
    return paths


async def _listen(url: str, path: str, *, heartbeats: int) -> Sequence[float]:
    """The seconds between the heartbeats of a stream, then leave."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=4096)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        assert b" 200 " in await reader.readline()
        times: list[float] = []
        while len(times) < heartbeats:
            if b": heartbeat" in await reader.readline():
                times.append(time.monotonic())
        return [after - before for before, after in pairwise(times)]
    finally:
        writer.close()
