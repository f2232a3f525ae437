"""
The newest checkpoints of threads, kept by the process that wrote them.

A run begins by reading the checkpoint that the thread's last run ended with. If the same process
executed both, it has it still: as the bytes that went to PostgreSQL. It may be used by the next
holder of the thread's lease only, and only if nobody else held the lease in between and the
thread's row still names that checkpoint: the claim, which reads the row, tells.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from store.models import Lease
from store.packed import Packed

#: One value of a channel: its version, and the type and bytes of its blob.
Blob = tuple[str, str, bytes | Packed]
#: A write to a channel, in the order in which they count: the task's path, the task, its index;
#: then the channel, and the type and bytes of the value.
Write = tuple[str, str, int, str, str, bytes]
_ENTRY_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Fold:
    """
    How a DeltaChannel comes by its value.

    Attributes:
        apply: What a value becomes by writes; None stands for no value yet.
        appends: Messages with ids that are new are added at the end.
    """

    apply: Callable[[list[Any] | None, Sequence[Any]], Any]
    appends: bool


@dataclass(frozen=True, slots=True)
class Head:
    """
    A checkpoint of a root namespace to which no task has written.

    Attributes:
        checkpoint: Its JSON, as it lies in the database.
        blobs: Every blob that it refers to, by channel.
        folded: The values of DeltaChannels, which are in no blob.
    """

    checkpoint_id: str
    parent_checkpoint_id: str | None
    checkpoint: bytes
    metadata: bytes
    blobs: Mapping[str, Blob]
    folded: Mapping[str, Packed] = field(default_factory=dict)

    def has_no(self, channel: str) -> bool:
        """Whether nothing was ever written to a channel."""
        return channel not in orjson.loads(self.checkpoint).get("channel_versions", ())

    def unchanged(self, versions: Mapping[str, Any]) -> dict[str, Blob]:
        """The blobs of the channels that have these versions still."""
        return {n: blob for n, blob in self.blobs.items() if blob[0] == str(versions.get(n))}

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        values = [*(blob for _, _, blob in self.blobs.values()), *self.folded.values()]
        return _ENTRY_BYTES + sum(v.size if isinstance(v, Packed) else len(v) for v in values)


class HeadCache:
    """
    Heads by thread, the longest unused ones given up first.

    Args:
        max_bytes: Of memory that the heads may take, about; 0 keeps none.
        max_count: Heads at the most.
    """

    def __init__(self, *, max_bytes: int, max_count: int = 4_096) -> None:
        self._max_bytes, self._max_count = max_bytes, max_count
        self._heads: OrderedDict[str, tuple[int, int, Head]] = OrderedDict()
        self._bytes = 0

    def take(self, lease: Lease) -> Head | None:
        """The thread's head, if nobody held the thread since it was put here."""
        next_epoch, size, head = self._heads.pop(lease.thread_id, (0, 0, None))
        self._bytes -= size
        if head is None or next_epoch != lease.epoch or not lease.head_is_newest:
            return None
        return head if head.checkpoint_id == lease.head_checkpoint_id else None

    def put(self, thread_id: str, head: Head, *, next_epoch: int) -> None:
        """Keep what was committed as the newest, for the holder of one certain lease."""
        self.drop(thread_id)
        size = head.size
        self._heads[thread_id] = next_epoch, size, head
        self._bytes += size
        while self._heads and (self._bytes > self._max_bytes or len(self._heads) > self._max_count):
            _, (_, size, _) = self._heads.popitem(last=False)
            self._bytes -= size

    def drop(self, thread_id: str) -> None:
        """Forget a head that is none any more."""
        _, size, _ = self._heads.pop(thread_id, (0, 0, None))
        self._bytes -= size

    def __len__(self) -> int:
        return len(self._heads)


class Tip:
    """
    What the holder of a lease knows of the newest checkpoints of its thread's root namespace.

    In "async" durability the writes to a checkpoint may come before the checkpoint itself: a head
    is kept for the next lease only while no task has written to it, in whichever order.

    Args:
        is_run: The lease is a run's, whose end raises the epoch once more.
    """

    def __init__(self, lease: Lease, cache: HeadCache, *, is_run: bool) -> None:
        self._lease, self._cache = lease, cache
        self._next_epoch = lease.epoch + 1 + is_run
        # What a new checkpoint may follow: by id, the newest, or what was loaded to begin with.
        self._known: dict[str, Head] = {}
        if self.is_new:
            self._known[""] = Head("", None, b"{}", b"{}", {})
        elif head := cache.take(lease):
            self._known[head.checkpoint_id] = head
        #: How many checkpoints were written.
        self.count = 0
        #: How the graph's DeltaChannels come by their values, by channel.
        self.folds: Mapping[str, Fold] = {}
        self._written: set[str] = set()
        self._writes: dict[str, dict[tuple[str, int], Write]] = {}
        # Nothing was written yet: the head is what the next reader of the newest gets.
        self._is_untouched = True

    @property
    def thread_id(self) -> str:
        """Whose head it is."""
        return self._lease.thread_id

    @property
    def is_new(self) -> bool:
        """Whether the thread had no checkpoint when the lease was taken."""
        return self._lease.head_checkpoint_id is None and self._lease.head_is_newest

    @property
    def newest(self) -> Head | None:
        """What the newest checkpoint is, with no writes to it; None if the database must tell."""
        head = self.loaded(self._lease.head_checkpoint_id)
        return head if head and head.checkpoint_id not in self._written else None

    def loaded(self, checkpoint_id: str | None) -> Head | None:
        """What was known of a checkpoint before anything was written."""
        return self._known.get(checkpoint_id or "") if self._is_untouched else None

    def load(self, head: Head, writes: Sequence[Write] = ()) -> None:
        """Take note of a checkpoint as the database has it, and of the writes to it."""
        if self._is_untouched:
            self._known[head.checkpoint_id] = head
            if writes:
                self._add(head.checkpoint_id, writes)

    def follows(self, parent_checkpoint_id: str | None) -> Head | None:
        """What is known of the parent of a new checkpoint."""
        return self._known.get(parent_checkpoint_id or "")

    def writes_to(self, head: Head, channel: str) -> list[Write]:
        """The writes to a channel that the next checkpoint is made of, in their order."""
        found = self._writes.get(head.checkpoint_id, {}).values()
        return sorted(write for write in found if write[3] == channel)

    def write(self, checkpoint_id: str, writes: Iterable[Write]) -> None:
        """Take note of writes that are about to be sent."""
        self._is_untouched = False
        self._add(checkpoint_id, writes)
        if checkpoint_id in self._known:
            self._cache.drop(self._lease.thread_id)

    def put(self) -> None:
        """Take note of a checkpoint that is about to be sent; until `committed` none is known."""
        self._is_untouched = False
        self.count += 1
        self._known = {}
        self._cache.drop(self._lease.thread_id)

    def committed(self, head: Head) -> None:
        """Go on from a checkpoint that is in the database."""
        self._known = {head.checkpoint_id: head}
        self._written = {id_ for id_ in self._written if id_ >= head.checkpoint_id}
        self._writes = {id_: w for id_, w in self._writes.items() if id_ in self._written}
        if head.checkpoint_id not in self._written:
            self._cache.put(self._lease.thread_id, head, next_epoch=self._next_epoch)

    def pruned(self, kept: set[str]) -> None:
        """Take note of which checkpoints are left."""
        for head in self._known.values():
            if head.parent_checkpoint_id not in kept:
                self._cache.drop(self._lease.thread_id)

    def _add(self, checkpoint_id: str, writes: Iterable[Write]) -> None:
        self._written.add(checkpoint_id)
        kept = self._writes.setdefault(checkpoint_id, {})
        for write in writes:
            if write[3] in self.folds:
                kept.setdefault((write[1], write[2]), write)
