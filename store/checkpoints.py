"""
LangGraph's checkpointer on our pool and our writer.

The tables are those of `langgraph-checkpoint-postgres`, so any stock tool reads what is written
here, and we read what it wrote. What differs: no lock, writes through the group commit, blobs read
by primary key, values that JSONB cannot hold kept as blobs, and no secrets in the metadata.

``LANGGRAPH_STRICT_MSGPACK=true`` must be in the environment before langgraph is first imported, or
graphs will not add the types of their state to the allow-list that this saver decodes by.
"""

import asyncio
import copy
import math
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, Literal, TypeVar, cast

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import (
    EXCLUDED_METADATA_KEYS,
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    id as checkpoint_ids,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import ERROR, TASKS, _DeltaSnapshot
from langgraph.graph.message import _messages_delta_reducer
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from store import resealing, retention, sealing, tallies
from store.access import Access
from store.cipher import at
from store.commits import BlobRow, CheckpointRow, Entry, Head, WriteRow
from store.database import Database, repeated
from store.errors import UnavailableError
from store.heads import Blob, Fold, Head as KnownHead, HeadCache, Tip, Write
from store.models import Lease
from store.packed import Packed, are_messages, pack, unpack
from store.projection import Change, Projector, dump, run_id_of
from store.sql import load
from store.writer import CheckpointWriter, lease_lost, open_writer

_SQL: Final = load("checkpoints")
#: Where LangGraph keeps the time of the id that it made last: the next one is later.
_CLOCK: Final[Any] = checkpoint_ids
_Result = TypeVar("_Result")
#: What the places of blobs and of writes begin with.
_BLOB, _WRITE = b"checkpoint_blobs.blob", b"checkpoint_writes.blob"
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
#: Above this, (de)serialising leaves the event loop; below it, a thread costs more than it gives.
_INLINE_BYTES: Final = 64 * 1024
#: What of `configurable` may be seen in a checkpoint's metadata. The rest may hold secrets.
PUBLIC_CONFIGURABLE: Final = frozenset(
    {"run_id", "graph_id", "assistant_id", "user_id", "langgraph_auth_user_id"}
)


@dataclass(eq=False, slots=True)
class _Leased:
    """What a saver holds for one lease; shared by its copies."""

    lease: Lease
    run_id: str | None
    messages_channel: str | None
    alive: Callable[[], bool]
    projector: Projector
    tip: Tip
    # Entries are queued in the order of the calls, also when one is serialised in a thread.
    order: asyncio.Lock = field(default_factory=asyncio.Lock)
    # When the newest checkpoint that is known was made, by the clock of whoever made it.
    newest_at: int = 0

    def follow(self, checkpoint_id: str | None) -> None:
        """
        Have checkpoints that are made from here on sort behind this one.

        The newest checkpoint is the one with the greatest id, and an id begins with the time. Whoever
        had the lease before may have had a clock that is ahead of ours, or ours was set back.
        """
        with suppress(ValueError):  # an id of somebody else's making
            known = checkpoint_ids.UUID(checkpoint_id or "")
            if known.version == 6:
                self.newest_at = max(self.newest_at, known.time)
        self.wind()

    def wind(self) -> None:
        """Wind the clock that ids are made by on to the newest one; all threads share it."""
        if (_CLOCK._last_v6_timestamp or 0) < self.newest_at:
            _CLOCK._last_v6_timestamp = self.newest_at


def told_of(writes: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """
    What is to be kept of the writes of a task: of one that was cancelled, no output.

    LangGraph takes a task for finished that has any (`langgraph.pregel._task_status`), and what a
    cancelled one has given may be half: its value, and not yet where its conditional edge leads.
    Without it the task is run again.
    """
    if not any(c == ERROR and isinstance(v, asyncio.CancelledError) for c, v in writes):
        return writes
    return [(channel, value) for channel, value in writes if channel in WRITES_IDX_MAP]


@lru_cache(maxsize=256)
def _decoding(serde: JsonPlusSerializer, types: frozenset[tuple[str, ...]]) -> JsonPlusSerializer:
    """The serialiser that decodes these types too, made once: they are those of a graph's code."""
    return serde.with_msgpack_allowlist(types)


#: Types by module and name; True for all.
Allowed = Iterable[tuple[str, ...]] | Literal[True]


class Saver(AsyncPostgresSaver):
    """
    The checkpointer of a process; `leased` gives a run its own.

    A checkpoint or a write that was acknowledged is on disk. Calls raise UnavailableError when
    PostgreSQL does not answer in time and LeaseLostError when the lease no longer holds.

    Args:
        heads: The newest checkpoints of threads that this process wrote to last.
        allowed_types: Types besides LangGraph's own that may be decoded: ``(module, name)``; True
            for all, which lets who can write to the database run code here.
        allowed_json_types: What JSON of the checkpoints of old may construct, in the same way.
    """

    def __init__(
        self,
        database: Database,
        writer: CheckpointWriter,
        heads: HeadCache,
        *,
        allowed_types: Allowed = (),
        allowed_json_types: Allowed = (),
    ) -> None:
        serde = JsonPlusSerializer(
            allowed_msgpack_modules=_allowed(allowed_types),
            allowed_json_modules=_allowed(allowed_json_types),
        )
        super().__init__(cast("Any", database.pool), serde=serde)
        self.database = database
        self.cipher = database.cipher
        self.writer = writer
        self.cache = heads
        self._leased: _Leased | None = None
        self._begins_anew = False
        # Of a copy that reads what DeltaChannels are made of: thread and namespace.
        self._read_of = ("", "")

    def leased(
        self,
        lease: Lease,
        *,
        run_id: str | None,
        messages_channel: str | None = "messages",
        alive: Callable[[], bool],
    ) -> "Saver":
        """
        A saver whose writes count only while the lease holds.

        They also keep the thread's head and its messages, in the checkpoint's own transaction.

        Args:
            run_id: Who writes, for the metadata of checkpoints; None for an update of the state.
            messages_channel: The channel whose list is the conversation, if the graph has one.
            alive: Whether this process may still believe in the lease; False refuses everything,
                and stays: LangGraph, refused in the middle of a step, saves the half of it next.
        """
        clone = copy.copy(self)
        clone._leased = _Leased(
            lease,
            run_id,
            messages_channel,
            alive,
            Projector(lease.head_checkpoint_id),
            Tip(lease, self.cache, is_run=run_id is not None),
        )
        clone._leased.follow(lease.head_checkpoint_id)
        return clone

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> "Saver":
        """One that decodes the types of a graph too; LangGraph asks for it at each run."""
        clone = copy.copy(self)
        serde = cast("JsonPlusSerializer", self.serde)
        clone.serde = _decoding(serde, frozenset(extra_allowlist))
        return clone

    def attend(self, channels: Mapping[str, Any]) -> None:
        """
        Learn the channels of the graph that is about to use this saver, which has a lease.

        The value of a DeltaChannel is in no checkpoint: with its reducer it is known here, so that
        its messages are projected with each checkpoint and it need not be read again.
        """
        if self._leased is not None:
            self._leased.tip.folds = {
                name: fold_of(channel)
                for name, channel in channels.items()
                if isinstance(channel, DeltaChannel)
            }

    @contextmanager
    def beginning_anew(self) -> Iterator[None]:
        """Have the thread look as if it had no checkpoint: what is written next continues none."""
        self._begins_anew = True
        try:
            yield
        finally:
            self._begins_anew = False

    @property
    def checkpoint_count(self) -> int:
        """Checkpoints of the thread's root namespace since it was pruned, and those kept then."""
        leased = cast("_Leased", self._leased)
        return leased.lease.checkpoint_count + leased.tip.count

    async def trim(self, *, keep: int) -> None:
        """Delete all checkpoints of the leased thread but the newest; see `retention.prune`."""
        leased = cast("_Leased", self._leased)
        kept = await retention.prune(self.database, self, leased.lease, keep=keep)
        leased.tip.pruned(kept)

    async def history(
        self, thread_id: str, checkpoint_id: str, channel: str
    ) -> tuple[Any, list[Any]]:
        """A DeltaChannel's nearest value, None if it has none, and what was written to it since."""
        found = await self._stock_history(_address(thread_id, "", checkpoint_id), [channel])
        return _begun(found[channel])

    async def snapshots(
        self, thread_id: str, checkpoint_id: str, channels: Sequence[str]
    ) -> Mapping[str, tuple[str, bytes]] | None:
        """Blobs for DeltaChannels at a checkpoint; None if the graph is not known to have them."""
        folds = self._leased.tip.folds if self._leased is not None else {}
        if not folds.keys() >= set(channels):
            return None
        histories = await self._stock_history(_address(thread_id, "", checkpoint_id), channels)
        values = {name: folds[name].apply(*_begun(histories[name])) for name in channels}
        return await self._off_loop(
            list(values.values()),
            lambda: {n: self.serde.dumps_typed(_DeltaSnapshot(v)) for n, v in values.items()},
        )

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
        found = await self.aget_tuple(_address(thread_id, "", checkpoint_id))
        values = found.checkpoint["channel_values"] if found else {}
        return _materialised(values.get(channel))

    def decode(self, type_: str, blob: bytes) -> object:
        """The value of a blob; that of a snapshot of a DeltaChannel is the channel's."""
        return _materialised(self.serde.loads_typed((type_, blob)))

    # ------------------------------------------------------------------ writes

    def get_next_version(self, current: str | None, channel: None) -> str:
        """
        The version of a channel that a step has changed.

        LangGraph asks between two steps, whatever the durability: so a process that was frozen
        within one does not begin the next.

        Raises:
            LeaseLostError: The lease may be another process's by now.
        """
        leased = self._leased
        if leased is not None and not leased.alive():
            raise lease_lost(leased.lease.thread_id)
        if leased is not None:
            leased.wind()
        return super().get_next_version(current, channel)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint; it is on disk when this returns."""
        async with self._order():
            entry, head = await self._checkpoint_entry(config, checkpoint, metadata, new_versions)
            if tip := self._tip(_configurable(config).get("checkpoint_ns", "")):
                tip.put()
            committed = await self.writer.write(entry)
        await committed
        # Frozen until another process went on from it: then the next step is not ours to begin.
        if not entry.alive():
            raise lease_lost(entry.thread_id)
        if self._leased is not None and entry.head is not None:
            self._leased.projector.committed(entry.head.checkpoint_id, entry.head.change)
        if tip is not None and head is not None:
            tip.committed(head)
        configurable = _configurable(config)
        return _address(
            configurable["thread_id"], configurable.get("checkpoint_ns", ""), checkpoint["id"]
        )

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Save the writes of a task; they are on disk when this returns."""
        if not (told := told_of(writes)):
            return
        async with self._order():
            committed = await self.writer.write(
                await self._writes_entry(config, told, task_id, task_path)
            )
        await committed

    async def _checkpoint_entry(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> tuple[Entry, KnownHead | None]:
        """What is to be written, and the thread's head thereafter, if all of it is known."""
        configurable = _configurable(config)
        entry = self._entry(configurable)
        namespace = configurable.get("checkpoint_ns", "")
        parent = configurable.get("checkpoint_id")
        tip = self._tip(namespace)
        before = tip.follows(parent) if tip else None
        stored_metadata = self._metadata(config, metadata)
        versions = {**checkpoint["channel_versions"], **new_versions}
        inline, values = _placed(checkpoint, new_versions)
        blobs = await self._dump(values, {} if before is None else before.blobs)
        key = (entry.thread_id.encode(), entry.epoch, namespace.encode())
        body = dump({**checkpoint, "channel_values": inline})
        about = dump(stored_metadata)
        parent_id = None if parent is None else parent.encode()
        row = (*key, checkpoint["id"].encode(), parent_id, body, about)
        entry.checkpoint = self._sealed_checkpoint(row) if self.cipher.is_on else row
        entry.blobs = [
            (*key, channel.encode(), str(versions[channel]).encode(), type_.encode(), _bytes(blob))
            for channel, (type_, blob) in blobs.items()
        ]
        if self.cipher.is_on:
            entry.blobs = [self._sealed_blob(row) for row in entry.blobs]
        entry.size += len(body) + sum(len(row[-1] or b"") for row in entry.blobs)
        if tip is None:
            return entry, None
        folded = self._folded(checkpoint, before, tip)
        if before is None and parent is not None and self._is_copy(metadata):
            # What it has of its own counts: it may never have been written to the parent.
            folded = {**await self._copied(tip, parent), **folded}
        packed = {name: b for name, (_, b) in blobs.items() if isinstance(b, Packed)} | folded
        entry.head = Head(
            checkpoint["id"],
            parent,
            checkpoint["ts"],
            run_id_of(stored_metadata),
            self._change(checkpoint, stored_metadata, parent, new_versions, packed),
        )
        if before is None:
            return entry, None
        new = {name: (str(versions[name]), *blob) for name, blob in blobs.items()}
        kept = {
            name: blob
            for name, blob in before.blobs.items()
            if name not in new and blob[0] == str(versions.get(name))
        }
        return entry, KnownHead(checkpoint["id"], parent, body, about, {**kept, **new}, folded)

    def _folded(
        self, checkpoint: Checkpoint, before: KnownHead | None, tip: Tip
    ) -> dict[str, Packed]:
        """The values of the graph's DeltaChannels at a checkpoint, where they are known."""
        found = {}
        for name in tip.folds.keys() & checkpoint["channel_versions"].keys():
            value = checkpoint["channel_values"].get(name)
            packed = self._after(before, name, tip) if before is not None else None
            if isinstance(value, _DeltaSnapshot) and not _is_equal(packed, value.value):
                # It has what was never written to the parent: a fork, or a thread's first input.
                packed = pack(value.value, None, self._encode)
                packed = packed and packed.restored(self._decode)
            if packed is not None:
                found[name] = packed
        return found

    def _is_copy(self, metadata: Mapping[str, Any]) -> bool:
        """Whether it is that of another checkpoint, whose parent it has: a change of branch."""
        leased = cast("_Leased", self._leased)
        return leased.run_id is None and metadata.get("source") == "fork"

    async def _copied(self, tip: Tip, parent: str) -> dict[str, Packed]:
        """The values of DeltaChannels after the writes to a checkpoint of long ago."""
        where = "WHERE thread_id = %s AND checkpoint_ns = '' AND checkpoint_id = %s"
        rows = await self._rows(where, [tip.thread_id, parent])
        if not rows:
            return {}
        found = await self._load_checkpoint_tuple(rows[0])
        stored, (_, writes) = found.checkpoint["channel_values"], _known(rows[0], found)
        copied = {}
        for name in tip.folds.keys() & found.checkpoint["channel_versions"].keys():
            begun: tuple[Any, list[Any]] = _materialised(stored.get(name)), []
            if name not in stored:
                begun = await self.history(tip.thread_id, parent, name)
            new = [self.decode(w[4], w[5]) for w in sorted(writes) if w[3] == name]
            value = tip.folds[name].apply(begun[0], [*begun[1], *new])
            if packed := pack(value, None, self._encode, is_decoded=True):
                copied[name] = packed
        return copied

    def _after(self, before: KnownHead, name: str, tip: Tip) -> Packed | None:
        """A DeltaChannel's value after the writes to a checkpoint."""
        known = before.folded.get(name)
        if known is None and name in before.blobs:
            _, type_, blob = before.blobs[name]
            # A snapshot, or what the channel was before it became a DeltaChannel.
            value = self.decode(type_, _bytes(blob))
            known = pack(value, None, self._encode, is_decoded=True)
        if known is None and not before.has_no(name):
            return None
        writes = [self.decode(w[4], w[5]) for w in tip.writes_to(before, name)]
        if known is not None and tip.folds[name].appends:
            if not writes:
                return replace(known, appended=0)
            new = [m for write in writes for m in (write if isinstance(write, list) else [write])]
            if are_messages(new) and (extended := known.extended(new, self._encode)):
                return extended
        known = known and known.restored(self._decode)
        value = tip.folds[name].apply(list(known.messages) if known else None, writes)
        return pack(value, known, self._encode, is_decoded=True)

    async def _writes_entry(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Entry:
        configurable = _configurable(config)
        entry = self._entry(configurable)
        key = (
            entry.thread_id.encode(),
            entry.epoch,
            configurable.get("checkpoint_ns", "").encode(),
            configurable["checkpoint_id"].encode(),
            task_id.encode(),
            task_path.encode(),
        )
        values = await self._off_loop(
            [value for _, value in writes], lambda: [self.serde.dumps_typed(v) for _, v in writes]
        )
        entry.writes = [
            (*key, WRITES_IDX_MAP.get(channel, i), channel.encode(), type_.encode(), blob)
            for i, ((channel, _), (type_, blob)) in enumerate(zip(writes, values, strict=True))
        ]
        if self.cipher.is_on:
            entry.writes = [self._sealed_write(row) for row in entry.writes]
        entry.size += sum(len(blob) for _, blob in values)
        if tip := self._tip(configurable.get("checkpoint_ns", "")):
            tip.write(
                configurable["checkpoint_id"],
                [
                    (task_path, task_id, WRITES_IDX_MAP.get(channel, i), channel, *value)
                    for i, ((channel, _), value) in enumerate(zip(writes, values, strict=True))
                ],
            )
        return entry

    def _sealed_checkpoint(self, row: CheckpointRow) -> CheckpointRow:
        thread, _, namespace, checkpoint_id, _, body, about = row
        place = _joined(b"checkpoints.checkpoint", thread, namespace, checkpoint_id)
        checkpoint = sealing.seal_checkpoint(self.cipher, orjson.loads(body), place)
        return *row[:5], dump(checkpoint), dump(self.cipher.seal_values(orjson.loads(about)))

    def _sealed_blob(self, row: BlobRow) -> BlobRow:
        thread, epoch, namespace, channel, version, type_, blob = row
        place = _joined(_BLOB, thread, namespace, channel, version, type_)
        sealed = self.cipher.seal(blob or b"", place)
        return thread, epoch, namespace, channel, version, type_, sealed

    def _sealed_write(self, row: WriteRow) -> WriteRow:
        thread, _, namespace, checkpoint_id, task, _, idx, channel, type_, blob = row
        place = _joined(_WRITE, thread, namespace, checkpoint_id, task, b"%d" % idx, channel, type_)
        return *row[:-1], self.cipher.seal(blob, place)

    def _tip(self, namespace: str) -> Tip | None:
        return self._leased.tip if self._leased is not None and namespace == "" else None

    def _order(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._leased is None else self._leased.order

    def _entry(self, configurable: Mapping[str, Any]) -> Entry:
        leased = self._leased
        thread_id = str(configurable["thread_id"])
        if leased is None:
            return Entry(thread_id, None, _always, size=256)
        return Entry(thread_id, leased.lease.epoch, leased.alive, size=256)

    async def _dump(
        self, values: Mapping[str, Any], before: Mapping[str, Blob]
    ) -> dict[str, tuple[str, bytes | Packed]]:
        """The type and bytes of each value; of a list of messages only what is new is encoded."""
        found: dict[str, tuple[str, bytes | Packed]] = {}
        whole = {}
        for name, value in values.items():
            known = before[name][2] if name in before else None
            packed = pack(value, known, self._encode) if isinstance(known, Packed) else None
            if packed is None:
                whole[name] = value
            else:
                found[name] = "msgpack", packed
        return found | await self._off_loop(
            list(whole.values()), lambda: {name: self._dumped(v) for name, v in whole.items()}
        )

    def _dumped(self, value: object) -> tuple[str, bytes | Packed]:
        packed = pack(value, None, self._encode) if self._leased is not None else None
        return self.serde.dumps_typed(value) if packed is None else ("msgpack", packed)

    async def _off_loop(self, values: Sequence[Any], work: Callable[[], _Result]) -> _Result:
        """Work that takes as long as the values are large; in a thread if it is worth one."""
        return await asyncio.to_thread(work) if _exceeds(values, _INLINE_BYTES) else work()

    def _encode(self, message: object) -> bytes:
        # As the only item of a list, whose header is one byte.
        return self.serde.dumps_typed([message])[1][1:]

    def _decode(self, blob: bytes) -> object:
        return self.serde.loads_typed(("msgpack", b"\x91" + blob))[0]

    def _change(
        self,
        checkpoint: Checkpoint,
        metadata: Mapping[str, Any],
        parent: str | None,
        new_versions: ChannelVersions,
        packed: Mapping[str, Packed],
    ) -> Change:
        leased = cast("_Leased", self._leased)
        channel = leased.messages_channel
        if channel is None:
            return Change()
        value: object = checkpoint["channel_values"].get(channel)
        appended = None
        if channel in packed:
            value, appended = packed[channel].messages, packed[channel].appended
        elif value is None and _is_between_snapshots(channel, checkpoint, metadata):
            return Change(is_projected=False)
        change = leased.projector.project(
            parent, _materialised(value), changed=channel in new_versions, appended=appended
        )
        if self.cipher.is_on:
            thread_id = leased.lease.thread_id
            change.upserts[:] = [sealing.message(self.cipher, thread_id, r) for r in change.upserts]
        return change

    def _metadata(self, config: RunnableConfig, metadata: CheckpointMetadata) -> dict[str, Any]:
        """
        The checkpoint's metadata: LangGraph's, the run's, and the public part of `configurable`.

        LangChain copies configurable values into a config's metadata; what came that way is
        treated as what it is.
        """
        stored: dict[str, Any] = {k: v for k, v in metadata.items() if k != "writes"}
        configurable = _configurable(config)
        for key, value in (config.get("metadata") or {}).items():
            if key not in PUBLIC_CONFIGURABLE and configurable.get(key) == value:
                continue
            if isinstance(value, str | int | float) and _is_public(key):
                stored.setdefault(key, value)
        for key in PUBLIC_CONFIGURABLE & configurable.keys():
            if isinstance(configurable[key], str | int | float):
                stored.setdefault(key, configurable[key])
        if self._leased is not None and self._leased.run_id is not None:
            stored["run_id"] = self._leased.run_id
        return stored

    # ------------------------------------------------------------------ reads

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the newest of its namespace."""
        configurable = _configurable(config)
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
        if self._leased is not None:
            self._leased.follow(rows[0]["checkpoint_id"])
        if tip := self._tip(namespace):
            tip.load(*_known(rows[0], found))
            self._learn(found)
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
        where, args = self._search_where(config, filter, before)
        if filter and self.cipher.is_on:
            forms = Access(tuple(self.cipher.forms(filter))).array
            where = where.replace("metadata @> %s ", "metadata @> ANY(%s::jsonb[]) ")
            args = [forms if isinstance(arg, Jsonb) else arg for arg in args]
        where += " ORDER BY checkpoint_id DESC"
        if limit is not None:
            where += " LIMIT %s"
            args.append(int(limit))
        for row in await self._rows(where, args):
            yield await self._load_checkpoint_tuple(row)

    async def heads(self, thread_ids: Sequence[str]) -> list[CheckpointTuple]:
        """
        The newest checkpoint of each thread's root namespace, in one round trip.

        In no order; threads without a checkpoint are missing.

        Raises:
            Exception: One of them cannot be decoded.
        """
        rows = await self._rows(_OF_HEADS, [list(thread_ids)])
        if sum(_size(row) for row in rows) > _INLINE_BYTES:
            return await asyncio.to_thread(lambda: [self._tuple(row) for row in rows])
        return [self._tuple(row) for row in rows]

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
                rows = [self._opened(row) for row in rows]
            old = [r for r in rows if r["checkpoint"]["v"] < 4 and r["parent_checkpoint_id"]]
            if old:
                await self._add_pending_sends(cursor, old)
        return rows

    def _opened(self, row: DictRow) -> DictRow:
        """A row of `select` without its seals."""
        cipher, checkpoint = self.cipher, row["checkpoint"]
        key = (row["thread_id"].encode(), row["checkpoint_ns"].encode())
        checkpoint_id = row["checkpoint_id"].encode()
        versions = checkpoint["channel_versions"]
        blobs = [
            [
                name,
                kind,
                cipher.open(
                    blob, _joined(_BLOB, *key, name, str(versions[name.decode()]).encode(), kind)
                ),
            ]
            for name, kind, blob in row["channel_values"] or ()
            if blob is not None
        ]
        writes = [
            [
                task,
                channel,
                kind,
                cipher.open(blob, _joined(_WRITE, *key, checkpoint_id, task, idx, channel, kind)),
                path,
                idx,
            ]
            for task, channel, kind, blob, path, idx in row["pending_writes"] or ()
        ]
        place = _joined(b"checkpoints.checkpoint", *key, checkpoint_id)
        return {
            **row,
            "checkpoint": sealing.open_checkpoint(cipher, checkpoint, place),
            "metadata": cipher.open_values(row["metadata"]),
            "channel_values": blobs,
            "pending_writes": writes,
        }

    async def _add_pending_sends(
        self, cursor: AsyncCursor[DictRow], rows: Sequence[DictRow]
    ) -> None:
        params = {
            "thread_ids": list({row["thread_id"] for row in rows}),
            "checkpoint_ids": list({row["parent_checkpoint_id"] for row in rows}),
            "channel": TASKS,
        }
        await cursor.execute(_SQL["pending_sends"], params)
        sends = {(r["thread_id"], r["checkpoint_id"]): self._sends(r) async for r in cursor}
        for row in rows:
            row["channel_values"] = row["channel_values"] or []
            self._migrate_pending_sends(
                sends.get((row["thread_id"], row["parent_checkpoint_id"]), []),
                row["checkpoint"],
                row["channel_values"],
            )

    def _sends(self, row: DictRow) -> list[tuple[bytes, bytes]]:
        """The types and the values of what was sent, in order, without their seals."""
        key = (row["thread_id"].encode(), row["checkpoint_id"].encode())
        places = (
            _joined(_WRITE, key[0], namespace, key[1], task, idx, TASKS.encode(), kind)
            for kind, _, namespace, task, idx in row["sends"]
        )
        sends = zip(row["sends"], places, strict=True)
        return [(kind, self.cipher.open(blob, place)) for (kind, blob, *_), place in sends]

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        if _size(value) > _INLINE_BYTES:
            return await asyncio.to_thread(self._tuple, value)
        return self._tuple(value)

    def _tuple(self, value: DictRow) -> CheckpointTuple:
        checkpoint = value["checkpoint"]
        inline = checkpoint.get("channel_values") or {}
        channels = self._load_blobs(value["channel_values"])
        thread_id, namespace = value["thread_id"], value["checkpoint_ns"]
        parent = value["parent_checkpoint_id"]
        return CheckpointTuple(
            _address(thread_id, namespace, value["checkpoint_id"]),
            cast("Checkpoint", {**checkpoint, "channel_values": {**inline, **channels}}),
            value["metadata"],
            _address(thread_id, namespace, parent) if parent else None,
            self._load_writes(value["pending_writes"]),
        )

    async def _known_tuple(self, tip: Tip, head: KnownHead) -> CheckpointTuple:
        """The head, as a reader of the database would find it."""
        restored = {
            name: (
                version,
                type_,
                blob.restored(self._decode) if isinstance(blob, Packed) else blob,
            )
            for name, (version, type_, blob) in head.blobs.items()
        }
        head = replace(head, blobs=restored)
        tip.load(head)
        channels = await self._off_loop(
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
        found = CheckpointTuple(
            _address(tip.thread_id, "", head.checkpoint_id),
            checkpoint,
            orjson.loads(head.metadata),
            _address(tip.thread_id, "", head.parent_checkpoint_id)
            if head.parent_checkpoint_id
            else None,
            [],
        )
        self._learn(found)
        return found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What DeltaChannels are made of: of the head that is known here, their values."""
        configurable = _configurable(config)
        tip = self._tip(configurable.get("checkpoint_ns", ""))
        head = tip.loaded(configurable.get("checkpoint_id")) if tip else None
        if tip is None or head is None:
            return await self._stock_history(config, channels)
        unknown = [name for name in channels if name not in head.folded]
        found = dict(await self._stock_history(config, unknown))
        folded = {name: packed.restored(self._decode) for name, packed in head.folded.items()}
        for name, history in found.items():
            if packed := await self._replayed(tip, name, history):
                folded[name] = packed
        tip.load(replace(head, folded=folded))
        self._learn_folded(head.checkpoint_id, folded)
        for name in head.folded.keys() & set(channels):
            # The value itself is a beginning with nothing to add.
            found[name] = {"seed": list(folded[name].messages), "writes": []}
        return found

    async def _stock_history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the database has, read as LangGraph does."""
        reader = self
        if self.cipher.is_on:
            reader = copy.copy(self)
            configurable = _configurable(config)
            reader._read_of = (
                str(configurable["thread_id"]), configurable.get("checkpoint_ns", ""),
            )  # fmt: skip
        return await super(Saver, reader).aget_delta_channel_history(
            config=config, channels=channels
        )

    def _build_delta_channels_writes_history(
        self, *, stage2_rows: Sequence[Any], **more: Any
    ) -> dict[str, DeltaChannelHistory]:
        if self.cipher.is_on:
            stage2_rows = [{**row, "blob": self._opened_part(row)} for row in stage2_rows]
        return super()._build_delta_channels_writes_history(stage2_rows=stage2_rows, **more)

    def _opened_part(self, row: Mapping[str, Any]) -> bytes | None:
        """The value of a write or of a blob, as LangGraph reads them for DeltaChannels."""
        if row["blob"] is None:
            return None
        if row["_kind"] == "w":
            key = (row["checkpoint_id"], row["task_id"], str(row["idx"]), row["channel"])
            place = at("checkpoint_writes.blob", *self._read_of, *key, row["type"])
        else:
            place = at(
                "checkpoint_blobs.blob",
                *self._read_of,
                row["channel"],
                row["version"],
                row["type"],
            )
        return self.cipher.open(row["blob"], place)

    async def _replayed(self, tip: Tip, name: str, history: DeltaChannelHistory) -> Packed | None:
        if name not in tip.folds:
            return None
        value = tip.folds[name].apply(*_begun(history))
        return await self._off_loop(
            [value], lambda: pack(value, None, self._encode, is_decoded=True)
        )

    def _learn_folded(self, checkpoint_id: str, folded: Mapping[str, Packed]) -> None:
        leased = cast("_Leased", self._leased)
        is_mirrored = checkpoint_id == leased.lease.projected_checkpoint_id
        if is_mirrored and leased.messages_channel in folded:
            leased.projector.learn_head(checkpoint_id)

    def _learn(self, found: CheckpointTuple) -> None:
        """Tell the projector what the list of messages was in the checkpoint it mirrors."""
        leased = cast("_Leased", self._leased)
        checkpoint, channel = found.checkpoint, leased.messages_channel
        if not channel or checkpoint["id"] != leased.lease.projected_checkpoint_id:
            return
        value = checkpoint["channel_values"].get(channel)
        if value is not None or not _is_between_snapshots(channel, checkpoint, found.metadata):
            leased.projector.learn(checkpoint["id"], _materialised(value))

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        """A connection for one operation; nothing else waits for it."""
        async with (
            self.database.connection() as connection,
            connection.pipeline() if pipeline else nullcontext(),
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            yield cursor

    # ------------------------------------------------------------------ whole threads

    async def adelete_thread(self, thread_id: str) -> None:
        """
        Delete everything a thread has but its row, whose epoch rises.

        A run that still writes is refused: nothing comes back.
        """
        params = {"thread_id": str(thread_id)}
        async with self.database.transaction() as tx:
            await tx.execute(_SQL["fence_thread"], params)
            await tallies.mark_stale(tx, [params["thread_id"]])
            await tx.execute(_SQL["delete_thread"], params)

    async def adelete_for_runs(
        self, run_ids: Sequence[str], *, thread_id: str | None = None
    ) -> None:
        """
        Delete the checkpoints and writes of runs; the thread's head moves back.

        The messages have to be made again afterwards: `messages.rebuild`.

        Args:
            thread_id: The runs' thread. Without it every checkpoint of the database is looked at.
        """
        runs = {"run_ids": [str(run_id) for run_id in run_ids], "thread_id": thread_id}
        async with self.database.transaction() as tx:
            found = await tx.tuples(_SQL["threads_of_runs"], runs)
            if not found:
                return
            thread_ids = [thread for (thread,) in found]
            params = {**runs, "thread_ids": thread_ids}
            await tx.execute(_SQL["lock_threads"], params)
            await tallies.mark_stale(tx, thread_ids)
            await tx.execute(_SQL["delete_runs"], params)
            await tx.execute(_SQL["delete_garbage_blobs"], params)
            await tx.execute(_SQL["move_heads"], params)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy checkpoints, writes and messages, as the source is at one moment."""
        params = {"source": str(source_thread_id), "target": str(target_thread_id)}
        async with self.database.transaction() as tx:
            await tx.execute(_SQL["copy_thread"], params)
            await resealing.move(tx, str(source_thread_id), str(target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """
        Delete old checkpoints, or all; messages stay as history.

        Raises:
            NotImplementedError: A thread whose ancestors' writes are data (DeltaChannel).
        """
        await super().aprune(thread_ids, strategy=strategy)
        if strategy == "delete":
            await self.database.execute(_SQL["forget_context"], {"thread_ids": list(thread_ids)})


@asynccontextmanager
async def open_saver(
    database: Database,
    *,
    allowed_types: Allowed = (),
    allowed_json_types: Allowed = (),
    deadline_seconds: float = 30.0,
    head_cache_bytes: int = 64 * 2**20,
) -> AsyncIterator[Saver]:
    """
    Open the process's checkpointer; on leaving, what is queued is committed first.

    Args:
        allowed_types, allowed_json_types: As for `Saver`.
        deadline_seconds: How long a write waits for PostgreSQL before UnavailableError.
        head_cache_bytes: Memory for the newest checkpoints of threads, about; 0 keeps none.
    """
    heads = HeadCache(max_bytes=head_cache_bytes)
    async with open_writer(database, deadline_seconds=deadline_seconds) as writer:
        yield Saver(
            database,
            writer,
            heads,
            allowed_types=allowed_types,
            allowed_json_types=allowed_json_types,
        )


def _allowed(types: Allowed) -> Any:
    return True if types is True else tuple(types) or None


def fold_of(channel: DeltaChannel[Any]) -> Fold:
    """How a DeltaChannel of a graph comes by its value."""

    def apply(value: list[Any] | None, writes: Sequence[Any]) -> Any:
        kind: Any = channel.typ
        begun = channel.from_checkpoint(kind() if value is None else value)
        begun.replay_writes([("", "", write) for write in writes])
        return begun.get()

    return Fold(apply, appends=channel.reducer is _messages_delta_reducer)


def _begun(history: DeltaChannelHistory) -> tuple[Any, list[Any]]:
    """The value that a history begins with, None if it has none, and what was written to it."""
    return _materialised(history.get("seed")), [write[2] for write in history["writes"]]


def _is_equal(packed: Packed | None, value: object) -> bool:
    return (
        packed is not None
        and isinstance(value, list)
        and are_messages(value)
        and packed.is_equal(value)
    )


def _known(row: DictRow, found: CheckpointTuple) -> tuple[KnownHead, list[Write]]:
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
    return KnownHead(
        row["checkpoint_id"], row["parent_checkpoint_id"], body, metadata, blobs
    ), writes


def _joined(*parts: bytes) -> bytes:
    """A place, of parts that are encoded already: see `cipher.at`."""
    return b"\0".join(parts)


def _bytes(blob: bytes | Packed) -> bytes:
    return blob.blob() if isinstance(blob, Packed) else blob


def _is_between_snapshots(
    channel: str, checkpoint: Checkpoint, metadata: Mapping[str, Any]
) -> bool:
    """Whether the channel is a DeltaChannel whose value is not in this checkpoint."""
    counters = metadata.get("counters_since_delta_snapshot", ())
    return channel in checkpoint["channel_versions"] and channel in counters


def _always() -> bool:
    return True


def _configurable(config: RunnableConfig) -> dict[str, Any]:
    return config.get("configurable") or {}


def _address(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


def _size(row: DictRow) -> int:
    """How many bytes of a checkpoint there are to be decoded."""
    values, writes = row["channel_values"] or (), row["pending_writes"] or ()
    return sum(len(v[2] or b"") for v in values) + sum(len(w[3]) for w in writes)


def _materialised(value: object) -> object:
    return value.value if isinstance(value, _DeltaSnapshot) else value


def _is_public(key: str) -> bool:
    return key not in EXCLUDED_METADATA_KEYS and not key.startswith("__")


def _placed(
    checkpoint: Checkpoint, new_versions: ChannelVersions
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which values lie in the checkpoint's JSON, and which have a blob to be written."""
    inline: dict[str, Any] = {}
    blobs: dict[str, Any] = {}
    for channel, value in checkpoint["channel_values"].items():
        if value is None or isinstance(value, str | int | float):
            if _is_exact_in_jsonb(value):
                inline[channel] = value
            elif channel in checkpoint["channel_versions"]:
                # Also when it did not change: a stock tool may have written it inline.
                blobs[channel] = value
            continue
        if isinstance(value, _DeltaSnapshot):
            inline[channel] = True
        if channel in new_versions:
            blobs[channel] = value
    return inline, blobs


def _is_exact_in_jsonb(value: str | float | None) -> bool:
    """Whether a scalar comes back from JSONB as it was."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return "\0" not in value
    if isinstance(value, float):
        # JSONB writes large floats without an exponent: they would come back as integers.
        return math.isfinite(value) and abs(value) < 1e16
    # An integer: LangGraph serialises none beyond 64 bits, so none comes here.
    return True


def _exceeds(value: object, size: int) -> bool:
    """Whether a value is about that large; looks no further than it must."""
    left = size
    waiting: list[Any] = [value]
    while waiting and left > 0:
        item = waiting.pop()
        kind = type(item)
        left -= 16
        if kind is str or kind is bytes:
            left -= len(item)
        elif kind is dict:
            waiting.extend(item.values())
        elif kind is list or kind is tuple:
            waiting.extend(item)
        elif item is not None and hasattr(item, "__dict__"):
            waiting.extend(vars(item).values())
    return left <= 0
