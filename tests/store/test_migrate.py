import asyncio

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from api.processes.embedded import Servers
from store.errors import ConflictError
from store.migrate import migrate, migrations


async def test_processes_that_migrate_at_once_all_succeed_and_one_applies(
    servers: Servers,
) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated_at_once")
    url = make_conninfo(servers.database_url, dbname="migrated_at_once")

    applied = await asyncio.gather(*(migrate(url) for _ in range(4)))

    assert sorted(applied) == [[], [], [], [name for _, name, _ in migrations()]]


async def test_code_of_before_starts_on_what_a_newer_one_has_added_and_on_nothing_that_breaks(
    database_url: str,
) -> None:
    newer = "INSERT INTO schema_migration (version, name) VALUES (%s, %s)"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(newer, (9998, "9998_more.sql"))
        applied = await migrate(database_url)
        connection.execute(newer, (9999, "9999_breaks_runs.sql"))

    assert applied == []
    with pytest.raises(ConflictError, match=r"9999_breaks_runs\.sql"):
        await migrate(database_url)
