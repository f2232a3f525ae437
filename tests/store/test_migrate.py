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


async def test_names_of_before_are_indexed_and_a_migration_that_broke_off_is_done_again(
    database_url: str,
) -> None:
    """Which is no transaction: what it did stays."""
    indexed = "SELECT thread_id, parts FROM thread_name ORDER BY thread_id"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO thread (thread_id, metadata)"
            " SELECT 't' || i, CASE WHEN i > 5 THEN jsonb_build_object('name', 'Name ' || i) ELSE '{}' END"
            " FROM generate_series(1, 2500) AS i"
        )
        by_trigger = connection.execute(indexed).fetchall()
        for lost in (
            "DELETE FROM thread_name WHERE thread_id > 't2'",
            "DROP TABLE thread_name CASCADE",
        ):
            connection.execute(lost)
            connection.execute("DELETE FROM schema_migration WHERE version = 44")
            applied = await migrate(database_url)

            assert applied == ["0044_parts_of_names.sql"]
            assert connection.execute(indexed).fetchall() == by_trigger

    assert len(by_trigger) == 2495
