"""Servers of the graphs of `tests.bench.graphs`, and the sizes of what is asked of them."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.acceptance.process import ROOT, ServerProcess, command, environment
from tests.bench import graphs

GRAPHS = ("echo", "tokens", "steps", "busy", "asleep", "computing")


def project(directory: Path) -> Path:
    """The langgraph.json of a copy of the graphs."""
    shutil.copy(Path(graphs.__file__), directory / "graphs.py")
    config = directory / "langgraph.json"
    named = {name: f"./graphs.py:{name}" for name in GRAPHS}
    config.write_text(json.dumps({"dependencies": ["."], "graphs": named}))
    return config


@contextmanager
def working(config: Path, variables: dict[str, str]) -> Iterator[ServerProcess]:
    """A process that works on runs and serves nothing."""
    with subprocess.Popen(
        command("worker", "--config", str(config)),
        cwd=ROOT,
        env=environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        worker = ServerProcess(0, process)
        try:
            worker.wait_until_printed("working")
            yield worker
        finally:
            worker.stop()


def size(name: str, default: int) -> int:
    """How much of something to measure with: ``BENCH_<NAME>`` in the environment, or all."""
    return int(os.environ.get(f"BENCH_{name}", default))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all is not above."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def postmaster(data_dir: Path) -> psutil.Process:
    """The embedded PostgreSQL."""
    pid = (data_dir / "postgres/data/postmaster.pid").read_text().split()[0]
    return psutil.Process(int(pid))


def cpu_seconds(roots: Sequence[psutil.Process]) -> float:
    """What processes have used, and their children, those that have ended included."""
    total = 0.0
    for root in roots:
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def is_quiet() -> bool:
    """Whether nobody else keeps the machine busy, so that time tells something."""
    return os.getloadavg()[0] <= (os.cpu_count() or 1)


def load() -> str:
    """How busy the machine is, for whoever reads a figure."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
