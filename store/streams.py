"""
Redis or Valkey: one stream for each thread's event log, with the log's own ids.

An id that is not above the stream's last one is refused, so a writer whose lease is lost cannot
get an event in once its successor has written one.
"""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from store.cipher import CLEAR, Cipher
from store.entries import events_of, fields, opened, portions, sealed
from store.errors import InvalidInputError, UnavailableError, UnreadableError
from store.rings import START, Event, EventId

#: The beginning of all keys of a server.
PREFIX: Final = "threadwell"

#: How long Redis may take to answer, and to take a connection.
ANSWER_SECONDS = 5.0
CONNECT_SECONDS = 2.0

#: How many readers ask at once; the others wait for their turn.
READ_CONNECTIONS = 8

#: How long nothing more is said of events that cannot be read.
WARNED_SECONDS = 60.0

Command = tuple[Any, ...]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Append:
    """What is added to one thread's stream in a round trip."""

    thread_id: str
    events: Sequence[Event]
    #: Whether the stream may be created; if not, a stream that is gone refuses the events.
    create: bool
    #: Drop what is older.
    trim_before: EventId | None = None
    #: When the stream expires, if nothing renews it; unchanged if None.
    ttl_seconds: float | None = None
    #: Whether to measure the stream.
    weigh: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    """What came of an `Append`."""

    #: How many of the events are in the stream, counted from the first. Those after are not, if
    #: there is no error: the stream is gone, or has a higher id already.
    accepted: int
    #: Why Redis would not take an event at all.
    error: str | None
    #: The stream's size, if it was asked for.
    stream_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a stream, the id of the stream's first event, and whether there was no more."""

    oldest: EventId | None
    events: list[Event]
    is_last: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """A stream: how far it ever got, and in how many seconds it expires; None: never."""

    thread_id: str
    end: EventId
    ttl_seconds: float | None


@asynccontextmanager
async def answered(seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
    """Raise UnavailableError if Redis takes longer, and for whatever the driver raises."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (RedisError, OSError) as exc:
        raise UnavailableError("Redis is not available") from exc


class Line:
    """
    One connection, held for good: whoever uses it sees every loss of it as an error.

    A pooled connection is replaced in silence, and with it a server that has lost its data.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]

    async def run(self, commands: Sequence[Command], timeout_seconds: float) -> list[Any]:
        """
        Send the commands in one go; their answers, a ResponseError in the place of its command.

        Raises:
            UnavailableError: Not all were answered; each may or may not have been executed.
        """
        if not commands:
            return []
        async with answered(timeout_seconds):
            try:
                await self._connection.send_packed_command([_packed(commands)])
                return [await self._answer() for _ in commands]
            except BaseException:
                # Answers that were not read would be taken for those of the next commands.
                await self._connection.disconnect(nowait=True)
                raise

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as exc:
            return exc

    async def close(self) -> None:
        """Close the connection; the next command opens it again."""
        await self._connection.disconnect(nowait=True)


class Streams:
    """The streams of all threads. Every method raises UnavailableError."""

    def __init__(self, url: str, prefix: str, max_events: int, *, cipher: Cipher = CLEAR) -> None:
        self._cipher = cipher
        self._warned_at = -math.inf
        options: dict[str, Any] = {
            "protocol": 2,
            # Driven by us: a driver that reconnects and tries again hides a lost stream.
            "retry": Retry(NoBackoff(), 0),
            # The driver's own time-outs lose a cancellation that comes while a command is sent
            # (asyncio.wait_for of Python 3.11); `answered` has one for all answers together.
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_SECONDS,
        }
        try:
            self._pool = BlockingConnectionPool.from_url(
                url, max_connections=READ_CONNECTIONS, timeout=ANSWER_SECONDS, **options
            )
        except ValueError:
            # Its message may hold a part of the password.
            raise InvalidInputError("The Redis URL is not valid") from None
        self._client = Redis(connection_pool=self._pool)
        self._writer = self.line()
        self._prefix = prefix
        self._max_events = max_events

    def key(self, thread_id: str) -> str:
        """The key of a thread's stream."""
        return f"{self._prefix}:ev:{{{thread_id}}}"

    def line(self) -> Line:
        """A connection of one's own."""
        return Line(self._pool)

    async def require_one_server(self) -> None:
        """
        See that all keys are in one place; a server that does not answer yet is taken for one.

        Raises:
            InvalidInputError: It is a Redis Cluster, where streams of several threads cannot be read
                together.
        """
        info: Mapping[str, Any] = {}
        with suppress(UnavailableError):
            async with answered(CONNECT_SECONDS):
                info = await self._client.info("cluster")
        if info.get("cluster_enabled"):
            raise InvalidInputError("REDIS_URL leads to a Redis Cluster, which is not supported")

    async def ping(self) -> None:
        """Return if Redis answers."""
        async with answered():
            await self._client.ping()

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Add events to streams in one round trip. Only one task at a time may call it."""
        entries = [portions(append.events) for append in appends]
        commands = [self._commands(*one) for one in zip(appends, entries, strict=True)]
        flat = [command for some in commands for command in some]
        answers = iter(await self._writer.run(flat, ANSWER_SECONDS))
        return [
            _appended(append, kept, [next(answers) for _ in some])
            for append, kept, some in zip(appends, entries, commands, strict=True)
        ]

    def _commands(self, append: Append, entries: Sequence[Sequence[Event]]) -> list[Command]:
        key = self.key(append.thread_id)
        head: Command = ("XADD", key) if append.create else ("XADD", key, "NOMKSTREAM")
        bound: Command = ("MAXLEN", "~", self._max_events)
        commands: list[Command] = [
            (*head, events[-1].id, *self._fields(key, events)) for events in entries
        ]
        if commands:
            commands[-1] = (*head, *bound, *commands[-1][len(head) :])
        if append.trim_before is not None:
            commands.append(("XTRIM", key, "MINID", "~", _text(append.trim_before)))
        if append.ttl_seconds is not None:
            commands.append(("PEXPIRE", key, int(append.ttl_seconds * 1000)))
        if append.weigh:
            commands.append(("MEMORY", "USAGE", key, "SAMPLES", "0"))
        return commands

    def _fields(self, key: str, events: Sequence[Event]) -> tuple[str | bytes, ...]:
        return sealed(self._cipher, key, events) if self._cipher.is_on else fields(events)

    def events_of(self, key: str, last: EventId, kept: Mapping[bytes, bytes]) -> list[Event]:
        """The events of an entry of a stream; none of one that cannot be opened, as if it were gone."""
        if not self._cipher.is_on:
            return events_of(last, kept)
        try:
            return opened(self._cipher, key, last, kept)
        except UnreadableError as error:
            self._warn(key, error.message)
            return []

    def _warn(self, key: str, reason: str) -> None:
        """Say so in the log, once a minute: there may be thousands."""
        if time.monotonic() - self._warned_at > WARNED_SECONDS:
            self._warned_at = time.monotonic()
            log.warning("events cannot be read", key=key, reason=reason)

    async def ends(self, thread_ids: Sequence[str]) -> list[EventId | None]:
        """
        The highest id each stream ever had, START if it has none, None if it does not say.

        On the connection of `append`; only one task at a time may call either.
        """
        commands = [("XINFO", "STREAM", self.key(thread_id)) for thread_id in thread_ids]
        return [_end(answer) for answer in await self._writer.run(commands, ANSWER_SECONDS)]

    async def disconnect(self) -> None:
        """Have the next `append` or `ends` connect anew."""
        await self._writer.close()

    async def end(self, thread_id: str) -> EventId:
        """The highest id the stream ever had; START if there is none."""
        async with answered():
            try:
                info = await self._client.xinfo_stream(self.key(thread_id))
            except ResponseError as exc:
                if (end := _end(exc)) is None:
                    raise
                return end
            return _position(info["last-generated-id"])

    async def page(self, thread_id: str, after: EventId, count: int) -> Page:
        """
        The first events after the cursor.

        Args:
            count: How many entries of the stream to read at the most.
        """
        key, place = self.key(thread_id), _text(after)
        while True:
            async with answered():
                pipeline = self._client.pipeline(transaction=False)
                pipeline.xrange(key, "-", "+", count=1)
                pipeline.xrange(key, f"({place}", "+", count=count)
                oldest, entries = await pipeline.execute()
            found = [
                event
                for last, kept in entries
                for event in self.events_of(key, _position(last), kept)
            ]
            is_last = len(entries) < count
            if found or is_last:
                break
            # None of them can be read: what can be comes after them.
            place = entries[-1][0].decode()
        first = self.events_of(key, _position(oldest[0][0]), oldest[0][1]) if oldest else []
        return Page(
            oldest=first[0].position if first else None,
            # The cursor may be within the first entry.
            events=[event for event in found if event.position > after],
            is_last=is_last,
        )

    async def touch(self, key: str, ttl_seconds: float) -> None:
        """Put an entry into a stream that holds one at most, to wake those who read it."""
        async with answered():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.xadd(key, {"w": 1}, maxlen=1, approximate=False)
            pipeline.pexpire(key, int(ttl_seconds * 1000))
            await pipeline.execute()

    async def read_blocking(
        self, line: Line, cursors: Mapping[str, str], *, count: int, block_seconds: float
    ) -> dict[str, tuple[str, list[Event]]]:
        """
        Wait until one of the streams has something after its cursor.

        Args:
            cursors: An id for each key.
            count: How many entries at the most of each stream.

        Returns:
            By key the id to go on from, and what there is, which may begin with events before the
            cursor; nothing after `block_seconds`.
        """
        block = int(block_seconds * 1000)
        command = ("XREAD", "BLOCK", block, "COUNT", count, "STREAMS", *cursors, *cursors.values())
        (answer,) = await line.run([command], block_seconds + ANSWER_SECONDS)
        if isinstance(answer, ResponseError):
            self._warn(", ".join(cursors), str(answer))
            raise UnavailableError("Redis refused to be read") from answer
        return {
            name: (entries[-1][0].decode(), self._events(name, entries))
            for name, entries in ((key.decode(), entries) for key, entries in answer or ())
        }

    def _events(self, key: str, entries: Sequence[Any]) -> list[Event]:
        return [
            event
            for last, flat in entries
            for event in self.events_of(
                key, _position(last), dict(zip(flat[::2], flat[1::2], strict=True))
            )
        ]

    async def pages(self, count: int) -> AsyncIterator[list[Kept]]:
        """Every stream that is there all the while, some more than once; about so many at a time."""
        start, end = self.key("\0").split("\0")
        pattern, cursor = _literally(start) + "*" + end, 0
        while True:
            async with answered():
                cursor, keys = await self._client.scan(cursor, match=pattern, count=count)
                names = [str(key, "utf-8") if isinstance(key, bytes) else key for key in keys]
                pipeline = self._client.pipeline(transaction=False)
                for name in names:
                    pipeline.xinfo_stream(name)
                    pipeline.pttl(name)
                answers = await pipeline.execute(raise_on_error=False)
            yield [
                Kept(
                    name[len(start) : -len(end)],
                    _position(info["last-generated-id"]),
                    ttl / 1000 if ttl >= 0 else None,
                )
                for name, info, ttl in zip(names, answers[::2], answers[1::2], strict=True)
                # One that went meanwhile is an error.
                if isinstance(info, dict)
            ]
            if not cursor:
                return

    async def expire(self, thread_id: str, ttl_seconds: float) -> None:
        """Have the stream go in a while, if nothing renews it."""
        async with answered():
            await self._client.pexpire(self.key(thread_id), int(ttl_seconds * 1000))

    async def delete(self, thread_id: str) -> None:
        """Delete the stream, if there is one."""
        async with answered():
            await self._client.unlink(self.key(thread_id))

    async def close(self) -> None:
        """Close the connections."""
        await self._writer.close()
        await self._client.aclose()
        await self._pool.disconnect()


@asynccontextmanager
async def open_streams(
    url: str, prefix: str, max_events: int, *, cipher: Cipher = CLEAR
) -> AsyncIterator[Streams]:
    """
    The streams behind a URL; Redis need not answer yet.

    Args:
        cipher: Seals the entries.

    Raises:
        InvalidInputError: The URL is none of redis://, rediss:// and unix://, or leads to a cluster.
    """
    streams = Streams(url, prefix, max_events, cipher=cipher)
    try:
        await streams.require_one_server()
        yield streams
    finally:
        await streams.close()


def _literally(text: str) -> str:
    """A pattern of Redis that only this text matches."""
    return re.sub(r"([\\*?\[\]^])", r"\\\1", text)


def _text(position: EventId) -> str:
    return f"{position[0]}-{position[1]}"


def _position(event_id: bytes) -> EventId:
    epoch, seq = event_id.split(b"-")
    return int(epoch), int(seq)


def _end(answer: Any) -> EventId | None:
    if isinstance(answer, ResponseError):
        return START if "no such key" in str(answer).lower() else None
    return _position(answer[answer.index(b"last-generated-id") + 1])


def _appended(append: Append, entries: list[list[Event]], answers: list[Any]) -> Appended:
    added = answers[: len(entries)]
    refused = next((i for i, answer in enumerate(added) if not isinstance(answer, bytes)), None)
    error = None
    if refused is not None and isinstance(added[refused], ResponseError):
        text = str(added[refused])
        error = None if "equal or smaller" in text else text
    size = answers[-1] if append.weigh else 0
    return Appended(
        accepted=sum(len(events) for events in entries[:refused]),
        error=error,
        stream_bytes=size if isinstance(size, int) else 0,
    )


def _packed(commands: Sequence[Command]) -> bytes:
    """
    Commands as they are sent, https://valkey.io/topics/protocol/.

    The driver's own way costs three times as much, and there is one for every event.
    """
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for value in command:
            data = value if isinstance(value, bytes) else str(value).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)
