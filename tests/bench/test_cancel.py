"""How long a cancel takes, from any process, until whoever asked for it knows that it is done."""

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.processes.embedded import Servers
from tests.acceptance.conftest import database, project
from tests.acceptance.gate import Gate, open_gate
from tests.faults.cluster import Cluster, open_cluster

__all__ = ["database", "project"]

TRIES = 20
#: The target is 0.1, on a machine that does nothing else.
BOUND_SECONDS = 0.5


@pytest.mark.bench
async def test_a_cancel_from_any_process_takes_no_time_that_one_would_notice(
    servers: Servers, database: str, project: Path
) -> None:
    urls = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
    with open_cluster(project, urls) as cluster:
        found = await _measure(cluster)

    print(f"\n{'cancel, ms':<40}{'p50':>8}{'p95':>8}")
    for what, seconds in found.items():
        p50, p95 = (1000 * seconds[int(len(seconds) * share)] for share in (0.5, 0.95))
        print(f"{what:<40}{p50:>8.1f}{p95:>8.1f}")
    for what, seconds in found.items():
        assert seconds[int(len(seconds) * 0.95)] < BOUND_SECONDS, what


async def _measure(cluster: Cluster) -> dict[str, list[float]]:
    async with (
        open_gate() as gate,
        httpx.AsyncClient(base_url=cluster.servers[0].url, timeout=30) as here,
        httpx.AsyncClient(base_url=cluster.servers[1].url, timeout=30) as there,
    ):
        gate.hold("it:b")
        found: dict[str, list[float]] = {}
        for what, server, wait in (
            ("in its own process, wait=true", here, True),
            ("in another process, wait=true", there, True),
            ("in another process, until it stops", there, False),
        ):
            # The first one in a process opens connections.
            await _cancel(gate, here, server, wait)
            found[what] = sorted([await _cancel(gate, here, server, wait) for _ in range(TRIES)])
        found[f"{TRIES} runs by one request, each"] = await _cancel_all(gate, here, there)
        gate.release("it:b")
        return found


async def _begin(gate: Gate, http: httpx.AsyncClient) -> tuple[str, asyncio.Task[Any]]:
    """Begin a run in this process that waits in its second step; its path, and its stream."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    work = {"gate": gate.port, "name": "it"}
    body = {"assistant_id": "steps", "input": work, "durability": "sync"}
    before = gate.seen.count("it:b")
    streaming = asyncio.create_task(http.post(f"/threads/{thread_id}/runs/stream", json=body))
    await gate.arrived("it:b", before + 1)
    [run] = (await http.get(f"/threads/{thread_id}/runs")).json()
    return f"/threads/{thread_id}/runs/{run['run_id']}", streaming


async def _cancel(gate: Gate, here: httpx.AsyncClient, by: httpx.AsyncClient, wait: bool) -> float:
    path, streaming = await _begin(gate, here)
    waited: Awaitable[Any] = asyncio.sleep(0) if wait else streaming
    began_at = time.perf_counter()
    await by.post(f"{path}/cancel", params={"wait": wait})
    await waited
    seconds = time.perf_counter() - began_at
    await streaming
    return seconds


async def _cancel_all(gate: Gate, here: httpx.AsyncClient, by: httpx.AsyncClient) -> list[float]:
    streams = [(await _begin(gate, here))[1] for _ in range(TRIES)]
    ended: list[float] = []
    began_at = time.perf_counter()
    for stream in streams:
        stream.add_done_callback(lambda _: ended.append(time.perf_counter() - began_at))
    await by.post("/runs/cancel", json={"status": "all"})
    await asyncio.gather(*streams)
    await asyncio.sleep(0)
    return sorted(ended)
