"""
The server's own form: a session's facts, then its messages.

As JSON a document ``{"format": "threadwell", "version": 1, "session", "messages"}``; as JSONL a line
of the session, ``"type": "session"``, and one of each message, ``"type": "message"``. Files of many
sessions are an array of the one, or the other one after another.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from api.exchange.transcript import (
    MAX_MESSAGES,
    Transcript,
    Utterance,
    checked,
    id_of,
    moment,
    name_of,
    role_of,
    text_of,
)
from store.errors import InvalidInputError
from store.models import JsonObject
from store.projection import clean

FORMAT, VERSION = "threadwell", 1
_ATTRIBUTES = ("user_id", "chat_type", "status", "graph_id")
#: What of `meta_data` a message is made of again.
_FIELDS: Final = (
    "name", "tool_calls", "invalid_tool_calls", "tool_call_id", "status", "usage_metadata",
    "response_metadata", "additional_kwargs",
)  # fmt: skip


def document(session: JsonObject, messages: Iterable[Any]) -> Transcript:
    """
    A session of a file.

    Raises:
        InvalidInputError: It is none.
    """
    metadata = session.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InvalidInputError("metadata is no object")
    version = session.get("version", VERSION)
    if version != VERSION:
        raise InvalidInputError(f"It is of version {version!r}, which is not known")
    said = list(_utterances(messages))
    utterances, head = checked(said, _head(session, said))
    given = session.get("id")
    return Transcript(
        form="native",
        id=id_of(given, "The session's id") if given is not None else None,
        attributes={
            "name": name_of(session.get("name")),
            **{key: session[key] for key in _ATTRIBUTES if session.get(key) is not None},
            "metadata": metadata,
        },
        utterances=utterances,
        head=head,
        created_at=moment(session.get("create_time")),
        updated_at=moment(session.get("update_time")),
    )


def _head(session: JsonObject, said: list[Utterance]) -> str | None:
    told = session.get("head_message_id")
    return told if isinstance(told, str) else said[-1].id if said else None


def _utterances(messages: Iterable[Any]) -> Iterator[Utterance]:
    before: str | None = None
    for number, message in enumerate(messages):
        if number == MAX_MESSAGES:
            raise InvalidInputError(f"It has more than {MAX_MESSAGES} messages")
        if not isinstance(message, dict):
            raise InvalidInputError("A message is no object")
        parent = message.get("parent_id", before)
        said = _utterance(message, parent)
        before = said.id
        yield said


def _utterance(message: JsonObject, parent: Any) -> Utterance:
    meta = message.get("meta_data") or {}
    if not isinstance(meta, dict):
        raise InvalidInputError("meta_data is no object")
    blocks = meta.get("content")
    return Utterance(
        id=id_of(message.get("id"), "The id of a message"),
        parent_id=None if parent is None else id_of(parent, "The id of a parent"),
        role=role_of(message.get("role")),
        content=blocks
        if isinstance(blocks, list)
        else text_of(message.get("content"), "The content of a message"),
        created_at=moment(message.get("create_time")),
        fields={name: meta[name] for name in _FIELDS if meta.get(name) is not None},
        is_in_context=message.get("in_context") is not False,
    )


def session_line(about: JsonObject) -> JsonObject:
    """What a file begins a session with."""
    return {"type": "session", "format": FORMAT, "version": VERSION, **about}


def without_time(meta_data: JsonObject) -> JsonObject:
    """What is kept of a message, without the time that it has of its own."""
    about = meta_data.get("additional_kwargs")
    if not isinstance(about, dict) or "created_at" not in about:
        return meta_data
    rest = {key: value for key, value in about.items() if key != "created_at"}
    others = {key: value for key, value in meta_data.items() if key != "additional_kwargs"}
    return {**others, "additional_kwargs": rest} if rest else others


def cleaned(value: Any) -> Any:
    """A JSON value whose texts PostgreSQL can hold."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    return value
