"""
Checkpoints as they are read: by primary key, without LangGraph's lock, and sealed ones opened.

What the holder of a lease knows of the newest checkpoint is not read again: see `store.heads`.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, Self, cast

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import TASKS
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row

from store import folds
from store.access import Access
from store.cipher import Cipher
from store.codec import INLINE_BYTES, Codec, materialised, off_loop
from store.database import Database, repeated
from store.errors import UnavailableError
from store.heads import Blob, Fold, Head, Tip, Write
from store.leased import Leased
from store.packed import Packed, unpack
from store.placement import address, configurable_of
from store.projection import dump
from store.sealed_rows import opened, opened_part, opened_sends
from store.shown_messages import shown_messages
from store.sql import load

_SQL: Final = load("checkpoints")
#: What `select` is completed with for the newest checkpoint of each of many threads.
_OF_HEADS: Final = """
WHERE c.checkpoint_ns = '' AND (c.thread_id, c.checkpoint_id) IN (
    SELECT t.thread_id, h.checkpoint_id
    FROM unnest(%s::text[]) AS t (thread_id)
    CROSS JOIN LATERAL (
        SELECT n.checkpoint_id
        FROM checkpoints AS n
        WHERE n.thread_id = t.thread_id AND n.checkpoint_ns = ''
        ORDER BY n.checkpoint_id DESC
        LIMIT 1
    ) AS h
)
"""
#: How long after PostgreSQL did not answer a run asks again.
_RETRY_SECONDS: Final = 0.5


class CheckpointReader(AsyncPostgresSaver):
    """The part of a `store.checkpoints.Saver` that reads."""

    def __init__(self, database: Database, serde: JsonPlusSerializer) -> None:
        super().__init__(cast("Any", database.pool), serde=serde)
        self.database = database
        self.cipher = database.cipher
        self._leased: Leased | None = None
        self._begins_anew = False
        # Of a copy that reads what DeltaChannels are made of: thread and namespace, and what was read.
        self._read_of = ("", "")
        self._undecoded: dict[str, Any] | None = None

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        """One that decodes the types of a graph too; LangGraph asks for it at each run."""
        clone = copy.copy(self)
        serde = cast("JsonPlusSerializer", self.serde)
        clone.serde = _decoding(serde, frozenset(extra_allowlist))
        return clone

    @contextmanager
    def beginning_anew(self) -> Iterator[None]:
        """Have the thread look as if it had no checkpoint: what is written next continues none."""
        self._begins_anew = True
        try:
            yield
        finally:
            self._begins_anew = False

    @property
    def codec(self) -> Codec:
        """How values become bytes, and bytes values."""
        return Codec(self.serde)

    def decode(self, type_: str, blob: bytes) -> object:
        """The value of a blob; that of a snapshot of a DeltaChannel is the channel's."""
        return self.codec.value(type_, blob)

    async def value(
        self, thread_id: str, checkpoint_id: str, channel: str, fold: Fold | None
    ) -> object:
        """
        What a channel holds at a checkpoint of the root namespace; None if nothing.

        Args:
            fold: How it comes by its value, if it is a DeltaChannel.
        """
        if fold is not None:
            return fold.apply(*await self.history(thread_id, checkpoint_id, channel))
        found = await self.aget_tuple(address(thread_id, "", checkpoint_id))
        values = found.checkpoint["channel_values"] if found else {}
        return materialised(values.get(channel))

    async def history(
        self, thread_id: str, checkpoint_id: str, channel: str
    ) -> tuple[Any, list[Any]]:
        """A DeltaChannel's nearest value, None if it has none, and what was written to it since."""
        found = await self._stored_history(address(thread_id, "", checkpoint_id), [channel])
        return folds.begun(found[channel])

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the newest of its namespace."""
        configurable = configurable_of(config)
        namespace = configurable.get("checkpoint_ns", "")
        where = "WHERE thread_id = %s AND checkpoint_ns = %s"
        args = [str(configurable["thread_id"]), namespace]
        if checkpoint_id := get_checkpoint_id(config):
            where += " AND checkpoint_id = %s"
            args.append(checkpoint_id)
        elif self._begins_anew:
            return None
        elif (tip := self._tip(namespace)) and (head := tip.newest):
            return None if tip.is_new else await self._known_tuple(tip, head)
        rows = await self._rows(f"{where} ORDER BY checkpoint_id DESC LIMIT 1", args)
        if not rows:
            return None
        found = await self._load_checkpoint_tuple(rows[0])
        leased = self._leased
        if leased is not None:
            leased.clock.follow(rows[0]["checkpoint_id"])
        if leased is not None and namespace == "":
            leased.tip.load(*_known(rows[0], found))
            leased.learn(found)
        return found

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, newest first; no connection is held while the caller looks at them."""
        conditions = dict([*_place(config), *_metadata(self.cipher, filter), *_before(before)])
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        where += "ORDER BY checkpoint_id DESC"
        args = list(conditions.values())
        if limit is not None:
            where += " LIMIT %s"
            args.append(int(limit))
        for row in await self._rows(where, args):
            yield await self._load_checkpoint_tuple(row)

    async def heads(
        self, thread_ids: Sequence[str], *, as_json: bool = False
    ) -> list[CheckpointTuple]:
        """
        The newest checkpoint of each thread's root namespace, in one round trip.

        In no order; threads without a checkpoint are missing.

        Args:
            as_json: Messages in lists may be the objects that they are in JSON, which takes a quarter of the work.

        Raises:
            Exception: One of them cannot be decoded.
        """
        rows = await self._rows(_OF_HEADS, [list(thread_ids)])
        if sum(_size(row) for row in rows) > INLINE_BYTES:
            return await asyncio.to_thread(lambda: [self._tuple(row, as_json) for row in rows])
        return [self._tuple(row, as_json) for row in rows]

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What DeltaChannels are made of: of the head that is known here, their values."""
        configurable = configurable_of(config)
        leased, tip = self._leased, self._tip(configurable.get("checkpoint_ns", ""))
        head = tip.loaded(configurable.get("checkpoint_id")) if tip else None
        if leased is None or tip is None or head is None:
            return await self._stored_history(config, channels)
        unknown = [name for name in channels if name not in head.folded]
        found = dict(await self._stored_history(config, unknown))
        codec = self.codec
        folded = {name: packed.restored(codec.decode) for name, packed in head.folded.items()}
        for name, history in found.items():
            fold = tip.folds.get(name)
            if fold and (packed := await folds.replayed(codec, fold, history)):
                folded[name] = packed
        tip.load(replace(head, folded=folded))
        leased.learn_folded(head.checkpoint_id, folded)
        for name in head.folded.keys() & set(channels):
            # The value itself is a beginning with nothing to add.
            found[name] = {"seed": list(folded[name].messages), "writes": []}
        return found

    def _tip(self, namespace: str) -> Tip | None:
        return self._leased.tip if self._leased is not None and namespace == "" else None

    async def _folded_at(self, tip: Tip, checkpoint_id: str) -> dict[str, Packed]:
        """The values of DeltaChannels after the writes to a checkpoint of long ago."""
        where = "WHERE thread_id = %s AND checkpoint_ns = '' AND checkpoint_id = %s"
        rows = await self._rows(where, [tip.thread_id, checkpoint_id])
        if not rows:
            return {}
        found = await self._load_checkpoint_tuple(rows[0])
        stored, (_, writes) = found.checkpoint["channel_values"], _known(rows[0], found)
        folded = {}
        for name in tip.folds.keys() & found.checkpoint["channel_versions"].keys():
            begun: tuple[Any, list[Any]] = materialised(stored.get(name)), []
            if name not in stored:
                begun = await self.history(tip.thread_id, checkpoint_id, name)
            new = [write for write in sorted(writes) if write[3] == name]
            if packed := folds.continued(self.codec, tip.folds[name], begun, new):
                folded[name] = packed
        return folded

    # ------------------------------------------------------------------ rows

    async def _rows(self, where: str, args: Sequence[Any]) -> list[DictRow]:
        while True:
            try:
                return await repeated(lambda: self._read(where, args))
            except UnavailableError:
                # A run waits as long as its lease lasts: another attempt could do no more.
                leased = self._leased
                if leased is None or leased.run_id is None or not leased.alive():
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    async def _read(self, where: str, args: Sequence[Any]) -> list[DictRow]:
        async with self._cursor() as cursor:
            await cursor.execute(cast("Any", _SQL["select"] + " " + where), args)
            rows = await cursor.fetchall()
            if self.cipher.is_on:
                rows = [opened(self.cipher, row) for row in rows]
            old = [r for r in rows if r["checkpoint"]["v"] < 4 and r["parent_checkpoint_id"]]
            if old:
                await self._add_pending_sends(cursor, old)
        return rows

    async def _add_pending_sends(
        self, cursor: AsyncCursor[DictRow], rows: Sequence[DictRow]
    ) -> None:
        params = {
            "thread_ids": list({row["thread_id"] for row in rows}),
            "checkpoint_ids": list({row["parent_checkpoint_id"] for row in rows}),
            "channel": TASKS,
        }
        await cursor.execute(_SQL["pending_sends"], params)
        sends = {
            (r["thread_id"], r["checkpoint_id"]): opened_sends(self.cipher, r) async for r in cursor
        }
        for row in rows:
            row["channel_values"] = row["channel_values"] or []
            self._migrate_pending_sends(
                sends.get((row["thread_id"], row["parent_checkpoint_id"]), []),
                row["checkpoint"],
                row["channel_values"],
            )

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        """A connection for one operation; nothing else waits for it."""
        async with (
            self.database.connection() as connection,
            connection.pipeline() if pipeline else nullcontext(),
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            yield cursor

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        if _size(value) > INLINE_BYTES:
            return await asyncio.to_thread(self._tuple, value)
        return self._tuple(value)

    def _tuple(self, value: DictRow, as_json: bool = False) -> CheckpointTuple:
        checkpoint = value["checkpoint"]
        inline = checkpoint.get("channel_values") or {}
        blobs = value["channel_values"] or []
        shown = _shown(blobs) if as_json else {}
        others = [blob for blob in blobs if blob[0].decode() not in shown]
        channels = shown | self._load_blobs(others)
        thread_id, namespace = value["thread_id"], value["checkpoint_ns"]
        parent = value["parent_checkpoint_id"]
        return CheckpointTuple(
            address(thread_id, namespace, value["checkpoint_id"]),
            cast("Checkpoint", {**checkpoint, "channel_values": {**inline, **channels}}),
            value["metadata"],
            address(thread_id, namespace, parent) if parent else None,
            self._load_writes(value["pending_writes"]),
        )

    async def _known_tuple(self, tip: Tip, head: Head) -> CheckpointTuple:
        """The head, as a reader of the database would find it."""
        decode = self.codec.decode
        restored = {
            name: (version, type_, blob.restored(decode) if isinstance(blob, Packed) else blob)
            for name, (version, type_, blob) in head.blobs.items()
        }
        head = replace(head, blobs=restored)
        tip.load(head)
        channels = await off_loop(
            [blob for _, _, blob in restored.values()],
            lambda: {
                name: list(blob.messages)
                if isinstance(blob, Packed)
                else self.serde.loads_typed((type_, blob))
                for name, (_, type_, blob) in restored.items()
            },
        )
        checkpoint = orjson.loads(head.checkpoint)
        checkpoint["channel_values"] |= channels
        parent = head.parent_checkpoint_id
        found = CheckpointTuple(
            address(tip.thread_id, "", head.checkpoint_id),
            checkpoint,
            orjson.loads(head.metadata),
            address(tip.thread_id, "", parent) if parent else None,
            [],
        )
        packed = {name: b for name, (*_, b) in restored.items() if isinstance(b, Packed)}
        cast("Leased", self._leased).learn(found, packed)
        return found

    # ------------------------------------------------------------------ what LangGraph reads itself

    async def _stored_history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the database has, read as LangGraph does; what is large is decoded in a thread."""
        configurable = configurable_of(config)
        reader = copy.copy(self)
        reader._read_of = str(configurable["thread_id"]), configurable.get("checkpoint_ns", "")
        found = await super(CheckpointReader, reader).aget_delta_channel_history(
            config=config, channels=channels
        )
        if reader._undecoded is None:
            return found
        size = sum(len(row["blob"] or b"") for row in reader._undecoded["stage2_rows"])
        if size > INLINE_BYTES:
            return await asyncio.to_thread(reader._decoded_history)
        return reader._decoded_history()

    def _build_delta_channels_writes_history(self, **read: Any) -> dict[str, DeltaChannelHistory]:
        """Take what LangGraph would decode here, on the event loop; of a copy."""
        self._undecoded = read
        return {}

    def _decoded_history(self) -> dict[str, DeltaChannelHistory]:
        assert self._undecoded is not None
        rows = self._undecoded["stage2_rows"]
        if self.cipher.is_on:
            rows = [{**row, "blob": opened_part(self.cipher, *self._read_of, row)} for row in rows]
        return super()._build_delta_channels_writes_history(
            **{**self._undecoded, "stage2_rows": rows}
        )


# ------------------------------------------------------------------ conditions


def _place(config: RunnableConfig | None) -> Iterator[tuple[str, Any]]:
    """The conditions of a list, with the argument of each: of which thread, and where in it."""
    if not config:
        return
    configurable = configurable_of(config)
    yield "thread_id = %s", str(configurable["thread_id"])
    namespace = configurable.get("checkpoint_ns")
    if namespace is not None:
        yield "checkpoint_ns = %s", namespace
    if checkpoint_id := get_checkpoint_id(config):
        yield "checkpoint_id = %s", checkpoint_id


def _metadata(cipher: Cipher, filter: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    if filter:
        # While keys are changed it may lie there in more than one form.
        yield "metadata @> ANY (%s::jsonb[])", Access(tuple(cipher.forms(filter))).array


def _before(config: RunnableConfig | None) -> Iterator[tuple[str, Any]]:
    if config is not None:
        yield "checkpoint_id < %s", get_checkpoint_id(config)


# ------------------------------------------------------------------ rows that were read


@lru_cache(maxsize=256)
def _decoding(serde: JsonPlusSerializer, types: frozenset[tuple[str, ...]]) -> JsonPlusSerializer:
    """The serialiser that decodes these types too, made once: they are those of a graph's code."""
    return serde.with_msgpack_allowlist(types)


def _known(row: DictRow, found: CheckpointTuple) -> tuple[Head, list[Write]]:
    """A checkpoint that was loaded, and the writes to it, as the bytes that lie in the database."""
    versions, values = found.checkpoint["channel_versions"], found.checkpoint["channel_values"]
    blobs: dict[str, Blob] = {}
    for key, kind, blob in row["channel_values"] or ():
        name, type_ = key.decode(), kind.decode()
        packed = unpack(blob, values.get(name)) if type_ == "msgpack" else None
        if type_ != "empty":
            blobs[name] = str(versions[name]), type_, packed or blob
    writes = [
        (path.decode(), task.decode(), int(idx), channel.decode(), type_.decode(), blob)
        for task, channel, type_, blob, path, idx in row["pending_writes"] or ()
    ]
    body, metadata = dump(row["checkpoint"]), dump(row["metadata"])
    return Head(row["checkpoint_id"], row["parent_checkpoint_id"], body, metadata, blobs), writes


def _shown(blobs: Sequence[tuple[bytes, bytes, bytes]]) -> dict[str, Any]:
    """The channels with lists of messages, as these are in JSON."""
    found = {
        name.decode(): shown_messages(blob) for name, type_, blob in blobs if type_ == b"msgpack"
    }
    return {name: messages for name, messages in found.items() if messages is not None}


def _size(row: DictRow) -> int:
    """How many bytes of a checkpoint there are to be decoded."""
    values, writes = row["channel_values"] or (), row["pending_writes"] or ()
    return sum(len(v[2] or b"") for v in values) + sum(len(w[3]) for w in writes)
