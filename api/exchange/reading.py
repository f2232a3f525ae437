"""
Files of conversations, read a piece at a time: what is in memory is one conversation at the most.

A file is JSON: an array of conversations, or one after the other (JSONL, or a single one). What one
conversation may be is bounded; one beyond it is passed over, and the next is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import ijson

from store.errors import InvalidInputError, TooLargeError

#: A conversation at the most: its texts, and so much for each other value in it.
MAX_ITEM_BYTES: Final = 64 * 2**20
VALUE_BYTES: Final = 32
MAX_DEPTH: Final = 60
#: A text at the most. The parser copies what it has of one with each piece that it reads: with many
#: small pieces of a long text that is most of the work.
MAX_TEXT_BYTES: Final = 16 * 2**20
_READ_BYTES: Final = 512 * 1024
_OPENS, _CLOSES = frozenset({"start_map", "start_array"}), frozenset({"end_map", "end_array"})


@dataclass(frozen=True, slots=True)
class Item:
    """A value of a file, or why it was passed over."""

    number: int
    value: Any = None
    fault: InvalidInputError | TooLargeError | None = None


class _Bounded:
    """Reads a file for a parser, and stops it in a text that is too long."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.unanswered = 0

    def read(self, size: int = -1) -> bytes:
        if self.unanswered > MAX_TEXT_BYTES:
            raise TooLargeError(f"The file has a text of more than {MAX_TEXT_BYTES} bytes")
        content = self._file.read(size)
        self.unanswered += len(content)
        return content


def values(file: BinaryIO) -> Iterator[Item]:
    """
    The items of a file, in their order.

    Raises:
        InvalidInputError: It is no JSON, from some place on; what came before it was read.
        TooLargeError: One text in it is beyond all bounds.
    """
    bounded = _Bounded(file)
    events = ijson.basic_parse(bounded, buf_size=_READ_BYTES, multiple_values=True, use_float=True)
    try:
        number, is_listed = 0, False
        for event, value in events:
            bounded.unanswered = 0
            if event == "start_array" and not is_listed:
                is_listed = True
            elif event == "end_array" and is_listed:
                is_listed = False
            else:
                yield _item(number, event, value, events, bounded)
                number += 1
    except (ijson.JSONError, UnicodeDecodeError, ValueError) as exc:
        raise InvalidInputError("The file is no JSON", code="invalid_json") from exc


def _item(
    number: int, event: str, value: Any, events: Iterator[tuple[str, Any]], bounded: _Bounded
) -> Item:
    if event not in _OPENS:
        return Item(number, value)
    building = _Building(event)
    fault: InvalidInputError | TooLargeError | None = None
    depth, size = 1, 0
    while depth:
        event, value = next(events)
        bounded.unanswered = 0
        depth += (event in _OPENS) - (event in _CLOSES)
        if fault is not None:
            continue
        size += VALUE_BYTES + (len(value) if isinstance(value, str) else 0)
        if depth > MAX_DEPTH:
            fault = InvalidInputError(f"It is nested deeper than {MAX_DEPTH} levels")
        elif size > MAX_ITEM_BYTES:
            fault = TooLargeError(f"It is larger than {MAX_ITEM_BYTES} bytes")
        else:
            building.add(event, value)
    return Item(number, None, fault) if fault else Item(number, building.whole)


class _Building:
    """A value that is made of its events."""

    def __init__(self, event: str) -> None:
        self.whole: Any = {} if event == "start_map" else []
        self._open: list[Any] = [self.whole]
        self._keys: list[str] = []

    def add(self, event: str, value: Any) -> None:
        """Take the next event."""
        if event == "map_key":
            self._keys.append(value)
        elif event in _CLOSES:
            self._open.pop()
        else:
            child = {} if event == "start_map" else [] if event == "start_array" else value
            into = self._open[-1]
            if isinstance(into, dict):
                into[self._keys.pop()] = child
            else:
                into.append(child)
            if event in _OPENS:
                self._open.append(child)
