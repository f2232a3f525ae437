import asyncio

import psycopg
from psycopg.conninfo import make_conninfo

from api.embedded import Servers
from store.migrate import migrate, migrations


async def test_processes_that_migrate_at_once_all_succeed_and_one_applies(
    servers: Servers,
) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated_at_once")
    url = make_conninfo(servers.database_url, dbname="migrated_at_once")

    applied = await asyncio.gather(*(migrate(url) for _ in range(4)))

    assert sorted(applied) == [[], [], [], [name for _, name, _ in migrations()]]
