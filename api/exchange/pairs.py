"""
Conversations of Langchain-Chatchat and fufan-chat-api as JSON: turns of ``query`` and ``response``.

``{"id", "name", "chat_type", "messages": [turn, …]}``, what fufan's routes answer (``data`` in place of
``messages``), or the rows of their table ``message`` themselves, those of one conversation together.
What becomes of them is what becomes of the database, see docs/existing-project.md.
"""

from collections.abc import Iterable
from datetime import UTC
from typing import Any, Final

import orjson

from api.exchange.old_sessions import session_of
from api.exchange.transcript import MAX_MESSAGES, Transcript, Utterance, checked, id_of, moment
from store.errors import InvalidInputError
from store.models import JsonObject
from store.old_rows import OldConversation, OldMessage

#: Under which of its keys a conversation has its turns.
_TURNS: Final = ("messages", "data")


def is_turn(value: Any) -> bool:
    """Whether it is a row of theirs."""
    return isinstance(value, dict) and "query" in value and "response" in value


def is_conversation(item: JsonObject) -> bool:
    """Whether it is a conversation of theirs: its first turn says so."""
    return is_turn(item) or any(_first_is_turn(item.get(name)) for name in _TURNS)


def _first_is_turn(listed: Any) -> bool:
    return isinstance(listed, list) and bool(listed) and is_turn(listed[0])


def conversation(item: JsonObject) -> Transcript:
    """
    A conversation of a file, or a turn that is all of one.

    Raises:
        InvalidInputError: It is none.
    """
    if is_turn(item):
        return _transcript({}, [item])
    name = next((name for name in _TURNS if isinstance(item.get(name), list)), None)
    if name is None:
        raise InvalidInputError("It has no turns", code="unknown_format")
    return _transcript(item, item[name])


def of_turns(turns: list[JsonObject]) -> Transcript:
    """
    The conversation of rows that follow one another.

    Raises:
        InvalidInputError: One is not as it should be.
    """
    return _transcript({}, turns)


def _transcript(about: JsonObject, turns: Iterable[Any]) -> Transcript:
    rows = [_row(turn) for turn in turns]
    if len(rows) > MAX_MESSAGES:
        raise InvalidInputError(f"It has more than {MAX_MESSAGES} messages")
    ids = {id_ for turn in turns if (id_ := turn.get("conversation_id"))}
    given = about.get("id") or next(iter(ids), None)
    if len(ids - {given}) > 0:
        raise InvalidInputError("Its turns are of several conversations")
    known = id_of(given, "The conversation's id") if given else None
    old = OldConversation(
        known or "", None, _text(about, "name"), _text(about, "chat_type"),
        _time(about), rows,
    )  # fmt: skip
    session = session_of(old, UTC)
    said: list[Utterance] = []
    for message in session.messages:
        said.append(
            Utterance(
                id=message.id, parent_id=said[-1].id if said else None, role=message.role,
                content=message.content, created_at=message.created_at, fields=message.more,
            )
        )  # fmt: skip
    utterances, head = checked(said, None)
    kept = {key: session.metadata[key] for key in ("name", "chat_type")}
    return Transcript(
        form="chatchat-json",
        id=known,
        attributes=kept,
        utterances=utterances,
        head=head,
        created_at=session.created_at,
        updated_at=session.updated_at,
    )


def _row(turn: Any) -> OldMessage:
    if not is_turn(turn):
        raise InvalidInputError("A turn has no query, or no response")
    meta, score = turn.get("meta_data"), turn.get("feedback_score")
    return OldMessage(
        id=id_of(turn.get("id"), "The id of a turn"),
        chat_type=_text(turn, "chat_type") or "",
        query=_text(turn, "query") or "",
        response=_text(turn, "response") or "",
        # Opaque, as a text or as JSON.
        meta_data=meta if isinstance(meta, str | None) else orjson.dumps(meta).decode(),
        feedback_score=score if isinstance(score, int) else None,
        feedback_reason=_text(turn, "feedback_reason") or "",
        create_time=_time(turn),
    )


def _text(about: JsonObject, name: str) -> str | None:
    value = about.get(name)
    return value if isinstance(value, str) else None


def _time(about: JsonObject) -> str | None:
    found = moment(about.get("create_time"))
    return None if found is None else found.isoformat()
