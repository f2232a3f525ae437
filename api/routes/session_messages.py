"""The messages of a session: said, answered, and gone back to."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Response

from api.bodies import JsonRoute
from api.deps import CallerDep, ServicesDep, SessionId
from api.responses import json_response
from api.schemas import Text
from api.session_runs import answer, ask, regenerate
from api.session_schemas import (
    MessageSend,
    Regenerate,
    encode_cursor,
    message_cursor,
    message_json,
)
from api.sse import EventStream, SessionStream
from graph.runs import Submitted
from store import messages, sessions
from store.errors import UnsupportedError


async def _require_messages(services: ServicesDep) -> None:
    """A checkpointer of the user's own projects no messages, which are the session's history."""
    if services.graphs.checkpointer is not None:
        raise UnsupportedError(
            "Messages of a session: not with the checkpointer that langgraph.json names"
        )


router = APIRouter(
    prefix="/api/sessions/{session_id}",
    tags=["sessions"],
    route_class=JsonRoute,
    dependencies=[Depends(_require_messages)],
)

Limit = Annotated[int, Query(ge=1, le=100)]
Accept = Annotated[str, Header()]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Two requests with one key are one: same run, same answer. For 24 hours.",
    ),
]


@router.get("/messages")
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


@router.post("/messages")
async def send_message(
    session_id: SessionId,
    body: MessageSend,
    caller: CallerDep,
    services: ServicesDep,
    accept: Accept = "",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """
    Ask the session's graph; the answer comes as JSON, or streamed.

    It is streamed if ``stream`` is true or the client accepts ``text/event-stream``. With
    ``parent_id`` it goes on from that message: a branch, beside what was said after it.
    """
    submitted = await ask(services, caller, session_id, body, idempotency_key=idempotency_key)
    return await _answer(services, submitted, is_streamed=body.stream or _wants_stream(accept))


@router.post("/messages/{message_id}/regenerate")
async def regenerate_message(
    session_id: SessionId,
    message_id: Text,
    body: Regenerate,
    caller: CallerDep,
    services: ServicesDep,
    accept: Accept = "",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Have an answer given again: beside the first one, which stays as a branch."""
    submitted = await regenerate(
        services, caller, session_id, message_id, body, idempotency_key=idempotency_key
    )
    return await _answer(services, submitted, is_streamed=body.stream or _wants_stream(accept))


def _wants_stream(accept: str) -> bool:
    return "text/event-stream" in accept


async def _answer(services: ServicesDep, submitted: Submitted, *, is_streamed: bool) -> Response:
    if not is_streamed:
        return json_response(await answer(services, submitted))
    stream = SessionStream(services, submitted)
    return EventStream(
        stream.frames(), headers={}, keep_alive_seconds=services.settings.sse_heartbeat_seconds
    )
