"""
The conversation as rows: read, and made again from the checkpoints.

Rows are written by `store.checkpoints` alone, in the checkpoints' own transactions. Made again, they
come out the same.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, LiteralString, NamedTuple, Protocol

import structlog

from store import sealing, tallies
from store.access import Access
from store.cipher import Cipher, at
from store.database import Database, Transaction, repeated
from store.errors import CONTENT_ERRORS, NotFoundError
from store.heads import Fold
from store.models import Message
from store.projection import IMPORTED, Fork, History, Record, dump, run_id_of
from store.sql import load

log = structlog.get_logger(__name__)

_SQL: Final = load("messages")
#: A page of a history by its order: the same query, whose direction cannot be a parameter.
PAGES: Final[Mapping[str, LiteralString]] = {
    "asc": _SQL["page"],
    "desc": _SQL["page"].replace("ORDER BY m.seq", "ORDER BY m.seq DESC"),
}
_NO_SEQ: Final = -1
_MAX_SEQ: Final = 2**31 - 1
_THREADS_PER_PAGE: Final = 100
#: Each brings a whole list of messages.
_CHECKPOINTS_PER_PAGE: Final = 20
#: Their columns are made into text on the event loop: for thousands that takes too long at once.
_ROWS_PER_INSERT: Final = 100
_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 0.1


class Decoder(Protocol):
    """Reads the blobs of checkpoints: a `store.checkpoints.Saver`."""

    def decode(self, type_: str, blob: bytes) -> object:
        """The value of a blob."""

    async def history(
        self, thread_id: str, checkpoint_id: str, channel: str
    ) -> tuple[Any, list[Any]]:
        """A DeltaChannel's nearest value, None if it has none, and what was written to it since."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebuilt:
    """
    What `rebuild` did.

    Attributes:
        threads: Threads whose rows mirror their head now.
        messages: Rows of those threads.
        skipped: Threads that were locked or written to all the time; call again.
        unreadable: Threads whose graph is not known, or not how it makes its list (DeltaChannel), or
            one of whose checkpoints cannot be decoded: their rows stay.
    """

    threads: int = 0
    messages: int = 0
    skipped: int = 0
    unreadable: int = 0


async def list_page(
    db: Database,
    conversation_id: str,
    *,
    limit: int,
    before_seq: int | None = None,
    after_seq: int | None = None,
    order: Literal["asc", "desc"] = "asc",
    branch: Literal["active", "all"] = "active",
) -> tuple[list[Message], bool]:
    """
    A page of the history: what was ever said, whether or not the model still sees it.

    Args:
        limit: The most messages to return.
        before_seq: Only messages that stand before this place; exclusive.
        after_seq: Only messages that stand after this place; exclusive.
        order: Which end of the range the page begins at, and the order of its messages.
        branch: ``active`` leaves out messages that only branches that were left have, and those
            that were deleted; else these come without what they said.

    Returns:
        The messages, and whether there are more beyond the page.
    """
    query = PAGES[order]
    params = {
        "conversation_id": conversation_id,
        "after_seq": _NO_SEQ if after_seq is None else after_seq,
        "before_seq": _MAX_SEQ if before_seq is None else before_seq,
        "every_branch": branch == "all",
        "limit": limit + 1,
    }
    rows = await db.all(Message, query, params)
    return rows[:limit], len(rows) > limit


async def of_run(db: Database, conversation_id: str, run_id: str) -> list[Message]:
    """The messages that a run first brought into the conversation and that were not deleted, in their order."""
    params = {"conversation_id": conversation_id, "run_id": run_id}
    return await db.all(Message, _SQL["of_run"], params)


async def get(db: Database, conversation_id: str, message_id: str, *, access: Access) -> Message:
    """
    Read a message, without what it follows.

    Raises:
        NotFoundError: There is none with this id that was not deleted and is visible.
    """
    params = {"conversation_id": conversation_id, "id": message_id, "visible": access.array}
    found = await repeated(lambda: db.one(Message, _SQL["get"], params))
    if found is None:
        raise NotFoundError(f"Message {message_id} not found")
    return found


async def delete(db: Database, conversation_id: str, ids: list[str], *, access: Access) -> None:
    """
    Show messages no more; what the model sees is the checkpoints' affair.

    May be repeated. Rows that are made again stay deleted.
    """
    params = {"conversation_id": conversation_id, "ids": ids, "visible": access.array}
    await repeated(lambda: db.execute(_SQL["delete"], params))


async def find_seq(db: Database, conversation_id: str, message_id: str) -> int | None:
    """A message's place in the history, None if there never was one; asks nobody who may know."""
    params = {"conversation_id": conversation_id, "id": message_id}
    rows = await db.tuples(_SQL["seq"], params)
    return rows[0][0] if rows else None


async def in_context(db: Database, conversation_id: str) -> list[Message]:
    """The messages that the model sees next, in its order: the list of the thread's head."""
    return await db.all(Message, _SQL["in_context"], {"conversation_id": conversation_id})


async def known_ids(db: Database, conversation_id: str, message_ids: list[str]) -> set[str]:
    """Which of these ids messages of a conversation have, on whichever branch."""
    params = {"conversation_id": conversation_id, "message_ids": message_ids}
    return {row[0] for row in await db.tuples(_SQL["known_ids"], params)}


async def by_either_id(db: Database, conversation_id: str, message_id: str) -> str | None:
    """
    The id of a message that a client calls so: by its id, or as the answer of a run.

    A run's answer is its last message; what its client calls it is ``reply_id`` of its metadata.
    """
    params = {"conversation_id": conversation_id, "message_id": message_id}
    rows = await db.tuples(_SQL["by_either_id"], params)
    return rows[0][0] if rows else None


def default_channel(graph_id: str | None) -> str | None:
    """Where `MessagesState` keeps the conversation."""
    return "messages"


def no_fold(graph_id: str | None) -> Fold | None:
    """For graphs that have no DeltaChannel."""
    return None


async def rebuild(
    db: Database,
    decoder: Decoder,
    *,
    thread_id: str | None = None,
    everything: bool = False,
    channel_of: Callable[[str | None], str | None] = default_channel,
    fold_of: Callable[[str | None], Fold | None] = no_fold,
) -> Rebuilt:
    """
    Make the rows of messages again from the checkpoints.

    Safe beside running servers: a thread is locked only to put its rows in place, in one
    transaction, when nothing was written to it since its checkpoints were read. Rows of messages
    that are older than every checkpoint which is left are kept.

    Args:
        thread_id: Only this thread.
        everything: Every thread; else those whose rows do not mirror their head.
        channel_of: The channel of a graph's messages, by its id, which is None on a thread that no
            run chose a graph for. None if that is not known: the thread's rows stay as they are.
        fold_of: How this channel comes by its value, if it is a DeltaChannel.
    """
    done = Rebuilt()
    async for id_, graph_id in _threads(db, thread_id, everything=everything):
        channel = channel_of(graph_id)
        if channel is None:
            done = _plus(done, unreadable=1)
            continue
        replay = _Replay(db, decoder, id_, channel, fold_of(graph_id))
        try:
            history = await _rebuild_thread(db, replay, id_)
        except CONTENT_ERRORS as exc:
            log.warning("messages cannot be made again", thread_id=id_, error=exc)
            done = _plus(done, unreadable=1)
            continue
        if history is None:
            done = _plus(done, skipped=1)
        elif history.projected != history.head:
            done = _plus(done, unreadable=1)
        else:
            done = _plus(done, threads=1, messages=len(history.records))
    return done


async def _threads(
    db: Database, thread_id: str | None, *, everything: bool
) -> AsyncIterator[tuple[str, str | None]]:
    """The ids of threads, each with that of its graph."""
    if thread_id is not None:
        for id_, graph_id in await db.tuples(_SQL["thread_to_project"], {"thread_id": thread_id}):
            yield id_, graph_id
        return
    after = ""
    while True:
        params = {"after": after, "everything": everything, "limit": _THREADS_PER_PAGE}
        page = await db.tuples(_SQL["threads_to_project"], params)
        for id_, graph_id in page:
            yield id_, graph_id
        if len(page) < _THREADS_PER_PAGE:
            return
        after = page[-1][0]


async def _rebuild_thread(db: Database, replay: "_Replay", thread_id: str) -> History | None:
    """Replay, then put the rows in place; None if the thread was never free for it."""
    for _ in range(_ATTEMPTS):
        history = await replay.catch_up()
        async with db.transaction() as tx:
            locked = await tx.tuples(_SQL["lock_thread"], {"thread_id": thread_id})
            if locked and locked[0][0] == history.head:
                # What cannot be made again stays as it is.
                if history.projected == history.head:
                    await _replace(tx, thread_id, history)
                return history
        if not locked:
            await asyncio.sleep(_PAUSE_SECONDS)
    return None


class _Checkpoint(NamedTuple):
    """A root checkpoint as `root_checkpoints` reads it, with the blob of the messages' channel."""

    id: str
    parent: str | None
    at: str
    metadata: dict[str, Any]
    version: str | None
    type_: str | None
    blob: bytes | None
    writes: list[list[bytes]] | None


class _Replay:
    """The checkpoints of a thread, read once each."""

    def __init__(
        self, db: Database, decoder: Decoder, thread_id: str, channel: str, fold: Fold | None
    ) -> None:
        self._db, self._decoder = db, decoder
        self._thread_id, self._channel, self._fold = thread_id, channel, fold
        self._history: History | None = None
        self._version: str | None = None
        self._value: Any = None

    async def catch_up(self) -> History:
        """Apply the checkpoints that were written since."""
        while True:
            after = (self._history.head if self._history else None) or ""
            params = {
                "thread_id": self._thread_id,
                "channel": self._channel,
                "after": after,
                "limit": _CHECKPOINTS_PER_PAGE,
            }
            rows = await self._db.tuples(_SQL["root_checkpoints"], params, binary=True)
            page = deque(_Checkpoint(*row) for row in rows)
            if self._history is None:
                self._history = await self._begin(page[0].id if page else None)
            await self._take(self._history, page)
            if len(rows) < _CHECKPOINTS_PER_PAGE:
                return self._history

    async def _begin(self, first: str | None) -> History:
        params = {"thread_id": self._thread_id, "first": first}
        rows = await self._db.tuples(_SQL["messages_before"], params)
        forks = await self._db.tuples(_SQL["forks"], params)

        def begin() -> History:
            kept = (_kept(self._db.cipher, self._thread_id, Record(*row)) for row in rows)
            return History(kept, (Fork(*fork) for fork in forks))

        return await asyncio.to_thread(begin)

    async def _take(self, history: History, page: "deque[_Checkpoint]") -> None:
        """
        Apply a page, in a thread.

        Whole lists are decoded, again and again, and a graph's own reducer makes them of what was
        written: nothing for the event loop that answers everybody.
        """
        while page:
            await asyncio.to_thread(self._apply_known, history, page)
            if page:
                read = await self._decoder.history(self._thread_id, page[0].id, self._channel)
                await asyncio.to_thread(self._apply, history, page.popleft(), read)

    def _apply_known(self, history: History, page: "deque[_Checkpoint]") -> None:
        """Apply checkpoints up to the first whose list has to be read."""
        while page and not self._is_to_be_read(history, page[0]):
            self._apply(history, page.popleft(), None)

    def _is_folded(self, checkpoint: "_Checkpoint") -> bool:
        """Whether its list is not in it, because the channel is a DeltaChannel."""
        counters = checkpoint.metadata.get("counters_since_delta_snapshot", ())
        is_there = checkpoint.version is None or checkpoint.type_ is not None
        return not is_there and self._channel in counters

    def _is_to_be_read(self, history: History, checkpoint: "_Checkpoint") -> bool:
        if self._fold is None or not self._is_folded(checkpoint):
            return False
        if checkpoint.parent != history.projected:
            return True
        return bool(checkpoint.writes) and not isinstance(self._value, list)

    def _apply(
        self, history: History, checkpoint: "_Checkpoint", read: tuple[Any, list[Any]] | None
    ) -> None:
        if not self._is_folded(checkpoint):
            self._value = self._stored(checkpoint)
            self._version = checkpoint.version
        elif self._fold is None:
            history.skip(checkpoint.id, checkpoint.parent)
            return
        else:
            self._version = None
            if read is not None:
                self._value = self._fold.apply(*read)
            elif checkpoint.writes:
                self._value = self._fold.apply(list(self._value), self._written(checkpoint))
        run_id = run_id_of(checkpoint.metadata)
        history.add(
            checkpoint.id,
            checkpoint.parent,
            self._value,
            at=checkpoint.at,
            run_id=run_id,
            is_import=run_id is None and checkpoint.metadata.get(IMPORTED) is True,
        )

    def _stored(self, checkpoint: "_Checkpoint") -> object:
        if checkpoint.version is not None and checkpoint.version == self._version:
            return self._value
        if checkpoint.type_ in (None, "empty"):
            return None
        return self._decode(checkpoint.version, checkpoint.type_, checkpoint.blob or b"")

    def _written(self, checkpoint: "_Checkpoint") -> list[object]:
        """What was written to the channel by the steps between its parent and a checkpoint."""
        in_order = sorted(checkpoint.writes or (), key=lambda w: (w[0], w[1], int(w[2])))
        return [self._decode_write(checkpoint.parent, write) for write in in_order]

    def _decode(self, version: str | None, type_: str | None, blob: bytes) -> object:
        key = (self._thread_id, "", self._channel, version or "", type_ or "")
        opened = self._db.cipher.open(blob, at("checkpoint_blobs.blob", *key))
        return self._decoder.decode(type_ or "", opened)

    def _decode_write(self, checkpoint_id: str | None, write: list[bytes]) -> object:
        _, task_id, idx, type_, blob = write
        key = (checkpoint_id or "", task_id.decode(), idx.decode(), self._channel, type_.decode())
        place = at("checkpoint_writes.blob", self._thread_id, "", *key)
        return self._decoder.decode(type_.decode(), self._db.cipher.open(blob, place))


def _kept(cipher: Cipher, thread_id: str, record: Record) -> Record:
    """A row as it lies in the database, as a replay has it."""
    row: Any = record
    content = at("message.content", thread_id, record.id)
    meta_data = at("message.meta_data", thread_id, record.id)
    record.content = cipher.open_text(record.content, content)
    record.meta_data = dump(cipher.open_json(record.meta_data, meta_data))
    record.created, record.updated = row.created.isoformat(), row.updated.isoformat()
    return record


async def _replace(tx: Transaction, thread_id: str, history: History) -> None:
    params: dict[str, Any] = {"thread_id": thread_id}
    await tallies.mark_stale(tx, [thread_id])
    await tx.execute(_SQL["delete_messages"], params)
    records = list(history.records.values())
    for first in range(0, len(records), _ROWS_PER_INSERT):
        part = records[first : first + _ROWS_PER_INSERT]
        columns = await asyncio.to_thread(_columns, tx.cipher, thread_id, part)
        await tx.execute(_SQL["insert_messages"], {**params, **columns})
    forks = {
        f.name: [getattr(fork, f.name) for fork in history.forks.values()] for f in fields(Fork)
    }
    await tx.execute(_SQL["replace_forks"], {**params, **forks})
    progress = {
        "head": history.head,
        "projected": history.projected,
        "message_count": history.count,
    }
    await tx.execute(_SQL["set_projected"], {**params, **progress})


def _columns(cipher: Cipher, thread_id: str, clear: list[Record]) -> dict[str, list[Any]]:
    """Rows of a thread as they lie in the database, column by column."""
    records = [sealing.message(cipher, thread_id, record) for record in clear]
    columns = {f.name: [getattr(record, f.name) for record in records] for f in fields(Record)}
    columns["meta_data"] = [record.meta_data.decode() for record in records]
    return columns


def _plus(done: Rebuilt, **more: int) -> Rebuilt:
    return Rebuilt(**{f.name: getattr(done, f.name) + more.get(f.name, 0) for f in fields(done)})
