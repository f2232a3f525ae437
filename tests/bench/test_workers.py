"""Whether `threadwell serve --workers 2` uses two cores: streams of runs that compute."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from api.processes.embedded import Servers, embedded_servers
from tests.acceptance.conftest import empty_database
from tests.acceptance.process import serving
from tests.bench.servers import load, project, size

RUNS, ROUNDS, CLIENTS = size("WORKER_RUNS", 100), size("WORKER_ROUNDS", 3), 8
#: CPU of a run's graph in milliseconds, and how much faster two processes have to be than one. The
#: clients, PostgreSQL and Valkey take their share of the same cores, and of short runs more: on two
#: cores twice as fast is out of reach.
GRAPH_MS = {20: 1.2, 50: 1.4}


@pytest.mark.bench
def test_two_processes_on_a_port_serve_more_than_one_does(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, durable=False) as servers, ExitStack() as stack:
        urls = [stack.enter_context(_serving(tmp_path, servers, workers)) for workers in (1, 2)]
        rates = {ms: [[_rate(url, ms) for url in urls] for _ in range(ROUNDS)] for ms in GRAPH_MS}

    print(f"\n{load()}; runs a second with one process and with two, {CLIENTS} clients")
    ratios = {ms: statistics.median(two / one for one, two in seen) for ms, seen in rates.items()}
    for ms, seen in rates.items():
        shown = ", ".join(f"{one:.0f} and {two:.0f}" for one, two in seen)
        print(f"{ms} ms of CPU in each graph: {shown}; {ratios[ms]:.2f} times")
    for ms, least in GRAPH_MS.items():
        assert ratios[ms] >= least, ms


@contextmanager
def _serving(directory: Path, servers: Servers, workers: int) -> Iterator[str]:
    """A server of so many processes, on a database of its own; its URL."""
    with empty_database(servers) as database_url:
        urls = {"DATABASE_URL": database_url, "REDIS_URL": servers.redis_url}
        variables = {**urls, "THREADWELL_WORKERS": str(workers)}
        with serving(project(directory), variables) as server:
            asyncio.run(_ask(server.url, CLIENTS, 1))
            yield server.url


def _rate(url: str, ms: int) -> float:
    """Runs a second."""
    began = time.monotonic()
    asyncio.run(_ask(url, RUNS, ms))
    return RUNS / (time.monotonic() - began)


async def _ask(url: str, count: int, ms: int) -> None:
    """Have so many runs executed, each on a thread of its own, for clients that wait for them."""
    left = iter(range(count))
    asked = {"messages": [{"role": "user", "content": str(ms)}]}
    body = {"assistant_id": "busy", "input": asked, "if_not_exists": "create"}

    async def client() -> None:
        # A connection of its own, as a client elsewhere has.
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            for _ in left:
                answer = await http.post(f"/threads/{uuid.uuid4()}/runs/wait", json=body)
                assert f"echo: {ms}" in answer.text, answer.text

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
