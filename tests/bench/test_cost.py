"""
What a run costs: the CPU of all processes of a server, against the same graph without a server.

`make bench` prints it. The ways to run a graph take turns, so that what else the machine does falls
upon all of them; the bounds are loose, for a machine that is not ours alone.
"""

import asyncio
import json
import shutil
import statistics
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvloop
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from tests.acceptance.process import ServerProcess, serving
from tests.bench import graphs

CONCURRENCY = 32
ROUNDS = 2
#: How many runs of each graph are a measurement.
RUNS = {"echo": 128, "tokens": 48, "steps": 64}
#: How often the server may cost what the stock saver costs without a server.
BOUNDS = {"echo": 3.0, "tokens": 3.5, "steps": 2.0}

#: Executes a graph once, on a thread of its own.
Run = Callable[[str, str], Awaitable[None]]


@pytest.mark.bench
def test_a_run_costs_little_more_than_its_graph(tmp_path: Path) -> None:
    shutil.copy(Path(graphs.__file__), tmp_path / "graphs.py")
    config = tmp_path / "langgraph.json"
    named = {name: f"./graphs.py:{name}" for name in RUNS}
    config.write_text(json.dumps({"dependencies": ["."], "graphs": named}))
    with serving(config, {}, data_dir=tmp_path / "data") as server:
        found = uvloop.run(_measure(server, _roots(server, tmp_path / "data")))

    print("\nCPU ms per run      " + "".join(f"{name:>16}" for name in found["echo"]))
    for name, costs in found.items():
        print(f"{name:<20}" + "".join(f"{cost:>16.1f}" for cost in costs.values()))
    for name, costs in found.items():
        assert costs["server"] < BOUNDS[name] * costs["stock saver"], name


async def _measure(
    server: ServerProcess, roots: Sequence[psutil.Process]
) -> dict[str, dict[str, float]]:
    """The CPU of a run in milliseconds by graph and by the way it is run: the median."""
    here = psutil.Process()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=server.url, timeout=60, limits=httpx.Limits())
        )
        saver = await stack.enter_async_context(_stock_saver(server.database_url))
        ways: dict[str, tuple[Run, Sequence[psutil.Process]]] = {
            "server": (_on_server(http), roots),
            # PostgreSQL is one of the server's roots; the others idle meanwhile.
            "stock saver": (_in_process(saver), [here, *roots]),
            "no saver": (_in_process(None), [here]),
        }
        seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for number in range(ROUNDS + 1):
            for name, count in RUNS.items():
                for way, (run, charged) in ways.items():
                    cost = await _cost(run, name, count, charged)
                    if number:  # the first round warms up
                        seen[name][way].append(cost)
    return {
        name: {way: statistics.median(costs) for way, costs in by_way.items()}
        for name, by_way in seen.items()
    }


async def _cost(run: Run, name: str, count: int, charged: Sequence[psutil.Process]) -> float:
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await run(name, str(uuid.uuid4()))

    before = _cpu_seconds(charged)
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return 1000 * (_cpu_seconds(charged) - before) / count


def _on_server(http: httpx.AsyncClient) -> Run:
    async def run(name: str, thread_id: str) -> None:
        body = {
            "assistant_id": name,
            "input": _input(),
            "stream_mode": ["messages-tuple", "values"],
            "if_not_exists": "create",
        }
        async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as answer:
            frames = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.status_code == 200
        assert b"event: error" not in frames

    return run


def _in_process(saver: AsyncPostgresSaver | None) -> Run:
    served = {name: getattr(graphs, name).copy({"checkpointer": saver}) for name in RUNS}

    async def run(name: str, thread_id: str) -> None:
        config = {"configurable": {"thread_id": thread_id}}
        async for _ in served[name].astream(_input(), config, stream_mode=["messages", "values"]):
            pass

    return run


def _input() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}]}


@asynccontextmanager
async def _stock_saver(database_url: str) -> AsyncIterator[AsyncPostgresSaver]:
    """LangGraph's own, on the tables of the server: they are the same, and so is the disk."""
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(
        database_url, min_size=20, max_size=20, kwargs=options, open=False
    ) as pool:
        yield AsyncPostgresSaver(pool)  # type: ignore[arg-type]


def _roots(server: ServerProcess, data_dir: Path) -> list[psutil.Process]:
    """The server and its embedded PostgreSQL and Valkey, which are nobody's children."""
    files = (data_dir / "postgres/data/postmaster.pid", data_dir / "valkey/run/valkey.pid")
    pids = [server.process.pid, *(int(file.read_text().split()[0]) for file in files)]
    return [psutil.Process(pid) for pid in pids]


def _cpu_seconds(roots: Sequence[psutil.Process]) -> float:
    total = 0.0
    for root in roots:
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total
