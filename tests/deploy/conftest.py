"""What is delivered, built once: the wheel and the source distribution."""

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.process import ROOT, ServerProcess, environment, free_port


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a program to its end; what it printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(source: Path, into: Path, kind: str) -> Path:
    """Build a wheel or an sdist of a source tree."""
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into), cwd=source)
    [made] = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def install(wheel: Path, into: Path) -> Path:
    """
    Install a wheel in a virtual environment of its own; its directory of programs.

    What the wheel needs is this environment's: `make package` installs everything anew.
    """
    run(sys.executable, "-m", "venv", "--without-pip", str(into))
    python = into / "bin/python"
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", "--no-compile", wheel)
    [packages] = into.glob("lib/python*/site-packages")
    # Behind the wheel's, and without this environment's own .pth, which leads to the checkout.
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return into / "bin"


@contextmanager
def serving(
    programs: Path, config: Path, variables: dict[str, str], *, port: int = 0
) -> Iterator[ServerProcess]:
    """A server of an installation, up, in a directory that has nothing of the checkout."""
    port = port or free_port()
    command: list[str | Path] = [programs / "threadwell", "serve", "--port", str(port)]
    command += ["--config", config]
    with subprocess.Popen(
        command,
        cwd=config.parent,
        env=environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        server = ServerProcess(port, process)
        try:
            server.wait_until_up()
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
            server.wait()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="session")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's console command is in it."""
    return install(wheel, tmp_path_factory.mktemp("installed"))


def tool(name: str) -> str:
    """A program of `.venv-deploy`, which `make test` makes."""
    path = ROOT / ".venv-deploy/bin" / name
    if not path.exists():
        pytest.skip("`make test` installs the tools in .venv-deploy; this run was begun otherwise")
    return str(path)
