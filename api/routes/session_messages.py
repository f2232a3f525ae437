"""The messages of a session: said, answered, and gone back to."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response
from uuid_utils.compat import uuid7

from api.bootstrap import Services
from api.deps import HAS_MESSAGES, CallerDep, LastEventId, ServicesDep, SessionId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.identity.auth import Caller
from api.schemas.common import Text
from api.schemas.sessions import (
    HeadMove,
    MessageEdit,
    MessageSend,
    Regenerate,
    SessionFork,
    encode_cursor,
    message_cursor,
    message_json,
    session_json,
)
from api.sessions.once import session_busy
from api.sessions.runs import (
    answer,
    ask,
    regenerate,
    send_files,
    stop,
    under_way,
)
from api.sse import EventStream, SessionStream, stream_of_run
from graph.runs import Submitted
from store import feedback, messages, sessions
from store.access import EVERYTHING, Access
from store.errors import NotFoundError
from store.events import parse_event_id
from store.models import JsonObject
from store.threads import NewThread

router = APIRouter(
    prefix="/api/sessions/{session_id}",
    tags=["sessions"],
    route_class=JsonRoute,
    dependencies=HAS_MESSAGES,
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
    before: Annotated[
        Text | None, Query(description="A message's id; what stands before it.")
    ] = None,
    after: Annotated[
        Text | None, Query(description="A message's id; what stands after it.")
    ] = None,
    order: Literal["asc", "desc"] = "asc",
    branch: Literal["active", "all"] = "active",
) -> Response:
    """
    The history of a session, also what the model does not see any more.

    ``branch=all`` adds what only branches have that were left. Each message says which one it follows
    (``parent_id``), and all that follow the same one (``sibling_ids``). ``cursor`` goes on where a page
    ended; ``before`` and ``after`` bound the list, from whose end ``order=desc`` begins.
    """
    access = await caller.may("threads", "read", {"thread_id": session_id})
    await sessions.get(services.db, session_id, access=access)
    place = message_cursor(cursor)
    upper = await _seq(services, session_id, before)
    lower = await _seq(services, session_id, after)
    if place is not None and order == "asc":
        lower = place if lower is None else max(place, lower)
    elif place is not None:
        upper = place if upper is None else min(place, upper)
    page, more = await messages.list_page(
        services.db,
        session_id,
        limit=limit,
        after_seq=lower,
        before_seq=upper,
        order=order,
        branch=branch,
    )
    following = encode_cursor(page[-1].seq) if more else None
    ids = [message.id for message in page]
    opinions = await feedback.of_messages(services.db, session_id, ids, user_id=caller.identity)
    shown = [message_json(message, opinions.get(message.id)) for message in page]
    return json_response({"data": shown, "next_cursor": following, "has_more": more})


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
    is_streamed = body.stream or _wants_stream(accept)
    return await _answer(services, caller, submitted, is_streamed=is_streamed)


@router.post("/messages/{message_id:path}/regenerate")
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
    is_streamed = body.stream or _wants_stream(accept)
    return await _answer(services, caller, submitted, is_streamed=is_streamed)


@router.patch("/messages/{message_id:path}")
async def edit_message(
    session_id: SessionId,
    message_id: Text,
    body: MessageEdit,
    caller: CallerDep,
    services: ServicesDep,
) -> Response:
    """Correct a message where it stands: nothing is answered again."""
    access = await _session(services, caller, session_id, "update")
    await send_files(services, caller, session_id, [body.content], access=access)
    with session_busy():
        edited = await services.branches.edit(session_id, message_id, body.content, access=access)
    page, _ = await messages.list_page(
        services.db,
        session_id,
        limit=1,
        after_seq=edited.seq - 1,
        before_seq=edited.seq + 1,
        branch="all",
    )
    if not page:
        # Purged meanwhile, or the run that brought it was taken back.
        raise NotFoundError(f"Message {message_id} not found")
    return json_response(message_json(page[0]))


@router.delete("/messages/{message_id:path}", status_code=204)
async def delete_message(
    session_id: SessionId, message_id: Text, caller: CallerDep, services: ServicesDep
) -> Response:
    """Take a message out of the conversation; the answers of tools go with what called them."""
    access = await _session(services, caller, session_id, "update")
    with session_busy():
        await services.branches.remove(session_id, message_id, access=access)
    return Response(status_code=204)


@router.put("/head")
async def move_head(
    session_id: SessionId, body: HeadMove, caller: CallerDep, services: ServicesDep
) -> Response:
    """Go on from a message: the conversation is as it was when that was the last one."""
    access = await _session(services, caller, session_id, "update")
    with session_busy():
        checkpoint_id = await services.branches.go_to(session_id, body.message_id, access=access)
    return json_response({"head_message_id": body.message_id, "checkpoint_id": checkpoint_id})


@router.post("/fork")
async def fork_session(
    session_id: SessionId, body: SessionFork, caller: CallerDep, services: ServicesDep
) -> Response:
    """Make a session of its own of a conversation up to a message, or of all of it."""
    access = await caller.may("threads", "read", {"thread_id": session_id})
    source = await sessions.get(services.db, session_id, access=access)
    value: JsonObject = {"thread_id": str(uuid7()), "metadata": body.attributes(source)}
    fork_id = value["thread_id"]
    if caller.user is not None:
        value["metadata"]["user_id"] = caller.user.identity
    allowed = await services.new_sessions.allow(caller, value)
    new = NewThread(thread_id=fork_id, metadata=allowed.metadata, life=services.new_sessions.life)
    await services.branches.fork(session_id, body.message_id, new, access=access)
    return json_response(session_json(await sessions.get(services.db, fork_id, access=EVERYTHING)))


@router.post("/stop")
async def stop_session(session_id: SessionId, caller: CallerDep, services: ServicesDep) -> Response:
    """Stop the answer that is coming; what was said of it stays. Questions that wait go with it."""
    access = await _session(services, caller, session_id, "update")
    return json_response(await stop(services, session_id, access=access))


@router.get("/stream", response_class=EventStream, responses={204: {"description": "Idle."}})
async def stream_session(
    session_id: SessionId,
    caller: CallerDep,
    services: ServicesDep,
    last_event_id: LastEventId = None,
    since: str | None = None,
) -> Response:
    """
    Follow the answer that is coming: from its first event on, or after ``Last-Event-ID``.

    ``since`` is the same for who cannot set a header. If the run of that event has ended, the rest of it
    comes; then, and without an event's id, 204 says that nothing is coming.
    """
    access = await _session(services, caller, session_id, "read")
    text = last_event_id if since is None else since
    after = parse_event_id(text) if text else None
    submitted = await under_way(services, session_id, after=after, access=access)
    if submitted is None:
        return Response(status_code=204)
    stream = SessionStream(services, submitted, after=after)
    return stream_of_run(services, caller, submitted, stream.frames())


async def _seq(services: Services, session_id: str, message_id: str | None) -> int | None:
    """The place of a message that bounds a list."""
    if message_id is None:
        return None
    seq = await messages.find_seq(services.db, session_id, message_id)
    if seq is None:
        raise NotFoundError(f"Message {message_id} not found")
    return seq


async def _session(
    services: Services, caller: Caller, session_id: str, action: Literal["read", "update"]
) -> Access:
    """On which rows the caller may do it; the session is there."""
    access = await caller.may("threads", action, {"thread_id": session_id})
    await sessions.get(services.db, session_id, access=access)
    return access


def _wants_stream(accept: str) -> bool:
    return "text/event-stream" in accept


async def _answer(
    services: Services, caller: Caller, submitted: Submitted, *, is_streamed: bool
) -> Response:
    if not is_streamed:
        return json_response(await answer(services, submitted))
    return stream_of_run(services, caller, submitted, SessionStream(services, submitted).frames())
