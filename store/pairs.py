"""Turns as pairs of a question and its answer, as the seed's project has them."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Self

from store.access import Access
from store.cipher import SEALED, Cipher, at
from store.database import Database
from store.errors import NotFoundError
from store.models import JsonObject
from store.sql import load

SQL: Final = load("pairs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """What a user said, and the last that the assistant said to it; empty if nothing."""

    id: str
    conversation_id: str
    chat_type: str
    query: str
    response: str
    meta_data: JsonObject
    feedback_score: int
    feedback_reason: str
    create_time: datetime
    question_id: str
    #: What the answer's `meta_data` is sealed in; its `meta_data` is in there then.
    sealed: str | None

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        query = at("message.content", self.conversation_id, self.question_id)
        answer = (self.conversation_id, self.id)
        said = None if self.sealed is None else {SEALED: self.sealed}
        meta = cipher.open_json(said, at("message.meta_data", *answer)) or {}
        more = meta.get("additional_kwargs") or {}
        return replace(
            self,
            query=cipher.open_text(self.query, query),
            feedback_reason=cipher.open_text(self.feedback_reason, at("feedback.reason", *answer)),
            response=cipher.open_text(self.response, at("message.content", *answer)),
            meta_data=more.get("meta_data", self.meta_data) if said else self.meta_data,
        )


async def list_newest(
    db: Database,
    conversation_id: str,
    *,
    chat_type: str | None = None,
    answered: bool = False,
    limit: int,
    access: Access,
) -> list[Pair]:
    """
    The newest pairs of a conversation, newest first; none of one that is not visible.

    Args:
        answered: Only those with an answer.
    """
    params = {
        "conversation_id": conversation_id,
        "chat_type": chat_type,
        "answered": answered,
        "limit": limit,
        "visible": access.array,
    }
    return await db.all(Pair, SQL["of_conversation"], params)


async def get(db: Database, *ids: str, access: Access) -> Pair:
    """
    The pair that one of the messages is of. Quick only with `migrate(index_messages=True)`.

    Raises:
        NotFoundError: There is none that is visible.
    """
    params = {"ids": list(ids), "visible": access.array}
    found = await db.one(Pair, SQL["of_message"], params)
    if found is None:
        raise NotFoundError(f"Message {ids[0]} not found")
    return found
