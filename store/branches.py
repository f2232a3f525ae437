"""
The branches of a conversation: from which state a message leads on.

A branch is a line of checkpoints, as LangGraph and Studio have it. What is told here comes from them
and from the messages' rows, which are made of them.
"""

from dataclasses import dataclass
from typing import Final

from store.access import Access
from store.database import Database
from store.errors import NotFoundError
from store.sql import load

_SQL: Final = load("branches")


@dataclass(frozen=True, slots=True)
class Place:
    """
    A state of a conversation.

    Attributes:
        role: Whose the message is that was asked for.
        checkpoint_id: None if no checkpoint has just this state, or not any more.
        is_head: It is what the conversation goes on from anyway.
    """

    role: str
    checkpoint_id: str | None
    is_head: bool


async def state_after(db: Database, session_id: str, message_id: str, *, access: Access) -> Place:
    """
    Find the state in which a message is the last one.

    Raises:
        NotFoundError: There is no such message, or its session is not visible.
    """
    return _found(await _place(db, "state_after", session_id, message_id, access), message_id)


async def state_before(db: Database, session_id: str, message_id: str, *, access: Access) -> Place:
    """
    Find the state that led to a message.

    Raises:
        NotFoundError: There is no such message, or its session is not visible.
    """
    return _found(await _place(db, "state_before", session_id, message_id, access), message_id)


async def beginning(db: Database, session_id: str, *, access: Access) -> Place | None:
    """Find the state before anything was said; None if nothing was yet."""
    return await _place(db, "state_before", session_id, None, access)


async def question_of(db: Database, session_id: str, message_id: str) -> str | None:
    """The id of the user's message that an answer answers; None if it answers none."""
    params = {"session_id": session_id, "message_id": message_id}
    rows = await db.tuples(_SQL["question"], params)
    return rows[0][0] if rows else None


async def _place(
    db: Database, query: str, session_id: str, message_id: str | None, access: Access
) -> Place | None:
    params = {"session_id": session_id, "message_id": message_id, "visible": access.array}
    return await db.one(Place, _SQL[query], params)


def _found(place: Place | None, message_id: str) -> Place:
    if place is None:
        raise NotFoundError(f"Message {message_id} not found")
    return place
