"""
A server shared by processes: started by the first that uses it, stopped by the last.

Three lock files beside its data say all there is to know, and the kernel drops them when their
holders die, however they die; so a crash leaves nothing behind that has to be guessed at:

- ``start.lock``: held while somebody starts or stops the server.
- ``users.lock``: shared by every process that uses the server, for as long as it does.
- ``alive.lock``: inherited by the server itself and by all its children. Whoever can take it knows
  that none of them is left; a pid file only claims so, and pids come back.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.02
LOG_TAIL_LINES = 20


class EmbeddedServerError(RuntimeError):
    """An embedded server did not start or did not stop; the message ends with its log's tail."""


class Server(Protocol):
    """What `in_use` needs to know; `home` holds the locks, the data and `run/server.log`."""

    home: Path

    def launch(self, alive: int) -> None:
        """Start it in the background; it inherits the descriptor `alive`. None is left running."""

    def is_ready(self) -> bool:
        """Say whether it answers."""

    def stop(self) -> None:
        """Ask it to stop, within `STOP_TIMEOUT_SECONDS`."""


@contextmanager
def in_use(server: Server) -> Iterator[None]:
    """
    Keep `server` running while the block runs, for all processes that do so with its `home`.

    Raises:
        EmbeddedServerError: It did not start, or on leaving did not stop.
    """
    with ExitStack() as files:
        try:
            _make_home(server.home)
            start = files.enter_context(_lock_file(server.home, "start"))
            users = files.enter_context(_lock_file(server.home, "users"))
        except OSError as exc:
            raise EmbeddedServerError(f"cannot keep data in {server.home}: {exc}") from exc
        try:
            with _held(start):
                # Never waits: it is held exclusively only by those who hold `start`.
                fcntl.flock(users, fcntl.LOCK_SH)
                _ensure_running(server)
            yield
        finally:
            with _held(start):
                if _try_lock(users):
                    _ensure_stopped(server)


def _ensure_running(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    launched = False
    while time.monotonic() < deadline:
        with _lock_file(server.home, "alive") as alive:
            if _try_lock(alive):
                if launched:
                    raise _failure(server, "went down while starting")
                try:
                    server.launch(alive.fileno())
                except OSError as exc:
                    raise EmbeddedServerError(f"cannot start {server.home}: {exc}") from exc
                launched = True
                deadline = time.monotonic() + START_TIMEOUT_SECONDS
            elif server.is_ready():
                return
        time.sleep(POLL_SECONDS)
    raise _failure(server, f"did not answer within {START_TIMEOUT_SECONDS:.0f} seconds")


def _ensure_stopped(server: Server) -> None:
    with _lock_file(server.home, "alive") as alive:
        asked = False
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while not _try_lock(alive):
            # One that does not answer is still starting, or going down already.
            if not asked and server.is_ready():
                server.stop()
                asked = True
            if time.monotonic() > deadline:
                raise _failure(server, f"did not stop within {STOP_TIMEOUT_SECONDS:.0f} seconds")
            time.sleep(POLL_SECONDS)


def _failure(server: Server, what: str) -> EmbeddedServerError:
    log = server.home / "run" / "server.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    return EmbeddedServerError(f"the server in {server.home} {what}; {log} ends:\n{tail(text)}")


def tail(text: str) -> str:
    """Give the last lines of a log."""
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])


def _make_home(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    # The data directory may lie in a project that does not ignore it.
    (home / ".gitignore").write_text("*\n")


def _lock_file(home: Path, name: str) -> BinaryIO:
    # Owner only: who can open it can take it.
    return os.fdopen(os.open(home / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600), "rb+")


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _held(file: BinaryIO) -> Iterator[None]:
    deadline = time.monotonic() + 2 * START_TIMEOUT_SECONDS
    while not _try_lock(file):
        if time.monotonic() > deadline:
            raise EmbeddedServerError(f"another process does not let go of {file.name}")
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
