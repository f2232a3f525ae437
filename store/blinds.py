"""What can be asked of a sealed JSON value: marks that say that two are equal, and nothing else."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from store.cipher import Cipher
from store.json import dump_json

#: Where a sealed value has its marks.
ASKED: Final = "$blind"
_PURPOSE: Final = "item"
_LETTERS: Final = 24
#: From here on whole numbers are floats in JSON too.
_BEYOND: Final = 2.0**63


def sealed(cipher: Cipher, value: Any, place: bytes) -> Any:
    """
    A value as it is kept: sealed, and beside it the marks of what is at each of its paths.

    Whoever reads the database sees that two values have the same at the same path, and no more of it.
    """
    asked = [cipher.blind(text, _PURPOSE).hex()[:_LETTERS] for text in _questions((), value)]
    return cipher.seal_json(value, place, shown={ASKED: asked})


def is_equal(cipher: Cipher, path: Sequence[str], value: Any) -> list[str]:
    """The marks, by each of the keys, of values that have this, not null, at a path."""
    return _marks(cipher, _question("=", path, value))


def is_there(cipher: Cipher, path: Sequence[str]) -> list[str]:
    """The same of those that have anything but null there."""
    return _marks(cipher, _question("is", path))


def is_object(cipher: Cipher, path: Sequence[str]) -> list[str]:
    """The same of those that have an object there."""
    return _marks(cipher, _question("object", path))


def _marks(cipher: Cipher, question: str) -> list[str]:
    return [blind.hex()[:_LETTERS] for blind in cipher.blinds(question, _PURPOSE)]


def _questions(path: tuple[str, ...], value: Any) -> Iterator[str]:
    if value is None:
        return
    if path:
        yield _question("is", path)
        yield _question("=", path, value)
    if isinstance(value, dict):
        if path:
            yield _question("object", path)
        for key, item in value.items():
            yield from _questions((*path, str(key)), item)


def _question(kind: str, path: Sequence[str], value: Any = None) -> str:
    return dump_json([kind, [*path], _plain(value)], sort_keys=True).decode()


def _plain(value: Any) -> Any:
    """Equal numbers alike, as jsonb has them."""
    if isinstance(value, float) and value.is_integer() and -_BEYOND <= value < 2 * _BEYOND:
        return int(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
