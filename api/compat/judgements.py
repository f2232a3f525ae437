"""What somebody thinks of an answer, by its message's id alone, as the old projects know it."""

from api.bootstrap import Services
from api.identity.auth import Caller
from api.schemas.sessions import FeedbackPut
from api.sessions import records
from store import pairs, sessions
from store.old_rows import question_id
from store.pairs import Pair


async def find(services: Services, caller: Caller, message_id: str) -> Pair:
    """
    The pair of a message, wherever it is.

    Raises:
        NotFoundError: There is none that the caller may see.
    """
    access = await caller.may("threads", "search", {"metadata": {}, "limit": 1, "offset": 0})
    found = await pairs.get(services.db, message_id, question_id(message_id), access=access)
    access = await caller.may("threads", "read", {"thread_id": found.conversation_id})
    await sessions.get(services.db, found.conversation_id, access=access)
    return found


async def judge(
    services: Services, caller: Caller, message_id: str, score: int, reason: str
) -> None:
    """Keep what the caller thinks of an answer."""
    found = await find(services, caller, message_id)
    said = FeedbackPut(score=score, reason=reason or None)
    await records.judge(services, caller, found.conversation_id, found.id, said)
