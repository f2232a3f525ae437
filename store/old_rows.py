"""
What an old Langchain-Chatchat or fufan-chat-api kept of a conversation, wherever it is read from.

Times are as they lie there, without a zone, and JSON as text.
"""

from dataclasses import dataclass
from uuid import UUID, uuid5

#: What ids of questions are made with.
_QUESTIONS = UUID("f1c3a6c4-9b52-4f83-8f0c-3a5b1d2f6e77")


@dataclass(frozen=True, slots=True)
class OldMessage:
    """A turn: what was asked, and answered if it was."""

    id: str
    chat_type: str
    query: str
    response: str
    meta_data: str | None
    feedback_score: int | None
    feedback_reason: str
    create_time: str | None


@dataclass(frozen=True, slots=True)
class OldConversation:
    """A conversation; all but its id and its turns only if the database has a row of it."""

    id: str
    user_id: str | None
    name: str | None
    chat_type: str | None
    create_time: str | None
    messages: list[OldMessage]


def question_id(pair_id: str) -> str:
    """The id of the question of a turn, whose own id is its answer's."""
    return str(uuid5(_QUESTIONS, pair_id))
