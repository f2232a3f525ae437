"""
What protection costs: the CPU of a run on servers that take turns, with and without it.

Metrics are always counted; here they are asked for as well, once in every measurement.
"""

import asyncio
import statistics
import subprocess
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import uvloop

from tests.acceptance.process import ROOT, command, environment, serving
from tests.bench.light import Light
from tests.bench.servers import load, project, size
from tests.bench.test_cost import RUNS, cost_of, on_server, roots_of, thread_on_server

ROUNDS = size("ROUNDS", 4)
TARGET, BOUND = 1.25, 1.6
ENCRYPTION = {"LANGGRAPH_AES_KEY": "0123456789abcdef0123456789abcdef"}
KEYS = {"THREADWELL_AUTH": "keys"}
LIMITS = {"LIMIT_REQUESTS_PER_SECOND": "100000", "LIMIT_REQUESTS": "1000", "LIMIT_STREAMS": "1000"}
WAYS: dict[str, dict[str, str]] = {
    "open": {},
    "encryption": ENCRYPTION,
    "keys": KEYS,
    "both, metrics": {**ENCRYPTION, **KEYS},
    "limits too": {**ENCRYPTION, **KEYS, **LIMITS},
}


@dataclass(frozen=True)
class Way:
    """A server that is up, and how it is asked."""

    client: Light
    http: httpx.AsyncClient
    roots: list[psutil.Process]


@pytest.mark.bench
def test_all_protection_together_costs_a_run_a_quarter_more(tmp_path: Path) -> None:
    found = uvloop.run(_measure(tmp_path))

    print(f"\n{load()}; CPU ms per run" + "".join(f"{name:>16}" for name in WAYS))
    for graph, costs in found.items():
        print(f"{graph:<34}" + "".join(f"{costs[name]:>16.1f}" for name in WAYS))
        ratios = (f"{costs[name] / costs['open']:>16.2f}" for name in WAYS)
        print(f"{f'x open (target {TARGET} for both)':<34}" + "".join(ratios))
    for graph, costs in found.items():
        assert costs["both, metrics"] / costs["open"] < BOUND, graph


async def _measure(directory: Path) -> dict[str, dict[str, float]]:
    async with AsyncExitStack() as stack:
        ways = {}
        for number, (name, variables) in enumerate(WAYS.items()):
            data_dir = directory / str(number)
            data_dir.mkdir()
            server = stack.enter_context(
                serving(project(data_dir), variables, data_dir=data_dir / "data")
            )
            key = (
                _made_key(server.database_url, variables) if "THREADWELL_AUTH" in variables else ""
            )
            http = await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=server.url, timeout=60, headers={"x-api-key": key} if key else {}
                )
            )
            client = Light(server.url, key=key)
            stack.push_async_callback(client.close)
            ways[name] = Way(client, http, roots_of(server, data_dir / "data"))
        seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for number in range(ROUNDS + 1):
            for graph, count in RUNS.items():
                for name, way in ways.items():
                    make, run = thread_on_server(way.http), on_server(way.client)
                    thread_ids = [await make() for _ in range(count)]
                    asked = asyncio.ensure_future(way.http.get("/metrics"))
                    cost = await cost_of(run, graph, thread_ids, way.roots)
                    (await asked).raise_for_status()
                    if number:  # the first round warms up
                        seen[graph][name].append(cost)
    return {
        graph: {name: statistics.median(costs) for name, costs in by_way.items()}
        for graph, by_way in seen.items()
    }


def _made_key(database_url: str, variables: dict[str, str]) -> str:
    made = subprocess.run(
        command("keys", "create", "--owner", "bench", "--role", "admin"),
        cwd=ROOT,
        env=environment({**variables, "DATABASE_URL": database_url}),
        capture_output=True,
        text=True,
        check=True,
    )
    return next(word for word in made.stdout.split() if word.startswith("tw_"))
