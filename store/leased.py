"""What a saver holds for one lease; shared by its copies."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from langgraph.checkpoint.base import Checkpoint, CheckpointTuple

from store.clock import Clock
from store.codec import materialised
from store.heads import Tip
from store.models import Lease
from store.packed import Packed
from store.placement import is_between_snapshots
from store.projection import Projector, RowChange


@dataclass(eq=False, slots=True)
class Leased:
    """
    The lease, and what is known of its thread while it holds.

    Attributes:
        run_id: Who writes; None for an update of the state.
        messages_channel: The channel whose list is the conversation, if the graph has one.
        alive: Whether this process may still believe in the lease.
        order: Entries are queued in the order of the calls, also when one is serialised in a thread.
    """

    lease: Lease
    run_id: str | None
    messages_channel: str | None
    alive: Callable[[], bool]
    projector: Projector
    tip: Tip
    clock: Clock = field(default_factory=Clock)
    order: asyncio.Lock = field(default_factory=asyncio.Lock)

    def learn(self, found: CheckpointTuple, packed: Mapping[str, Packed] | None = None) -> None:
        """
        Tell the projector what the list of messages was in the checkpoint it mirrors.

        Args:
            packed: Channels whose messages are kept here too.
        """
        checkpoint, channel = found.checkpoint, self.messages_channel
        if not channel or checkpoint["id"] != self.lease.projected_checkpoint_id:
            return
        value = checkpoint["channel_values"].get(channel)
        if value is not None or not is_between_snapshots(channel, checkpoint, found.metadata):
            known = packed.get(channel) if packed else None
            states = known.states if known and known.has_ids else None
            self.projector.learn(checkpoint["id"], materialised(value), states)

    def learn_folded(self, checkpoint_id: str, channels: Collection[str]) -> None:
        """Tell the projector which checkpoint it mirrors, if the messages are in a DeltaChannel."""
        if (
            checkpoint_id == self.lease.projected_checkpoint_id
            and self.messages_channel in channels
        ):
            self.projector.learn_head(checkpoint_id)

    def change(
        self,
        checkpoint: Checkpoint,
        metadata: Mapping[str, Any],
        parent: str | None,
        packed: Mapping[str, Packed],
        *,
        new_versions: Collection[str],
    ) -> RowChange:
        """What a checkpoint does to the messages of the thread."""
        channel = self.messages_channel
        if channel is None:
            return RowChange()
        value: object = checkpoint["channel_values"].get(channel)
        appended = None
        if channel in packed:
            value, appended = packed[channel].messages, packed[channel].appended
        elif value is None and is_between_snapshots(channel, checkpoint, metadata):
            return RowChange(is_projected=False)
        return self.projector.project(
            parent, materialised(value), changed=channel in new_versions, appended=appended
        )
