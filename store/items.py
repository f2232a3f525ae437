"""Long-term memory: LangGraph's `AsyncPostgresStore` on our pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any, cast

from langgraph.store.postgres.aio import AsyncPostgresStore
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row

from store.database import Database


class _Items(AsyncPostgresStore):
    def __init__(self, database: Database) -> None:
        super().__init__(cast("Any", database.pool))
        self._database = database

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        async with (
            self._database.connection() as connection,
            connection.pipeline() if pipeline else nullcontext(),
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            yield cursor


def open_items(db: Database) -> AsyncPostgresStore:
    """
    The store of items, for routes and graphs alike; belongs to the running event loop.

    Its methods raise UnavailableError when PostgreSQL does not answer in time.
    """
    return _Items(db)
