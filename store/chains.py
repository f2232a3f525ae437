"""Runs that go on from one another: one that stopped to ask, and those that brought the answers."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Self

from store.access import Access
from store.cipher import Cipher, at
from store.database import Database
from store.errors import NotFoundError
from store.models import JsonObject, RunStatus
from store.sql import load

SQL: Final = load("chains")

#: In the metadata of a run that brings an answer: the chain's first run.
CONTINUES: Final = "continues_run_id"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """A run and those that continue it, as the last of them stands."""

    first_run_id: str
    run_id: str
    """The last one."""
    thread_id: str
    assistant_id: str
    status: RunStatus
    error: JsonObject | None
    asks: bool
    """It stopped to ask, and nothing has come after it on its thread."""
    updated_at: datetime

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        return replace(self, error=cipher.open_json(self.error, at("run.error", self.run_id)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listed(Chain):
    total: int


async def get(
    db: Database, run_id: str, *, thread_id: str, assistant_id: str, access: Access
) -> Chain:
    """
    Read a chain by its first run.

    Raises:
        NotFoundError: There is no such one of this thread and assistant, or it is not visible.
    """
    params = {
        "run_id": run_id,
        "thread_id": thread_id,
        "assistant_id": assistant_id,
        "visible": access.array,
    }
    found = await db.one(Chain, SQL["get"], params)
    if found is None:
        raise NotFoundError(f"Run {run_id} not found")
    return found


async def list_page(
    db: Database,
    *,
    assistant_id: str,
    thread_id: str | None,
    statuses: list[RunStatus] | None,
    asks: bool | None,
    after: datetime | None,
    limit: int,
    offset: int,
    access: Access,
) -> tuple[list[Chain], int]:
    """
    List the chains of an assistant, the one that began last first.

    Args:
        thread_id, statuses, asks: What is listed; None for all.
        after: Only those that changed later.

    Returns:
        The page, and how many there are in all; 0 past the end.
    """
    params = {
        "assistant_id": assistant_id,
        "thread_id": thread_id,
        "statuses": statuses,
        "asks": asks,
        "after": after,
        "limit": limit,
        "offset": offset,
        "visible": access.array,
    }
    rows = await db.all(_Listed, SQL["list"], params)
    return list(rows), rows[0].total if rows else 0


async def firsts(db: Database, run_ids: list[str]) -> dict[str, str]:
    """The first run of the chain that each run is in, for those that are there."""
    rows = await db.tuples(SQL["firsts"], {"run_ids": run_ids})
    return dict(rows)
