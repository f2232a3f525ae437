"""The wheel has all that a server needs, and says what else it needs."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from langgraph_sdk import get_sync_client

from api import __version__
from api.processes.embedded import Servers
from tests.acceptance.conftest import empty_database
from tests.acceptance.process import ROOT, ServerProcess, environment, free_port
from tests.deploy.conftest import build, run, serving
from tests.deploy.image import COMMAND, HEALTHY

PACKAGES = ("api", "graph", "store", "threadwell")
HELLO: Any = {"messages": [{"role": "user", "content": "hello"}]}
BUILD_SECONDS = 1200.0
CONFIG = ROOT / "deploy/langgraph.json"


def tracked(*folders: str) -> set[str]:
    return set(
        run("git", "ls-files", "--cached", "--others", "--exclude-standard", *folders).split()
    )


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def chat(url: str) -> str:
    """What the bundled agent answers to a greeting, streamed; the thread's state has it too."""
    with get_sync_client(url=url) as client:
        thread = client.threads.create()
        said = ""
        for part in client.runs.stream(
            thread["thread_id"], "agent", input=HELLO, stream_mode="messages-tuple"
        ):
            if part.event == "messages":
                said += part.data[0]["content"]
        values: Any = client.threads.get_state(thread["thread_id"])["values"]
    kept = values["messages"]
    assert kept[-1]["content"] == said
    return said


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    assert contents(wheel) == tracked(*PACKAGES)
    assert any(name.endswith("0001_initial.sql") for name in contents(wheel))


def test_the_source_distribution_has_what_the_same_wheel_is_built_of(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.glob("threadwell-*")

    assert contents(build(source, tmp_path / "dist", "wheel")) == contents(wheel)
    for name in ("docs/deployment.md", "Dockerfile", "compose.yaml", "constraints.txt", "LICENSE"):
        assert (source / name).exists(), name


def test_every_package_that_is_imported_is_required(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = archive.read(name).decode()
    needed = set(re.findall(r"^Requires-Dist: ([\w.-]+)", metadata, re.MULTILINE))
    reached = _closure({_plain(name) for name in needed})

    for module in _imported():
        names = {_plain(name) for name in packages_distributions().get(module, ())}
        # One that is not here at all is for a later Python.
        assert not names or names & reached, f"{module} is of {names}, which nothing requires"


def _imported() -> set[str]:
    """The top-level modules of others that the packages import, be it in a function."""
    found = set()
    for path in (ROOT / name for name in tracked(*PACKAGES) if name.endswith(".py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).split(".")[0])
    return found - sys.stdlib_module_names - {*PACKAGES}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _closure(names: set[str]) -> set[str]:
    """What is installed with these."""
    reached: set[str] = set()
    while names:
        name = names.pop()
        reached.add(name)
        for line in _requires(name):
            if (found := re.match(r"[\w.-]+", line)) and "extra ==" not in line:
                names |= {_plain(found[0])} - reached
    return reached


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except ModuleNotFoundError:  # not for this platform
        return []


def test_an_installed_wheel_serves_a_chat_without_the_checkout(
    programs: Path, servers: Servers, tmp_path: Path
) -> None:
    config = Path(shutil.copy(CONFIG, tmp_path))
    where = run(programs / "python", "-c", "import store; print(store.__file__)", cwd=tmp_path)
    assert str(programs.parent) in where
    assert run(programs / "threadwell", "--version", cwd=tmp_path).strip() == __version__
    with empty_database(servers) as database:
        variables = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
        with serving(programs, config, variables) as server:
            assert "hello" in chat(server.url)
            # Pages, schemas and texts that are files.
            for path in ("/docs", "/openapi.json", "/ok?check_db=true", "/metrics"):
                assert httpx.get(server.url + path, timeout=30).status_code == 200, path
            missing = httpx.get(
                f"{server.url}/api/sessions/none", headers={"Accept-Language": "zh"}, timeout=30
            )
            assert re.search("[\u4e00-\u9fff]", missing.json()["detail"])
        checked = subprocess.run(
            [programs / "threadwell", "check", "--config", str(config)],
            env=environment(variables), capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "1 threads looked at, 0 findings" in checked.stdout
        with psycopg.connect(database) as connection:
            [count] = connection.execute("SELECT count(*) FROM message").fetchone() or [0]
        assert count == 2


@pytest.mark.package
def test_the_image_is_built_runs_as_nobody_special_is_healthy_and_chats() -> None:
    port = free_port()
    unshared = subprocess.run([COMMAND[0], "--mount", "true"], check=False, capture_output=True)
    if unshared.returncode != 0:
        pytest.skip("namespaces of its own are for root, or where the system lets others have them")
    with subprocess.Popen(
        [*COMMAND, str(port), "THREADWELL_ALLOW_ANYBODY=true"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        image = ServerProcess(port, process)
        try:
            image.wait_until_printed(HEALTHY, seconds=BUILD_SECONDS)
            assert "hello" in chat(image.url)
        finally:
            # Not `unshare` alone, which waits for its child whatever it is told.
            os.killpg(process.pid, signal.SIGTERM)
            try:
                image.wait()
            finally:
                process.kill()
    assert '"event": "Finished server process' in image.log
