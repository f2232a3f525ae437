"""The conversations of fufan-chat-api: `{"status", "msg", "data"}`, and ids of 36 characters."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from api.deps import CallerDep, ServicesDep, SessionId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.schemas.common import Payload, Text
from api.schemas.sessions import Label, SessionCreate, SessionList, SessionUpdate, session_json
from api.sessions import records
from store import pairs, sessions
from store.models import JsonObject

router = APIRouter(prefix="/api", tags=["fufan"], route_class=JsonRoute)

#: What its front end names a conversation that has no name yet.
UNNAMED = ("新对话", "new_chat")
#: The most that a list without pages has.
MAX_LISTED = 1000
MAX_NAME = 50


class ConversationCreate(Payload):
    """A new conversation."""

    user_id: Label = Field(examples=["6b1d0d1c-6f0e-4a55-a0a1-6a0c5a6a0f10"])
    #: Its front end names a conversation by the whole of the first question.
    name: str = "new_chat"
    chat_type: Label = Field(examples=["general_chat"])


class NameUpdate(Payload):
    """A new name of a conversation."""

    name: Annotated[str, Field(min_length=1, max_length=255)] = Field(examples=["Tea"])


@router.post("/conversations")
async def create_conversation(
    body: ConversationCreate, caller: CallerDep, services: ServicesDep
) -> Response:
    """Create a conversation; one without a name is named by what is said first."""
    named: JsonObject = {} if body.name in ("", *UNNAMED) else {"name": body.name[:MAX_NAME]}
    new = SessionCreate(user_id=body.user_id, chat_type=body.chat_type, **named)
    created = await records.create(services, caller, new)
    return json_response({"status": 200, "id": created.id})


@router.get("/users/{user_id}/conversations")
async def list_conversations(
    user_id: Text,
    chat_types: Annotated[Text, Query()],
    caller: CallerDep,
    services: ServicesDep,
) -> Response:
    """A user's conversations of one type, the newest first."""
    found: list[JsonObject] = []
    cursor: str | None = None
    while len(found) < MAX_LISTED:
        asked = SessionList(
            user_id=user_id,
            chat_type=chat_types,
            sort="-create_time",
            limit=100,
            cursor=cursor,
        )
        page = await records.list_page(services, caller, asked)
        found += map(session_json, page.sessions)
        cursor = page.next_cursor
        if cursor is None:
            break
    shown = ("id", "name", "chat_type", "create_time")
    data = [{key: session[key] for key in shown} for session in found]
    return json_response({"status": 200, "msg": "success", "data": data})


@router.delete("/conversations/{conversation_id}")
async def delete_conversation(
    conversation_id: SessionId, caller: CallerDep, services: ServicesDep
) -> Response:
    """Delete a conversation."""
    await records.delete(services, caller, conversation_id, purge=False)
    return json_response({"status": 200})


@router.put("/conversations/{conversation_id}/update_name")
async def update_name(
    conversation_id: SessionId, body: NameUpdate, caller: CallerDep, services: ServicesDep
) -> Response:
    """Rename a conversation."""
    await records.update(services, caller, conversation_id, SessionUpdate(name=body.name))
    return json_response({"status": 200, "message": "Conversation name updated successfully"})


@router.get("/conversations/{conversation_id}/messages")
async def list_messages(
    conversation_id: SessionId,
    caller: CallerDep,
    services: ServicesDep,
    chat_types: Text | None = None,
) -> Response:
    """
    The newest turns of a conversation as pairs, in their order.

    `chat_types` filters nothing, as there: a conversation has turns of several modes.
    """
    access = await caller.may("threads", "read", {"thread_id": conversation_id})
    await sessions.get(services.db, conversation_id, access=access)
    found = await pairs.list_newest(services.db, conversation_id, limit=MAX_LISTED, access=access)
    data = [
        {
            "id": pair.id,
            "conversation_id": pair.conversation_id,
            "chat_type": pair.chat_type,
            "query": pair.query,
            "response": pair.response,
            "meta_data": pair.meta_data,
            "create_time": pair.create_time,
            "docs": pair.meta_data.get("docs", []),
            "search": pair.meta_data.get("search", []),
        }
        for pair in reversed(found)
    ]
    return json_response({"status": 200, "msg": "success", "data": data})
