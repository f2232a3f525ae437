"""Assistants: the graphs of this server, each with a configuration."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from store import audit
from store.access import Access, looking_for
from store.cipher import at
from store.database import Database, Transaction
from store.errors import AlreadyExistsError, NotFoundError
from store.models import Assistant, AssistantVersion, JsonObject
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
                "description": assistant.description
                and db.cipher.seal_text(
                    assistant.description, at("assistant.description", assistant.assistant_id)
                ),
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
        raise not_found(assistant_id)
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
    lenient: bool = False,
    access: Access,
) -> list[Assistant]:
    """
    List the visible assistants whose metadata contains `metadata`.

    Args:
        name: A part of the name, in any case.
        limit: Rows at the most.
        lenient: As for `Database.all`.
    """
    looked_for, query = looking_for(db.cipher, metadata, SQL["search"])
    query = ordered(query, sort_by, order, tie_break="assistant_id")
    return await db.all(
        Assistant,
        query,
        {
            **looked_for,
            "graph_id": graph_id,
            "name": name,
            "limit": limit,
            "offset": offset,
            "visible": access.array,
        },
        lenient=lenient,
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
    looked_for, query = looking_for(db.cipher, metadata, SQL["count"])
    params = {**looked_for, "graph_id": graph_id, "name": name, "visible": access.array}
    rows = await db.tuples(query, params)
    return int(rows[0][0])


async def create(
    db: Database,
    assistant_id: str,
    *,
    graph_id: str,
    name: str,
    description: str | None,
    config: JsonObject,
    context: JsonObject,
    metadata: JsonObject,
    if_exists: Literal["raise", "do_nothing"] = "raise",
    access: Access,
) -> Assistant:
    """
    Create an assistant with its first version, or find it when `if_exists` says so.

    Raises:
        AlreadyExistsError: The id is taken, and `if_exists` is ``raise`` or it is not visible.
    """
    params = {
        "assistant_id": assistant_id,
        "graph_id": graph_id,
        "name": name,
        **_sealed(db, assistant_id, description, config, context, metadata),
    }
    created = await db.one(Assistant, SQL["create"], params)
    if created is not None:
        return created
    taken = AlreadyExistsError(f"Assistant {assistant_id} already exists")
    if if_exists == "raise":
        raise taken
    try:
        return await get(db, assistant_id, access=access)
    except NotFoundError:
        raise taken from None


async def update(
    db: Database,
    assistant_id: str,
    *,
    graph_id: str | None = None,
    name: str | None = None,
    description: str | None = None,
    config: JsonObject | None = None,
    context: JsonObject | None = None,
    metadata: JsonObject | None = None,
    actor: str | None = None,
    access: Access,
) -> Assistant:
    """
    Change an assistant, which makes a new version: one more than the highest there is.

    Args:
        metadata: Merged key by key; of the others each is replaced, or stays if it is None.
        actor: Who does it, for the audit log, which has it if the owner changes; here and below.

    Raises:
        NotFoundError: There is no such assistant that is visible.
    """
    params = {
        "assistant_id": assistant_id,
        "graph_id": graph_id,
        "name": name,
        **_sealed(db, assistant_id, description, config, context, metadata or {}),
    }
    async with db.transaction() as tx:
        before = await _lock(tx, assistant_id, access)
        updated = await tx.one(Assistant, SQL["update"], params)
        assert updated is not None
        await tx.execute(SQL["add_version"], params)
        await _record_move(tx, updated, before, actor)
    return updated


async def versions(
    db: Database,
    assistant_id: str,
    *,
    metadata: JsonObject,
    limit: int = 10,
    offset: int = 0,
    access: Access,
) -> list[AssistantVersion]:
    """
    List the versions of an assistant whose metadata contains `metadata`, newest first.

    Raises:
        NotFoundError: There is none on the page, or no such assistant that is visible.
    """
    looked_for, query = looking_for(db.cipher, metadata, SQL["versions"])
    params = {
        **looked_for,
        "assistant_id": assistant_id,
        "limit": limit,
        "offset": offset,
        "visible": access.array,
    }
    found = await db.all(AssistantVersion, query, params)
    if not found:
        raise not_found(assistant_id)
    return found


async def set_latest(
    db: Database, assistant_id: str, version: int, *, actor: str | None = None, access: Access
) -> Assistant:
    """
    Make an assistant what it was in a version, all of it, also whose; runs use that from now on.

    Raises:
        NotFoundError: There is no such assistant that is visible, or no such version of it.
    """
    params = {"assistant_id": assistant_id, "version": version}
    async with db.transaction() as tx:
        before = await _lock(tx, assistant_id, access)
        latest = await tx.one(Assistant, SQL["set_latest"], params)
        if latest is not None:
            await _record_move(tx, latest, before, actor)
    if latest is None:
        raise NotFoundError(f"Version {version} not found for assistant {assistant_id}")
    return latest


async def delete(db: Database, assistant_id: str, *, access: Access) -> None:
    """
    Delete an assistant with its versions, and the runs that it had; their threads stay.

    Raises:
        NotFoundError: There is no such assistant that is visible.
    """
    async with db.transaction() as tx:
        await _lock(tx, assistant_id, access)
        await tx.execute(SQL["delete"], {"assistant_id": assistant_id})


async def require(db: Database, assistant_id: str, *, access: Access) -> None:
    """
    Check that an assistant may be changed.

    Raises:
        NotFoundError: There is no such assistant that is visible.
    """
    async with db.transaction() as tx:
        await _lock(tx, assistant_id, access)


def not_found(assistant_id: str) -> NotFoundError:
    """The error for an assistant that is not there."""
    return NotFoundError(f"Assistant {assistant_id} not found")


def _sealed(
    db: Database,
    assistant_id: str,
    description: str | None,
    config: JsonObject | None,
    context: JsonObject | None,
    metadata: JsonObject,
) -> JsonObject:
    """What of an assistant is sealed, as parameters; its versions are sealed as it is."""
    if db.cipher.is_on:
        assistant_id = str(UUID(assistant_id))  # as it is read
    about = at("assistant.description", assistant_id)
    return {
        "description": description and db.cipher.seal_text(description, about),
        "config": db.cipher.seal_json(config, at("assistant.config", assistant_id)),
        "context": db.cipher.seal_json(context, at("assistant.context", assistant_id)),
        "metadata": db.cipher.seal_values(metadata),
    }


async def _lock(tx: Transaction, assistant_id: str, access: Access) -> JsonObject:
    """Its metadata, which nobody else changes now."""
    params = {"assistant_id": assistant_id, "visible": access.array}
    rows = await tx.tuples(SQL["lock"], params)
    if not rows:
        raise not_found(assistant_id)
    metadata: JsonObject = rows[0][0]
    return metadata


async def _record_move(
    tx: Transaction, assistant: Assistant, before: JsonObject, actor: str | None
) -> None:
    subject = f"assistant:{assistant.assistant_id}"
    await audit.record_move(tx, subject, before, assistant.metadata, actor=actor)
