"""The embedded servers' whole life: shared, adopted, recovered, stopped; on real servers."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from api.processes.embedded import EmbeddedServerError, Servers, embedded_servers

USER_PROCESS = """
import sys
from pathlib import Path
from api.processes.embedded import embedded_servers
with embedded_servers(Path(sys.argv[1]), durable=False):
    print("up", flush=True)
    sys.stdin.read()
"""
DEADLINE_SECONDS = 60.0


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Shorter than tmp_path, whose name leaves no room for a socket's.
    with tempfile.TemporaryDirectory(prefix="threadwell-test-") as directory:
        yield Path(directory) / "data"


@contextmanager
def running(data_dir: Path) -> Iterator[Servers]:
    with embedded_servers(data_dir, durable=False) as servers:
        yield servers


@contextmanager
def user_process(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", USER_PROCESS, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def postgres_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres/data/postmaster.pid").read_text().splitlines()[0])


def valkey_pid(data_dir: Path) -> int:
    return int((data_dir / "valkey/run/valkey.pid").read_text())


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_dead(*pids: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {pids}"
        os.sched_yield()


def query(servers: Servers, statement: str) -> str:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""


def ping(servers: Servers) -> None:
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.ping()


def test_postgres_18_with_pgvector_and_valkey_answer_on_the_urls(data_dir: Path) -> None:
    with running(data_dir) as servers:
        assert query(servers, "SHOW server_version").startswith("18.")
        query(servers, "CREATE EXTENSION vector")
        assert query(servers, "SELECT '[3,4]'::vector <-> '[0,0]'") == "5.0"
        ping(servers)


def test_nobody_else_on_the_machine_gets_in(data_dir: Path) -> None:
    with running(data_dir) as servers:
        assert query(servers, "SHOW listen_addresses") == ""
        assert query(servers, "SHOW jit") == "off"
        for private in ["postgres/data", "postgres/run", "valkey/run"]:
            assert (data_dir / private).stat().st_mode & 0o077 == 0


def test_servers_are_durable_unless_told_otherwise(data_dir: Path) -> None:
    with embedded_servers(data_dir, valkey=False) as servers:
        assert servers.redis_url == ""
        for setting in ["fsync", "synchronous_commit", "full_page_writes"]:
            assert query(servers, f"SHOW {setting}") == "on"


def test_the_database_is_kept_between_starts(data_dir: Path) -> None:
    with running(data_dir) as servers:
        query(servers, "CREATE TABLE kept AS SELECT 42 AS answer")
    with running(data_dir) as servers:
        assert query(servers, "SELECT answer FROM kept") == "42"


def test_the_last_process_to_leave_stops_the_servers(data_dir: Path) -> None:
    with running(data_dir) as servers:
        pids = postgres_pid(data_dir), valkey_pid(data_dir)
        with user_process(data_dir) as other:
            assert (postgres_pid(data_dir), valkey_pid(data_dir)) == pids
            other.communicate(timeout=DEADLINE_SECONDS)
            assert other.returncode == 0
        assert query(servers, "SELECT 1") == "1"
        ping(servers)
    assert not any(is_alive(pid) for pid in pids)


def test_the_starter_may_leave_before_the_others(data_dir: Path) -> None:
    with user_process(data_dir) as starter:
        pids = postgres_pid(data_dir), valkey_pid(data_dir)
        with running(data_dir) as servers:
            starter.communicate(timeout=DEADLINE_SECONDS)
            assert query(servers, "SELECT 1") == "1"
            ping(servers)
        assert not any(is_alive(pid) for pid in pids)


def test_servers_orphaned_by_a_killed_process_are_adopted_and_stopped(data_dir: Path) -> None:
    with user_process(data_dir) as killed:
        killed.kill()
        killed.wait()
    pids = postgres_pid(data_dir), valkey_pid(data_dir)
    with running(data_dir) as servers:
        assert (postgres_pid(data_dir), valkey_pid(data_dir)) == pids
        assert query(servers, "SELECT 1") == "1"
    assert not any(is_alive(pid) for pid in pids)


def test_start_recovers_when_everything_was_killed_and_the_pid_belongs_to_another(
    data_dir: Path,
) -> None:
    with running(data_dir) as servers:
        query(servers, "CREATE TABLE kept AS SELECT 42 AS answer")
    with user_process(data_dir) as owner:
        pids = postgres_pid(data_dir), valkey_pid(data_dir)
        for pid in (owner.pid, *pids):
            os.kill(pid, signal.SIGKILL)
        wait_until_dead(*pids)
    stale = data_dir / "postgres/data/postmaster.pid"
    lines = stale.read_text().splitlines()
    server_account = stale.stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=server_account) as stranger:
        try:
            stale.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            with running(data_dir) as servers:
                assert query(servers, "SELECT answer FROM kept") == "42"
                ping(servers)
        finally:
            stranger.kill()


def test_a_first_start_that_was_killed_midway_is_started_over(data_dir: Path) -> None:
    half_made = data_dir / "postgres/data.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    with running(data_dir) as servers:
        assert query(servers, "SELECT current_database()") == "threadwell"


def test_ctrl_c_does_not_reach_the_servers(data_dir: Path) -> None:
    with running(data_dir):
        for pid in (postgres_pid(data_dir), valkey_pid(data_dir)):
            assert os.getpgid(pid) != os.getpgid(0)
            assert os.getsid(pid) != os.getsid(0)


def test_a_path_too_long_for_a_socket_is_no_obstacle(data_dir: Path) -> None:
    deep = data_dir / "a directory with 空格, 'quotes' and $HOME" / ("x" * 80)
    with running(deep) as servers:
        assert str(deep) not in servers.database_url
        assert query(servers, "SELECT 1") == "1"
        ping(servers)
    Path(servers.database_url.partition("?host=")[2]).rmdir()
    shutil.rmtree(Path(servers.redis_url.removeprefix("unix://")).parent)


def test_a_start_that_fails_shows_the_log(data_dir: Path) -> None:
    with running(data_dir):
        pass
    (data_dir / "postgres/data/PG_VERSION").write_text("12\n")
    with (
        pytest.raises(EmbeddedServerError, match="initialized by PostgreSQL version 12"),
        running(data_dir),
    ):
        pass


def test_a_data_directory_that_cannot_be_made_is_an_error_that_names_it(data_dir: Path) -> None:
    data_dir.write_text("a file")
    with (
        pytest.raises(EmbeddedServerError, match=f"cannot keep data in {data_dir}/postgres"),
        running(data_dir),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands over to another user")
def test_root_hands_over_and_opens_the_way_for_nobody_but_the_group(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    with running(data_dir) as servers:
        assert Path(f"/proc/{postgres_pid(data_dir)}").stat().st_uid != 0
        assert Path(f"/proc/{valkey_pid(data_dir)}").stat().st_uid != 0
        assert query(servers, "SELECT 1") == "1"
    assert data_dir.stat().st_mode & 0o777 == 0o710
