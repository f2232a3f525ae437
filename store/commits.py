"""
The group commit: checkpoints, writes and messages of many threads in one transaction.

A batch is at most nine statements with arrays, and one for each large blob, in one round trip with
one fsync. Its first statement locks the threads whose leases hold; every other one writes nothing
for the rest.
"""

import asyncio
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from store.lane import Binary, Call, Lane, Statement
from store.projection import RowChange
from store.sql import load

_PREPARED: Final = {name: Statement(query) for name, query in load("commits").items()}
BlobRow = tuple[bytes, int | None, bytes, bytes, bytes, bytes, bytes | None]
WriteRow = tuple[bytes, int | None, bytes, bytes, bytes, bytes, int, bytes, bytes, bytes]
#: A blob that is as large is no element of an array: PostgreSQL, and we, would copy it more often.
_LARGE_BYTES: Final = 32 * 1024
CheckpointRow = tuple[bytes, int | None, bytes, bytes, bytes | None, bytes, bytes]


@dataclass(frozen=True, slots=True)
class NewHead:
    """A new checkpoint of a thread's root namespace, and what it does to the messages."""

    checkpoint_id: str
    parent_checkpoint_id: str | None
    at: str
    run_id: str | None
    change: RowChange


@dataclass(eq=False, slots=True)
class Entry:
    """
    What is written together or not at all: a checkpoint, or the writes of a task.

    Attributes:
        epoch: The lease it is written under; None is not fenced.
        alive: Whether this process may still believe in its lease; asked before every attempt.
    """

    thread_id: str
    epoch: int | None
    alive: Callable[[], bool]
    blobs: Sequence[BlobRow] = ()
    writes: Sequence[WriteRow] = ()
    checkpoint: CheckpointRow | None = None
    head: NewHead | None = None
    size: int = 0
    deadline: float = 0.0
    committed: asyncio.Future[None] = field(init=False)


async def commit(lane: Lane, entries: Sequence[Entry]) -> set[tuple[str, int]]:
    """Commit the entries whose lease holds; which leases those are. As `Lane.run`."""
    leases = {(e.thread_id, e.epoch) for e in entries if e.epoch is not None}
    calls: list[Call] = [
        (_PREPARED["blob"], _alone(row))
        for entry in entries
        for row in entry.blobs
        if _is_large(row)
    ]
    calls += [
        (_PREPARED[name], _arrays(columns, rows))
        for name, columns, rows in _statements(entries)
        if rows
    ]
    if not leases:
        await lane.run(*calls)
        return set()
    named = [(thread_id.encode(), epoch) for thread_id, epoch in leases]
    lock = (_PREPARED["lock"], _arrays(_KEY, named))
    held, *_ = await lane.run(lock, *calls)
    return {(thread_id, epoch) for thread_id, epoch in held}


def _statements(
    entries: Sequence[Entry],
) -> Iterable[tuple[str, dict[str, type["_Array"]], Sequence[tuple[Any, ...]]]]:
    """The rows of each statement, in their order; of equal keys one row is left."""
    writes: dict[tuple[Any, ...], WriteRow] = {}
    checkpoints: dict[tuple[Any, ...], CheckpointRow] = {}
    for entry in entries:
        for write in entry.writes:
            key = (*write[:5], write[6])
            if write[6] < 0 or key not in writes:
                writes[key] = write
        if entry.checkpoint is not None:
            checkpoints[entry.checkpoint[:4]] = entry.checkpoint
    yield "blobs", _BLOBS, [r for entry in entries for r in entry.blobs if not _is_large(r)]
    yield "writes", _WRITES, list(writes.values())
    yield "checkpoints", _CHECKPOINTS, list(checkpoints.values())
    heads = [(e.thread_id.encode(), e.epoch, e.head) for e in entries if e.head is not None]
    if heads:
        yield from _head_statements(heads)


def _head_statements(
    heads: Sequence[tuple[bytes, int | None, NewHead]],
) -> Iterable[tuple[str, dict[str, type["_Array"]], Sequence[tuple[Any, ...]]]]:
    resets = [
        (thread, epoch, head.checkpoint_id.encode(), _encoded(head.parent_checkpoint_id))
        for thread, epoch, head in heads
        if head.change.reset
    ]
    yield "reset", _RESETS, resets
    yield (
        "messages",
        _MESSAGES,
        [
            (
                thread,
                epoch,
                row.id.encode(),
                row.role.encode(),
                row.content.encode(),
                row.message_type.encode(),
                row.meta_data,
                row.position,
                head.checkpoint_id.encode(),
                head.at.encode(),
                _encoded(head.run_id),
            )
            for thread, epoch, head in heads
            for row in head.change.upserts
        ],
    )
    # Once the messages of the branch are known that the new ones follow.
    yield "forks", _RESETS, resets
    yield (
        "places",
        _PLACES,
        [
            (thread, epoch, id_.encode(), position)
            for thread, epoch, head in heads
            for id_, position in head.change.places
        ],
    )
    yield (
        "heads",
        _HEADS,
        [
            (
                thread,
                epoch,
                head.checkpoint_id.encode(),
                head.change.is_projected,
                bool(head.change.upserts),
            )
            for thread, epoch, head in heads
        ],
    )


def _is_large(row: BlobRow) -> bool:
    return len(row[-1] or b"") >= _LARGE_BYTES


def _alone(row: BlobRow) -> dict[str, Any]:
    return {n: _Bytes(v) if isinstance(v, bytes) else v for n, v in zip(_BLOBS, row, strict=True)}


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


# --------------------------------------------------------------------------- arrays


class _Bytes(Binary):
    """A ``text`` or ``bytea``."""

    __slots__ = ()

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Array(Binary):
    """
    A one-dimensional array in PostgreSQL's binary form, made by hand.

    psycopg adapts a list element by element, which is most of what a batch costs.
    """

    element_oid: int

    __slots__ = ()

    def __init__(self, values: Sequence[Any]) -> None:
        parts = [struct.pack("!iiIii", 1, 1, self.element_oid, len(values), 1)]
        for value in values:
            if value is None:
                parts.append(b"\xff\xff\xff\xff")
            else:
                encoded = self.encode(value)
                parts.append(len(encoded).to_bytes(4, "big"))
                parts.append(encoded)
        self.data = b"".join(parts)

    @staticmethod
    def encode(value: Any) -> bytes:
        return bytes(value)


class _Texts(_Array):
    element_oid = 25
    __slots__ = ()


class _Byteas(_Array):
    element_oid = 17
    __slots__ = ()


class _Ints(_Array):
    element_oid = 23
    __slots__ = ()

    @staticmethod
    def encode(value: int) -> bytes:
        return value.to_bytes(4, "big", signed=True)


class _Bigints(_Array):
    element_oid = 20
    __slots__ = ()

    @staticmethod
    def encode(value: int) -> bytes:
        return value.to_bytes(8, "big", signed=True)


class _Booleans(_Array):
    element_oid = 16
    __slots__ = ()

    @staticmethod
    def encode(value: bool) -> bytes:
        return b"\x01" if value else b"\x00"


def _arrays(columns: dict[str, type[_Array]], rows: Sequence[tuple[Any, ...]]) -> dict[str, _Array]:
    return {
        name: kind(values)
        for (name, kind), values in zip(columns.items(), zip(*rows, strict=True), strict=True)
    }


_KEY: Final[dict[str, type[_Array]]] = {"thread_id": _Texts, "epoch": _Bigints}
_BLOBS: Final[dict[str, type[_Array]]] = {
    **_KEY,
    "checkpoint_ns": _Texts,
    "channel": _Texts,
    "version": _Texts,
    "type": _Texts,
    "blob": _Byteas,
}
_WRITES: Final[dict[str, type[_Array]]] = {
    **_KEY,
    "checkpoint_ns": _Texts,
    "checkpoint_id": _Texts,
    "task_id": _Texts,
    "task_path": _Texts,
    "idx": _Ints,
    "channel": _Texts,
    "type": _Texts,
    "blob": _Byteas,
}
_CHECKPOINTS: Final[dict[str, type[_Array]]] = {
    **_KEY,
    "checkpoint_ns": _Texts,
    "checkpoint_id": _Texts,
    "parent_checkpoint_id": _Texts,
    "checkpoint": _Texts,
    "metadata": _Texts,
}
_RESETS: Final[dict[str, type[_Array]]] = {
    **_KEY,
    "checkpoint_id": _Texts,
    "parent_checkpoint_id": _Texts,
}
_MESSAGES: Final[dict[str, type[_Array]]] = {
    **_KEY,
    "id": _Texts,
    "role": _Texts,
    "content": _Texts,
    "message_type": _Texts,
    "meta_data": _Texts,
    "position": _Ints,
    "checkpoint_id": _Texts,
    "at": _Texts,
    "run_id": _Texts,
}
_PLACES: Final[dict[str, type[_Array]]] = {**_KEY, "id": _Texts, "position": _Ints}
_HEADS: Final[dict[str, type[_Array]]] = {
    **_KEY,
    "checkpoint_id": _Texts,
    "is_projected": _Booleans,
    "has_messages": _Booleans,
}
