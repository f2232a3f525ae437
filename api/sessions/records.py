"""Sessions as their callers keep them: made, listed, renamed, judged; for each family of routes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from uuid_utils.compat import uuid7

from api.bootstrap import Services
from api.identity.auth import Caller
from api.schemas.sessions import (
    FeedbackPut,
    SessionCreate,
    SessionList,
    SessionUpdate,
    encode_cursor,
    is_pinned,
    session_cursor,
)
from api.sessions import runs
from store import feedback, search, sessions, terms
from store.access import Access
from store.errors import PermissionDeniedError
from store.feedback import Feedback
from store.models import JsonObject, Session
from store.sessions import Counts, SortBy

#: Words of a question, as for /api/search.
MAX_TERMS = 32
#: A strong validator of HTTP; a weak one never matches.
_ETAG = re.compile(r'(?<!W/)"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Page:
    """
    Sessions of a list.

    Attributes:
        snippets: By session, where it was said what was looked for; None if in the name alone.
        next_cursor: Where the list goes on; None at its end.
        counts: How many the user has, if that was asked for.
    """

    sessions: list[Session]
    snippets: dict[str, str | None]
    next_cursor: str | None
    counts: Counts | None


async def create(
    services: Services, caller: Caller, body: SessionCreate, *, seen_by: Iterable[Access] = ()
) -> Session:
    """
    Make a session as a caller describes it; where users are known, it is the caller's.

    Args:
        seen_by: As for `NewSessions.make`.

    Raises:
        PermissionDeniedError: It names somebody else, or the caller may not create threads.
        AlreadyExistsError: The id is taken.
        QuotaError: They have as many sessions as they may.
    """
    attributes = body.attributes()
    _require_own(caller, attributes)
    if caller.user is not None:
        attributes["user_id"] = caller.user.identity
    return await services.new_sessions.make(
        caller,
        body.id or str(uuid7()),
        attributes,
        expires_at=body.expires_at,
        seen_by=seen_by,
    )


def _require_own(caller: Caller, metadata: JsonObject) -> None:
    """See that nobody gives a session to, or takes it from, somebody else by its ``user_id``."""
    named = metadata.get("user_id")
    if caller.user is not None and named not in (None, caller.user.identity):
        raise PermissionDeniedError("user_id is not yours")


async def list_page(services: Services, caller: Caller, asked: SessionList) -> Page:
    """
    A page of the sessions that a caller may see.

    Raises:
        BadRequestError: The cursor is none of ours.
    """
    place = session_cursor(asked.cursor)
    value: JsonObject = {"metadata": {}, "limit": asked.limit, "offset": 0}
    access = await caller.may("threads", "search", value, shared=asked.shared is not False)
    if asked.shared:
        access = Access.of_memberships(caller.identity)
    scope = await search.scope_of(services.db, access) if asked.q else None
    snippets = await _said(services, asked.q, scope, access) if asked.q else {}
    which, sort_by = asked.filter(snippets), asked.sort_by()
    page, more = await sessions.list_page(
        services.db,
        which,
        sort_by=sort_by,
        order="desc" if asked.sort.startswith("-") else "asc",
        pinned_first=asked.begins_with_pinned(),
        after=place,
        limit=asked.limit,
        sees_many=scope is None or scope.session_ids is None,
        access=access,
    )
    counts = await sessions.counts(services.db, which, access=access) if asked.counts else None
    return Page(page, snippets, _following(page[-1], sort_by) if more else None, counts)


async def _said(
    services: Services, q: str, scope: search.Scope | None, access: Access
) -> dict[str, str | None]:
    """The sessions in which these words were said, each with the place; None if in the name alone."""
    question = terms.query(q)
    if services.graphs.checkpointer is not None or question.size > MAX_TERMS:
        return {}  # names are all that is looked at
    # A name is found by any part of it; one that is encrypted, by its words.
    names = services.db.cipher.is_on
    found = await search.sessions(services.db, question, names=names, scope=scope, access=access)
    return {
        hit.session_id: None if hit.message_id is None else terms.snippet(hit.content, question)
        for hit in found
    }


def _following(last: Session, sort_by: SortBy) -> str:
    return encode_cursor(is_pinned(last), getattr(last, sort_by), last.id)


async def update(
    services: Services,
    caller: Caller,
    session_id: str,
    body: SessionUpdate,
    *,
    if_match: str | None = None,
) -> Session:
    """
    Change what is known of a session.

    Args:
        if_match: The header of HTTP; None for whatever it is now.

    Raises:
        PermissionDeniedError: It would be given to somebody else.
        NotFoundError: There is no such session that the caller may change.
        ChangedError: It is another one than `if_match` says.
    """
    changes = body.changes()
    _require_own(caller, changes)
    value: JsonObject = {"thread_id": session_id, "metadata": changes}
    access = await caller.may("threads", "update", value)
    is_any = if_match is None or if_match.strip() == "*"
    return await sessions.update(
        services.db,
        session_id,
        changes=value.get("metadata") or {},
        removed=body.removed(),
        expiry=body.expiry(),
        etags=None if is_any else _ETAG.findall(if_match or ""),
        actor=caller.actor,
        access=access,
    )


async def delete(services: Services, caller: Caller, session_id: str, *, purge: bool) -> None:
    """
    Delete a session so that it can be restored, or for good; its answer that is coming is stopped.

    Raises:
        NotFoundError: There is no such session that the caller may delete.
    """
    access = await caller.may("threads", "delete", {"thread_id": session_id})
    if purge:
        await services.runs.purge_session(session_id, actor=caller.actor, access=access)
    else:
        await runs.delete(services, session_id, actor=caller.actor, access=access)


async def judge(
    services: Services, caller: Caller, session_id: str, message_id: str, body: FeedbackPut
) -> Feedback:
    """
    Keep what a caller thinks of a message.

    Raises:
        NotFoundError: There is no such message that the caller may judge.
    """
    value: JsonObject = {"thread_id": session_id, "message_id": message_id}
    access = await caller.may("threads", "update", value)
    return await feedback.put(
        services.db,
        session_id,
        message_id,
        user_id=caller.identity,
        score=body.points(),
        reason=body.reason,
        tags=body.tags,
        access=access,
    )
