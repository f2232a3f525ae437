"""Long-term memory: LangGraph's `AsyncPostgresStore` on our pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from langgraph.store.postgres.aio import AsyncPostgresStore
from psycopg import AsyncCursor
from psycopg.rows import DictRow

from store.database import Database, translated_errors


class _Items(AsyncPostgresStore):
    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        # With a pool the base class takes a connection for each call, and no lock.
        with translated_errors():
            async with super()._cursor(pipeline=pipeline) as cursor:
                yield cursor


def open_items(db: Database) -> AsyncPostgresStore:
    """
    The store of items, for routes and graphs alike; belongs to the running event loop.

    Its methods raise UnavailableError when PostgreSQL does not answer in time.
    """
    return _Items(cast("Any", db.pool))
