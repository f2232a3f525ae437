"""
A list of messages that is encoded message by message, each only once.

A conversation grows at its end, yet a checkpoint holds all of it: encoding and decoding the whole
list on every step is most of what a long thread costs. A message is known by its identity, and its
bytes are used again only if its attributes are equal to what they were when it was encoded: a node
may have changed it in place.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any, Final

#: Whose attributes alone make their bytes.
_MODULES: Final = "langchain_core.messages."
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
#: What a message takes in memory beside its bytes, about: the object and the copy of its attributes.
_MESSAGE_BYTES: Final = 2048

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
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
    ids: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return sum(map(len, self.blobs)) + _MESSAGE_BYTES * len(self.blobs)

    def blob(self) -> bytes:
        """The whole list as MessagePack, as the serialiser would make it."""
        return _header(len(self.blobs)) + b"".join(self.blobs)

    def is_unchanged(self) -> bool:
        """Whether no message was changed in place since it was encoded."""
        # Loops of C: a step of a long conversation goes through all of its messages.
        return [m.__dict__ for m in self.messages] == self.states and not any(
            [m.__pydantic_extra__ for m in self.messages]  # noqa: C419
        )

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
        return replace(self, messages=messages, states=states, decoded=len(messages))

    def extended(self, messages: list[Any], encode: Encode) -> "Packed | None":
        """The list with messages that were decoded at its end; None if that is not all they do."""
        new = {message.id for message in messages if message.type != "remove"}
        if len(new) < len(messages) or not all(new) or not self.ids.isdisjoint(new):
            return None
        self.ids.update(new)
        return Packed(
            self.messages + messages,
            self.states + [_state(message) for message in messages],
            self.blobs + [encode(message) for message in messages],
            len(self.messages) + len(messages),
            len(messages),
            self.ids,
        )


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
    return Packed(list(messages), states, blobs, len(messages), ids={m.id for m in messages})


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
        before.ids.update(ids)
        return Packed(
            list(value),
            before.states + [_state(message) for message in new],
            before.blobs + [encode(message) for message in new],
            before.decoded,
            len(new) if are_new else None,
            before.ids,
        )
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
    return Packed(list(value), states, blobs, 0, ids={message.id for message in value})


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
