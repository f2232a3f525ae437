"""
How often a run waits for PostgreSQL and for Redis: what each millisecond between them and the server costs.

Counted by time: bytes to one of the two are held up for `DELAY_SECONDS`, and what a run takes longer by then is
so many times the delay. That holds on a busy machine too.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from api.processes.embedded import Servers
from tests.acceptance.conftest import empty_database
from tests.acceptance.process import serving
from tests.bench.servers import load, project, size
from tests.faults.stores import Address, Network

RUNS, ROUNDS = size("DISTANT_RUNS", 12), 2
DELAY_SECONDS = 0.04
INPUT = {"messages": [{"role": "user", "content": "hello"}]}
MOMENTS = ("thread created", "first token", "end of the run", "state read")
#: How often each may wait for PostgreSQL, by graph; `steps` has ten nodes. For Redis nobody waits.
MOST = {"echo": (2, 4, 9, 4), "steps": (2, 4, 20, 4)}


@pytest.mark.bench
def test_a_run_waits_for_few_answers_of_postgresql_and_for_none_of_redis(
    servers: Servers, tmp_path: Path
) -> None:
    with (
        empty_database(servers) as database,
        closing(Network(_postgres(database))) as postgres,
        closing(Network(_redis(servers.redis_url))) as redis,
        _served(tmp_path, database, postgres, redis) as url,
    ):
        waits = {
            (graph, name): asyncio.run(_waits(url, graph, network))
            for graph in MOST
            for name, network in (("PostgreSQL", postgres), ("Redis", redis))
        }

    print(f"\n{load()}")
    for (graph, name), found in waits.items():
        told = ", ".join(f"{m} {n:.1f}" for m, n in zip(MOMENTS, found, strict=True))
        print(f"{graph}, waits for {name} until: {told}")
    for graph, most in MOST.items():
        assert all(n <= m for n, m in zip(waits[graph, "PostgreSQL"], most, strict=True))
        assert max(waits[graph, "Redis"]) < 1


@contextmanager
def _served(directory: Path, database: str, postgres: Network, redis: Network) -> Iterator[str]:
    url = urlsplit(database)
    user, _, _ = url.netloc.rpartition("@")
    near = url._replace(netloc=f"{user}@127.0.0.1:{postgres.port}", query="").geturl()
    variables = {"DATABASE_URL": near, "REDIS_URL": f"redis://127.0.0.1:{redis.port}"}
    with serving(project(directory), variables) as server:
        yield server.url


def _postgres(database_url: str) -> Address:
    url = urlsplit(database_url)
    if hosts := parse_qs(url.query).get("host"):
        return Path(hosts[0]) / f".s.PGSQL.{url.port or 5432}"
    return url.hostname or "localhost", url.port or 5432


def _redis(redis_url: str) -> Address:
    url = urlsplit(redis_url)
    return (
        Path(url.path) if url.scheme == "unix" else (url.hostname or "localhost", url.port or 6379)
    )


async def _waits(url: str, graph: str, network: Network) -> list[float]:
    """How often each of `MOMENTS` has waited for what is behind a network; near and far in turns."""
    least: dict[float, list[tuple[float, ...]]] = {0.0: [], DELAY_SECONDS: []}
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for _ in range(ROUNDS):
            for delay, found in least.items():
                network.delay_seconds = delay
                await _run(http, graph)  # connections are open then, and statements prepared
                found.extend([await _run(http, graph) for _ in range(RUNS)])
        network.delay_seconds = 0.0
    near, far = (map(min, zip(*found, strict=True)) for found in least.values())
    return [(slow - quick) / DELAY_SECONDS for quick, slow in zip(near, far, strict=True)]


async def _run(http: httpx.AsyncClient, graph: str) -> tuple[float, ...]:
    """The seconds that each of `MOMENTS` took; a run's since it was asked for."""
    began = time.perf_counter()
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    created = time.perf_counter()
    first = 0.0
    body = {"assistant_id": graph, "input": INPUT, "stream_mode": ["messages-tuple", "values"]}
    async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            if not first and (b"event: messages" in chunk or b"event: values" in chunk):
                first = time.perf_counter()
    ended = time.perf_counter()
    (await http.get(f"/threads/{thread_id}/state")).raise_for_status()
    return created - began, first - created, ended - created, time.perf_counter() - ended
