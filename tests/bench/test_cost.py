"""
What a run costs: the CPU of all processes of a server, against the same graph without a server.

`make bench` prints it. The ways to run a graph take turns, so that what else the machine does falls
upon all of them; the bounds are loose, for a machine that is not ours alone.
"""

import asyncio
import statistics
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
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
from tests.bench.light import Light
from tests.bench.servers import cpu_seconds, load, project, size

CONCURRENCY = 32
ROUNDS = size("ROUNDS", 3)
SETTLE_SECONDS = 0.3
#: How many runs of each graph are a measurement.
RUNS = {"echo": 128, "tokens": 48, "steps": 64}
#: What a run may cost, in runs of the same graph without a server: our targets, and what is asserted
#: on a machine that is not ours alone. docs/performance.md tells what stands between them.
TARGETS = {"echo": ("stock saver", 0.8), "tokens": ("no saver", 1.5), "steps": ("stock saver", 0.6)}
BOUNDS = {"echo": 1.3, "tokens": 2.8, "steps": 0.9}

#: Executes a graph once, on a thread that is there and empty.
Run = Callable[[str, str], Awaitable[None]]
#: A way to run graphs: what makes a thread, what runs one there, and whose CPU that takes.
Way = tuple[Callable[[], Awaitable[str]], Run, Sequence[psutil.Process]]


@pytest.mark.bench
def test_a_run_costs_little_more_than_its_graph(tmp_path: Path) -> None:
    with serving(project(tmp_path), {}, data_dir=tmp_path / "data") as server:
        found = uvloop.run(_measure(server, roots_of(server, tmp_path / "data")))

    print("\nCPU ms per run      " + "".join(f"{name:>16}" for name in found["echo"]))
    for name, costs in found.items():
        print(f"{name:<20}" + "".join(f"{cost:>16.1f}" for cost in costs.values()))
    ratios = {name: found[name]["server"] / found[name][of] for name, (of, _) in TARGETS.items()}
    for name, (of, target) in TARGETS.items():
        print(f"{name}: {ratios[name]:.2f} x {of} (target {target}); {load()}")
    for name, ratio in ratios.items():
        assert ratio < BOUNDS[name], name


async def _measure(
    server: ServerProcess, roots: Sequence[psutil.Process]
) -> dict[str, dict[str, float]]:
    """The CPU of a run in milliseconds by graph and by the way it is run: the median."""
    here = psutil.Process()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=server.url, timeout=60, limits=httpx.Limits())
        )
        client = Light(server.url)
        stack.push_async_callback(client.close)
        saver = await stack.enter_async_context(_stock_saver(server.database_url))
        ways: dict[str, Way] = {
            "server": (thread_on_server(http), on_server(client), roots),
            # PostgreSQL is one of the server's roots; the others idle meanwhile.
            "stock saver": (_thread_id, _in_process(saver), [here, *roots]),
            "no saver": (_thread_id, _in_process(None), [here]),
        }
        seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for number in range(ROUNDS + 1):
            for name, count in RUNS.items():
                for way, (make, run, charged) in ways.items():
                    thread_ids = [await make() for _ in range(count)]
                    cost = await cost_of(run, name, thread_ids, charged)
                    if number:  # the first round warms up
                        seen[name][way].append(cost)
    return {
        name: {way: statistics.median(costs) for way, costs in by_way.items()}
        for name, by_way in seen.items()
    }


async def cost_of(
    run: Run, name: str, thread_ids: Sequence[str], charged: Sequence[psutil.Process]
) -> float:
    left = iter(thread_ids)

    async def work() -> None:
        for thread_id in left:
            await run(name, thread_id)

    before = cpu_seconds(charged)
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    # What is written behind belongs to them.
    await asyncio.sleep(SETTLE_SECONDS)
    return 1000 * (cpu_seconds(charged) - before) / len(thread_ids)


def thread_on_server(http: httpx.AsyncClient) -> Callable[[], Awaitable[str]]:
    async def make() -> str:
        return str((await http.post("/threads", json={})).json()["thread_id"])

    return make


async def _thread_id() -> str:
    return str(uuid.uuid4())


def on_server(client: Light) -> Run:
    async def run(name: str, thread_id: str) -> None:
        body = {
            "assistant_id": name,
            "input": _input(),
            "stream_mode": ["messages-tuple", "values"],
        }
        kind = "wait" if name == "steps" else "stream"
        answer = await client.post(f"/threads/{thread_id}/runs/{kind}", body)
        assert b"event: error" not in answer
        assert b"__error__" not in answer

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


def roots_of(server: ServerProcess, data_dir: Path) -> list[psutil.Process]:
    """The server and its embedded PostgreSQL and Valkey, which are nobody's children."""
    files = (data_dir / "postgres/data/postmaster.pid", data_dir / "valkey/run/valkey.pid")
    pids = [server.process.pid, *(int(file.read_text().split()[0]) for file in files)]
    return [psutil.Process(pid) for pid in pids]
