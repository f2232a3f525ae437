"""JSON as PostgreSQL keeps it."""

import re
from typing import Any, Final

import orjson

from store.errors import InvalidInputError

# A NUL written as JSON, unless its backslash is itself escaped: `\\u0000` is a user's own text.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


_IN_ORDER: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS


def dump_json(value: Any, *, in_order: bool = False) -> bytes:
    """
    JSON for a ``jsonb`` column.

    Args:
        in_order: Of its keys, so that equal values have equal texts.

    Raises:
        InvalidInputError: The value has something that JSON or PostgreSQL cannot hold.
    """
    try:
        text = orjson.dumps(value, option=_IN_ORDER if in_order else orjson.OPT_NON_STR_KEYS)
    except TypeError as exc:
        raise InvalidInputError(f"Not a JSON value: {exc}") from exc
    return without_nul(text)


def without_nul(text: bytes) -> bytes:
    """JSON text with U+FFFD for NUL, which jsonb has no place for; the reference does the same."""
    return _NUL.sub(rb"\1\\ufffd", text) if b"\\u0000" in text else text
