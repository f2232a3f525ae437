"""Sessions: conversations for people who do not think in runs."""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Response
from uuid_utils.compat import uuid7

from api.bootstrap import Services
from api.deps import CallerDep, ServicesDep, SessionId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.identity.auth import Caller
from api.schemas.common import Text
from api.schemas.sessions import (
    FeedbackPut,
    SessionCreate,
    SessionList,
    SessionUpdate,
    counts_json,
    encode_cursor,
    feedback_json,
    is_pinned,
    session_cursor,
    session_json,
)
from api.sessions.runs import delete
from store import feedback, search, sessions, terms
from store.access import Access
from store.errors import PermissionDeniedError
from store.models import JsonObject, Session
from store.sessions import SortBy

router = APIRouter(prefix="/api/sessions", tags=["sessions"], route_class=JsonRoute)


MessagePath = Annotated[Text, Path(max_length=255)]

#: Words of a question, as for /api/search.
MAX_TERMS = 32
SECONDS_OF_A_DAY = 86400.0
#: A strong validator of HTTP; a weak one never matches.
_ETAG = re.compile(r'(?<!W/)"([^"]*)"')


def _answer(session: Session) -> Response:
    return json_response(session_json(session), headers={"ETag": f'"{session.etag}"'})


def _own(caller: Caller, metadata: JsonObject) -> None:
    """See that nobody gives a session to, or takes it from, somebody else by its ``user_id``."""
    named = metadata.get("user_id")
    if caller.user is not None and named not in (None, caller.user.identity):
        raise PermissionDeniedError("user_id is not yours")


@router.post("")
async def create_session(body: SessionCreate, caller: CallerDep, services: ServicesDep) -> Response:
    """
    Create a session: a thread with an owner, and a name if it is given one.

    Where users are known, `user_id` is the caller's.
    """
    session_id = body.id or str(uuid7())
    attributes = body.attributes()
    _own(caller, attributes)
    if caller.user is not None:
        attributes["user_id"] = caller.user.identity
    value: JsonObject = {"thread_id": session_id, "metadata": attributes, "if_exists": "raise"}
    access = await caller.may("threads", "create", value)
    await services.quotas.require_session(caller)
    created = await sessions.create(
        services.db,
        session_id,
        metadata=value.get("metadata") or {},
        expires_at=body.expires_at,
        life=services.graphs.ttl.life,
        access=access,
    )
    return _answer(created)


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
    place = session_cursor(asked.cursor)
    value: JsonObject = {"metadata": {}, "limit": asked.limit, "offset": 0}
    access = await caller.may("threads", "search", value, shared=asked.shared is not False)
    if asked.shared:
        access = Access.of_memberships(caller.identity)
    snippets = await _said(services, asked.q, access) if asked.q else {}
    which, sort_by = asked.filter(snippets), asked.sort_by()
    page, more = await sessions.list_page(
        services.db,
        which,
        sort_by=sort_by,
        order="desc" if asked.sort.startswith("-") else "asc",
        pinned_first=asked.begins_with_pinned(),
        after=place,
        limit=asked.limit,
        access=access,
    )
    answer: JsonObject = {
        "data": [session_json(session, snippets.get(session.id)) for session in page],
        "next_cursor": _following(page[-1], sort_by) if more else None,
        "has_more": more,
    }
    if asked.counts:
        answer["counts"] = counts_json(await sessions.counts(services.db, which, access=access))
    return json_response(answer)


async def _said(services: Services, q: str, access: Access) -> dict[str, str | None]:
    """The sessions in which these words were said, each with the place; None if in the name alone."""
    question = terms.query(q)
    if services.graphs.checkpointer is not None or question.size > MAX_TERMS:
        return {}  # names are all that is looked at
    # A name is found by any part of it; one that is encrypted, by its words.
    names = services.db.cipher.is_on
    found = await search.sessions(services.db, question, names=names, access=access)
    return {
        hit.session_id: None if hit.message_id is None else terms.snippet(hit.content, question)
        for hit in found
    }


def _following(last: Session, sort_by: SortBy) -> str:
    return encode_cursor(is_pinned(last), getattr(last, sort_by), last.id)


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
    changes = body.changes()
    _own(caller, changes)
    value: JsonObject = {"thread_id": session_id, "metadata": changes}
    access = await caller.may("threads", "update", value)
    is_any = if_match is None or if_match.strip() == "*"
    changed = await sessions.update(
        services.db,
        session_id,
        changes=value.get("metadata") or {},
        removed=body.removed(),
        expiry=body.expiry(),
        etags=None if is_any else _ETAG.findall(if_match or ""),
        access=access,
    )
    return _answer(changed)


@router.delete("/{session_id}", status_code=204)
async def delete_session(
    session_id: SessionId, caller: CallerDep, services: ServicesDep, purge: bool = False
) -> Response:
    """
    Delete a session so that it can be restored; with `purge=true` for good, with all that it has.

    An answer that is still coming is stopped.
    """
    access = await caller.may("threads", "delete", {"thread_id": session_id})
    if purge:
        await services.runs.purge_session(session_id, actor=caller.actor, access=access)
        return Response(status_code=204)
    await delete(services, session_id, access=access)
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


@router.put("/{session_id}/messages/{message_id}/feedback")
async def put_feedback(
    session_id: SessionId,
    message_id: MessagePath,
    body: FeedbackPut,
    caller: CallerDep,
    services: ServicesDep,
) -> Response:
    """Say what one thinks of a message: a score from 0 to 100, or whether one likes it."""
    value: JsonObject = {"thread_id": session_id, "message_id": message_id}
    access = await caller.may("threads", "update", value)
    kept = await feedback.put(
        services.db,
        session_id,
        message_id,
        user_id=caller.identity,
        score=body.points(),
        reason=body.reason,
        tags=body.tags,
        access=access,
    )
    return json_response(feedback_json(kept))


@router.delete("/{session_id}/messages/{message_id}/feedback", status_code=204)
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
