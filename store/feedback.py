"""
What people think of messages.

A table of its own, and no columns of ``message``: those rows are made again from the checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from store.access import Access
from store.database import Database
from store.errors import NotFoundError
from store.json import dump_json
from store.sql import load

SQL = load("feedback")


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """An opinion of a message: `score` from 0 (bad) to 100 (good)."""

    message_id: str
    score: int
    reason: str | None
    tags: list[str]


def _not_found(message_id: str) -> NotFoundError:
    return NotFoundError(f"Message {message_id} not found")


async def put(
    db: Database,
    conversation_id: str,
    message_id: str,
    *,
    user_id: str,
    score: int,
    reason: str | None,
    tags: Sequence[str],
    access: Access,
) -> Feedback:
    """
    Say what somebody thinks of a message, in place of what they said before.

    Args:
        user_id: Who; empty where nobody is known.

    Raises:
        NotFoundError: There is no such message of a session that is visible.
    """
    params = {
        "conversation_id": conversation_id,
        "message_id": message_id,
        "user_id": user_id,
        "score": score,
        "reason": reason,
        "tags": dump_json(list(tags)).decode(),
        "visible": access.array,
    }
    kept = await db.one(Feedback, SQL["put"], params)
    if kept is None:
        raise _not_found(message_id)
    return kept


async def delete(
    db: Database, conversation_id: str, message_id: str, *, user_id: str, access: Access
) -> None:
    """
    Take back what somebody said of a message.

    Raises:
        NotFoundError: They said nothing, or the session is not visible.
    """
    params = {
        "conversation_id": conversation_id,
        "message_id": message_id,
        "user_id": user_id,
        "visible": access.array,
    }
    if not await db.tuples(SQL["delete"], params):
        raise _not_found(message_id)


async def of_messages(
    db: Database, conversation_id: str, message_ids: Sequence[str], *, user_id: str
) -> dict[str, Feedback]:
    """What somebody said of messages, by their ids; for who may see the session."""
    params = {
        "conversation_id": conversation_id,
        "message_ids": list(message_ids),
        "user_id": user_id,
    }
    rows = await db.all(Feedback, SQL["of_messages"], params)
    return {row.message_id: row for row in rows}
