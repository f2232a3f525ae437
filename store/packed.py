"""
A list of messages that is encoded message by message, each only once.

A conversation grows at its end, yet a checkpoint holds all of it: encoding and decoding the whole
list on every step is most of what a long thread costs. A message is known by its identity, and its
bytes are used again only if its attributes are equal to what they were when it was encoded: a node
may have changed it in place.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from gc import get_referents
from itertools import chain
from operator import is_
from typing import Any, Final

#: Whose attributes alone make their bytes.
_MODULES: Final = "langchain_core.messages."
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
#: What a message takes in memory beside its bytes, about: the object and the copy of its attributes.
_MESSAGE_BYTES: Final = 2048
#: Of how many parts a list is watched; each step of a conversation adds one.
_MOST_WATCHES: Final = 32

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class _Watch:
    """
    Messages of which a change in place is seen, without comparing each with the copy of its attributes.

    That is half of what a step of a long conversation costs here. A value that was put in place of
    another is not the same object, and what can be changed itself is compared. What is not the same
    may be equal still, and then counts as unchanged.

    Attributes:
        referents: What the messages refer to: their attributes, and those that no class declares.
        values: What the attributes refer to; `empty` of them, and `filled` that equal `copies`, are
            what can be changed.
    """

    messages: Sequence[Any]
    attributes: Sequence[dict[str, Any]]
    referents: list[Any]
    values: list[Any]
    empty: Sequence[Any]
    filled: list[Any]
    copies: list[Any]

    @staticmethod
    def of(messages: Sequence[Any], states: Sequence[dict[str, Any]]) -> "_Watch":
        """Watch messages whose attributes are as they were copied."""
        attributes = [message.__dict__ for message in messages]
        empty, filled, copies = [], [], []
        for message, state in zip(messages, states, strict=True):
            empty.append(message.__pydantic_extra__)
            for key, value in message.__dict__.items():
                if type(value) not in _SCALARS and value:
                    filled.append(value)
                    copies.append(state[key])
                elif type(value) not in _SCALARS:
                    empty.append(value)
        return _Watch(
            messages,
            attributes,
            get_referents(*messages),
            get_referents(*attributes),
            empty,
            filled,
            copies,
        )

    @staticmethod
    def merged(parts: Sequence["_Watch"]) -> "_Watch":
        """Watch the messages of some together."""
        return _Watch(
            list(chain.from_iterable(part.messages for part in parts)),
            list(chain.from_iterable(part.attributes for part in parts)),
            list(chain.from_iterable(part.referents for part in parts)),
            list(chain.from_iterable(part.values for part in parts)),
            list(chain.from_iterable(part.empty for part in parts)),
            list(chain.from_iterable(part.filled for part in parts)),
            list(chain.from_iterable(part.copies for part in parts)),
        )

    def is_unchanged(self) -> bool:
        # Loops of C: a step of a long conversation goes through all of its messages.
        return (
            get_referents(*self.messages) == self.referents
            and get_referents(*self.attributes) == self.values
            and not any(self.empty)
            and self.filled == self.copies
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """
    Messages with the MessagePack of each, and the attributes that it was made of.

    Attributes:
        decoded: How many from the beginning were decoded from their bytes; the others may differ
            from what a reader would get.
        appended: How many were added, with new ids, at the end of the list that it was packed
            after; None if that had other changes.
    """

    messages: list[Any]
    states: list[dict[str, Any]]
    blobs: list[bytes]
    decoded: int
    appended: int | None = None
    #: Of its messages and of some that were in the lists before it; shared with those.
    ids: set[str]
    watches: tuple[_Watch, ...]
    #: Of `blobs`.
    byte_count: int

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return self.byte_count + _MESSAGE_BYTES * len(self.blobs)

    def blob(self) -> bytes:
        """The whole list as MessagePack, as the serialiser would make it."""
        return b"".join([_header(len(self.blobs)), *self.blobs])

    def is_unchanged(self) -> bool:
        """Whether no message was changed in place since it was encoded."""
        return all(watch.is_unchanged() for watch in self.watches)

    @property
    def has_ids(self) -> bool:
        """Whether each message has one."""
        return self.ids.isdisjoint((None, ""))

    def is_equal(self, messages: list[Any]) -> bool:
        """Whether the messages are the same, be they other objects."""
        return [m.__dict__ for m in messages] == self.states

    def restored(self, decode: Decode) -> "Packed":
        """The messages as a reader of the database would get them."""
        known = self.decoded if self.is_unchanged() else 0
        if known == len(self.messages):
            return self
        messages = self.messages[:known] + [decode(blob) for blob in self.blobs[known:]]
        states = self.states[:known] + [_state(message) for message in messages[known:]]
        watches, place = [], 0
        for watch in self.watches:
            if place + len(watch.messages) > known:
                break
            watches.append(watch)
            place += len(watch.messages)
        return replace(
            self,
            messages=messages,
            states=states,
            decoded=len(messages),
            watches=_watched(watches, messages[place:], states[place:]),
        )

    def extended(self, messages: list[Any], encode: Encode) -> "Packed | None":
        """The list with messages that were decoded at its end; None if that is not all they do."""
        new = {message.id for message in messages if message.type != "remove"}
        if len(new) < len(messages) or not all(new) or not self.ids.isdisjoint(new):
            return None
        try:
            longer = _followed(self, self.messages + messages, messages, encode)
        except _NotPlainError:
            return None
        self.ids.update(new)
        return replace(longer, decoded=len(longer.messages), appended=len(messages))


def pack(
    value: object, before: Packed | None, encode: Encode, *, is_decoded: bool = False
) -> Packed | None:
    """
    Encode what is new in a list of messages, or has changed; None if it holds anything else.

    Args:
        before: A list that it may have messages in common with.
        encode: The MessagePack of one message.
        is_decoded: The messages were read from a database, all of them.
    """
    if not isinstance(value, list) or not are_messages(value):
        return None
    try:
        packed = _pack(value, before, encode)
    except _NotPlainError:
        return None
    return replace(packed, decoded=len(value)) if is_decoded else packed


def unpack(blob: bytes, messages: object) -> Packed | None:
    """What a list was decoded from and the list itself, taken apart; None if it cannot be."""
    if not isinstance(messages, list) or not are_messages(messages):
        return None
    blobs = _split(blob)
    if len(blobs) != len(messages):
        return None
    try:
        states = [_state(message) for message in messages]
    except _NotPlainError:
        return None
    return _packed(list(messages), states, blobs, decoded=len(messages))


def are_messages(value: list[Any]) -> bool:
    """Whether a list holds LangChain's own messages and nothing else."""
    return all(kind.__module__.startswith(_MODULES) for kind in set(map(type, value)))


class _NotPlainError(Exception):
    """A message has attributes in which a change could go unnoticed."""


def _pack(value: list[Any], before: Packed | None, encode: Encode) -> Packed:
    if before is not None and _continues(value, before):
        new = value[len(before.messages) :]
        ids = {message.id for message in new}
        are_new = len(ids) == len(new) and all(ids) and before.ids.isdisjoint(ids)
        packed = _followed(before, list(value), new, encode)
        before.ids.update(ids)
        return replace(packed, appended=len(new) if are_new else None)
    places = {} if before is None else {id(m): place for place, m in enumerate(before.messages)}
    states, blobs = [], []
    for message in value:
        place = places.get(id(message))
        if before is not None and place is not None and _is_as(message, before.states[place]):
            states.append(before.states[place])
            blobs.append(before.blobs[place])
        else:
            states.append(_state(message))
            blobs.append(encode(message))
    return _packed(list(value), states, blobs, decoded=0)


def _packed(
    messages: list[Any], states: list[dict[str, Any]], blobs: list[bytes], *, decoded: int
) -> Packed:
    return Packed(
        messages=messages,
        states=states,
        blobs=blobs,
        decoded=decoded,
        ids={message.id for message in messages},
        watches=_watched((), messages, states),
        byte_count=sum(map(len, blobs)),
    )


def _followed(before: Packed, messages: list[Any], new: list[Any], encode: Encode) -> Packed:
    """A list with some messages more at its end; `messages` are all of them."""
    states = [_state(message) for message in new]
    blobs = [encode(message) for message in new]
    return replace(
        before,
        messages=messages,
        states=before.states + states,
        blobs=before.blobs + blobs,
        watches=_watched(before.watches, new, states),
        byte_count=before.byte_count + sum(map(len, blobs)),
    )


def _watched(
    before: Sequence[_Watch], new: list[Any], states: list[dict[str, Any]]
) -> tuple[_Watch, ...]:
    """What watches some messages more."""
    if not new:
        return tuple(before)
    if len(before) >= _MOST_WATCHES:
        before = (_Watch.merged(before),)
    return (*before, _Watch.of(new, states))


def _continues(value: list[Any], before: Packed) -> bool:
    return (
        len(value) >= len(before.messages)
        and all(map(is_, before.messages, value))
        and before.is_unchanged()
    )


def _is_as(message: Any, state: dict[str, Any]) -> bool:
    return message.__dict__ == state and not message.__pydantic_extra__


def _state(message: Any) -> dict[str, Any]:
    """A copy of what a message's bytes are made of."""
    if message.__pydantic_extra__:
        raise _NotPlainError
    return {key: _copied(value) for key, value in message.__dict__.items()}


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    if kind is list:
        return [_copied(item) for item in value]
    raise _NotPlainError


def _header(length: int) -> bytes:
    if length < 16:
        return bytes((0x90 | length,))
    return struct.pack(">BH", 0xDC, length) if length < 2**16 else struct.pack(">BI", 0xDD, length)


def _split(blob: bytes) -> list[bytes]:
    """The items of a MessagePack array of extension types; none if it is anything else."""
    at = {0xDC: 3, 0xDD: 5}.get(blob[0], 1)
    items = []
    while at < len(blob):
        # How many bytes tell the length; another one tells the type.
        width = {0xC7: 1, 0xC8: 2, 0xC9: 4}.get(blob[at])
        if width is None:
            return []
        end = at + 2 + width + int.from_bytes(blob[at + 1 : at + 1 + width])
        items.append(blob[at:end])
        at = end
    return items
