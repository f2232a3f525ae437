"""Threadwell as a process of its own, started by its console command."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
START_SECONDS = 90.0
#: How much longer than by itself anything may take on a machine that is busy with something else.
BUSY_SECONDS = 5.0
STOP_SECONDS = 60.0
#: The line of the addresses that is printed last.
READY = "  Database "


def free_port() -> int:
    """A port that nobody listens on just now, nor gets who asks for any: the kernel's are higher."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def command(*arguments: str) -> list[str]:
    """The console command `threadwell` of this checkout."""
    return [sys.executable, "-m", "api", *arguments]


def environment(more: dict[str, str]) -> dict[str, str]:
    """This process's, without what would tell Threadwell or its agent anything, and `more`."""
    ours = ("DATABASE_", "POSTGRES_", "REDIS_", "THREADWELL_", "OPENAI_", "MODEL", "BG_JOB_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, **more}


class ServerProcess:
    """A server that is up; `url` is where."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self.lines: list[str] = []
        self._spoke = threading.Condition()
        self._silent = False
        self._reader = threading.Thread(target=self._read, name=f"log of {port}")
        self._reader.start()

    @property
    def log(self) -> str:
        """Everything it has printed."""
        return "".join(self.lines)

    @property
    def database_url(self) -> str:
        """The database as printed for a person with psql."""
        return next(line for line in self.lines if line.startswith(READY)).split()[1]

    def wait_until_printed(
        self, text: str, times: int = 1, *, seconds: float = START_SECONDS
    ) -> None:
        """Return when it has printed this, so often in all."""

        def printed() -> bool:
            return self.log.count(text) >= times

        with self._spoke:
            self._spoke.wait_for(lambda: self._silent or printed(), seconds)
        assert printed(), f"it did not print {text!r}:\n{self.log}"

    async def printed(self, text: str, times: int = 1) -> None:
        """Wait until it has printed this, so often in all."""
        await asyncio.to_thread(self.wait_until_printed, text, times)

    def wait_until_up(self) -> None:
        """Return when it answers."""
        self.wait_until_printed(READY)
        assert httpx.get(f"{self.url}/ok", timeout=30).json()["ok"] is True

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; the exit status."""
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not stop in time:\n{self.log}") from None
        self._reader.join()
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._spoke:
                    self.lines.append(line)
                    self._spoke.notify_all()
        with self._spoke:
            self._silent = True
            self._spoke.notify_all()


@contextmanager
def starting(
    config: Path,
    variables: dict[str, str],
    *,
    data_dir: Path | None = None,
    serves: bool = True,
) -> Iterator[ServerProcess]:
    """
    Start a server without waiting for it, and stop it whatever happens.

    Args:
        variables: Its settings, by their names in the environment.
        serves: False for a process that only works on runs.
    """
    port = free_port()
    arguments = ["serve", "--port", str(port)] if serves else ["worker"]
    arguments += ["--config", str(config)]
    if data_dir is not None:
        arguments += ["--data-dir", str(data_dir)]
    with subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Ctrl-C of the test run reaches the tests only; they stop the servers.
        start_new_session=True,
    ) as process:
        server = ServerProcess(port, process)
        try:
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                server.wait()
            finally:
                process.kill()


@contextmanager
def serving(
    config: Path, variables: dict[str, str], *, data_dir: Path | None = None
) -> Iterator[ServerProcess]:
    """A server that is up."""
    with starting(config, variables, data_dir=data_dir) as server:
        server.wait_until_up()
        yield server


@contextmanager
def started_by(line: list[str], variables: dict[str, str] | None = None) -> Iterator[ServerProcess]:
    """The server that a command starts, up, whichever port it got; stopped as by Ctrl-C."""
    with subprocess.Popen(
        line,
        cwd=ROOT,
        env=environment(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        server = ServerProcess(0, process)
        try:
            server.wait_until_printed(READY)
            server.url = next(printed.split()[1] for printed in server.lines if "  API " in printed)
            yield server
        finally:
            if process.poll() is None:
                # Whatever is between hears of it too.
                os.killpg(process.pid, signal.SIGINT)
            server.wait()
