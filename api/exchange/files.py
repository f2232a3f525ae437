"""Which form a file is of, and the conversations in it, one after another."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, Final, Literal

from api.exchange import forms, markdown, native, pairs, reading
from api.exchange.reading import MAX_ITEM_BYTES, Item
from api.exchange.transcript import MAX_MESSAGES, Transcript
from store.errors import Error, InvalidInputError, TooLargeError
from store.models import JsonObject

Form = Literal[
    "auto", "native", "chatgpt", "openwebui", "openai", "sharegpt", "chatchat-json", "markdown",
]  # fmt: skip

_READERS: Final[dict[str, Callable[[JsonObject], Transcript]]] = {
    "chatgpt": forms.chatgpt,
    "openwebui": forms.openwebui,
    "openai": forms.openai,
    "sharegpt": forms.sharegpt,
    "chatchat-json": pairs.conversation,
}
_BOM = b"\xef\xbb\xbf"
_SNIFFED_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """A conversation of a file, or why there is none in its place."""

    number: int
    transcript: Transcript | None = None
    fault: Error | None = None
    #: Of the file, if it could be read that far.
    id: str | None = None


def entries(file: BinaryIO, form: Form = "auto") -> Iterator[Entry]:
    """
    The conversations of a file, in their order, in bounded memory.

    What is wrong with one of them is told in its place; what is wrong with the file ends it.

    Args:
        file: At its beginning.
        form: What it is said to be; ``auto`` finds out, for each conversation.
    """
    entry = None
    number = 0
    try:
        for entry in _entries(file, form):
            number = entry.number + 1
            yield entry
    except (InvalidInputError, TooLargeError) as exc:
        yield Entry(number, fault=exc)
        return
    if entry is None:
        yield Entry(0, fault=InvalidInputError("The file is empty", code="unknown_format"))


def _entries(file: BinaryIO, form: Form) -> Iterator[Entry]:
    begins = _beginning(file)
    is_json = begins[:1] in (b"{", b"[")
    if is_json and form != "markdown":
        yield from _of_items(reading.values(file), form)
    elif begins and form in ("auto", "markdown", "native"):
        yield from _of_markdown(file)
    elif begins:
        raise InvalidInputError("The file is no JSON", code="invalid_json")


def _beginning(file: BinaryIO) -> bytes:
    """What a file begins with, but for empty space; it is at its first byte then."""
    start = file.read(_SNIFFED_BYTES)
    skipped = len(_BOM) if start.startswith(_BOM) else 0
    file.seek(skipped, os.SEEK_SET)
    return start[skipped:].lstrip()


def _of_markdown(file: BinaryIO) -> Iterator[Entry]:
    found = markdown.documents(file)
    first = next(found, None)
    if isinstance(first, Transcript):
        yield Entry(0, first, id=first.id)
        return

    def ours() -> Iterator[Item]:
        yield Item(0, first)
        for number, value in enumerate(found, 1):
            yield Item(number, value)

    yield from _of_items(ours(), "native")


@dataclass(slots=True)
class _Session:
    """A session of a file of lines, or of rows, as far as it was read."""

    about: JsonObject
    messages: list[Any] = field(default_factory=list)
    size: int = 0
    fault: Error | None = None
    #: Its messages are turns of a table of another project.
    is_of_turns: bool = False


def _of_items(items: Iterable[Item], form: Form) -> Iterator[Entry]:
    number = 0
    session: _Session | None = None
    # Of those whose rows have ended.
    ended: set[str] = set()
    for item in items:
        value = native.cleaned(item.value)
        if isinstance(value, dict) and item.fault is None:
            if session is not None and _belongs(session, value):
                _add(session, value)
                continue
            if begun := _begun(value, form, ended):
                if session is not None:
                    yield _read(number, partial(_assembled, session), session.about)
                    number += 1
                session = begun
                continue
        if session is not None:
            yield _read(number, partial(_assembled, session), session.about)
            number, session = number + 1, None
        yield _entry(number, item, value, form)
        number += 1
    if session is not None:
        yield _read(number, partial(_assembled, session), session.about)


def _begun(value: JsonObject, form: Form, ended: set[str]) -> _Session | None:
    """A session that a value is the first of."""
    if value.get("type") == "session":
        return _Session(value)
    if form not in ("auto", "chatchat-json") or not pairs.is_turn(value):
        return None
    id_ = value.get("conversation_id")
    session = _Session({"conversation_id": id_}, is_of_turns=True)
    if id_ is not None and not isinstance(id_, str):
        session.fault = InvalidInputError("The conversation_id of a turn must be a string")
    elif id_ in ended:
        # Of what was read before only a part would be known.
        session.fault = InvalidInputError(
            "Its turns are in several places of the file: sort them by conversation_id"
        )
    elif id_:
        ended.add(id_)
    _add(session, value)
    return session


def _belongs(session: _Session, value: JsonObject) -> bool:
    if session.is_of_turns:
        same = value.get("conversation_id") == session.about["conversation_id"]
        return same and pairs.is_turn(value)
    return value.get("type") == "message"


def _add(session: _Session, message: JsonObject) -> None:
    texts = (message.get(name) for name in ("content", "query", "response"))
    session.size += sum(len(text) for text in texts if isinstance(text, str))
    if len(session.messages) >= MAX_MESSAGES or session.size > MAX_ITEM_BYTES:
        session.fault = TooLargeError("It has too many messages, or too long ones")
        session.messages.clear()
    elif session.fault is None:
        session.messages.append(message)


def _assembled(session: _Session) -> Transcript:
    if session.fault is not None:
        raise session.fault
    if session.is_of_turns:
        return pairs.of_turns(session.messages)
    return native.document(session.about, session.messages)


def _entry(number: int, item: Item, value: Any, form: Form) -> Entry:
    if item.fault is not None:
        return Entry(number, fault=item.fault)
    found = forms.recognised(value) if form == "auto" else form
    if found is None or not isinstance(value, dict):
        fault = InvalidInputError("It has no form that is known", code="unknown_format")
        return Entry(number, fault=fault)
    if found == "native":
        return _read(number, partial(_document, value), value.get("session"))
    return _read(number, partial(_READERS[found], value), value)


def _document(value: JsonObject) -> Transcript:
    session, messages = value.get("session"), value.get("messages")
    if not isinstance(session, dict) or not isinstance(messages, list):
        raise InvalidInputError("It has no session, or no messages", code="unknown_format")
    return native.document({**session, "version": value.get("version", 1)}, messages)


def _read(number: int, read: Callable[[], Transcript], about: Any) -> Entry:
    given = about.get("id") or about.get("conversation_id") if isinstance(about, dict) else None
    id_ = given[:255] if isinstance(given, str) else None
    try:
        return Entry(number, read(), id=id_)
    except (InvalidInputError, TooLargeError) as exc:
        return Entry(number, fault=exc, id=id_)
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError):
        # A form that nobody has seen: it is not read, and the next one is.
        fault = InvalidInputError("It is not as its form has it", code="unknown_format")
        return Entry(number, fault=fault, id=id_)
