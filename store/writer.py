"""
The process's writer of checkpoints: a queue, one connection, and what to do when either fails.

Whatever is queued while a transaction commits goes into the next one, so batches form by
themselves and an idle process waits for nobody. Nobody is told before it has committed.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, errors as pg

from store.commits import Entry, commit
from store.database import CONNECT, PING_SECONDS, Database, limited, translated_errors
from store.errors import LeaseLostError, UnavailableError
from store.lane import Lane
from store.meters import BATCH_SIZES, SHORT_SECONDS, Histogram, QueryMeter

_BATCH_ITEMS: Final = 256
_BATCH_BYTES: Final = 8 * 2**20
#: How long a commit may take, and a second more for each MiB; then the server is taken for frozen.
_COMMIT_SECONDS: Final = 8.0
_MAX_PAUSE_SECONDS: Final = 1.0
#: SQLSTATE classes and codes that say nothing about the rows: no connection, no room, no rights to
#: write here and now (a standby), a deadlock.
_PASSING: Final = ("08", "25006", "40", "53", "55", "57", "58")


#: A thread's row is locked for milliseconds; whoever holds it longer delays its own thread only.
_SETTINGS: Final = "SET jit = off; SET lock_timeout = '200ms'; SET statement_timeout = '15s'"


class CheckpointWriter:
    """
    The process's one writer of checkpoints; made by `open_writer`.

    Entries of a thread are committed in the order of their `write` calls. An entry that PostgreSQL
    refuses fails alone: its batch is sent again without it. When the connection is lost the batch
    is sent again too, which does no harm if it had committed after all.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        deadline_seconds: float,
        max_items: int,
        max_bytes: int,
        meter: QueryMeter | None = None,
    ) -> None:
        #: Of the transactions that were committed: how many entries each had, and how long it took.
        self.batches = Histogram(BATCH_SIZES)
        self.commits = Histogram(SHORT_SECONDS)
        self.committed_bytes = 0
        #: Transactions that PostgreSQL did not take, and entries whose lease no longer held.
        self.failed_count = self.refused_count = 0
        self._conninfo = conninfo
        self._deadline_seconds = deadline_seconds
        self._max_items, self._max_bytes = max_items, max_bytes
        self._queue: deque[Entry] = deque()
        # what is queued or being committed
        self._items = self._bytes = 0
        self._room = asyncio.Condition()
        self._wake = asyncio.Event()
        self._closing = False
        # of the batch under way: entries whose thread somebody else holds locked
        self._later: list[Entry] = []
        # of no other use: it has no more than one batch under way
        self._lane = Lane(self._connect, deadline_seconds=_COMMIT_SECONDS, meter=meter)

    @property
    def waiting(self) -> tuple[int, int]:
        """How many entries, and bytes, are queued or being committed."""
        return self._items, self._bytes

    async def write(self, entry: Entry) -> asyncio.Future[None]:
        """
        Queue an entry; its place in the thread's order is taken when this returns.

        Waits while the queue is full.

        Returns:
            Done once the entry is committed; fails with LeaseLostError, with UnavailableError
            after the deadline, or with the error of its own rows.

        Raises:
            LeaseLostError: The lease was given up already.
            UnavailableError: The queue stayed full, or the writer is closed.
        """
        if not entry.alive():
            raise lease_lost(entry.thread_id)
        entry.deadline = time.monotonic() + self._deadline_seconds
        if not self._fits(entry):
            await self._wait_for_room(entry)
        if self._closing:
            raise UnavailableError("The server is shutting down")
        entry.committed = asyncio.get_running_loop().create_future()
        self._items += 1
        self._bytes += entry.size
        self._queue.append(entry)
        self._wake.set()
        return entry.committed

    async def run(self) -> None:
        """Commit what is queued until `close` is called and the queue is empty."""
        try:
            while not (self._closing and not self._queue):
                await self._wake.wait()
                self._wake.clear()
                while entries := self._take():
                    await self._write(entries)
        finally:
            self._closing = True
            for entry in self._queue:
                _fail(entry, UnavailableError("The server is shutting down"))
            self._lane.close()

    def close(self) -> None:
        """Take nothing more; `run` ends when the queue is drained."""
        self._closing = True
        self._wake.set()

    def _fits(self, entry: Entry) -> bool:
        # An entry larger than the whole queue may go alone.
        return self._items == 0 or (
            self._items < self._max_items and self._bytes + entry.size <= self._max_bytes
        )

    async def _wait_for_room(self, entry: Entry) -> None:
        try:
            async with asyncio.timeout(self._deadline_seconds), self._room:
                await self._room.wait_for(lambda: self._closing or self._fits(entry))
        except TimeoutError:
            raise UnavailableError("Too many checkpoints wait to be written") from None

    async def _release(self, entries: Sequence[Entry]) -> None:
        self._items -= len(entries)
        self._bytes -= sum(entry.size for entry in entries)
        async with self._room:
            self._room.notify_all()

    def _take(self) -> list[Entry]:
        """The next batch; of one thread it holds one new head at the most."""
        batch: list[Entry] = []
        size = 0
        heads: set[str] = set()
        while self._queue and len(batch) < _BATCH_ITEMS and size < _BATCH_BYTES:
            entry = self._queue[0]
            if entry.head is not None:
                if entry.thread_id in heads:
                    break
                heads.add(entry.thread_id)
            batch.append(self._queue.popleft())
            size += entry.size
        return batch

    async def _write(self, entries: list[Entry]) -> None:
        self._later.clear()
        try:
            await self._settle(entries)
        except BaseException:
            # The writer itself was stopped: nobody waits for ever.
            for entry in entries:
                _fail(entry, UnavailableError("The checkpoint was not written"))
            raise
        finally:
            await self._release([entry for entry in entries if entry.committed.done()])
        self._postpone()

    async def _settle(self, entries: list[Entry]) -> None:
        """Commit the entries, fail them, or leave them for later; halve them to find which."""
        pause = 0.05
        while entries := self._now(entries):
            try:
                await self._commit(entries)
            except Exception as exc:  # noqa: BLE001 - it fails one entry, and the writer goes on
                self.failed_count += 1
                is_locked = isinstance(exc, pg.LockNotAvailable)
                is_passing = _is_passing(exc)
                if len(entries) > 1 and (is_locked or not is_passing):
                    middle = len(entries) // 2
                    await self._settle(entries[:middle])
                    await self._settle(entries[middle:])
                    return
                if not is_passing:
                    _fail(entries[0], exc)
                    return
                entries = _unexpired(entries, exc)
                if is_locked:
                    self._later.extend(entries)
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)
            else:
                return

    def _now(self, entries: list[Entry]) -> list[Entry]:
        """Those to be sent: their lease is believed in, and no earlier one of the thread waits."""
        locked = {entry.thread_id for entry in self._later}
        self._later.extend(entry for entry in entries if entry.thread_id in locked)
        return [e for e in entries if e.thread_id not in locked and _is_wanted(e)]

    def _postpone(self) -> None:
        """Put entries whose threads are locked to the end, with all that come after them."""
        locked = {entry.thread_id for entry in self._later}
        if locked:
            queued = list(self._queue)
            self._queue.clear()
            self._queue.extend(entry for entry in queued if entry.thread_id not in locked)
            self._queue.extend(self._later)
            self._queue.extend(entry for entry in queued if entry.thread_id in locked)

    async def _commit(self, entries: Sequence[Entry]) -> None:
        size = sum(entry.size for entry in entries)
        began_at = time.monotonic()
        held = await commit(self._lane, entries)
        self.commits.observe(time.monotonic() - began_at)
        self.batches.observe(len(entries))
        self.committed_bytes += size
        for entry in entries:
            if entry.epoch is not None and (entry.thread_id, entry.epoch) not in held:
                self.refused_count += 1
                _fail(entry, lease_lost(entry.thread_id))
            elif not entry.committed.done():
                entry.committed.set_result(None)

    async def _connect(self) -> AsyncConnection[Any]:
        connection = await AsyncConnection.connect(
            self._conninfo, autocommit=True, application_name="threadwell-checkpoints", **CONNECT
        )
        with limited(connection, PING_SECONDS):
            await connection.execute(_SETTINGS, prepare=False)
        return connection


@asynccontextmanager
async def open_writer(
    database: Database,
    *,
    deadline_seconds: float = 30.0,
    max_items: int = 4096,
    max_bytes: int = 64 * 2**20,
) -> AsyncIterator[CheckpointWriter]:
    """
    Open the process's writer; on leaving, what is queued is committed first.

    Args:
        deadline_seconds: How long an entry waits for PostgreSQL before it fails.
        max_items: Entries queued or being committed before a caller waits.
        max_bytes: The same, in bytes.
    """
    writer = CheckpointWriter(
        database.conninfo,
        deadline_seconds=deadline_seconds,
        max_items=max_items,
        max_bytes=max_bytes,
        meter=database.meter,
    )
    task = asyncio.create_task(writer.run(), name="checkpoint-writer")
    try:
        yield writer
    finally:
        writer.close()
        await task


def _is_passing(exc: BaseException) -> bool:
    """Whether the same entries may succeed later."""
    sqlstate = exc.sqlstate if isinstance(exc, psycopg.Error) else None
    if sqlstate is None:
        return isinstance(exc, OSError | psycopg.OperationalError | psycopg.InterfaceError)
    # ProgramLimitExceeded (54…) is an OperationalError too, and stays.
    return sqlstate.startswith(_PASSING)


def _is_wanted(entry: Entry) -> bool:
    """False for an entry whose lease was given up meanwhile; it fails here."""
    if entry.alive():
        return True
    _fail(entry, lease_lost(entry.thread_id))
    return False


def _unexpired(entries: list[Entry], exc: BaseException) -> list[Entry]:
    now = time.monotonic()
    for entry in entries:
        if entry.deadline <= now:
            error = UnavailableError("The database is not available")
            error.__cause__ = exc
            _fail(entry, error)
    return [entry for entry in entries if entry.deadline > now]


def _fail(entry: Entry, exc: BaseException) -> None:
    if entry.committed.done():
        return
    try:
        with translated_errors():
            raise exc  # noqa: TRY301
    except BaseException as error:  # noqa: BLE001 - raised where the entry is waited for
        entry.committed.set_exception(error)


def lease_lost(thread_id: str) -> LeaseLostError:
    """What a write under a lease that no longer holds fails with."""
    return LeaseLostError(f"Thread {thread_id} belongs to another process now, or is gone")
