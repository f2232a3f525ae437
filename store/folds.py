"""DeltaChannels: their values, which are in no checkpoint, made of what was written to them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import Checkpoint, DeltaChannelHistory
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph.message import _messages_delta_reducer

from store.codec import Codec, as_bytes, materialised, off_loop
from store.heads import Fold, Head, Tip, Write
from store.packed import Packed, are_messages, pack


def fold_of(channel: DeltaChannel[Any]) -> Fold:
    """How a DeltaChannel of a graph comes by its value."""

    def apply(value: list[Any] | None, writes: Sequence[Any]) -> Any:
        kind: Any = channel.typ
        begun = channel.from_checkpoint(kind() if value is None else value)
        begun.replay_writes([("", "", write) for write in writes])
        return begun.get()

    return Fold(apply, appends=channel.reducer is _messages_delta_reducer)


def begun(history: DeltaChannelHistory) -> tuple[Any, list[Any]]:
    """The value that a history begins with, None if it has none, and what was written to it."""
    return materialised(history.get("seed")), [write[2] for write in history["writes"]]


async def replayed(codec: Codec, fold: Fold, history: DeltaChannelHistory) -> Packed | None:
    """The list of messages that a history comes to; None if it is anything else."""
    value = fold.apply(*begun(history))
    return await off_loop([value], lambda: pack(value, None, codec.encode, is_decoded=True))


def continued(
    codec: Codec, fold: Fold, before: tuple[Any, list[Any]], writes: Sequence[Write]
) -> Packed | None:
    """The list of messages that a begun history comes to with some writes more."""
    new = [codec.value(write[4], write[5]) for write in writes]
    return pack(fold.apply(before[0], [*before[1], *new]), None, codec.encode, is_decoded=True)


def folded(
    codec: Codec, tip: Tip, checkpoint: Checkpoint, before: Head | None
) -> dict[str, Packed]:
    """The values of the graph's DeltaChannels at a checkpoint, where they are known."""
    found = {}
    for name in tip.folds.keys() & checkpoint["channel_versions"].keys():
        value = checkpoint["channel_values"].get(name)
        packed = _after(codec, tip, before, name) if before is not None else None
        if isinstance(value, _DeltaSnapshot) and not _is_equal(packed, value.value):
            # It has what was never written to the parent: a fork, or a thread's first input.
            packed = pack(value.value, None, codec.encode)
            packed = packed and packed.restored(codec.decode)
        if packed is not None:
            found[name] = packed
    return found


def _after(codec: Codec, tip: Tip, before: Head, name: str) -> Packed | None:
    """A DeltaChannel's value after the writes to a checkpoint."""
    known = before.folded.get(name)
    if known is None and name in before.blobs:
        _, type_, blob = before.blobs[name]
        # A snapshot, or what the channel was before it became a DeltaChannel.
        value = codec.value(type_, as_bytes(blob))
        known = pack(value, None, codec.encode, is_decoded=True)
    if known is None and not before.has_no(name):
        return None
    writes = [codec.value(w[4], w[5]) for w in tip.writes_to(before, name)]
    if known is not None and tip.folds[name].appends:
        if not writes:
            return replace(known, appended=0)
        new = [m for write in writes for m in (write if isinstance(write, list) else [write])]
        if are_messages(new) and (extended := known.extended(new, codec.encode)):
            return extended
    known = known and known.restored(codec.decode)
    value = tip.folds[name].apply(list(known.messages) if known else None, writes)
    return pack(value, known, codec.encode, is_decoded=True)


def _is_equal(packed: Packed | None, value: object) -> bool:
    return (
        packed is not None
        and isinstance(value, list)
        and are_messages(value)
        and packed.is_equal(value)
    )
