"""Sessions: conversations for people who do not think in runs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from uuid_utils.compat import uuid7

from api.bodies import JsonRoute
from api.deps import CallerDep, ServicesDep, SessionId
from api.responses import json_response
from api.schemas import Text
from api.session_schemas import (
    SessionCreate,
    SessionUpdate,
    encode_cursor,
    session_cursor,
    session_json,
)
from store import sessions
from store.models import JsonObject

router = APIRouter(prefix="/api/sessions", tags=["sessions"], route_class=JsonRoute)

Limit = Annotated[int, Query(ge=1, le=100)]


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
