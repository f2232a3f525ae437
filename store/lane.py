"""
A connection that all callers of an event loop share at the same time.

The statements of a run's way are sent as they come, without waiting for the answers to those
before, and PostgreSQL answers in order: its pipeline mode, see
https://www.postgresql.org/docs/current/libpq-pipeline-mode.html. A call is one write to the socket;
borrowing a connection of the pool for it costs several times as much. Whatever may take long, or
waits for a lock, belongs to the pool: here it would hold up everybody behind it.
"""

import asyncio
import os
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncConnection, abc, errors as pg
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from store.errors import InvalidInputError
from store.json import dump_json
from store.meters import QueryMeter

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")
_LOST: Final = "The connection to the database was lost"
#: SQLSTATEs of a server that is leaving, or is not the one to write to any more.
_ELSEWHERE: Final = ("25006", "57P")

_RETRY_SECONDS: Final = 0.2
#: How much longer an answer is waited for, for each byte that was sent.
_BYTE_SECONDS: Final = 1 / 2**20
#: How often statements are sent again that the connection has forgotten, or knows already.
PREPARED_ANEW: Final = 2

#: Tuples, unless a statement says otherwise.
Rows = list[Any]
Params = Mapping[str, Any]


class Binary:
    """A parameter in PostgreSQL's binary form."""

    data: bytes

    __slots__ = ("data",)


class Statement:
    """
    A statement that is prepared once on a connection.

    Args:
        query: With parameters as ``%(name)s``, each of a type that PostgreSQL can tell.
        row: What a row is made, of its columns by their names; None for a tuple.
    """

    def __init__(self, query: LiteralString, row: Callable[..., Any] | None = None) -> None:
        self.query = query
        self.row = row
        self._names: dict[str, int] = {}
        self.text = _PARAMETER.sub(self._number, query).encode()
        # The same in every process, so that a pooler may share it.
        self.name = f"tw_{blake2b(self.text, digest_size=8).hexdigest()}".encode()

    def _number(self, match: re.Match[str]) -> str:
        return f"${self._names.setdefault(match[1], len(self._names) + 1)}"

    def values(self, params: Params) -> tuple[list[bytes | None], list[Format]]:
        """The parameters as they are sent."""
        given = [params[name] for name in self._names]
        formats = [Format.BINARY if isinstance(v, Binary) else Format.TEXT for v in given]
        return [_encoded(value) for value in given], formats


Call = tuple[Statement, Params]


class Lane:
    """
    Statements of many callers over one connection, which is opened when it is needed.

    Args:
        connect: Opens and configures a connection.
        connect_seconds: How long callers wait for a server that is not there.
        deadline_seconds: How long after the last answer the next one is waited for, and a second more
            for each MiB that was sent, before the server is taken for frozen and the connection is
            given up.
        meter: Told how long transactions take.
    """

    def __init__(
        self,
        connect: Callable[[], Coroutine[Any, Any, AsyncConnection[Any]]],
        *,
        connect_seconds: float = 0.0,
        deadline_seconds: float,
        meter: QueryMeter | None = None,
    ) -> None:
        self._meter = meter or QueryMeter()
        self._connect = connect
        self._connect_seconds = connect_seconds
        self._deadline_seconds = deadline_seconds
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link] | None = None
        self._is_closed = False

    async def run(self, *calls: Call) -> list[Rows]:
        """
        Run statements as one transaction; the rows of each.

        Raises:
            psycopg.Error: What PostgreSQL says, or that the connection is lost: then nobody knows
                whether the transaction has committed.
            InvalidInputError: A parameter has something that PostgreSQL cannot hold.
        """
        for _ in range(PREPARED_ANEW):
            # Nothing was done. It is prepared anew: it was not there, or could not be before; or it
            # is there, because another caller was told the same and was faster.
            with suppress(pg.InvalidSqlStatementName, pg.DuplicatePreparedStatement):
                return await self._send(calls)
        return await self._send(calls)

    async def _send(self, calls: Sequence[Call]) -> list[Rows]:
        link = self._link
        if link is None or link.closed:
            link = await self._open()
        return await link.send(calls)

    def close(self) -> None:
        """Close the connection for good; what is under way fails."""
        self._is_closed = True
        if self._link is not None:
            self._link.close()

    async def _open(self) -> "_Link":
        # One try for all who wait: of a server that hangs each would wait for the one before.
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._insist(), name="open a lane")
            # Those who waited may all have left.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._opening)

    async def _insist(self) -> "_Link":
        until = time.monotonic() + self._connect_seconds
        while not self._is_closed:
            try:
                self._link = _Link(await self._connect(), self._deadline_seconds, self._meter)
            except (psycopg.Error, OSError) as exc:
                if time.monotonic() >= until:
                    raise pg.SqlclientUnableToEstablishSqlconnection(str(exc)) from exc
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                if not self._is_closed:
                    return self._link
                self._link.close()
        raise pg.SqlclientUnableToEstablishSqlconnection("The lane is closed")


class _Link:
    """One connection in pipeline mode."""

    def __init__(
        self, connection: AsyncConnection[Any], deadline_seconds: float, meter: QueryMeter
    ) -> None:
        self._meter = meter
        self._connection = connection
        self._pg = connection.pgconn
        self._deadline_seconds = deadline_seconds
        self._loop = asyncio.get_running_loop()
        self._transactions: deque[_Transaction] = deque()
        self._sent = 0
        #: What is prepared, or will be by what is on its way: by which transaction.
        self._prepared: dict[bytes, int] = {}
        self._is_writing = self._is_watched = self.closed = False
        self._answered_at = 0.0
        self._pg.enter_pipeline_mode()
        self._socket = self._pg.socket
        self._loop.add_reader(self._socket, self._read)

    def send(self, calls: Sequence[Call]) -> "asyncio.Future[list[Rows]]":
        """Send a transaction; its rows come later."""
        # Before anything is sent: a bad parameter is its caller's affair.
        bound = [(statement, *statement.values(params)) for statement, params in calls]
        sent_at = time.monotonic()
        self._sent += 1
        transaction = _Transaction(
            self._loop.create_future(),
            Transformer(self._connection),
            calls,
            number=self._sent,
            sent_at=sent_at,
            size=sum(len(value) for _, values, _ in bound for value in values if value),
        )
        try:
            for statement, values, formats in bound:
                self._prepare(statement, transaction)
                self._pg.send_query_prepared(statement.name, values, formats)
                transaction.steps.append((statement.name, False))
            self._pg.pipeline_sync()
            self._transactions.append(transaction)
            self._write()
        except psycopg.Error:
            self.close()
            raise
        if not self._is_watched:
            self._is_watched = True
            self._loop.call_later(self._deadline_seconds / 4, self._watch)
        return transaction.done

    def close(self) -> None:
        """Close the connection; what is under way fails."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket)
        if self._is_writing:
            self._loop.remove_writer(self._socket)
        # What is still on its way is not to arrive after what the next connection sends.
        with suppress(OSError), socket.socket(fileno=os.dup(self._socket)) as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._pg.finish()
        for transaction in self._transactions:
            transaction.fail(psycopg.OperationalError(_LOST))
        self._transactions.clear()

    def _prepare(self, statement: Statement, transaction: "_Transaction") -> None:
        if statement.name not in self._prepared:
            self._prepared[statement.name] = transaction.number
            self._pg.send_prepare(statement.name, statement.text)
            transaction.steps.append((statement.name, True))

    def _write(self) -> None:
        try:
            is_full = bool(self._pg.flush())
        except psycopg.Error:
            self.close()
            return
        if is_full == self._is_writing:
            return
        self._is_writing = is_full
        if is_full:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            self._pg.consume_input()
            while self._transactions and not self._pg.is_busy():
                self._take(self._pg.get_result())
        except psycopg.Error:
            self.close()

    def _take(self, result: PGresult | None) -> None:
        transaction = self._transactions[0]
        if result is None:  # the end of a step
            transaction.place += 1
        elif result.status == ExecStatus.PIPELINE_SYNC:
            self._transactions.popleft()
            self._answered_at = time.monotonic()
            took = self._answered_at - transaction.sent_at
            if self._meter.took(took):
                self._meter.tell(took, [statement.query for statement, _ in transaction.calls])
            transaction.settle()
            if transaction.error and (transaction.error.sqlstate or "").startswith(_ELSEWHERE):
                self.close()
        elif result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            if not transaction.steps[transaction.place][1]:
                transaction.results.append(result)
        else:
            self._fail(transaction, result)

    def _fail(self, transaction: "_Transaction", result: PGresult) -> None:
        """Take note of why a step was not carried out, and of what is prepared now and what is not."""
        name, prepares = transaction.steps[transaction.place]
        is_first = result.status != ExecStatus.PIPELINE_ABORTED
        if is_first:
            transaction.error = pg.error_from_result(result, "utf-8")
        by = self._prepared.get(name, transaction.number)
        if is_first and isinstance(transaction.error, pg.DuplicatePreparedStatement):
            self._prepared[name] = by
        # It could not be prepared, or is not there any more; unless somebody who was told so before has
        # sent it anew meanwhile.
        elif by <= transaction.number and (
            prepares or isinstance(transaction.error, pg.InvalidSqlStatementName)
        ):
            self._prepared.pop(name, None)

    def _watch(self) -> None:
        """Give up a connection that does not answer."""
        self._is_watched = False
        if self.closed or not self._transactions:
            return
        first = self._transactions[0]
        # Those before it may have been large, or have waited for locks: it had no time then.
        began_at = max(first.sent_at, self._answered_at)
        if time.monotonic() > began_at + self._deadline_seconds + first.size * _BYTE_SECONDS:
            self.close()
            return
        self._is_watched = True
        self._loop.call_later(self._deadline_seconds / 4, self._watch)


class _Transaction:
    """What was sent up to a Sync, and what has come of it."""

    __slots__ = (
        "_transformer", "calls", "done", "error", "number", "place", "results", "sent_at", "size",
        "steps",
    )  # fmt: skip

    def __init__(
        self,
        done: "asyncio.Future[list[Rows]]",
        transformer: abc.Transformer,
        calls: Sequence[Call],
        *,
        number: int,
        sent_at: float,
        size: int,
    ) -> None:
        self.done = done
        self.calls = calls
        self.number = number
        self.sent_at = sent_at
        self.size = size
        #: Of each statement its name, and whether it is prepared or executed.
        self.steps: list[tuple[bytes, bool]] = []
        self.place = 0
        self.results: list[PGresult] = []
        self.error: psycopg.Error | None = None
        self._transformer = transformer

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def settle(self) -> None:
        if self.error is not None:
            self.fail(self.error)
        elif not self.done.done():
            try:
                given = zip(self.calls, self.results, strict=True)
                self.done.set_result([self._rows(call[0], result) for call, result in given])
            except Exception as exc:  # noqa: BLE001 - a value that cannot be read fails its caller
                self.fail(exc)

    def _rows(self, statement: Statement, result: PGresult) -> Rows:
        if not result.ntuples:
            return []
        transformer = self._transformer
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, _maker(statement.row, result))


def _maker(row: Callable[..., Any] | None, result: PGresult) -> Callable[[Sequence[Any]], Any]:
    if row is None:
        return tuple
    names = [(result.fname(i) or b"").decode() for i in range(result.nfields)]
    return lambda values: row(**dict(zip(names, values, strict=True)))


def _encoded(value: Any) -> bytes | None:
    if isinstance(value, str):
        encoded = value.encode()
        if b"\0" in encoded:
            raise InvalidInputError("The input has a character that cannot be stored")
        return encoded
    if value is None:
        return None
    if isinstance(value, Binary):
        return value.data
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return dump_json(value)  # a number is one as it is
