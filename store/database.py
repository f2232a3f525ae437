"""
PostgreSQL: the pool, transactions, and the translation of its errors into ours.

Connections are in autocommit mode: a single statement is a transaction and one round trip.
"""

import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, LiteralString, TypeVar

import orjson
import psycopg
from psycopg import AsyncConnection, AsyncCursor, errors as pg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.rows import TupleRow, class_row, tuple_row
from psycopg.types.json import JsonbDumper, set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from store.errors import (
    AlreadyExistsError,
    ConflictError,
    Error,
    InvalidInputError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)

# A NUL written as JSON, unless its backslash is itself escaped: `\\u0000` is a user's own text.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")

Row = TypeVar("Row")
Params = dict[str, Any]

#: What a violated constraint means to the caller.
CONSTRAINTS: dict[str, tuple[type[Error], str]] = {
    "assistant_pkey": (AlreadyExistsError, "The assistant exists already"),
    "thread_pkey": (AlreadyExistsError, "The thread exists already"),
    "run_pkey": (AlreadyExistsError, "The run exists already"),
    "run_one_running": (ConflictError, "Another run of the thread is running"),
    "run_thread_id_fkey": (NotFoundError, "The thread does not exist"),
}


class Connection(AsyncConnection[TupleRow]):
    """A connection that knows when it was last seen alive, in seconds of the monotonic clock."""

    seen_at: float = 0.0


class _TextLoader(Loader):
    """UUIDs reach Python as text: they are only ever compared and printed."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode()


class _JsonDumper(Dumper):
    """A dict is always JSON; a list is an array."""

    oid = JsonbDumper.oid

    def dump(self, obj: Any) -> bytes:
        return dump_json(obj)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise our errors for psycopg's; those that are our own faults pass through."""
    try:
        yield
    except PoolTimeout as exc:
        raise UnavailableError("No database connection came free in time") from exc
    except pg.IntegrityError as exc:
        error, message = CONSTRAINTS.get(exc.diag.constraint_name or "", (None, ""))
        if error is None:
            raise
        raise error(message) from exc
    except (
        pg.UntranslatableCharacter,
        pg.CharacterNotInRepertoire,
        pg.InvalidTextRepresentation,
    ) as exc:
        raise InvalidInputError("The input has a character that cannot be stored") from exc
    except pg.ProgramLimitExceeded as exc:
        # An OperationalError to psycopg, but the same again would fail again.
        raise TooLargeError("A name or an id is too long to be indexed") from exc
    except pg.QueryCanceled as exc:
        raise UnavailableError("The database did not answer in time") from exc
    except (psycopg.OperationalError, pg.ReadOnlySqlTransaction) as exc:
        raise UnavailableError("The database is not available") from exc


class Database:
    """
    The database, as every function of `store` takes it.

    Every method raises UnavailableError when PostgreSQL does not answer in time.
    """

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self.pool = pool

    @property
    def conninfo(self) -> str:
        """Where the database is, with its password: for connections outside the pool."""
        return str(self.pool.conninfo)

    async def ping(self) -> None:
        """Ask PostgreSQL for an answer."""
        await self.execute("SELECT 1", {})

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection; never across a model call, a stream or a dependency."""
        with translated_errors():
            async with self.pool.connection() as connection:
                yield connection
                connection.seen_at = time.monotonic()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """Run several statements as one transaction."""
        async with self.connection() as connection, connection.transaction():
            yield Transaction(connection)

    async def all(self, row: type[Row], query: LiteralString, params: Params) -> list[Row]:
        """Every row of a one-statement transaction."""
        async with self.connection() as connection:
            return await Transaction(connection).all(row, query, params)

    async def one(self, row: type[Row], query: LiteralString, params: Params) -> Row | None:
        """The first row of a one-statement transaction, if there is one."""
        async with self.connection() as connection:
            return await Transaction(connection).one(row, query, params)

    async def tuples(self, query: LiteralString, params: Params) -> list[tuple[Any, ...]]:
        """The rows of a one-statement transaction, as tuples."""
        async with self.connection() as connection:
            return await Transaction(connection).tuples(query, params)

    async def execute(self, query: LiteralString, params: Params) -> int:
        """Run a statement; how many rows it touched."""
        async with self.connection() as connection:
            return await Transaction(connection).execute(query, params)


class Transaction:
    """Statements on one connection."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self.connection = connection

    async def all(self, row: type[Row], query: LiteralString, params: Params) -> list[Row]:
        """Every row."""
        async with self.connection.cursor(row_factory=class_row(row)) as cursor:
            await cursor.execute(query, params)
            return await cursor.fetchall()

    async def one(self, row: type[Row], query: LiteralString, params: Params) -> Row | None:
        """The first row, if there is one."""
        async with self.connection.cursor(row_factory=class_row(row)) as cursor:
            await cursor.execute(query, params)
            return await cursor.fetchone()

    async def tuples(self, query: LiteralString, params: Params) -> list[tuple[Any, ...]]:
        """The rows, as tuples."""
        cursor: AsyncCursor[tuple[Any, ...]] = self.connection.cursor(row_factory=tuple_row)
        async with cursor:
            await cursor.execute(query, params)
            return await cursor.fetchall()

    async def execute(self, query: LiteralString, params: Params) -> int:
        """How many rows the statement touched."""
        async with self.connection.cursor() as cursor:
            await cursor.execute(query, params)
            return cursor.rowcount


async def _configure(
    connection: Connection, statement_timeout_seconds: float, idle_transaction_seconds: float
) -> None:
    adapt(connection)
    await connection.execute(
        "SELECT set_config('jit', 'off', false), set_config('lock_timeout', '10s', false),"
        "set_config('idle_in_transaction_session_timeout', %s, false),"
        "set_config('statement_timeout', %s, false)",
        (f"{idle_transaction_seconds * 1000:.0f}", f"{statement_timeout_seconds * 1000:.0f}"),
    )
    connection.seen_at = time.monotonic()


def adapt(connection: AdaptContext) -> None:
    """Teach a connection our types: UUIDs as text, JSON through orjson."""
    connection.adapters.register_loader("uuid", _TextLoader)
    connection.adapters.register_dumper(dict, _JsonDumper)
    set_json_loads(orjson.loads, connection)
    set_json_dumps(dump_json, connection)


def dump_json(value: Any) -> bytes:
    """
    JSON for a ``jsonb`` column.

    Raises:
        InvalidInputError: The value has something that JSON or PostgreSQL cannot hold.
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError as exc:
        raise InvalidInputError(f"Not a JSON value: {exc}") from exc
    return without_nul(text)


def without_nul(text: bytes) -> bytes:
    """JSON text with U+FFFD for NUL, which jsonb has no place for; the reference does the same."""
    return _NUL.sub(rb"\1\\ufffd", text) if b"\\u0000" in text else text


async def _check(connection: Connection) -> None:
    """Ping a connection that was idle for a second; a busy one proves itself."""
    if time.monotonic() - connection.seen_at > 1.0:
        await connection.execute("")
        connection.seen_at = time.monotonic()


@asynccontextmanager
async def open_database(
    url: str,
    *,
    min_size: int = 2,
    max_size: int = 20,
    timeout_seconds: float = 10.0,
    statement_timeout_seconds: float = 30.0,
    idle_transaction_seconds: float = 15.0,
) -> AsyncIterator[Database]:
    """
    Open the pool and wait for its first connection.

    Args:
        url: A libpq URL or conninfo string.
        min_size: Connections kept open.
        max_size: Connections at the most.
        timeout_seconds: How long a caller waits for a connection before UnavailableError.
        statement_timeout_seconds: How long a statement may take before UnavailableError.
        idle_transaction_seconds: How long a transaction of a process that is frozen keeps its locks.

    Raises:
        UnavailableError: PostgreSQL did not answer within `timeout_seconds`.
    """
    pool = AsyncConnectionPool(
        url,
        connection_class=Connection,
        kwargs={
            "autocommit": True,
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        },
        min_size=min_size,
        max_size=max_size,
        timeout=timeout_seconds,
        max_idle=300,
        max_lifetime=3600,
        configure=lambda c: _configure(c, statement_timeout_seconds, idle_transaction_seconds),
        check=_check,
        open=False,
    )
    with translated_errors():
        await pool.open(wait=True, timeout=timeout_seconds)
    try:
        yield Database(pool)
    finally:
        await pool.close()
