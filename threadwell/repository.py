"""
The functions of Langchain-Chatchat's and fufan's repositories, on sessions.

The same names and keywords, asynchronous. What they write goes through the session's graph, so that runs,
searches and lists see it; what they read are pairs of a question and its answer. The server needs
`THREADWELL_COMPAT`, whichever of them; ids of conversations are UUIDs, with dashes or without.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from store.old_rows import question_id
from threadwell.connection import RequestError, default
from threadwell.langchain import SessionChatMessageHistory

Pair = dict[str, Any]


async def add_conversation_to_db(
    chat_type: str,
    name: str = "",
    conversation_id: str | None = None,
    *,
    user_id: str | None = None,
) -> str:
    """Make a conversation, and return its id; one that is there stays as it is."""
    id_ = conversation_id or str(uuid4())
    attributes = {"id": id_, "chat_type": chat_type, "name": name[:255], "user_id": user_id}
    given = {key: value for key, value in attributes.items() if value}
    try:
        await default().acall("POST", "/api/sessions", json=given)
    except RequestError as exc:
        if exc.status != 409:
            raise
    return id_


async def add_message_to_db(
    *,
    query: str,
    conversation_id: str,
    prompt_name: str | None = None,
    chat_type: str | None = None,
    response: str = "",
    metadata: Mapping[str, Any] | None = None,
    message_id: str | None = None,
) -> str:
    """
    Add a question to a conversation, with its answer if there is one, and return the turn's id.

    The projects order the parameters differently: here all of them have names. A conversation that is
    not there is made.
    """
    id_ = message_id or str(uuid4())
    mode = chat_type or prompt_name
    kept = {"pair_id": id_, **({"chat_type": mode} if mode else {})}
    said: list[BaseMessage] = [HumanMessage(query, id=question_id(id_), additional_kwargs=kept)]
    if response:
        said.append(_answer(id_, response, {**kept, "meta_data": dict(metadata or {})}))
    history = SessionChatMessageHistory(conversation_id, attributes={"chat_type": mode})
    await history.aadd_messages(said)
    return id_


async def update_message(
    message_id: str, response: str | None = None, metadata: Mapping[str, Any] | None = None
) -> str | None:
    """Set the answer of a turn, or what is kept with it; None if there is no such turn."""
    found = await get_message_by_id(message_id)
    if found is None:
        return None
    text = found["response"] if response is None else response
    if not text:
        return message_id
    kept = {
        "pair_id": message_id,
        "meta_data": dict(found["meta_data"] if metadata is None else metadata),
        **({"chat_type": found["chat_type"]} if found["chat_type"] else {}),
    }
    # A question that nobody answered has no other id than its own.
    id_ = found["id"] if found["id"] != found["question_id"] else str(uuid4())
    history = SessionChatMessageHistory(found["conversation_id"])
    await history.aadd_messages([_answer(id_, text, kept)])
    return message_id


async def get_message_by_id(message_id: str) -> Pair | None:
    """A turn, with ``id``, ``conversation_id``, ``query``, ``response``, ….; None if there is none."""
    try:
        found: Pair = await default().acall("GET", _path(message_id))
    except RequestError as exc:
        if exc.status != 404:
            raise
        return None
    return found


async def filter_message(
    conversation_id: str, chat_type: str | None = None, limit: int = 10
) -> list[Pair]:
    """The newest turns of a conversation that have an answer, newest first."""
    params = {"conversation_id": conversation_id, "limit": limit}
    if chat_type is not None:
        params["chat_type"] = chat_type
    try:
        found = await default().acall("GET", "/api/pairs", params=params)
    except RequestError as exc:
        if exc.status != 404:
            raise
        return []
    return list(found["data"])


async def feedback_message_to_db(
    message_id: str, feedback_score: int, feedback_reason: str = ""
) -> str:
    """Keep what somebody thinks of an answer, from 0 to 100; raises `RequestError` if there is none."""
    said = {"score": feedback_score, "reason": feedback_reason}
    await default().acall("PUT", f"{_path(message_id)}/feedback", json=said)
    return message_id


def _path(message_id: str) -> str:
    return f"/api/pairs/{quote(message_id, safe='')}"


def _answer(id_: str, text: str, kept: dict[str, Any]) -> AIMessage:
    return AIMessage(text, id=id_, additional_kwargs=kept)
