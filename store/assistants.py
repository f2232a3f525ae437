"""Assistants: the graphs of this server, each with a configuration."""

from dataclasses import dataclass
from typing import Literal

from store.access import Access
from store.database import Database
from store.errors import NotFoundError
from store.models import Assistant, JsonObject
from store.ordering import Order, ordered
from store.sql import load

SQL = load("assistants")

SortBy = Literal["assistant_id", "created_at", "updated_at", "name", "graph_id"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemAssistant:
    """What a graph's own assistant is made of."""

    assistant_id: str
    graph_id: str
    name: str
    description: str | None


async def register_system(db: Database, assistants: list[SystemAssistant]) -> None:
    """Make the rows of the graphs' own assistants as they should be; idempotent."""
    async with db.transaction() as tx:
        for assistant in assistants:
            params = {
                "assistant_id": assistant.assistant_id,
                "graph_id": assistant.graph_id,
                "name": assistant.name,
                "description": assistant.description,
            }
            await tx.execute(SQL["upsert_system"], params)
            await tx.execute(SQL["first_version"], params)


async def get(db: Database, assistant_id: str, *, access: Access) -> Assistant:
    """
    Read an assistant. Those of the graphs are visible to everybody, here as in a search.

    Raises:
        NotFoundError: There is none with this id that is visible.
    """
    params = {"assistant_id": assistant_id, "visible": access.array}
    found = await db.one(Assistant, SQL["get"], params)
    if found is None:
        raise NotFoundError(f"Assistant {assistant_id} not found")
    return found


async def search(
    db: Database,
    *,
    metadata: JsonObject,
    graph_id: str | None = None,
    name: str | None = None,
    limit: int = 10,
    offset: int = 0,
    sort_by: SortBy = "created_at",
    order: Order = "desc",
    access: Access,
) -> list[Assistant]:
    """
    List the visible assistants whose metadata contains `metadata`.

    Args:
        name: A part of the name, in any case.
        limit: Rows at the most.
    """
    query = ordered(SQL["search"], sort_by, order, tie_break="assistant_id")
    return await db.all(
        Assistant,
        query,
        {
            "metadata": metadata,
            "graph_id": graph_id,
            "name": name,
            "limit": limit,
            "offset": offset,
            "visible": access.array,
        },
    )


async def count(
    db: Database,
    *,
    metadata: JsonObject,
    graph_id: str | None = None,
    name: str | None = None,
    access: Access,
) -> int:
    """How many assistants `search` would find."""
    params = {
        "metadata": metadata,
        "graph_id": graph_id,
        "name": name,
        "visible": access.array,
    }
    rows = await db.tuples(SQL["count"], params)
    return int(rows[0][0])
