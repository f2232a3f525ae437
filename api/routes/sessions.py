"""Sessions: conversations for people who do not think in runs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Response

from api.deps import CallerDep, ServicesDep, SessionId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.schemas.common import Text
from api.schemas.sessions import (
    FeedbackPut,
    SessionCreate,
    SessionList,
    SessionUpdate,
    counts_json,
    feedback_json,
    session_json,
)
from api.sessions import records
from store import feedback, sessions
from store.models import JsonObject, Session

router = APIRouter(prefix="/api/sessions", tags=["sessions"], route_class=JsonRoute)

MessagePath = Annotated[Text, Path(max_length=255)]


def _answer(session: Session) -> Response:
    return json_response(session_json(session), headers={"ETag": f'"{session.etag}"'})


@router.post("")
async def create_session(body: SessionCreate, caller: CallerDep, services: ServicesDep) -> Response:
    """
    Create a session: a thread with an owner, and a name if it is given one.

    Where users are known, `user_id` is the caller's.
    """
    return _answer(await records.create(services, caller, body))


@router.get("")
async def list_sessions(
    services: ServicesDep, caller: CallerDep, asked: Annotated[SessionList, Query()]
) -> Response:
    """
    Sessions, those that are pinned first, and the one touched last first.

    `status=all` is all but the deleted ones. `tag` may be repeated: sessions that have them all. `q` is a
    part of their names, or words of one of their messages, which is their `snippet` then. `shared=true`
    is what others share with the caller, `shared=false` all else. Pinned sessions do not come first in
    other orders than the usual one, or among what is archived or deleted, unless `pinned_first` says
    so. `counts=true` adds how many sessions the user has.
    """
    page = await records.list_page(services, caller, asked)
    answer: JsonObject = {
        "data": [session_json(session, page.snippets.get(session.id)) for session in page.sessions],
        "next_cursor": page.next_cursor,
        "has_more": page.next_cursor is not None,
    }
    if page.counts is not None:
        answer["counts"] = counts_json(page.counts)
    return json_response(answer)


@router.get("/{session_id}")
async def get_session(
    session_id: SessionId,
    caller: CallerDep,
    services: ServicesDep,
    include: Literal["state"] | None = None,
) -> Response:
    """
    One session.

    `include=state` adds its newest checkpoint, what is next in it, and what it asks.
    """
    access = await caller.may("threads", "read", {"thread_id": session_id})
    session = await sessions.get(services.db, session_id, access=access)
    if include is None:
        return _answer(session)
    state = await services.states.get(session_id, access=access)
    shown = {
        "checkpoint_id": (state["checkpoint"] or {}).get("checkpoint_id"),
        "next": state["next"],
        "interrupts": state["interrupts"],
    }
    return json_response(
        {**session_json(session), "state": shown}, headers={"ETag": f'"{session.etag}"'}
    )


@router.patch("/{session_id}")
async def update_session(
    session_id: SessionId,
    body: SessionUpdate,
    caller: CallerDep,
    services: ServicesDep,
    if_match: Annotated[str | None, Header()] = None,
) -> Response:
    """
    Rename a session, pin it, put it away, or change what else is known of it.

    With `If-Match` only if its `ETag` is still the one that is given there: 412 otherwise.
    """
    changed = await records.update(services, caller, session_id, body, if_match=if_match)
    return _answer(changed)


@router.delete("/{session_id}", status_code=204)
async def delete_session(
    session_id: SessionId, caller: CallerDep, services: ServicesDep, purge: bool = False
) -> Response:
    """
    Delete a session so that it can be restored; with `purge=true` for good, with all that it has.

    An answer that is still coming is stopped.
    """
    await records.delete(services, caller, session_id, purge=purge)
    return Response(status_code=204)


@router.post("/{session_id}/restore")
async def restore_session(
    session_id: SessionId, caller: CallerDep, services: ServicesDep
) -> Response:
    """Take the deletion of a session back. One that was purged is 410."""
    value: JsonObject = {"thread_id": session_id, "metadata": {"status": "active"}}
    access = await caller.may("threads", "update", value)
    return _answer(await sessions.restore(services.db, session_id, access=access))


@router.post("/{session_id}/title")
async def make_title(session_id: SessionId, caller: CallerDep, services: ServicesDep) -> Response:
    """
    Give a session a title made of what was said in it, in place of its name.

    By the model, in the language of `Accept-Language`, or else of what was said; without a model its first
    words. A session in which nothing was said is 409.
    """
    access = await caller.may("threads", "update", {"thread_id": session_id, "metadata": {}})
    named = await services.titles.renew(session_id, caller.language, access=access)
    shown = session_json(named)
    return json_response({key: shown[key] for key in ("id", "name", "title_source")})


@router.put("/{session_id}/messages/{message_id:path}/feedback")
async def put_feedback(
    session_id: SessionId,
    message_id: MessagePath,
    body: FeedbackPut,
    caller: CallerDep,
    services: ServicesDep,
) -> Response:
    """Say what one thinks of a message: a score from 0 to 100, or whether one likes it."""
    kept = await records.judge(services, caller, session_id, message_id, body)
    return json_response(feedback_json(kept))


@router.delete("/{session_id}/messages/{message_id:path}/feedback", status_code=204)
async def delete_feedback(
    session_id: SessionId, message_id: MessagePath, caller: CallerDep, services: ServicesDep
) -> Response:
    """Take back what one said of a message."""
    value: JsonObject = {"thread_id": session_id, "message_id": message_id}
    access = await caller.may("threads", "update", value)
    await feedback.delete(
        services.db,
        session_id,
        message_id,
        user_id=caller.identity,
        access=access,
    )
    return Response(status_code=204)
