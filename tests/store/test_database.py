"""The pool, while its server is away, hangs, or is no primary any more."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from store.database import open_database
from store.errors import ConnectionLostError, UnavailableError
from tests.faults.stores import Network, open_network


@pytest.fixture
def network(database_url: str) -> Iterator[Network]:
    """A way to the test's server that can be cut."""
    parts = conninfo_to_dict(database_url)
    host, port = str(parts["host"]), int(parts.get("port") or 5432)
    server = Path(host) / f".s.PGSQL.{port}" if host.startswith("/") else (host, port)
    with open_network(server) as network:
        yield network


def through(network: Network, database_url: str) -> str:
    return make_conninfo(database_url, host="127.0.0.1", port=network.port)


async def test_a_server_that_is_back_is_used_at_once_however_long_it_was_away(
    network: Network, database_url: str
) -> None:
    url = through(network, database_url)
    async with open_database(url, timeout_seconds=0.5, max_size=2) as db:
        network.refuses = True
        await asyncio.to_thread(network.cut)
        # So long that tries would be seconds apart.
        back_at = time.monotonic() + 3.5
        while time.monotonic() < back_at:
            with pytest.raises(UnavailableError):
                await db.ping()
        network.refuses = False

        await db.ping()


async def test_a_statement_that_hangs_is_given_up_and_its_connection_replaced(
    network: Network, database_url: str
) -> None:
    url = through(network, database_url)
    async with open_database(url, statement_timeout_seconds=0.1, min_size=1) as db:
        network.swallows = True
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionLostError):
                await db.ping()
        network.swallows = False

        await db.ping()


async def test_a_connection_that_may_not_write_any_more_is_replaced(database_url: str) -> None:
    async with open_database(database_url, min_size=1, max_size=1) as db:
        await db.execute("SET default_transaction_read_only = on", {})
        write = "UPDATE worker SET draining = true"
        with pytest.raises(UnavailableError):
            await db.execute(write, {})

        assert await db.execute(write, {}) == 0
