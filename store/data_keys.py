"""The keys that everything is sealed with, where handlers of the user's own keep them sealed."""

from dataclasses import dataclass
from typing import Final

from store.database import Database
from store.sql import load

SQL: Final = load("data_keys")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataKey:
    """A key, sealed by whoever keeps it; the one with the highest number seals."""

    number: int
    wrapped: bytes


async def list_all(db: Database) -> list[DataKey]:
    """All of them, the newest first."""
    return await db.all(DataKey, SQL["list"], {})


async def add(db: Database, key: DataKey) -> None:
    """Keep a new key, unless somebody else has kept another one under its number meanwhile."""
    params = {"number": key.number, "wrapped": key.wrapped}
    await db.execute(SQL["add"], params)


async def replace(db: Database, key: DataKey, replacement: bytes) -> None:
    """Keep the same key, sealed anew; nothing happens if it was meanwhile by somebody else."""
    params = {"number": key.number, "wrapped": key.wrapped, "replacement": replacement}
    await db.execute(SQL["replace"], params)
