"""Values as the bytes of blobs: of a list of messages each is encoded, and decoded, only once."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from store.heads import Blob
from store.packed import Packed, pack

_Result = TypeVar("_Result")
#: Above this, (de)serialising leaves the event loop; below it, a thread costs more than it gives.
INLINE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Codec:
    """LangGraph's serialiser, and what is spared with lists of messages."""

    serde: SerializerProtocol

    def encode(self, message: object) -> bytes:
        """The MessagePack of one message."""
        # As the only item of a list, whose header is one byte.
        return self.serde.dumps_typed([message])[1][1:]

    def decode(self, blob: bytes) -> object:
        """The message that `encode` was given."""
        return self.serde.loads_typed(("msgpack", b"\x91" + blob))[0]

    def value(self, type_: str, blob: bytes) -> object:
        """The value of a blob; that of a snapshot of a DeltaChannel is the channel's."""
        return materialised(self.serde.loads_typed((type_, blob)))

    async def dump(
        self, values: Mapping[str, Any], before: Mapping[str, Blob], *, packs: bool
    ) -> dict[str, tuple[str, bytes | Packed]]:
        """
        The type and bytes of each value; of a list of messages only what is new is encoded.

        Args:
            before: The blobs of the same channels in the checkpoint before.
            packs: Whether the next checkpoint is to profit from this one.
        """
        found: dict[str, tuple[str, bytes | Packed]] = {}
        whole = {}
        for name, value in values.items():
            known = before[name][2] if name in before else None
            packed = pack(value, known, self.encode) if isinstance(known, Packed) else None
            if packed is None:
                whole[name] = value
            else:
                found[name] = "msgpack", packed
        return found | await off_loop(
            list(whole.values()), lambda: {n: self._dumped(v, packs) for n, v in whole.items()}
        )

    def _dumped(self, value: object, packs: bool) -> tuple[str, bytes | Packed]:
        packed = pack(value, None, self.encode) if packs else None
        return self.serde.dumps_typed(value) if packed is None else ("msgpack", packed)


async def off_loop(values: Sequence[Any], work: Callable[[], _Result]) -> _Result:
    """Work that takes as long as the values are large; in a thread if it is worth one."""
    return await asyncio.to_thread(work) if _exceeds(values, INLINE_BYTES) else work()


def materialised(value: object) -> object:
    """A channel's value, of a snapshot too."""
    return value.value if isinstance(value, _DeltaSnapshot) else value


def as_bytes(blob: bytes | Packed) -> bytes:
    """A blob as it is kept."""
    return blob.blob() if isinstance(blob, Packed) else blob


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
