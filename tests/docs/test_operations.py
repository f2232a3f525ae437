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
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from api.processes.embedded import Servers, embedded_servers
from store import audit, threads
from store.access import EVERYTHING
from store.database import open_database
from store.migrate import migrate

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
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
        with receiving(url, backup) as caught_up:
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
def receiving(url: str, backup: str) -> Iterator["CaughtUp"]:
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


def test_every_command_of_the_page_is_run_here() -> None:
    text = Path(__file__).read_text()
    assert len(COMMANDS) == PAGE.count("```sh")
    assert [name for name in COMMANDS if f'"{name}"' not in text] == []
