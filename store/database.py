"""
PostgreSQL: the pool, transactions, and the translation of its errors into ours.

Connections are in autocommit mode: a single statement is a transaction and one round trip.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, LiteralString, Self, TypeVar, cast

import orjson
import psycopg
import structlog
from psycopg import AsyncConnection, AsyncCursor, errors as pg
from psycopg.abc import AdaptContext, Buffer, Query
from psycopg.adapt import Dumper, Loader
from psycopg.rows import TupleRow, class_row, tuple_row
from psycopg.sql import Composable
from psycopg.types.json import JsonbDumper, set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from store.cipher import CLEAR, Cipher
from store.errors import (
    AlreadyExistsError,
    ConflictError,
    ConnectionLostError,
    Error,
    InDoubtError,
    InvalidInputError,
    LockedError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnreadableError,
)
from store.json import dump_json
from store.lane import Call, Lane, Rows
from store.meters import QueryMeter

log = structlog.get_logger(__name__)

Row = TypeVar("Row")
T = TypeVar("T")
Params = dict[str, Any]

#: What every connection is opened with: a host that vanishes, in the middle of a statement or while
#: nothing is asked, is noticed in these seconds; a URL with several hosts then leads to the next.
CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
#: What a row that cannot be decrypted is told by.
_IDS: Final = ("thread_id", "run_id", "assistant_id", "conversation_id", "id")
#: How long a ping may take.
PING_SECONDS = 2.0
#: How much longer than PostgreSQL itself we wait for a statement before we take the server for
#: frozen.
PATIENCE_SECONDS = 2.0

#: SQLSTATEs of a connection that is lost: its own errors, the server going or coming up.
_LOST: Final = ("08", "57P")
#: Of one that was never made.
_NEVER_THERE: Final = "08001"
#: What a shared connection waits for a row that is locked, while all its callers wait.
_SHARED_LOCK_SECONDS: Final = 0.2
#: How long a shared connection may be without an answer; what is asked on it takes milliseconds.
_SHARED_SECONDS: Final = 3.0

#: What a violated constraint means to the caller.
CONSTRAINTS: dict[str, tuple[type[Error], str]] = {
    "assistant_pkey": (AlreadyExistsError, "The assistant exists already"),
    "thread_pkey": (AlreadyExistsError, "The thread exists already"),
    "cron_pkey": (AlreadyExistsError, "The cron is there already"),
    "run_pkey": (AlreadyExistsError, "The run exists already"),
    "run_one_running": (ConflictError, "Another run of the thread is running"),
    "run_thread_id_fkey": (NotFoundError, "The thread does not exist"),
    "run_of_cron": (ConflictError, "The cron has fired for this time"),
    "file_content_sha256": (AlreadyExistsError, "The same content is there already"),
    "file_use_file_id_fkey": (NotFoundError, "The file does not exist"),
    "cron_assistant_id_fkey": (NotFoundError, "The assistant does not exist"),
    "cron_thread_id_fkey": (NotFoundError, "The thread does not exist"),
}


class _Cursor(AsyncCursor[Row]):
    """A cursor whose statements are timed."""

    async def execute(
        self,
        query: Query,
        params: Any = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Have a statement carried out."""
        began_at = time.monotonic()
        await super().execute(query, params, prepare=prepare, binary=binary)  # type: ignore[arg-type]
        took = time.monotonic() - began_at
        meter = cast("Connection", self._conn).meter
        if meter is not None and meter.took(took):
            meter.tell(took, [self._text(query)])
        return self

    def _text(self, query: Query) -> str:
        if isinstance(query, Composable):
            return query.as_string(self._conn)
        return query.decode() if isinstance(query, bytes) else str(query)


class Connection(AsyncConnection[TupleRow]):
    """A connection that knows its age, in seconds of the monotonic clock."""

    opened_at: float = 0.0
    #: When it was last seen alive.
    seen_at: float = 0.0
    #: Told how long its statements take.
    meter: QueryMeter | None = None


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
    except (
        psycopg.OperationalError,
        pg.ReadOnlySqlTransaction,
        # Of a process, or a database, that stood still.
        pg.IdleInTransactionSessionTimeout,
    ) as exc:
        raise _unavailable(exc) from exc


def _unavailable(exc: psycopg.Error) -> UnavailableError:
    if isinstance(exc, pg.QueryCanceled):
        return UnavailableError("The database did not answer in time")
    if isinstance(exc, pg.LockNotAvailable):
        return LockedError("The database did not come to it in time")
    sqlstate = exc.sqlstate or "08"
    lost = sqlstate.startswith(_LOST) and sqlstate != _NEVER_THERE
    error = ConnectionLostError if lost else UnavailableError
    return error("The database is not available")


async def repeated(operation: Callable[[], Awaitable[T]]) -> T:
    """Do what may be done twice; and do it again if the connection was lost meanwhile."""
    try:
        return await operation()
    except ConnectionLostError:
        return await operation()


@contextmanager
def in_doubt() -> Iterator[None]:
    """
    Find out whether something was made whose answer was lost, or say that nobody knows.

    Raises:
        InDoubtError: PostgreSQL is not there to tell.
    """
    try:
        yield
    except UnavailableError as exc:
        raise InDoubtError(
            "The database was lost while it took this in: it may have it, or not"
        ) from exc


async def made_once(make: Callable[[], Awaitable[T]], find: Callable[[], Awaitable[T]]) -> T:
    """
    Make something under an id of its own, also if the answer is lost.

    Args:
        make: Raises AlreadyExistsError for what is there.
        find: Reads it, if the first try has made it after all.

    Raises:
        InDoubtError: It may have been made.
    """
    try:
        return await make()
    except ConnectionLostError:
        with in_doubt():
            try:
                return await make()
            except AlreadyExistsError:
                return await find()


def _cancellations() -> int:
    """How often this task was asked to stop."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def cut(connection: psycopg.BaseConnection[Any]) -> None:
    """Break a connection: whoever waits for its server, frozen as it may be, gets an error."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def limited(connection: AsyncConnection[Any], seconds: float) -> Iterator[None]:
    """
    Cut the connection if the block takes longer.

    A time-out of asyncio would have psycopg ask a server that does not answer to cancel.
    """
    timer = asyncio.get_running_loop().call_later(seconds, cut, connection)
    try:
        yield
    finally:
        timer.cancel()


class Database:
    """
    The database, as every function of `store` takes it.

    Every method raises UnavailableError when PostgreSQL does not answer in time.

    Args:
        lane: For what every run does; on the event loop of the pool.
        meter: What is told how long statements take.
        statement_seconds: How long a statement, or a transaction, may take in all.
        cipher: Seals what is written, and opens what is read.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Connection],
        lane: Lane,
        *,
        statement_seconds: float,
        cipher: Cipher = CLEAR,
        meter: QueryMeter | None = None,
    ) -> None:
        self.pool = pool
        self.meter = meter or QueryMeter()
        self.lane = lane
        self.cipher = cipher
        self._statement_seconds = statement_seconds
        self._renewed_at = 0.0

    @property
    def conninfo(self) -> str:
        """Where the database is, with its password: for connections outside the pool."""
        return str(self.pool.conninfo)

    @property
    def pool_stats(self) -> tuple[int, int, int]:
        """Connections at most, those in use, and who waits for one."""
        stats = self.pool.get_stats()
        used = stats["pool_size"] - stats["pool_available"]
        return self.pool.max_size, used, stats.get("requests_waiting", 0)

    async def ping(self) -> None:
        """Ask PostgreSQL for an answer."""
        await self.execute("SELECT 1", {})

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection; never across a model call, a stream or a dependency."""
        cancellations = _cancellations()
        with translated_errors():
            async with self.pool.connection() as connection:
                # One that comes as a connection comes free is lost in Python 3.11's `wait_for`.
                if _cancellations() > cancellations:
                    raise asyncio.CancelledError
                try:
                    with limited(connection, self._statement_seconds):
                        yield connection
                    connection.seen_at = time.monotonic()
                except pg.ReadOnlySqlTransaction:
                    # A standby by now: the primary is elsewhere.
                    await connection.close()
                    raise
                finally:
                    if connection.closed:
                        await self.renew(connection.opened_at)

    async def renew(self, opened_at: float) -> None:
        """
        Replace all connections after one was lost: its server is gone, and the others with it.

        Found broken one by one, each would cost a caller a second, or more if nobody answers.

        Args:
            opened_at: The lost one's age, for all of them are lost at the same time.
        """
        if opened_at > self._renewed_at:
            self._renewed_at = time.monotonic()
            await self.pool.drain()

    async def at_once(self, *calls: Call) -> list[Rows]:
        """
        Run short statements as one transaction, on a connection that all callers share.

        Raises:
            LockedError: A row that they need is locked for longer than all others should wait.
        """
        try:
            with translated_errors():
                return await self.lane.run(*calls)
        except ConnectionLostError:
            # Of a second ago at least: callers of a shared connection are told all at once.
            await self.renew(time.monotonic() - 1.0)
            raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """Run several statements as one transaction."""
        async with self.connection() as connection, connection.transaction():
            yield Transaction(connection, self.cipher)

    async def all(
        self,
        row: type[Row],
        query: LiteralString,
        params: Params,
        *,
        prepare: bool | None = None,
        lenient: bool = False,
    ) -> list[Row]:
        """
        Every row of a one-statement transaction.

        Args:
            prepare: False has the query planned anew, for just these parameters.
            lenient: For a page that is shown: of a row that cannot be decrypted what can be is told, and the
                rest as empty, so that the rows beside it are seen.

        Raises:
            UnreadableError: A row cannot be decrypted, unless `lenient`.
        """
        async with self.connection() as connection:
            return await Transaction(connection, self.cipher).all(
                row, query, params, prepare=prepare, lenient=lenient
            )

    async def one(self, row: type[Row], query: LiteralString, params: Params) -> Row | None:
        """The first row of a one-statement transaction, if there is one."""
        async with self.connection() as connection:
            return await Transaction(connection, self.cipher).one(row, query, params)

    async def tuples(
        self,
        query: LiteralString,
        params: Params,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> list[tuple[Any, ...]]:
        """
        The rows of a one-statement transaction, as tuples; `prepare` as for `all`.

        Args:
            binary: For large ``bytea``, which comes as hexadecimal text otherwise.
        """
        async with self.connection() as connection:
            return await Transaction(connection, self.cipher).tuples(
                query, params, prepare=prepare, binary=binary
            )

    async def execute(self, query: LiteralString, params: Params) -> int:
        """Run a statement; how many rows it touched."""
        async with self.connection() as connection:
            return await Transaction(connection, self.cipher).execute(query, params)


class Transaction:
    """Statements on one connection; rows are opened that have seals, tuples are not."""

    def __init__(self, connection: AsyncConnection[Any], cipher: Cipher = CLEAR) -> None:
        self.connection = connection
        self.cipher = cipher

    async def all(
        self,
        row: type[Row],
        query: LiteralString,
        params: Params,
        *,
        prepare: bool | None = None,
        lenient: bool = False,
    ) -> list[Row]:
        """Every row; `prepare` and `lenient` as for `Database.all`."""
        async with self.connection.cursor(row_factory=class_row(row)) as cursor:
            await cursor.execute(query, params, prepare=prepare)
            return self._opened(row, await cursor.fetchall(), lenient=lenient)

    async def one(self, row: type[Row], query: LiteralString, params: Params) -> Row | None:
        """The first row, if there is one."""
        async with self.connection.cursor(row_factory=class_row(row)) as cursor:
            await cursor.execute(query, params)
            found = await cursor.fetchone()
        return None if found is None else self._opened(row, [found])[0]

    def _opened(self, row: type[Row], rows: list[Row], *, lenient: bool = False) -> list[Row]:
        """Rows of a kind that has seals without them."""
        if not self.cipher.is_on or (opened := getattr(row, "opened", None)) is None:
            return rows
        found = []
        for one in rows:
            try:
                found.append(opened(one, self.cipher))
            except UnreadableError as error:
                # It fails what it was read for; a page that is shown tells what there is of it.
                named = {name: getattr(one, name) for name in _IDS if hasattr(one, name)}
                log.warning("row cannot be read", kind=row.__name__, reason=error.message, **named)
                if not lenient:
                    raise
                found.append(opened(one, self.cipher.lenient()))
        return found

    async def tuples(
        self,
        query: LiteralString,
        params: Params,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> list[tuple[Any, ...]]:
        """The rows, as tuples; `prepare` and `binary` as for `Database.tuples`."""
        cursor: AsyncCursor[tuple[Any, ...]] = self.connection.cursor(row_factory=tuple_row)
        async with cursor:
            await cursor.execute(query, params, prepare=prepare, binary=binary)
            return await cursor.fetchall()

    async def execute(self, query: LiteralString, params: Params) -> int:
        """How many rows the statement touched."""
        async with self.connection.cursor() as cursor:
            await cursor.execute(query, params)
            return cursor.rowcount


async def _configure(
    connection: Connection,
    *,
    meter: QueryMeter,
    statement_seconds: float,
    idle_transaction_seconds: float,
    lock_seconds: float = 10.0,
) -> None:
    adapt(connection)
    await connection.execute(
        "SELECT set_config('jit', 'off', false),"
        "set_config('idle_in_transaction_session_timeout', %s, false),"
        "set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)",
        tuple(
            f"{seconds * 1000:.0f}"
            for seconds in (idle_transaction_seconds, lock_seconds, statement_seconds)
        ),
    )
    connection.opened_at = connection.seen_at = time.monotonic()
    connection.meter = meter
    connection.cursor_factory = _Cursor


def adapt(connection: AdaptContext) -> None:
    """Teach a connection our types: UUIDs as text, JSON through orjson."""
    connection.adapters.register_loader("uuid", _TextLoader)
    connection.adapters.register_dumper(dict, _JsonDumper)
    set_json_loads(orjson.loads, connection)
    set_json_dumps(dump_json, connection)


async def _check(database: Database, connection: Connection) -> None:
    """Ping a connection that was idle for a second; a busy one proves itself."""
    if time.monotonic() - connection.seen_at > 1.0:
        try:
            with limited(connection, PING_SECONDS):
                await connection.execute("")
        except psycopg.Error:
            await database.renew(connection.opened_at)
            raise
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
    cipher: Cipher = CLEAR,
    slow_query_seconds: float = 0.0,
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
        cipher: Seals what is written, and opens what is read.
        slow_query_seconds: From where on a statement is logged as slow; 0: never.

    Raises:
        UnavailableError: PostgreSQL did not answer within `timeout_seconds`.
    """
    meter = QueryMeter(slow_query_seconds)
    # Half as long as a caller waits: the first host of a URL may be dead.
    connect_seconds = max(2, int(timeout_seconds / 2))
    arguments = {"autocommit": True, **CONNECT, "connect_timeout": connect_seconds}
    pool = AsyncConnectionPool(
        url,
        connection_class=Connection,
        kwargs=arguments,
        min_size=min_size,
        max_size=max_size,
        timeout=timeout_seconds,
        max_idle=300,
        max_lifetime=3600,
        # Then whoever asks next has it try anew, instead of waiting for an ever later try.
        reconnect_timeout=timeout_seconds,
        configure=lambda c: _configure(
            c,
            meter=meter,
            statement_seconds=statement_timeout_seconds,
            idle_transaction_seconds=idle_transaction_seconds,
        ),
        check=lambda connection: _check(database, connection),
        open=False,
    )

    async def connect() -> Connection:
        connection = await Connection.connect(url, **arguments)
        with limited(connection, PING_SECONDS):
            await _configure(
                connection,
                meter=meter,
                statement_seconds=statement_timeout_seconds,
                idle_transaction_seconds=idle_transaction_seconds,
                lock_seconds=_SHARED_LOCK_SECONDS,
            )
            # All that is asked here is asked by keys. A plan is kept, and one that was made while a table was
            # empty would read all of it, however large it has become.
            await connection.execute("SET enable_seqscan = off")
        return connection

    patience_seconds = statement_timeout_seconds + PATIENCE_SECONDS
    lane = Lane(
        connect,
        connect_seconds=timeout_seconds,
        deadline_seconds=min(_SHARED_SECONDS, patience_seconds),
        meter=meter,
    )
    database = Database(pool, lane, statement_seconds=patience_seconds, meter=meter, cipher=cipher)
    with translated_errors():
        await pool.open(wait=True, timeout=timeout_seconds)
    try:
        yield database
    finally:
        lane.close()
        await pool.close()
