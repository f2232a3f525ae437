"""What docs/operations.md says of backups, done: its commands, as they stand there."""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from redis import Redis

from api.processes.embedded import Servers, embedded_servers
from graph.requests import system_assistant_id
from store import assistants, audit, crons, jobs, threads, webhooks
from store.access import EVERYTHING
from store.assistants import SystemAssistant
from store.crons import NewCron
from store.database import open_database
from store.migrate import migrate
from tests.acceptance.process import ROOT, started_by
from tests.receiver import receiving

PAGE = (ROOT / "docs/operations.md").read_text()
#: The commands by the name after the fence.
COMMANDS = {
    name: re.sub("^ {3}", "", text, flags=re.MULTILINE)
    for name, text in re.findall(r"^ *```sh (\w+)\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)
}
DEADLINE_SECONDS = 60


def script(*names: str) -> list[str]:
    text = "\n".join(COMMANDS[name] for name in ("tools", *names))
    return ["bash", "-euo", "pipefail", "-c", text]


def run(*names: str, **variables: str) -> None:
    environment = {**os.environ, **variables}
    done = subprocess.run(
        script(*names), env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (names, done.stdout, done.stderr)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the servers' own user can get to."""
    path = Path(tempfile.mkdtemp(prefix="threadwell-ops-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _in_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python` is the one that has Threadwell."""
    here = Path(os.__file__).parents[2] / "bin"
    venv = Path(os.environ.get("VIRTUAL_ENV", Path(__file__).parents[2] / ".venv")) / "bin"
    monkeypatch.setenv("PATH", f"{venv}:{here}:{os.environ['PATH']}")


@contextmanager
def embedded(data: Path) -> Iterator[Servers]:
    with embedded_servers(data, durable=False) as servers:
        yield servers


async def say(url: str, thread_id: str) -> None:
    """A thread, and an entry of the audit log."""
    async with open_database(url) as db:
        await threads.create(db, thread_id, metadata={"owner": thread_id}, access=EVERYTHING)
        async with db.transaction() as tx:
            await audit.record_of_thread(tx, "share.created", thread_id, actor="ada")


def said(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [id_ for (id_,) in connection.execute("SELECT thread_id FROM thread ORDER BY 1")]


def contents(url: str) -> dict[str, list[str]]:
    """All rows of all tables."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        ).fetchall()
        return {
            name: sorted(
                row for (row,) in connection.execute(f'SELECT t::text FROM "{name}" AS t'.encode())
            )
            for (name,) in tables
        }


def test_a_dump_is_restored_with_every_row_and_every_guard(place: Path) -> None:
    with embedded(place / "data") as servers:
        url, backup = servers.database_url, str(place)
        restored = url.replace("/threadwell?", "/restored?")
        asyncio.run(migrate(url))
        asyncio.run(say(url, "kept"))

        run("dump", DATABASE_URL=url, BACKUP=backup)
        asyncio.run(say(url, "too late"))
        run("restore", DATABASE_URL=url, BACKUP=backup, RESTORED_URL=restored)

        assert said(restored) == ["kept"]
        whole, lost = contents(url), contents(restored)
        assert {name: len(rows) for name, rows in lost.items()} == {
            name: len(rows) - (name in ("thread", "audit", "outbox"))
            for name, rows in whole.items()
        }
        # It is a database like any other: up to date, written to, and the log is still guarded.
        assert asyncio.run(migrate(restored)) == []
        asyncio.run(say(restored, "new"))
        with (
            psycopg.connect(restored) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("DELETE FROM audit")
        with Redis.from_url(servers.redis_url) as redis:
            redis.set("threadwell:ev:{kept}", "an event of before")
            run("redis", REDIS_URL=servers.redis_url)
            assert redis.dbsize() == 0


def test_a_database_goes_back_to_a_moment(place: Path) -> None:
    data, backup = place / "data", str(place / "backup")
    Path(backup).mkdir()
    with embedded(data) as servers:
        url = servers.database_url
        asyncio.run(migrate(url))
        asyncio.run(say(url, "of before"))
        run("slot", DATABASE_URL=url, BACKUP=backup)
        with archiving(url, backup) as caught_up:
            run("base", DATABASE_URL=url, BACKUP=backup)
            asyncio.run(say(url, "since the base backup"))
            moment = now(url)
            asyncio.run(say(url, "the mistake"))
            caught_up()

    run("moment", DATA=str(data), BACKUP=backup, MOMENT=moment)
    with embedded(data) as servers:
        url = servers.database_url
        assert said(url) == ["of before", "since the base backup"]
        run("after", DATABASE_URL=url)
        asyncio.run(say(url, "new"))
    # Without what it was restored by.
    shutil.rmtree(backup)
    with embedded(data) as servers:
        assert said(servers.database_url) == ["new", "of before", "since the base backup"]


def now(url: str) -> str:
    with psycopg.connect(url) as connection:
        [moment] = connection.execute("SELECT clock_timestamp()::text").fetchone() or ("",)
        return str(moment)


@contextmanager
def archiving(url: str, backup: str) -> Iterator["CaughtUp"]:
    environment = {**os.environ, "DATABASE_URL": url, "BACKUP": backup}
    receiver = subprocess.Popen(script("wal"), env=environment)
    try:
        yield CaughtUp(url)
    finally:
        receiver.terminate()
        receiver.wait(DEADLINE_SECONDS)


class CaughtUp:
    """Waits until everything that was written has been received."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        with psycopg.connect(self._url, autocommit=True) as connection:
            # A segment is written out when it is full, and whenever the receiver is asked.
            connection.execute("SELECT pg_switch_wal()")
            [lsn] = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("",)
            while time.monotonic() < deadline:
                found = connection.execute(
                    "SELECT restart_lsn >= %s::pg_lsn - 16777216 AND restart_lsn IS NOT NULL"
                    " FROM pg_replication_slots WHERE active",
                    (lsn,),
                ).fetchone()
                received = connection.execute(
                    "SELECT bool_or(write_lsn >= %s::pg_lsn) FROM pg_stat_replication", (lsn,)
                ).fetchone()
                if found == (True,) and received == (True,):
                    return
                time.sleep(0.1)
        raise AssertionError("the receiver did not catch up")


async def test_a_copy_is_served_and_nobody_outside_hears_of_it(place: Path) -> None:
    thread_id = str(uuid4())
    with embedded(place / "data") as servers:
        url, backup = servers.database_url, str(place)
        restored = url.replace("/threadwell?", "/restored?")
        async with receiving() as receiver:
            await migrate(url)
            await say(url, thread_id)
            await make_due(url, receiver.url)
            await asyncio.to_thread(run, "dump", DATABASE_URL=url, BACKUP=backup)
            where = {"DATABASE_URL": url, "BACKUP": backup, "RESTORED_URL": restored}
            await asyncio.to_thread(run, "restore", **where)
            variables = {
                "RESTORED_URL": restored,
                "DRILL": str(place / "drill"),
                "REDIS_URL": "redis://production",
                "LANGGRAPH_WEBHOOKS": '{"url": {"require_https": false, "disable_loopback": false}}',
                "HEARTBEAT_SECONDS": "0.2",
                "LEASE_SECONDS": "2",
            }

            with started_by(["bash", "-euc", COMMANDS["drill"]], variables) as copy:
                async with httpx.AsyncClient(base_url=copy.url, timeout=30) as http:
                    answer = await http.get(f"/threads/{thread_id}")
                    assert answer.json()["thread_id"] == thread_id
                    await asyncio.to_thread(beaten, restored, times=5)
                    assert (await http.get("/ok?check_db=1")).status_code == 200
            assert receiver.heard == []
            assert left_to_do(restored) == [(1, 1, 0)]

            # It was due: a server that works does it at once.
            working = COMMANDS["drill"].replace("--workers 0", "")
            with started_by(["bash", "-euc", working], variables):
                [told] = await receiver.told()
            assert told["run_id"] == thread_id


async def make_due(url: str, receiver: str) -> None:
    """A webhook that is to be sent, and a cron that is to begin."""
    run_id = said(url)[0]
    agent = SystemAssistant(
        assistant_id=system_assistant_id("agent"), graph_id="agent", name="agent", description=None
    )
    ran = {"run_id": run_id, "kwargs": {}, "created_at": "2026-11-27T00:00:00+00:00"}
    async with open_database(url) as db:
        await assistants.register_system(db, [agent])
        async with db.transaction() as tx:
            await jobs.enqueue(tx, webhooks.KIND, {"url": receiver, "run": ran})
        await crons.create(
            db,
            NewCron(
                cron_id=str(uuid4()), assistant_id=agent.assistant_id, thread_id=None, user_id="",
                schedule="* * * * *", timezone=None, end_time=None, enabled=True,
                on_run_completed="delete", payload={}, metadata={}, injected={},
                visible_threads=[{}], visible_assistants=[{}],
                next_run_at=datetime(2026, 11, 27, tzinfo=UTC),
            ),
        )  # fmt: skip


def left_to_do(url: str) -> list[tuple[int, ...]]:
    """The jobs that nobody has tried, the crons that are due, and the runs that were made."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT (SELECT count(*) FROM job WHERE attempt = 0),"
            " (SELECT count(*) FROM cron WHERE next_run_at = '2026-11-27T00:00:00Z'),"
            " (SELECT count(*) FROM run)"
        ).fetchall()


def beaten(url: str, *, times: int) -> None:
    """Return when the process on a database has shown so often that it lives."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    seen = set[object]()
    with psycopg.connect(url, autocommit=True) as connection:
        while len(seen) <= times:
            assert time.monotonic() < deadline, "it does not beat"
            seen |= set(connection.execute("SELECT max(last_seen_at) FROM worker").fetchall())
            time.sleep(0.02)


def test_every_command_of_the_page_is_run_here() -> None:
    text = Path(__file__).read_text()
    assert len(COMMANDS) == PAGE.count("```sh")
    assert [name for name in COMMANDS if f'"{name}"' not in text] == []
