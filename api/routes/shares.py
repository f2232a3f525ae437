"""Shares of sessions: links that need no login, and members."""

import hmac
import secrets
from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from uuid_utils.compat import uuid7

from api.deps import HAS_MESSAGES, CallerDep, ServicesDep, SessionId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.identity import passwords
from api.identity.auth import Caller
from api.schemas.common import Text
from api.schemas.sessions import encode_cursor, message_cursor, session_json
from api.schemas.shares import ShareCreate, ShareId, link_json, members_json, shared_json
from api.sessions.clones import adopt_shared
from store import shares
from store.access import Access
from store.errors import (
    AuthenticationError,
    GoneError,
    InvalidInputError,
    NotFoundError,
    TooManyAttemptsError,
)
from store.models import JsonObject
from store.shares import Shared

router = APIRouter(tags=["shares"], route_class=JsonRoute, dependencies=HAS_MESSAGES)

TOKEN_BYTES = 32
#: Nobody keeps what was shared by a link: it may be revoked the next moment.
NOT_KEPT = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}

Password = Annotated[
    str | None,
    Header(alias="X-Share-Password", description="Of a link that has one, in UTF-8."),
]


async def _owned(caller: Caller, session_id: str, metadata: JsonObject) -> Access:
    """
    The sessions whose sharing the caller may change: not those that are shared with them.

    A handler of `threads.update` sees `members` as what is to become of them, and may refuse.
    """
    return await caller.may("threads", "update", {"thread_id": session_id, "metadata": metadata})


@router.post("/api/sessions/{session_id}/shares")
async def create_share(
    session_id: SessionId, body: ShareCreate, caller: CallerDep, services: ServicesDep
) -> Response:
    """
    Share a session: by a link to read it, or with users, as `viewer` or `editor`.

    A link is `snapshot` (what the session says now) or `live`; it may end and have a password. Its
    URL is told this once. Sharing with users adds to those there are.
    """
    if body.audience == "users":
        users = body.users or []
        if caller.user is None:
            raise InvalidInputError("This server knows no users: langgraph.json names no `auth`")
        access = await _owned(caller, session_id, {"members": dict.fromkeys(users, body.role)})
        members = await shares.add_members(
            services.db,
            session_id,
            users,
            role=body.role,
            actor=caller.actor,
            access=access,
        )
        return json_response(members_json(session_id, members))
    access = await _owned(caller, session_id, {})
    token = secrets.token_urlsafe(TOKEN_BYTES)
    made = await shares.create(
        services.db,
        session_id,
        share_id=str(uuid7()),
        token_hash=_hash(token),
        mode=body.mode or "snapshot",
        password_hash=await passwords.hashed(body.password) if body.password else None,
        expires_at=body.expires_at,
        created_by=caller.user.identity if caller.user else None,
        actor=caller.actor,
        access=access,
    )
    return json_response(link_json(made, token))


@router.get("/api/sessions/{session_id}/shares")
async def list_shares(session_id: SessionId, caller: CallerDep, services: ServicesDep) -> Response:
    """The links of a session, and, as the share `users`, its members."""
    access = await _owned(caller, session_id, {})
    members = await shares.members(services.db, session_id, access=access)
    found = [link_json(link) for link in await shares.links(services.db, session_id, access=access)]
    if members:
        found.append(members_json(session_id, members))
    return json_response({"data": found, "next_cursor": None, "has_more": False})


@router.delete("/api/sessions/{session_id}/shares", status_code=204)
async def delete_shares(
    session_id: SessionId, caller: CallerDep, services: ServicesDep
) -> Response:
    """Share a session with nobody any more: no link of it leads anywhere, it has no members."""
    access = await _owned(caller, session_id, {"members": {}})
    await shares.revoke_all(services.db, session_id, actor=caller.actor, access=access)
    return Response(status_code=204)


@router.delete("/api/sessions/{session_id}/shares/users", status_code=204)
async def delete_member(
    session_id: SessionId,
    caller: CallerDep,
    services: ServicesDep,
    user: Annotated[Text, Query(min_length=1, max_length=255)],
) -> Response:
    """Share a session with one user fewer."""
    access = await _owned(caller, session_id, {"members": {}})
    await shares.remove_member(services.db, session_id, user, actor=caller.actor, access=access)
    return Response(status_code=204)


@router.delete("/api/sessions/{session_id}/shares/{share_id}", status_code=204)
async def delete_share(
    session_id: SessionId, share_id: ShareId, caller: CallerDep, services: ServicesDep
) -> Response:
    """Revoke a link."""
    access = await _owned(caller, session_id, {})
    await shares.delete(services.db, session_id, share_id, actor=caller.actor, access=access)
    return Response(status_code=204)


@router.get("/api/shares/{token}")
async def read_share(
    token: str,
    services: ServicesDep,
    password: Password = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: str | None = None,
) -> Response:
    """
    Read a shared session, without a login: its name, and what people and the assistant said.

    401 if it has a password that is not in `X-Share-Password`, 410 if it has ended, 404 if there
    is no such link, any more or at all.
    """
    place = message_cursor(cursor)
    shared = await _opened(services, token, password)
    page, more = await shares.messages(
        services.db, shared, after_seq=-1 if place is None else place, limit=limit
    )
    following = encode_cursor(page[-1].seq) if more else None
    return json_response(shared_json(shared, page, following), headers=NOT_KEPT)


@router.post("/api/shares/{token}/clone")
async def clone_share(
    token: str, caller: CallerDep, services: ServicesDep, password: Password = None
) -> Response:
    """Make a session of one's own of what a link shows, to go on from there."""
    shared = await _opened(services, token, password)
    return json_response(session_json(await adopt_shared(services, caller, shared)))


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()


async def _opened(services: ServicesDep, token: str, password: str | None) -> Shared:
    """
    What a token leads to, if the password is right.

    Raises:
        NotFoundError: Nothing.
        GoneError: It has ended.
        AuthenticationError: It has another password.
        TooManyAttemptsError: Too many have been tried.
    """
    found = await shares.find(services.db, _hash(token))
    if not hmac.compare_digest(found.token_hash, _hash(token)):
        raise NotFoundError("The share does not exist")
    if found.is_expired:
        raise GoneError("The share has ended")
    if found.password_hash is not None:
        await _check(services, found.share_id, found.password_hash, password)
    return found


async def _check(services: ServicesDep, share_id: str, kept: str, password: str | None) -> None:
    if password is None:
        raise AuthenticationError("The share has a password", code="password_required")
    if not await shares.begin_attempt(services.db, share_id):
        raise TooManyAttemptsError("Too many wrong passwords: try again later")
    # A header is Latin-1 to HTTP, and UTF-8 to whoever types.
    text = password.encode("latin-1").decode("utf-8", "replace")
    if not await passwords.is_right(text, kept):
        raise AuthenticationError("The password is wrong", code="wrong_password")
    await shares.forgive_attempt(services.db, share_id)
