"""Sessions: conversations for people who do not think in runs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Response
from uuid_utils.compat import uuid7

from api.bodies import JsonRoute
from api.deps import CallerDep, ServicesDep, SessionId
from api.responses import json_response
from api.schemas import Text
from api.session_runs import answer, ask
from api.session_schemas import (
    MessageSend,
    SessionCreate,
    SessionUpdate,
    encode_cursor,
    message_cursor,
    message_json,
    session_cursor,
    session_json,
)
from api.sse import EventStream, SessionStream
from store import messages, sessions
from store.errors import UnsupportedError
from store.models import JsonObject

router = APIRouter(prefix="/api/sessions", tags=["sessions"], route_class=JsonRoute)

Limit = Annotated[int, Query(ge=1, le=100)]


async def _require_messages(services: ServicesDep) -> None:
    """A checkpointer of the user's own projects no messages, which are the session's history."""
    if services.graphs.checkpointer is not None:
        raise UnsupportedError(
            "Messages of a session: not with the checkpointer that langgraph.json names"
        )


HAS_MESSAGES = [Depends(_require_messages)]


@router.post("")
async def create_session(body: SessionCreate, caller: CallerDep, services: ServicesDep) -> Response:
    """Create a session: a thread with a name and an owner."""
    session_id = body.id or str(uuid7())
    value: JsonObject = {
        "thread_id": session_id,
        "metadata": body.attributes(),
        "if_exists": "raise",
    }
    access = await caller.may("threads", "create", value)
    created = await sessions.create(
        services.db,
        session_id,
        metadata=value.get("metadata") or {},
        life=services.graphs.ttl.life,
        access=access,
    )
    return json_response(session_json(created))


@router.get("")
async def list_sessions(
    services: ServicesDep,
    caller: CallerDep,
    user_id: Text | None = None,
    status: Literal["active", "archived"] | None = "active",
    chat_type: Text | None = None,
    limit: Limit = 20,
    cursor: str | None = None,
) -> Response:
    """Sessions, the one touched last first."""
    place = session_cursor(cursor)
    access = await caller.may("threads", "search", {"metadata": {}, "limit": limit, "offset": 0})
    page, more = await sessions.list_page(
        services.db,
        user_id=user_id,
        status=status,
        chat_type=chat_type,
        before=place,
        limit=limit,
        access=access,
    )
    following = encode_cursor(page[-1].update_time, page[-1].id) if more else None
    return json_response(
        {"data": [session_json(s) for s in page], "next_cursor": following, "has_more": more}
    )


@router.get("/{session_id}")
async def get_session(session_id: SessionId, caller: CallerDep, services: ServicesDep) -> Response:
    """One session."""
    access = await caller.may("threads", "read", {"thread_id": session_id})
    return json_response(session_json(await sessions.get(services.db, session_id, access=access)))


@router.patch("/{session_id}")
async def update_session(
    session_id: SessionId, body: SessionUpdate, caller: CallerDep, services: ServicesDep
) -> Response:
    """Rename a session, archive it, or change its metadata."""
    value: JsonObject = {"thread_id": session_id, "metadata": body.changes()}
    access = await caller.may("threads", "update", value)
    changed = await sessions.update(
        services.db, session_id, changes=value.get("metadata") or {}, access=access
    )
    return json_response(session_json(changed))


@router.delete("/{session_id}", status_code=204)
async def delete_session(
    session_id: SessionId, caller: CallerDep, services: ServicesDep
) -> Response:
    """Delete a session with its messages, runs and checkpoints."""
    access = await caller.may("threads", "delete", {"thread_id": session_id})
    await services.runs.delete_thread(session_id, access=access)
    return Response(status_code=204)


@router.get("/{session_id}/messages", dependencies=HAS_MESSAGES)
async def list_messages(
    session_id: SessionId,
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 50,
    cursor: str | None = None,
    order: Literal["asc", "desc"] = "asc",
    branch: Literal["active", "all"] = "active",
) -> Response:
    """
    The history of a session, also what the model does not see any more.

    ``branch=all`` adds what only branches have that were left.
    """
    access = await caller.may("threads", "read", {"thread_id": session_id})
    await sessions.get(services.db, session_id, access=access)
    place = message_cursor(cursor)
    page, more = await messages.list_page(
        services.db,
        session_id,
        limit=limit,
        after_seq=place if order == "asc" else None,
        before_seq=place if order == "desc" else None,
        order=order,
        branch=branch,
    )
    following = encode_cursor(page[-1].seq) if more else None
    return json_response(
        {"data": [message_json(m) for m in page], "next_cursor": following, "has_more": more}
    )


@router.post("/{session_id}/messages", dependencies=HAS_MESSAGES)
async def send_message(
    session_id: SessionId,
    body: MessageSend,
    caller: CallerDep,
    services: ServicesDep,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """
    Ask the session's graph; the answer comes as JSON, or streamed.

    It is streamed if ``stream`` is true or the client accepts ``text/event-stream``.
    """
    submitted = await ask(services, caller, session_id, body)
    if not (body.stream or "text/event-stream" in accept):
        return json_response(await answer(services, submitted))
    stream = SessionStream(services, submitted)
    return EventStream(
        stream.frames(), headers={}, keep_alive_seconds=services.settings.sse_heartbeat_seconds
    )
