"""What the model sees of a session, for code that keeps its history there."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from api.deps import CallerDep, ServicesDep, SessionId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.schemas.common import Payload
from api.sessions.runs import send_files
from graph.message_json import decode
from store import sessions

router = APIRouter(prefix="/api/sessions", tags=["sessions"], route_class=JsonRoute)

MAX_WAIT_SECONDS = 300
WaitSeconds = Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS)]


class ContextAdd(Payload):
    """Messages that somebody else than the session's graph has said and heard."""

    #: As LangChain's JSON or OpenAI's has them; those without an `id` get one.
    messages: list[dict[str, Any]] = Field(
        max_length=1000, examples=[[{"type": "human", "content": "hello"}]]
    )
    #: How long to wait for the run that is in flight, then 409.
    wait_seconds: WaitSeconds = 60.0


@router.get("/{session_id}/context")
async def get_context(session_id: SessionId, caller: CallerDep, services: ServicesDep) -> Response:
    """The messages that the model sees next, as LangChain's JSON."""
    access = await caller.may("threads", "read", {"thread_id": session_id})
    await sessions.get(services.db, session_id, access=access)
    found = await services.histories.read(session_id, access=access)
    return json_response({"messages": found})


@router.post("/{session_id}/context")
async def add_to_context(
    session_id: SessionId, body: ContextAdd, caller: CallerDep, services: ServicesDep
) -> Response:
    """
    Add messages to the conversation without a run; nobody answers.

    A message whose id is there takes the place of that one. While a run is in flight this waits.
    """
    said = [decode(message) for message in body.messages]
    access = await caller.may("threads", "update", {"thread_id": session_id})
    await sessions.get(services.db, session_id, access=access)
    contents = [message.content for message in said]
    await send_files(services, caller, session_id, contents, access=access)
    ids = await services.histories.add(
        session_id, said, wait_seconds=body.wait_seconds, access=access
    )
    return json_response({"ids": ids})


@router.delete("/{session_id}/context", status_code=204)
async def clear_context(
    session_id: SessionId,
    caller: CallerDep,
    services: ServicesDep,
    wait_seconds: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 60.0,
) -> Response:
    """Take every message out of what the model sees; the history keeps them."""
    access = await caller.may("threads", "update", {"thread_id": session_id})
    await sessions.get(services.db, session_id, access=access)
    await services.histories.clear(session_id, wait_seconds=wait_seconds, access=access)
    return Response(status_code=204)
