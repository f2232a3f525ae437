"""Servers of the graphs of `tests.bench.graphs`, and the sizes of what is asked of them."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance.process import ROOT, ServerProcess, command, environment
from tests.bench import graphs

GRAPHS = ("echo", "tokens", "steps", "busy")


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


def load() -> str:
    """How busy the machine is, for whoever reads a figure."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
