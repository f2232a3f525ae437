"""
Bring a database to the schema of this code.

LangGraph's own tables, then plain numbered files, forward only, each in a transaction with its
ledger row. All of it under one advisory lock that is polled, never waited for: a waiter would
hold a snapshot, and LangGraph's ``CREATE INDEX CONCURRENTLY`` waits for snapshots.
"""

import asyncio
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Final, LiteralString, cast

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.store.postgres.aio import AsyncPostgresStore
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from store.database import Database, translated_errors
from store.errors import ConflictError, UnavailableError
from store.vectors import prepare_index

#: In the name of a migration on which the code of before cannot work. All others only add: during an
#: upgrade a process of the version before starts on them, as one that runs goes on.
_BREAKING: Final = "_breaks_"

#: A line between the parts of a file that is no transaction.
_THEN: Final[LiteralString] = "\n-- then\n"

#: Any number, the same in every process that migrates one of our databases.
LOCK_ID = 7_241_015_318

_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version int PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""

# LangGraph's, on what their tables' primary keys begin with: each row written would pay for both.
_DROP_REDUNDANT = """
DROP INDEX IF EXISTS checkpoints_thread_id_idx, checkpoint_blobs_thread_id_idx,
    checkpoint_writes_thread_id_idx
"""


# What a CREATE INDEX CONCURRENTLY leaves that was broken off.
_BROKEN_INDEX: Final = """
SELECT indexrelid FROM pg_index
WHERE indexrelid = to_regclass('message_by_id') AND NOT indisvalid
"""

# A long conversation is written whole with each step. PostgreSQL's own compression takes a third off
# it for five times the CPU; the tables are LangGraph's, so this is no migration of ours.
_UNCOMPRESSED_BLOBS: Final = """
DO $$ BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'checkpoint_blobs'::regclass AND attname = 'blob' AND attstorage = 'x'
    ) THEN
        ALTER TABLE checkpoint_blobs ALTER COLUMN blob SET STORAGE EXTERNAL;
    END IF;
END $$
"""


def migrations() -> Iterator[tuple[int, str, LiteralString]]:
    """Every migration file in order: version, name, text."""
    folder = files("store.migrations")
    for name in sorted(f.name for f in folder.iterdir() if f.name.endswith(".sql")):
        text = folder.joinpath(name).read_text("utf-8")
        # Our own files, never a caller's text.
        yield int(name.split("_", 1)[0]), name, cast("LiteralString", text)  # type: ignore[redundant-cast]


async def migrate(
    url: str,
    *,
    index_dims: int | None = None,
    index_messages: bool = False,
    timeout_seconds: float = 60.0,
) -> list[str]:
    """
    Apply what is missing; safe from any number of processes at once.

    Args:
        url: A libpq URL or conninfo string of a direct connection, not of a pooler's.
        index_dims: The length of the vectors that the store of items is to have, if any.
        index_messages: Whether messages are to be found by their id alone, without a session's.
        timeout_seconds: How long to wait for another process that is migrating.

    Returns:
        The names of the files applied, oldest first.

    Raises:
        UnavailableError: PostgreSQL did not answer, or another process held the lock too long.
        ConflictError: The database is one on which this code cannot work any more, or has vectors of another length.
    """
    with translated_errors():
        async with await AsyncConnection[DictRow].connect(
            url, autocommit=True, row_factory=dict_row, connect_timeout=10, prepare_threshold=None
        ) as connection:
            await _lock(connection, time.monotonic() + timeout_seconds)
            await AsyncPostgresSaver(connection).setup()
            await connection.execute(_UNCOMPRESSED_BLOBS)
            await connection.execute(_DROP_REDUNDANT)
            await AsyncPostgresStore(connection).setup()
            if index_dims is not None:
                await prepare_index(connection, index_dims)
            applied = await _apply(connection)
            if index_messages:
                await _index_messages(connection)
            return applied


async def count_missing(db: Database) -> int:
    """
    How many migrations of this code the database lacks; that it has newer ones is no fault.

    Raises:
        UnavailableError: PostgreSQL does not answer.
    """
    rows = await db.tuples("SELECT version FROM schema_migration", {})
    return len({version for version, _, _ in migrations()} - {version for (version,) in rows})


async def _index_messages(connection: AsyncConnection[DictRow]) -> None:
    """Only where it is asked for: each message that is written would pay for it."""
    left = await connection.execute(_BROKEN_INDEX)
    if await left.fetchone():
        await connection.execute("DROP INDEX CONCURRENTLY IF EXISTS message_by_id")
    await connection.execute(
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS message_by_id ON message (id)"
    )


async def _lock(connection: AsyncConnection[DictRow], deadline: float) -> None:
    """Hold the lock until the connection closes."""
    while True:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS got", (LOCK_ID,))
        row = await cursor.fetchone()
        if row and row["got"]:
            return
        if time.monotonic() > deadline:
            raise UnavailableError("Another process is still migrating the database")
        await asyncio.sleep(0.1)


async def _apply(connection: AsyncConnection[DictRow]) -> list[str]:
    await connection.execute(_LEDGER)
    cursor = await connection.execute("SELECT version, name FROM schema_migration")
    done = {row["version"]: row["name"] for row in await cursor.fetchall()}
    known = list(migrations())
    newer = done.keys() - {version for version, _, _ in known}
    if breaking := [done[version] for version in newer if _BREAKING in done[version]]:
        raise ConflictError(
            f"The database has migration {max(breaking)}, on which this version cannot work",
            code="database_is_newer",
        )
    missing = [m for m in known if m[0] not in done]
    for version, name, text in missing:
        await _apply_one(connection, version, name, text)
    return [name for _, name, _ in missing]


async def _apply_one(
    connection: AsyncConnection[DictRow], version: int, name: str, text: LiteralString
) -> None:
    record: LiteralString = "INSERT INTO schema_migration (version, name) VALUES (%s, %s)"
    if text.startswith("-- no transaction"):
        # What is to commit by itself has to be sent by itself.
        for statement in text.split(_THEN):
            await connection.execute(statement)
        await connection.execute(record, (version, name))
        return
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        await connection.execute(text)
        await connection.execute(record, (version, name))
