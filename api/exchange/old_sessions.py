"""
What becomes of the conversations of an old Langchain-Chatchat or fufan-chat-api.

What their tables really contain, and what is made of it, docs/existing-project.md says.
"""

from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import Final
from uuid import UUID, uuid5

import orjson

from graph.imports import ImportedMessage, ImportedSession
from store.models import JsonObject
from store.old_rows import OldConversation, OldMessage, question_id

#: What ids of sessions are made with that were none, and those of what was of no conversation.
_SESSIONS: Final = UUID("6a9f0f0e-52d0-4a56-9c55-2b1f8c9a7d10")
#: Names that mean none.
UNNAMED: Final = frozenset({"", "新对话", "new_chat"})
NAME_CHARACTERS: Final = 50


def session_of(
    old: OldConversation, zone: tzinfo, *, user_id: str | None = None, **about: str | None
) -> ImportedSession:
    """
    The session that a conversation becomes.

    Args:
        zone: Of the times.
        user_id: Whose it is, if the conversation does not say.
        about: More of its metadata.
    """
    turns = _without_twins(old.messages)
    said = [message for turn in turns for message in _messages(turn, zone)]
    created_at = _time(old.create_time, zone) or (said[0].created_at if said else None)
    session_id, source = _session_id(old.id)
    first = turns[0].query[:NAME_CHARACTERS].strip() if turns else ""
    named = (old.name or "").strip()
    metadata: JsonObject = {
        "name": (first if named in UNNAMED else named[:255]) or None,
        "user_id": old.user_id or user_id,
        "chat_type": old.chat_type or (turns[0].chat_type if turns else None) or None,
        **about,
        "source_id": source,
    }
    return ImportedSession(
        session_id=session_id,
        messages=said,
        metadata=metadata,
        created_at=created_at,
        updated_at=(said[-1].created_at if said else None) or created_at,
    )


def _without_twins(turns: list[OldMessage]) -> list[OldMessage]:
    """Chatchat's master writes a turn twice: as the agent's, never answered, and as the model's."""
    answered = {turn.query for turn in turns if turn.response}
    return [turn for turn in turns if turn.response or turn.query not in answered]


def _messages(turn: OldMessage, zone: tzinfo) -> Iterator[ImportedMessage]:
    at = _time(turn.create_time, zone)
    kept: JsonObject = {"pair_id": turn.id}
    if turn.chat_type:
        kept["chat_type"] = turn.chat_type
    asked = kept if turn.response else {**kept, "status": "incomplete"}
    yield ImportedMessage(
        id=question_id(turn.id),
        role="user",
        content=turn.query,
        created_at=at,
        more={"additional_kwargs": asked},
    )
    if turn.response:
        meta_data = _meta_data(turn.meta_data)
        answered = {**kept, **({"meta_data": meta_data} if meta_data else {})}
        yield ImportedMessage(
            id=turn.id,
            role="assistant",
            content=turn.response,
            created_at=at,
            # -1 says nothing.
            score=turn.feedback_score,
            reason=turn.feedback_reason[:2000] or None,
            more={"additional_kwargs": answered},
        )


def _meta_data(text: str | None) -> JsonObject:
    """Opaque: a text in it may be what LangChain has dumped, and is never loaded."""
    try:
        found = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {"text": text}
    return found if isinstance(found, dict) else {"value": found} if found else {}


def _session_id(old: str) -> tuple[str, str | None]:
    """The id of the session, and the old one where it cannot stay."""
    try:
        parsed = UUID(old)
    except ValueError:
        return str(uuid5(_SESSIONS, old)), old
    if old.lower() in (str(parsed), parsed.hex):
        return old.lower(), None
    return str(uuid5(_SESSIONS, old)), old


def _time(text: str | None, zone: tzinfo) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=zone)
