"""Whether one tenant's flood slows another's first token: asked in turn with and without it."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.process import ROOT, serving
from tests.bench import graphs_of_tenants
from tests.bench.flooding import ask
from tests.bench.servers import load, quantile, size

ROUNDS, ASKED, CLIENTS = size("ROUNDS", 4), size("ASKED", 15), size("CLIENTS", 100)
#: How much later a first token may come under a flood.
TIMES = 2.0

LIMITS = {
    "FAIR_SHARES": "true",
    "LIMIT_RUNS": "4",
    "LIMIT_QUEUED_RUNS": "20",
    "LIMIT_STREAMS": "10",
    "LIMIT_REQUESTS_PER_SECOND": "10",
    "LIMIT_REQUEST_BURST": "20",
}


@pytest.mark.bench
@pytest.mark.parametrize("graph", ["model", "echo"])
def test_a_flood_of_one_does_not_slow_the_first_token_of_another(
    tmp_path: Path, graph: str
) -> None:
    found: dict[str, dict[str, list[float]]] = {}
    for name, limits in (
        ("in turn", {"FAIR_SHARES": "false"}), ("by default", {}), ("with limits", LIMITS),
    ):  # fmt: skip
        directory = tmp_path / name.replace(" ", "_")
        directory.mkdir()
        with serving(project(directory), limits, data_dir=directory / "data") as server:
            found[name] = measured(server.url, graph)
    print(f"\n{load()}, {graph}, {CLIENTS} clients flood")
    for name, phases in found.items():
        quiet, flood = phases["quiet"], phases["flood"]
        line = ", ".join(
            f"p{share * 100:.0f} {quantile(quiet, share):.0f} -> {quantile(flood, share):.0f} ms"
            for share in (0.5, 0.9)
        )
        print(f"{name}: {line} ({quantile(flood, 0.5) / quantile(quiet, 0.5):.2f} x)")
    phases = found["with limits"]
    assert quantile(phases["flood"], 0.5) <= TIMES * quantile(phases["quiet"], 0.5)


def project(directory: Path) -> Path:
    """The langgraph.json of a copy of the graphs."""
    shutil.copy(Path(graphs_of_tenants.__file__), directory / "graphs_of_tenants.py")
    config = directory / "langgraph.json"
    path = "./graphs_of_tenants.py"
    named = {name: f"{path}:{name}" for name in ("model", "echo")}
    config.write_text(json.dumps({"graphs": named, "auth": {"path": f"{path}:auth"}}))
    return config


def measured(url: str, graph: str) -> dict[str, list[float]]:
    """Milliseconds to the first token, with nobody else there and under a flood, in turn."""
    found: dict[str, list[float]] = {"quiet": [], "flood": []}
    asyncio.run(first_tokens(url, graph, 5))
    for _ in range(ROUNDS):
        found["quiet"] += asyncio.run(first_tokens(url, graph, ASKED))
        with flooding(url, graph):
            found["flood"] += asyncio.run(first_tokens(url, graph, ASKED))
        time.sleep(1.0)
    return found


async def first_tokens(url: str, graph: str, count: int) -> list[float]:
    """Of runs one after the other, in milliseconds: what a chat of one tenant feels."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        reader, writer = await ask(url, "quiet", graph)
        while b"token" not in await reader.readline():
            assert not reader.at_eof()
        found.append(1000 * (time.perf_counter() - began))
        await reader.read()
        writer.close()
        # At a person's pace, far below every limit.
        await asyncio.sleep(0.1)
    return found


@contextmanager
def flooding(url: str, graph: str) -> Iterator[None]:
    """Another tenant, who floods from a process of its own, while the block lasts."""
    arguments = [sys.executable, "-m", "tests.bench.flooding", url, graph, str(CLIENTS)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "begun\n"
            # Until what it may have is under way.
            time.sleep(1.0)
            yield
        finally:
            process.terminate()
            given = process.stdout.readline().split()
            print(f"  the flood: {given[0]} runs, {given[1]} refused", flush=True)
