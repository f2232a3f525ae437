"""Threads found by their values, which their checkpoints have and nothing else."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from graph.json_paths import shows
from graph.state import States
from store import threads
from store.access import Access
from store.database import Database
from store.errors import InvalidInputError, UnavailableError
from store.models import JsonObject, Thread, ThreadStatus
from store.ordering import Order
from store.threads import SortBy

#: How many checkpoints a search reads at the most, and for how long; then it fails, it does not
#: leave threads out.
MAX_CANDIDATES, SEARCH_SECONDS = 10_000, 20.0
#: How many of them at a time are in memory, and how many searches of a process read at a time.
BATCH, AT_ONCE = 50, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which threads are looked for: their values contain `values`, and all else holds too."""

    values: JsonObject
    metadata: JsonObject
    status: ThreadStatus | None = None
    ids: list[str] | None = None
    access: Access


class ValueSearch:
    """
    Finds threads by their values; one for each process.

    PostgreSQL compares what it can (text, numbers, true and false); the checkpoints of the threads
    that are left are read, a few at a time, until the page is full.
    """

    def __init__(self, db: Database, states: States) -> None:
        self._db = db
        self._states = states
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def search(
        self,
        wanted: Wanted,
        *,
        limit: int,
        offset: int = 0,
        sort_by: SortBy = "updated_at",
        order: Order = "desc",
    ) -> list[tuple[Thread, Any]]:
        """
        List the threads with their values, which have no more than their JSON.

        Raises:
            InvalidInputError: Too many have to be looked at to say which ones they are.
            UnavailableError: Other such searches took all the time there was.
        """
        found: list[tuple[Thread, Any]] = []
        async with aclosing(self._matching(wanted, sort_by, order)) as matching:
            async for match in matching:
                found.append(match)
                if len(found) == offset + limit:
                    break
        return found[offset:]

    async def count(self, wanted: Wanted) -> int:
        """How many threads `search` would find; raises as it does."""
        async with aclosing(self._matching(wanted, "updated_at", "desc")) as matching:
            return sum([1 async for _ in matching])

    async def _matching(
        self, wanted: Wanted, sort_by: SortBy, order: Order
    ) -> AsyncGenerator[tuple[Thread, Any], None]:
        async with self._a_turn():
            give_up_at = time.monotonic() + SEARCH_SECONDS
            ids = await threads.candidates(
                self._db,
                values=wanted.values,
                metadata=wanted.metadata,
                status=wanted.status,
                ids=wanted.ids,
                limit=MAX_CANDIDATES + 1,
                sort_by=sort_by,
                order=order,
                access=wanted.access,
            )
            for start in range(0, len(ids), BATCH):
                if start >= MAX_CANDIDATES or time.monotonic() > give_up_at:
                    raise _too_many()
                for match in await self._of_batch(ids[start : start + BATCH], wanted):
                    yield match

    @asynccontextmanager
    async def _a_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(SEARCH_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise UnavailableError("Other searches by values take all the time") from None
        try:
            yield
        finally:
            self._turn.release()

    async def _of_batch(self, ids: list[str], wanted: Wanted) -> list[tuple[Thread, Any]]:
        rows = await threads.find_all(
            self._db,
            ids,
            metadata=wanted.metadata,
            status=wanted.status,
            access=wanted.access,
        )
        values = await self._states.values_of(list(rows.values()), as_json=True)
        return [
            (rows[thread_id], values[thread_id])
            for thread_id in ids
            if thread_id in rows and shows(values.get(thread_id), wanted.values)
        ]


def _too_many() -> InvalidInputError:
    return InvalidInputError(
        f"To search by these values, the states of more than {MAX_CANDIDATES} threads would have to "
        f"be read, or for longer than {SEARCH_SECONDS:g} seconds: name metadata, a status or ids too",
        code="too_many_threads",
    )
