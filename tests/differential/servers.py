"""The project that both servers serve, and the reference as a process of its own."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.acceptance.process import ServerProcess, free_port, serving
from tests.differential import graphs
from tests.differential.normalise import normalise
from tests.differential.talk import Case, Exchange, play_all
from tests.graph import sample_graphs

LANGGRAPH = Path(__file__).parents[2] / ".venv-reference/bin/langgraph"
START_SECONDS = 60.0
SAMPLES = (
    *("chat", "tools", "nested", "custom", "ask", "nested_ask", "steps", "boom", "sends"),
    *("command", "whole", "things", "functional", "configured", "form"),
)
OWN = ("held", "ask_both", "look", "reticent")
GRAPH_IDS = frozenset((*SAMPLES, *OWN))


def project(directory: Path) -> Path:
    """Write the project; its langgraph.json."""
    shutil.copy(Path(sample_graphs.__file__), directory / "sample_graphs.py")
    shutil.copy(Path(graphs.__file__), directory / "more_graphs.py")
    named = {name: f"./sample_graphs.py:{name}" for name in SAMPLES}
    named |= {name: f"./more_graphs.py:{name}" for name in OWN}
    config = directory / "langgraph.json"
    store = {"index": {"dims": 3, "embed": "./more_graphs.py:embed", "fields": ["$"]}}
    config.write_text(json.dumps({"dependencies": ["."], "graphs": named, "store": store}))
    return config


def heard(cases: list[Case], url: str) -> dict[str, list[Exchange]]:
    """What a server says in these cases, comparable."""
    said = asyncio.run(play_all(cases, url))
    return {name: normalise(exchanges, GRAPH_IDS) for name, exchanges in said.items()}


@contextmanager
def ours(directory: Path, database_url: str, redis_url: str) -> Iterator[ServerProcess]:
    """A server of this checkout that is up; it ends streams as the reference does."""
    variables = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "STREAM_END_EVENT": "false",
    }
    with serving(project(directory), variables) as server:
        yield server


@contextmanager
def reference(directory: Path) -> Iterator[str]:
    """The URL of a reference server that is up; what it prints is in `reference.log`."""
    project(directory)
    port = free_port()
    options = ("--port", str(port), "--n-jobs-per-worker", "40")
    arguments = [str(LANGGRAPH), "dev", "--no-browser", "--no-reload", *options]
    secret = ("LANGSMITH_", "LANGCHAIN_", "OPENAI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(secret)}
    with (
        (directory / "reference.log").open("w") as log,
        subprocess.Popen(
            arguments,
            cwd=directory,
            env=kept,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield _up(process, f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(30)


def _up(process: "subprocess.Popen[bytes]", url: str) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{url}/ok", timeout=1).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return url
    raise RuntimeError("the reference did not start: see reference.log")
