"""The tables of vectors, by which items of the long-term memory are found by likeness."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from langgraph.store.base import Embeddings
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PostgresIndexConfig
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from store.errors import ConflictError, UnavailableError

#: The most that pgvector has an index for.
MAX_DIMS: Final = 4000
#: Above this, numbers of half the precision.
_VECTOR_DIMS: Final = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """How items are found by likeness."""

    dims: int
    embed: Embeddings
    #: Of an item's value: what is embedded unless a put says otherwise; ``$`` is all of it.
    fields: tuple[str, ...] = ("$",)


def index_config(index: Index) -> PostgresIndexConfig:
    """It as LangGraph has it."""
    return {
        "dims": index.dims,
        "embed": index.embed,
        "fields": list(index.fields),
        "ann_index_config": {"vector_type": _vector_type(index.dims)},
    }


def _vector_type(dims: int) -> Literal["vector", "halfvec"]:
    return "vector" if dims <= _VECTOR_DIMS else "halfvec"


async def prepare_index(connection: AsyncConnection[DictRow], dims: int) -> None:
    """
    Make the tables of vectors; nothing happens if they are there.

    Args:
        connection: In autocommit mode, with the lock of a migration.

    Raises:
        ConflictError: They hold vectors of another length.
        UnavailableError: The database has no pgvector of 0.8 or newer.
    """
    held = await _vector_column(connection)
    if held not in (None, f"{_vector_type(dims)}({dims})"):
        raise ConflictError(
            f"`store.index.dims` is {dims}, but the database has vectors of the type {held}. "
            "To begin a new index, `DROP TABLE store_vectors, vector_migrations`; items are then "
            "found by likeness once they are put again.",
            code="index_differs",
        )
    await _require_pgvector(connection)

    async def never(texts: Sequence[str]) -> list[list[float]]:
        raise NotImplementedError

    index = index_config(Index(dims=dims, embed=cast("Any", never)))
    await AsyncPostgresStore(connection, index=index).setup()


async def _vector_column(connection: AsyncConnection[DictRow]) -> str | None:
    cursor = await connection.execute(
        "SELECT format_type(atttypid, atttypmod) AS type FROM pg_attribute"
        " WHERE attrelid = to_regclass('store_vectors') AND attname = 'embedding'"
    )
    row = await cursor.fetchone()
    return None if row is None else str(row["type"])


async def _require_pgvector(connection: AsyncConnection[DictRow]) -> None:
    cursor = await connection.execute(
        "SELECT COALESCE(installed_version, default_version) AS version"
        " FROM pg_available_extensions WHERE name = 'vector'"
    )
    row = await cursor.fetchone()
    version = [int(part) for part in row["version"].split(".")[:2]] if row else [0]
    if version < [0, 8]:
        raise UnavailableError("`store.index` needs the extension pgvector, 0.8 or newer")
