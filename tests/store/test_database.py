"""The pool, while its server is away, hangs, or is no primary any more."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from langchain_core.runnables import RunnableConfig

from store.checkpoints import open_saver
from store.database import Database, open_database
from store.errors import ConnectionLostError, UnavailableError
from store.lane import Statement
from store.models import Lease
from tests.faults.stores import Network, network_to, through
from tests.store.event_logs import until

PID = Statement("SELECT pg_backend_pid()")


@pytest.fixture
def network(database_url: str) -> Iterator[Network]:
    """A way to the test's server that can be cut."""
    with network_to(database_url) as network:
        yield network


async def test_a_server_that_is_back_is_used_at_once_however_long_it_was_away(
    network: Network, database_url: str
) -> None:
    url = through(network, database_url)
    async with open_database(url, timeout_seconds=1.5, max_size=2) as db:
        network.refuses = True
        await asyncio.to_thread(network.cut)
        # So long that the next try would be two seconds away, when nobody asks any more.
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


async def test_all_who_share_a_connection_to_a_server_that_hangs_are_told_together(
    network: Network, database_url: str
) -> None:
    url = through(network, database_url)
    async with open_database(url, timeout_seconds=1) as db:
        network.swallows = True
        await asyncio.to_thread(network.cut)
        began = time.monotonic()
        calls = [db.at_once((PID, {})) for _ in range(6)]

        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, UnavailableError)
        # One try takes 2 seconds, and six of them in turn 12.
        assert time.monotonic() - began < 10
        network.swallows = False


async def test_the_loss_of_the_shared_connection_is_taken_for_that_of_all(db: Database) -> None:
    async with db.connection() as one, db.connection() as other:
        assert not one.closed
        assert not other.closed
    await db.at_once((PID, {}))
    with psycopg.connect(db.conninfo, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    with pytest.raises(ConnectionLostError):
        await db.at_once((PID, {}))
    await db.ping()


async def test_a_run_waits_for_its_state_as_long_as_its_lease_lasts(
    network: Network, database_url: str
) -> None:
    url = through(network, database_url)
    async with open_database(url, timeout_seconds=0.3) as db, open_saver(db) as saver:
        lease = Lease(thread_id="t", epoch=1, head_checkpoint_id=None, projected_checkpoint_id=None)
        asks = iter([True, True])
        # Its owner looks at the lease whenever it could not read.
        owned = saver.leased(lease, run_id="r", alive=lambda: next(asks, False))
        network.refuses = True
        await asyncio.to_thread(network.cut)
        config: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

        with pytest.raises(UnavailableError):
            await owned.aget_tuple(config)
        assert next(asks, None) is None
        network.refuses = False

        async def is_back() -> bool:
            with suppress(UnavailableError):
                await db.ping()
                return True
            return False

        await until(is_back)
        assert await owned.aget_tuple(config) is None


@pytest.mark.parametrize("steps", range(8))
async def test_a_task_that_is_to_stop_as_a_connection_comes_free_does(
    database_url: str, steps: int
) -> None:
    """Python 3.11 forgets it then, and a side task would go on for ever."""
    async with open_database(database_url, min_size=1, max_size=1) as db:
        async with db.connection():
            waiting = asyncio.create_task(db.execute("SELECT 1", {}))
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        is_stopped = waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled() == is_stopped
        await db.ping()
