"""
What the event-streaming protocol is made of: its events, how they are numbered, and what a client wants.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from graph.encode import dumps
from store.errors import InvalidInputError
from store.events import START, EventId
from store.models import Thread

CHANNELS = (
    "values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom",
)  # fmt: skip
NAMED = "custom:"

#: How a place in the log is one integer that JavaScript can hold, of 53 bits: those left for the epoch,
#: for the event within it, and for the events of the protocol that one of the log means. Half a
#: million runs of a thread, or 16 million events of a run, get beyond it; then `since` is less exact.
EVENT_BITS, PART_BITS = 24, 9
_LAST_EVENT, _LAST_PART = (1 << EVENT_BITS) - 1, (1 << PART_BITS) - 1

#: Where the parts of one event of the log stand: subgraphs that begin with it, what it says, what it
#: asks, what ends with it, the gap after it. Fixed, so that a reader who leaves some out counts like
#: all others.
STARTS, SAYS, ASKS, ENDS, GAP = 0, 64, 256, 448, 510

_UNIX = datetime(1970, 1, 1, tzinfo=UTC)

#: How many channels, and how many namespaces, a client asks for: every event is held against them.
MAX_CHANNELS, MAX_NAMESPACES = 256, 256

Namespace = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Numbering:
    """
    How the events of one thread are numbered.

    Epochs begin at the time that the thread was made at, in milliseconds; numbers begin there too, also
    of a thread whose `created_at` an import has set back.
    """

    base: int = 0

    @classmethod
    def of(cls, thread: Thread) -> "Numbering":
        """That of a thread."""
        if thread.base_epoch is not None:
            return cls(thread.base_epoch)
        return cls((thread.created_at - _UNIX) // timedelta(milliseconds=1) - 1)

    def seq(self, place: EventId, part: int) -> int:
        """The number of an event of the protocol: of a thread, rising."""
        epoch, number = max(place[0] - self.base, 0), min(place[1], _LAST_EVENT)
        return (epoch << EVENT_BITS | number) << PART_BITS | min(part, _LAST_PART)

    def place(self, seq: int) -> EventId:
        """Which event of the log a number belongs to."""
        rest = seq >> PART_BITS
        return (rest >> EVENT_BITS) + self.base, rest & _LAST_EVENT

    def tail(self, place: EventId) -> int:
        """The number after all that a log holds which ends here; 0 if it holds nothing."""
        return 0 if place == START else self.seq(place, _LAST_PART)

    def gap(self, resume_at: EventId) -> tuple[int, int]:
        """The numbers of the word of a gap, and of the values that stand in for it."""
        return self.seq(resume_at, GAP), self.seq(resume_at, GAP + 1)


@dataclass(frozen=True, slots=True)
class ProtocolEvent:
    """An event of the protocol; 0 as its number says that it is in no log."""

    seq: int
    event_id: str
    method: str
    namespace: Namespace
    data: bytes
    #: In milliseconds since 1970.
    at: int
    #: The name of a custom event that has one; the node of a message.
    name: str = ""
    node: str = ""

    @property
    def channel(self) -> str:
        """What a client subscribes to, to see it."""
        if self.method == "custom" and self.name:
            return NAMED + self.name
        return "input" if self.method.startswith("input.") else self.method

    @property
    def ends_run(self) -> bool:
        """Whether it tells that a run is over."""
        is_of_run = self.method == "lifecycle" and not self.namespace
        return is_of_run and not self.data.startswith(b'{"event":"running"')

    def encode(self) -> bytes:
        """It as it goes out."""
        node = b',"node":' + dumps(self.node) if self.node else b""
        seq = b'"seq":%d,' % self.seq if self.seq else b""
        return (
            b'{"type":"event","event_id":%b,%b"method":%b,'
            b'"params":{"namespace":%b,"timestamp":%d%b,"data":%b}}'
        ) % (
            dumps(self.event_id),
            seq,
            dumps(self.method),
            dumps(self.namespace),
            self.at,
            node,
            self.data,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What a client wants to see.

    Args:
        channels: Of `CHANNELS`, and ``custom:<name>``.
        namespaces: Beginnings of namespaces, one of which must match; None for all. A segment
            without a task's id matches every task of its node.
        depth: How much deeper than such a beginning.
    """

    channels: frozenset[str]
    namespaces: tuple[Namespace, ...] | None = None
    depth: int | None = None

    def includes(self, event: ProtocolEvent) -> bool:
        """Whether an event is to be seen."""
        channel = event.channel
        if channel not in self.channels and not (
            channel.startswith(NAMED) and "custom" in self.channels
        ):
            return False
        if not self.namespaces:
            return True
        return any(self._covers(prefix, event.namespace) for prefix in self.namespaces)

    def _covers(self, prefix: Namespace, namespace: Namespace) -> bool:
        deeper = len(namespace) - len(prefix)
        if deeper < 0 or (self.depth is not None and deeper > self.depth):
            return False
        return all(
            segment in (found, found.partition(":")[0])
            for segment, found in zip(prefix, namespace, strict=False)
        )


def wanted(channels: Any, namespaces: Any = None, depth: Any = None) -> Wanted:
    """
    Read what a client asks to see.

    Raises:
        InvalidInputError: It is none.
    """
    if not isinstance(channels, list) or not channels:
        raise InvalidInputError("channels is required and must be a non-empty array")
    if len(channels) > MAX_CHANNELS:
        raise InvalidInputError(f"channels must not have more than {MAX_CHANNELS} entries")
    unknown = [one for one in channels if not _is_channel(one)]
    if unknown:
        raise InvalidInputError(
            f"channels contains unsupported entries: {', '.join(map(str, unknown))}. Allowed: "
            f"{', '.join(CHANNELS)}, or any `custom:<name>`."
        )
    if depth is not None and (type(depth) is not int or depth < 0):
        raise InvalidInputError("depth must be an integer of 0 or more")
    found = None if namespaces is None else tuple(namespace_of(one) for one in _list(namespaces))
    return Wanted(frozenset(channels), found, depth)


def namespace_of(value: Any) -> Namespace:
    """
    Read a namespace: a list of segments.

    Raises:
        InvalidInputError: It is none.
    """
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise InvalidInputError("A namespace is an array of strings")
    return tuple(value)


def since_of(value: Any) -> int:
    """
    Read where a client wants to go on from; 0 for all there is.

    Raises:
        InvalidInputError: It is no such number.
    """
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise InvalidInputError("since must be an integer of 0 or more")
    return value


def _is_channel(value: Any) -> bool:
    return isinstance(value, str) and (
        value in CHANNELS or (value.startswith(NAMED) and len(value) > len(NAMED))
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInputError("namespaces must be an array of namespaces")
    if len(value) > MAX_NAMESPACES:
        raise InvalidInputError(f"namespaces must not have more than {MAX_NAMESPACES} entries")
    return value
