"""
The memory of a server over 20,000 runs, streamed, waited for and in the background in turn.

`BENCH_RUNS` makes it shorter.
"""

import asyncio
import statistics
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from api.processes.embedded import embedded_servers
from tests.acceptance.process import serving
from tests.bench.servers import load, project, size

RUNS = size("RUNS", 20_000)
CONCURRENCY = 16
SAMPLES = 40
#: What the last quarter may have of what the second has.
GROWTH = 1.05


@pytest.mark.bench
def test_memory_stays_flat_over_many_runs(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, durable=False) as servers:
        variables = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
        with serving(project(tmp_path), variables) as server:
            seen = asyncio.run(_measure(server.url, psutil.Process(server.process.pid)))

    quarters = [
        statistics.mean(seen[i : i + SAMPLES // 4]) for i in range(0, SAMPLES, SAMPLES // 4)
    ]
    print(
        f"\nMiB in each quarter of {RUNS} runs, {load()}: "
        + ", ".join(f"{q:.1f}" for q in quarters)
    )
    print(f"the last is {quarters[3] / quarters[1]:.3f} of the second")
    assert quarters[3] <= GROWTH * quarters[1]


async def _measure(url: str, process: psutil.Process) -> list[float]:
    """The resident memory, in MiB, each time that a share of the runs has ended."""
    seen = []
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for _ in range(SAMPLES):
            left = iter(range(RUNS // SAMPLES))
            await asyncio.gather(*(_run(http, left) for _ in range(CONCURRENCY)))
            seen.append(process.memory_info().rss / 2**20)
    return seen


async def _run(http: httpx.AsyncClient, numbers: Iterator[int]) -> None:
    for number in numbers:
        thread_id = str(uuid.uuid4())
        body = {
            "assistant_id": "echo",
            "input": {"messages": [{"role": "user", "content": f"hello {number}"}]},
            "if_not_exists": "create",
        }
        way = ("stream", "wait", "")[number % 3]
        answer = await http.post(f"/threads/{thread_id}/runs/{way}".rstrip("/"), json=body)
        assert answer.status_code == 200, answer.text
        if not way:
            run_id = answer.json()["run_id"]
            answer = await http.get(f"/threads/{thread_id}/runs/{run_id}/join")
        assert f"echo: hello {number}" in answer.text
