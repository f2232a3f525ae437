"""JavaScript's clients by scripts that Node runs: the SDK's, and those of other front ends."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.processes.embedded import Servers
from tests.acceptance.conftest import empty_database, project
from tests.acceptance.process import ServerProcess, environment, serving

__all__ = ["project"]

HERE = Path(__file__).parent
SECONDS = 300


@pytest.fixture(scope="module")
def modules() -> None:
    """What package-lock.json names, installed beside it."""
    installed = HERE / "node_modules/.package-lock.json"
    lock = HERE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        install = ["npm", "ci", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=HERE, check=True, timeout=SECONDS)
        installed.touch()


@pytest.fixture(scope="module")
def served(servers: Servers, project: Path) -> Iterator[ServerProcess]:
    with empty_database(servers) as database:
        variables = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
        with serving(project, variables) as server:
            yield server


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.parametrize(
    "script", ["sdk.test.mjs", "react.test.mjs", "doors.test.mjs", "assistant-ui.test.mjs"]
)
def test_the_clients_work(script: str, modules: None, served: ServerProcess) -> None:
    ran = subprocess.run(
        # The SDK may keep a connection open after all is said.
        ["node", "--test", "--test-force-exit", "--test-timeout=240000", script],
        cwd=HERE,
        env=environment({"THREADWELL_URL": served.url}),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
