"""
What people think of messages.

A table of its own, and no columns of ``message``: those rows are made again from the checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from store.access import Access
from store.cipher import Cipher, at
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
        **sealed(db.cipher, conversation_id, message_id, reason=reason, tags=tags),
        "visible": access.array,
    }
    kept = await db.one(Feedback, SQL["put"], params)
    if kept is None:
        raise _not_found(message_id)
    return _opened(db.cipher, conversation_id, kept)


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
        raise NotFoundError(f"There is no feedback of yours on message {message_id}")


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
    return {row.message_id: _opened(db.cipher, conversation_id, row) for row in rows}


async def of_user(
    db: Database, user_id: str, *, after: tuple[str, str] | None, limit: int
) -> list[tuple[str, Feedback, datetime]]:
    """
    What a user thinks of messages, wherever they are: the session, the opinion, since when.

    Args:
        after: The session and the message of the last one that the caller has.
    """
    after_id, after_message = after or ("", "")
    params = {
        "user_id": user_id,
        "after_id": after_id,
        "after_message": after_message,
        "limit": limit,
    }
    found = []
    for session_id, *told, at_time in await db.tuples(SQL["of_user"], params):
        names = ("message_id", "score", "reason", "tags")
        kept = Feedback(**dict(zip(names, told, strict=True)))
        found.append((session_id, _opened(db.cipher, session_id, kept), at_time))
    return found


def sealed(
    cipher: Cipher,
    conversation_id: str,
    message_id: str,
    *,
    reason: str | None,
    tags: Sequence[str],
) -> dict[str, Any]:
    """What somebody wrote, as it is kept."""
    key = conversation_id, message_id
    kept = cipher.seal_json(list(tags), at("feedback.tags", *key))
    return {
        "reason": reason and cipher.seal_text(reason, at("feedback.reason", *key)),
        "tags": dump_json(kept).decode(),
    }


def opened_reason(cipher: Cipher, conversation_id: str, message_id: str, reason: str) -> str:
    """Why, as it was written."""
    return cipher.open_text(reason, at("feedback.reason", conversation_id, message_id))


def _opened(cipher: Cipher, conversation_id: str, row: Feedback) -> Feedback:
    if not cipher.is_on:
        return row
    key = conversation_id, row.message_id
    return replace(
        row,
        reason=row.reason and opened_reason(cipher, *key, row.reason),
        tags=cipher.open_json(row.tags, at("feedback.tags", *key)),
    )
