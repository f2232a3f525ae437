"""
Events as they lie in Redis: an entry of a stream holds some that follow each other.

Its id is that of its last event. What all of them end with is there once: a token's event is a few
letters and then two kilobytes that each of the others repeats. Not a compressor: those let go of
the interpreter's lock, and a process whose graphs compute waits milliseconds to have it back.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import orjson

from store.cipher import Cipher, at, in_the_clear
from store.rings import Event, EventId, follows

#: What the events of an entry hold together at the most, unless it is one event.
ENTRY_BYTES = 64 << 10

#: The one field of an entry that is sealed.
_SEALED = b"x"

#: From what size on an end that events share is worth being kept apart.
SHARED_FROM_BYTES = 64


def portions(events: Sequence[Event]) -> list[list[Event]]:
    """The events in the portions that are kept together: of one run, none missing between."""
    found: list[list[Event]] = []
    size = 0
    for event in events:
        size += len(event.data)
        if found and size <= ENTRY_BYTES and _joins(found[-1][-1], event):
            found[-1].append(event)
        else:
            found.append([event])
            size = len(event.data)
    return found


def fields(events: Sequence[Event]) -> tuple[str | bytes, ...]:
    """The fields of the entry of a portion, and their values, in turns."""
    shared = _shared_end(events)
    index, rest = [], []
    for event in events:
        shares = bool(shared) and event.data.endswith(shared)
        rest.append(event.data[: -len(shared)] if shares else event.data)
        index.append((event.name, len(rest[-1]), shares))
    kept: list[str | bytes] = ["r", events[-1].run_id, "e", orjson.dumps(index)]
    kept += ["d", b"".join(rest)]
    if shared:
        kept += ["s", shared]
    if events[-1].at:
        kept += ["t", orjson.dumps([event.at for event in events])]
    return tuple(kept)


def sealed(cipher: Cipher, key: str, events: Sequence[Event]) -> tuple[str | bytes, ...]:
    """The same, sealed for the place that the entry will have in a stream: all in one field."""
    kept = fields(events)
    names, values = kept[::2], [v.encode() if isinstance(v, str) else v for v in kept[1::2]]
    head = orjson.dumps([*zip(names, map(len, values), strict=True)])
    # There is no line's end in JSON.
    whole = b"".join([head, b"\n", *values])
    return _SEALED, cipher.seal(whole, at("events", key, events[-1].id))


def opened(cipher: Cipher, key: str, last: EventId, kept: Mapping[bytes, bytes]) -> list[Event]:
    """
    The events of an entry that `sealed` made; none of one that wakes a reader.

    Raises:
        UnreadableError: It is not sealed, or not for this place, or by a key that is not known.
    """
    if b"w" in kept:
        return []
    if _SEALED not in kept:  # of before there was a key
        raise in_the_clear()
    place = at("events", key, f"{last[0]}-{last[1]}")
    head, _, rest = cipher.open(kept[_SEALED], place).partition(b"\n")
    fields_, start = {}, 0
    for name, size in orjson.loads(head):
        fields_[name.encode()] = rest[start : start + size]
        start += size
    return events_of(last, fields_)


def events_of(last: EventId, kept: Mapping[bytes, bytes]) -> list[Event]:
    """The events of an entry; none of one that has none, as those that wake a reader."""
    index = orjson.loads(kept.get(b"e", b"[]"))
    run_id, data, shared = kept.get(b"r", b"").decode(), kept.get(b"d", b""), kept.get(b"s", b"")
    times = orjson.loads(kept[b"t"]) if b"t" in kept else [0] * len(index)
    epoch, seq = last
    events, start = [], 0
    for number, ((name, size, shares), logged_at) in enumerate(
        zip(index, times, strict=True), seq - len(index) + 1
    ):
        own = data[start : start + size]
        events.append(
            Event(epoch, number, run_id, name, own + shared if shares else own, logged_at)
        )
        start += size
    return events


def _joins(one: Event, other: Event) -> bool:
    return (
        one.run_id == other.run_id
        and one.epoch == other.epoch
        and follows(one.position, other.position)
    )


def _shared_end(events: Sequence[Event]) -> bytes:
    """What most of the events end with; nothing if that is little."""
    shared = b""
    for one, other in pairwise(events):
        if not shared:
            shared = _common_end(one.data, other.data)
        elif not other.data.endswith(shared):
            # The letters that two tokens happen to share count for less than what all do.
            common = _common_end(shared, other.data)
            shared = common if 2 * len(common) > len(shared) else shared
        if len(shared) < SHARED_FROM_BYTES:
            shared = b""
    return shared


def _common_end(one: bytes, other: bytes) -> bytes:
    least, most = 0, min(len(one), len(other))
    if not one.endswith(other[-SHARED_FROM_BYTES:]):
        most = min(most, SHARED_FROM_BYTES)
    while least < most:
        size = (least + most + 1) // 2
        if one.endswith(other[-size:]):
            least = size
        else:
            most = size - 1
    return other[-least:] if least else b""
