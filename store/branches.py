"""
The branches of a conversation: from which state a message leads on.

A branch is a line of checkpoints, as LangGraph and Studio have it. What is told here comes from them
and from the messages' rows, which are made of them.
"""

from dataclasses import dataclass
from typing import Final

from store import resealing
from store.access import Access
from store.database import Database
from store.errors import NotFoundError
from store.sql import load
from store.threads import NewThread

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


async def state_following(
    db: Database, session_id: str, message_id: str | None, *, access: Access
) -> Place | None:
    """
    Find the state in which what is to follow a message is said.

    Args:
        message_id: None for what nothing is before.

    Returns:
        None if nothing was said yet.

    Raises: as `state_after`, of a message.
    """
    if message_id is None:
        return await _place(db, "state_before", session_id, None, access)
    return await state_after(db, session_id, message_id, access=access)


async def last(db: Database, session_id: str, *, access: Access) -> str | None:
    """The id of the last message of the branch that is shown, but for those of a run under way."""
    rows = await db.tuples(_SQL["last"], {"session_id": session_id, "visible": access.array})
    return rows[0][0] if rows else None


async def copy_line(
    db: Database,
    source_id: str,
    new: NewThread,
    *,
    message_id: str,
    checkpoint_id: str | None,
    access: Access,
) -> None:
    """
    Make a thread of a checkpoint of another one, and of those that it came of; or of its messages alone.

    It is of the same graph and has the other one's config. Its messages are to be made of its
    checkpoints, and its status is to be settled, by the caller.

    Args:
        message_id: With which it is to end.
        checkpoint_id: None if none ends with it: then the thread has the messages as they are shown, and a
            state is to be made for it by the caller.

    Raises:
        NotFoundError: There is no such thread that is visible.
        AlreadyExistsError: The new id is taken.
    """
    params = new.row(
        db.cipher,
        source=source_id,
        target=new.thread_id,
        message_id=message_id,
        checkpoint_id=checkpoint_id,
        visible=access.array,
    )
    async with db.transaction() as tx:
        # All statements see one state of the source, and nothing has to be locked for it.
        await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", {})
        if not await tx.tuples(_SQL["copy_thread"], params):
            raise NotFoundError(f"Session {source_id} not found")
        await tx.execute(_SQL["give_life"], params)
        await tx.execute(_SQL["copy_line"], params)
        await resealing.move(tx, source_id, new.thread_id)


async def know(db: Database, thread_id: str) -> None:
    """Take note that the messages which a copy begins with are nobody's news: those after them are."""
    await db.execute(_SQL["know"], {"thread_id": thread_id})


async def question_of(db: Database, session_id: str, run_id: str) -> str | None:
    """The id of the user's message that a run answers; None if it answers none."""
    return await _question(db, session_id, run_id=run_id)


async def question_before(db: Database, session_id: str, message_id: str) -> str | None:
    """The id of the user's message that an answer answers; None if it answers none."""
    return await _question(db, session_id, message_id=message_id)


async def _question(
    db: Database, session_id: str, *, run_id: str | None = None, message_id: str | None = None
) -> str | None:
    params = {"session_id": session_id, "run_id": run_id, "message_id": message_id}
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
