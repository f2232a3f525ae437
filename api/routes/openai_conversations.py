"""OpenAI's conversations: sessions and their messages as items."""

from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from uuid_utils.compat import uuid7

from api.deps import CallerDep, ServicesDep, SessionId
from api.doors.conversation import owner
from api.doors.errors import OpenAIRoute
from api.doors.files import require_keepable, with_files_kept
from api.doors.openai_responses import (
    ConversationCreate,
    ConversationUpdate,
    Item,
    ItemsCreate,
    conversation_json,
    item_page,
    items_of,
)
from api.http.responses import json_response
from api.schemas.common import Text
from api.sessions.once import session_busy
from api.sessions.runs import delete
from graph.message_json import decode
from store import messages, sessions
from store.access import EVERYTHING, Access
from store.errors import Error, NotFoundError
from store.models import JsonObject, Message, Session

router = APIRouter(prefix="/v1/conversations", tags=["openai"], route_class=OpenAIRoute)

Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("")
async def create_conversation(
    body: ConversationCreate, caller: CallerDep, services: ServicesDep
) -> Response:
    """Create a conversation: a session, which may begin with messages."""
    attributes = {**(body.metadata or {}), **owner(caller)}
    session_id, items = str(uuid7()), body.items or []
    if not items:
        session = await services.new_sessions.make(caller, session_id, attributes)
        return json_response(conversation_json(session))
    access = await caller.may("threads", "update", {"thread_id": session_id})
    await services.histories.graph_of(attributes)
    await require_keepable(services, caller, [item.given() for item in items])
    session = await services.new_sessions.make(caller, session_id, attributes, seen_by=[access])
    try:
        await _add(services, caller, session_id, items, access)
    except Error:
        # What its graph does not take. Nobody knows of it yet.
        await services.runs.delete_thread(session_id, access=EVERYTHING)
        raise
    return json_response(conversation_json(session))


@router.get("/{conversation_id}")
async def get_conversation(
    conversation_id: SessionId, caller: CallerDep, services: ServicesDep
) -> Response:
    """One conversation."""
    return json_response(conversation_json(await _session(services, caller, conversation_id)))


@router.post("/{conversation_id}")
async def update_conversation(
    conversation_id: SessionId, body: ConversationUpdate, caller: CallerDep, services: ServicesDep
) -> Response:
    """Change its metadata."""
    await _session(services, caller, conversation_id)
    # Whose it is does not change.
    given = {key: value for key, value in body.metadata.items() if key != "user_id"}
    value: JsonObject = {"thread_id": conversation_id, "metadata": given}
    access = await caller.may("threads", "update", value)
    changes = value.get("metadata") or {}
    changed = await sessions.update(
        services.db, conversation_id, changes=changes, actor=caller.actor, access=access
    )
    return json_response(conversation_json(changed))


@router.delete("/{conversation_id}")
async def delete_conversation(
    conversation_id: SessionId, caller: CallerDep, services: ServicesDep
) -> Response:
    """Delete it, as a session is deleted."""
    await _session(services, caller, conversation_id)
    access = await caller.may("threads", "delete", {"thread_id": conversation_id})
    await delete(services, conversation_id, actor=caller.actor, access=access)
    return json_response({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.get("/{conversation_id}/items")
async def list_items(
    conversation_id: SessionId,
    caller: CallerDep,
    services: ServicesDep,
    after: Text | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Its items, of as many messages as the limit says; an answer's calls of tools come with it."""
    await _session(services, caller, conversation_id)
    place = (await _row(services, conversation_id, after)).seq if after else None
    page, more = await messages.list_page(
        services.db,
        conversation_id,
        limit=limit,
        after_seq=place if order == "asc" else None,
        before_seq=place if order == "desc" else None,
        order=order,
    )
    return json_response(item_page(page, has_more=more))


@router.post("/{conversation_id}/items")
async def create_items(
    conversation_id: SessionId, body: ItemsCreate, caller: CallerDep, services: ServicesDep
) -> Response:
    """Add messages that nothing answers."""
    await _session(services, caller, conversation_id)
    access = await caller.may("threads", "update", {"thread_id": conversation_id})
    # Ahead of their files.
    await sessions.get(services.db, conversation_id, access=access)
    added = await _add(services, caller, conversation_id, body.items, access)
    return json_response(item_page(added))


@router.get("/{conversation_id}/items/{item_id:path}")
async def get_item(
    conversation_id: SessionId, item_id: Text, caller: CallerDep, services: ServicesDep
) -> Response:
    """One item."""
    await _session(services, caller, conversation_id)
    row = await _row(services, conversation_id, item_id)
    return json_response(
        next((item for item in items_of(row) if item["id"] == item_id), items_of(row)[0])
    )


@router.delete("/{conversation_id}/items/{item_id:path}")
async def delete_item(
    conversation_id: SessionId, item_id: Text, caller: CallerDep, services: ServicesDep
) -> Response:
    """Take a message out of the conversation."""
    session = await _session(services, caller, conversation_id)
    row = await _row(services, conversation_id, item_id)
    access = await caller.may("threads", "update", {"thread_id": conversation_id})
    with session_busy():
        await services.branches.remove(conversation_id, row.id, access=access)
    return json_response(conversation_json(session))


async def _session(services: ServicesDep, caller: CallerDep, session_id: str) -> Session:
    access = await caller.may("threads", "read", {"thread_id": session_id})
    return await sessions.get(services.db, session_id, access=access)


async def _row(services: ServicesDep, session_id: str, item_id: str) -> Message:
    """The message that an item is of; of a call of a tool its id begins with the message's."""
    # Either id may have a slash of its own.
    for message_id in dict.fromkeys(
        (item_id, item_id.rpartition("/")[0], item_id.partition("/")[0])
    ):
        with suppress(NotFoundError):
            row = await messages.get(services.db, session_id, message_id, access=EVERYTHING)
            if row.id == item_id or any(item["id"] == item_id for item in items_of(row)):
                return row
    raise NotFoundError("There is no such item in the conversation")


async def _add(
    services: ServicesDep, caller: CallerDep, session_id: str, items: list[Item], access: Access
) -> list[Message]:
    """Put messages at the end of a conversation, and have nothing answer them."""
    given = [
        await with_files_kept(services, caller, session_id, item.given(), access=access)
        for item in items
    ]
    said = [decode(message) for message in given]
    ids = await services.histories.add(session_id, said, access=access)
    return [await messages.get(services.db, session_id, id_, access=EVERYTHING) for id_ in ids]
