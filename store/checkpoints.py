"""
LangGraph's checkpointer on our pool and our writer.

The tables are those of `langgraph-checkpoint-postgres`, so any stock tool reads what is written
here, and we read what it wrote. What differs: no lock, writes through the group commit, blobs read
by primary key, values that JSONB cannot hold kept as blobs, and no secrets in the metadata.

``LANGGRAPH_STRICT_MSGPACK=true`` must be in the environment before langgraph is first imported, or
graphs will not add the types of their state to the allow-list that this saver decodes by.
"""

import copy
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from inspect import signature
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from store import folds, retention, sealing, whole_threads
from store.checkpoint_reader import CheckpointReader
from store.codec import as_bytes, off_loop
from store.commits import BlobRow, Entry, NewHead
from store.database import Database
from store.heads import Head, HeadCache, Tip
from store.leased import Leased
from store.models import Lease
from store.packed import Packed
from store.placement import address, configurable_of, kept_metadata, kept_writes, placed
from store.projection import Projector, dump, run_id_of
from store.sealed_rows import sealed_blob, sealed_checkpoint, sealed_write
from store.writer import CheckpointWriter, lease_lost, open_writer

#: Types by module and name; True for all.
Allowed = Iterable[tuple[str, ...]] | Literal[True]


class Saver(CheckpointReader):
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
        super().__init__(database, serde)
        self.writer = writer
        self.cache = heads

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
        clone._leased = Leased(
            lease,
            run_id,
            messages_channel,
            alive,
            Projector(lease.head_checkpoint_id),
            Tip(lease, self.cache, is_run=run_id is not None),
        )
        clone._leased.clock.follow(lease.head_checkpoint_id)
        return clone

    def attend(self, channels: Mapping[str, Any]) -> None:
        """
        Learn the channels of the graph that is about to use this saver, which has a lease.

        The value of a DeltaChannel is in no checkpoint: with its reducer it is known here, so that
        its messages are projected with each checkpoint and it need not be read again.
        """
        if self._leased is not None:
            self._leased.tip.folds = {
                name: folds.fold_of(channel)
                for name, channel in channels.items()
                if isinstance(channel, DeltaChannel)
            }

    @property
    def checkpoint_count(self) -> int:
        """Checkpoints of the thread's root namespace since it was pruned, and those kept then."""
        leased = cast("Leased", self._leased)
        return leased.lease.checkpoint_count + leased.tip.count

    async def trim(self, *, keep: int) -> None:
        """Delete all checkpoints of the leased thread but the newest; see `retention.prune`."""
        leased = cast("Leased", self._leased)
        kept = await retention.prune(self.database, self, leased.lease, keep=keep)
        leased.tip.pruned(kept)

    async def snapshots(
        self, thread_id: str, checkpoint_id: str, channels: Sequence[str]
    ) -> Mapping[str, tuple[str, bytes]] | None:
        """Blobs for DeltaChannels at a checkpoint; None if the graph is not known to have them."""
        known = self._leased.tip.folds if self._leased is not None else {}
        if not known.keys() >= set(channels):
            return None
        found = await self._stored_history(address(thread_id, "", checkpoint_id), channels)
        values = {name: known[name].apply(*folds.begun(found[name])) for name in channels}
        return await off_loop(
            list(values.values()),
            lambda: {n: self.serde.dumps_typed(_DeltaSnapshot(v)) for n, v in values.items()},
        )

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
            leased.clock.wind()
        return super().get_next_version(current, channel)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint; it is on disk when this returns."""
        configurable = configurable_of(config)
        namespace = configurable.get("checkpoint_ns", "")
        async with self._order():
            entry, head = await self._checkpoint_entry(config, checkpoint, metadata, new_versions)
            if tip := self._tip(namespace):
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
        return address(configurable["thread_id"], namespace, checkpoint["id"])

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Save the writes of a task; they are on disk when this returns."""
        if not (kept := kept_writes(writes)):
            return
        async with self._order():
            committed = await self.writer.write(
                await self._writes_entry(config, kept, task_id, task_path)
            )
        await committed

    # ------------------------------------------------------------------ entries

    def _order(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._leased is None else self._leased.order

    def _entry(self, configurable: Mapping[str, Any]) -> Entry:
        leased = self._leased
        thread_id = str(configurable["thread_id"])
        if leased is None:
            return Entry(thread_id, None, _always, size=256)
        return Entry(thread_id, leased.lease.epoch, leased.alive, size=256)

    async def _checkpoint_entry(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> tuple[Entry, Head | None]:
        """What is to be written, and the thread's head thereafter, if all of it is known."""
        configurable = configurable_of(config)
        entry = self._entry(configurable)
        namespace = configurable.get("checkpoint_ns", "")
        parent = configurable.get("checkpoint_id")
        leased, tip = self._leased, self._tip(namespace)
        before = tip.follows(parent) if tip else None
        about = kept_metadata(config, metadata, leased.run_id if leased else None)
        versions = {**checkpoint["channel_versions"], **new_versions}
        inline, values = placed(checkpoint, new_versions)
        known = {} if before is None else before.blobs
        dumped = await self.codec.dump(values, known, packs=leased is not None)
        new = {name: (str(versions[name]), *blob) for name, blob in dumped.items()}
        body = dump({**checkpoint, "channel_values": inline})
        made = Head(checkpoint["id"], parent, body, dump(about), new)
        self._fill(entry, namespace, made)
        if leased is None or tip is None:
            return entry, None
        folded = folds.folded(self.codec, tip, checkpoint, before)
        if before is None and parent is not None and _is_copy(leased, metadata):
            # What it has of its own counts: it may never have been written to the parent.
            folded = {**await self._folded_at(tip, parent), **folded}
        packed = {name: b for name, (*_, b) in new.items() if isinstance(b, Packed)} | folded
        change = leased.change(checkpoint, about, parent, packed, new_versions=new_versions)
        upserts = [sealing.message(self.cipher, entry.thread_id, row) for row in change.upserts]
        change.upserts[:] = upserts
        entry.head = NewHead(checkpoint["id"], parent, checkpoint["ts"], run_id_of(about), change)
        if before is None:
            return entry, None
        return entry, replace(made, blobs={**before.unchanged(versions), **new}, folded=folded)

    def _fill(self, entry: Entry, namespace: str, made: Head) -> None:
        """Put a checkpoint, and the blobs that are new with it, into its entry."""
        key = (entry.thread_id.encode(), entry.epoch, namespace.encode())
        parent = made.parent_checkpoint_id
        parent_id = None if parent is None else parent.encode()
        row = (*key, made.checkpoint_id.encode(), parent_id, made.checkpoint, made.metadata)
        blobs: list[BlobRow] = [
            (*key, channel.encode(), version.encode(), type_.encode(), as_bytes(blob))
            for channel, (version, type_, blob) in made.blobs.items()
        ]
        entry.checkpoint, entry.blobs = row, blobs
        if self.cipher.is_on:
            entry.checkpoint = sealed_checkpoint(self.cipher, row)
            entry.blobs = blobs = [sealed_blob(self.cipher, row) for row in blobs]
        entry.size += len(made.checkpoint) + sum(len(blob[-1] or b"") for blob in blobs)

    async def _writes_entry(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Entry:
        configurable = configurable_of(config)
        entry = self._entry(configurable)
        key = (
            entry.thread_id.encode(),
            entry.epoch,
            configurable.get("checkpoint_ns", "").encode(),
            configurable["checkpoint_id"].encode(),
            task_id.encode(),
            task_path.encode(),
        )
        values = await off_loop(
            [value for _, value in writes], lambda: [self.serde.dumps_typed(v) for _, v in writes]
        )
        entry.writes = [
            (*key, WRITES_IDX_MAP.get(channel, i), channel.encode(), type_.encode(), blob)
            for i, ((channel, _), (type_, blob)) in enumerate(zip(writes, values, strict=True))
        ]
        if self.cipher.is_on:
            entry.writes = [sealed_write(self.cipher, row) for row in entry.writes]
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

    # ------------------------------------------------------------------ whole threads

    async def adelete_thread(self, thread_id: str) -> None:
        """As `whole_threads.delete`."""
        await whole_threads.delete(self.database, str(thread_id))

    async def adelete_for_runs(
        self, run_ids: Sequence[str], *, thread_id: str | None = None
    ) -> None:
        """As `whole_threads.delete_runs`."""
        ids = [str(run_id) for run_id in run_ids]
        await whole_threads.delete_runs(self.database, ids, thread_id=thread_id)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As `whole_threads.copy`."""
        await whole_threads.copy(self.database, str(source_thread_id), str(target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """
        Delete old checkpoints, or all; messages stay as history.

        Raises:
            NotImplementedError: A thread whose ancestors' writes are data (DeltaChannel).
        """
        await super().aprune(thread_ids, strategy=strategy)
        if strategy == "delete":
            await whole_threads.forget_context(self.database, thread_ids)


#: LangGraph looks for one of its parameters at the beginning of each run: it is told at once.
Saver.aput_writes.__signature__ = signature(Saver.aput_writes)  # type: ignore[attr-defined]


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


def _is_copy(leased: Leased, metadata: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is that of another, whose parent it has: a change of branch."""
    return leased.run_id is None and metadata.get("source") == "fork"


def _always() -> bool:
    return True
