"""Two servers and a worker on one PostgreSQL and one Valkey, for tests that strike them."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.acceptance.process import READY, START_SECONDS
from tests.soak.cluster import Member

#: How long runs may go on when their process is told to stop.
GRACE_SECONDS = 3
#: So that what a killed process left is taken up soon, and a stopping one goes soon.
#: What a process says when it learns that its lease was taken from it.
DEAD = "this worker was declared dead"
QUICK = {
    "LEASE_SECONDS": "3",
    "HEARTBEAT_SECONDS": "0.5",
    "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS": str(GRACE_SECONDS),
    "SSE_HEARTBEAT_SECONDS": "0.5",
}


class Cluster:
    """
    The processes, and who owns what.

    Attributes:
        members: Two servers and a worker.
    """

    def __init__(self, config: Path, variables: dict[str, str]) -> None:
        self.members = [Member(name, config, variables) for name in ("1", "2", "worker")]
        self._database_url = variables["DATABASE_URL"]

    @property
    def servers(self) -> list[Member]:
        """Those that answer requests."""
        return [member for member in self.members if member.serves]

    @property
    def worker(self) -> Member:
        """The one that does not."""
        return self.members[-1]

    def other_server(self, than: Member) -> Member:
        """A server that is not this one."""
        return next(server for server in self.servers if server is not than)

    def connect(self) -> psycopg.Connection:
        """A connection to the database, in a transaction."""
        return psycopg.connect(self._database_url)

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self.connect() as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def owner(self, run_id: str) -> Member:
        """The process that has the lease of a running run."""
        query = "SELECT pid FROM worker JOIN run USING (worker_id) WHERE run_id = %s"
        [(pid,)] = self.sql(query, run_id)
        return next(member for member in self.members if member.now.process.pid == pid)

    def in_flight(self) -> list[tuple[Any, ...]]:
        """Runs that have not ended, and threads that are busy."""
        return self.sql(
            "SELECT 'run', run_id::text, status FROM run WHERE status IN ('pending', 'running')"
            " UNION ALL SELECT 'thread', thread_id, status FROM thread WHERE status = 'busy'"
        )

    def revive(self) -> None:
        """Start anew whoever is gone, and let go on whoever is frozen."""
        for member in self.members:
            if member.now.process.poll() is None:
                member.now.process.send_signal(signal.SIGCONT)
            else:
                member.now.wait()
                member.start()

    def wait_until_up(self) -> None:
        """Return when all of them work."""
        for member in self.members:
            member.now.wait_until_printed(READY if member.serves else "working")
        deadline = time.monotonic() + START_SECONDS
        # One that was frozen learns that it was declared dead, and begins anew.
        while not self._registered() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self._registered()

    def _registered(self) -> bool:
        pids = {member.now.process.pid for member in self.members}
        return pids <= {pid for (pid,) in self.sql("SELECT pid FROM worker")}

    def close(self) -> None:
        """Stop all of them."""
        for member in self.members:
            member.now.process.kill()
        for member in self.members:
            member.now.wait()


@contextmanager
def open_cluster(config: Path, variables: dict[str, str]) -> Iterator[Cluster]:
    """Start one, and in the end stop whatever is left of it."""
    cluster = Cluster(config, variables)
    try:
        cluster.wait_until_up()
        yield cluster
    finally:
        cluster.close()


async def kill(member: Member, number: int = signal.SIGKILL) -> None:
    """Send a signal that ends the process, and wait for the end."""
    await asyncio.to_thread(member.now.stop, number)


def freeze(member: Member) -> None:
    """Stop the process in the middle of whatever it does; return when it stands still."""
    process = member.now.process
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


def thaw(member: Member) -> None:
    """Let a frozen process go on."""
    member.now.process.send_signal(signal.SIGCONT)
