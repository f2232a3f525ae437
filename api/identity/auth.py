"""Who is calling, and what they may do."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from api.errors import response_to
from api.http.bodies import bounded
from api.http.headers import HeaderFilter
from api.identity.authority import Action, Authority, Resource
from api.identity.permissions import is_granted
from api.loopback import is_loopback
from api.processes.sockets import LATE_PATH
from graph.first_words import preferred_language
from graph.user import User, act_for
from store.access import EVERYTHING, ROLES, Access, Role
from store.errors import Error, UnavailableError
from store.models import JsonObject

#: What everybody may ask for, also where all else needs a name.
OPEN_PATHS = frozenset({"/", "/ok", "/ready", "/info", "/docs", "/openapi.json"})
#: What tells of everybody's work: for those who may, see `api.metrics_gate`.
METRICS_PATH = "/metrics"
_OPEN_BELOW = ("/ui/", "/api/shares/")

#: What may be done with a thread by those whom it is shared with, by action; nothing else.
_OF_MEMBERS: Mapping[str, tuple[Role, ...]] = {
    "read": ROLES,
    "search": ROLES,
    "create_run": ("editor",),
    "update": ("editor",),
}
#: What a change of a thread's content names. Whatever names more, its metadata above all, is for
#: those who may change it without being a member: a member must not make themselves the owner.
_OF_CONTENT = frozenset({"thread_id", "message_id", "run_id", "run_ids", "action"})


@dataclass(frozen=True, kw_only=True)
class Caller:
    """
    Who sent a request.

    Args:
        request_id: The request's id.
        user: By attribute and by key; None without authentication.
        authority: Who decides what they may do.
        headers: Those of the request that langgraph.json lets graphs see.
        language: That their client likes best, as ``zh``.
        again: Sees that they would still be let in, as `Authority.again`; None where nobody is asked.
    """

    request_id: str
    user: User | None = None
    authority: Authority | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    language: str | None = None
    again: Callable[[], Awaitable[None]] | None = None

    @property
    def identity(self) -> str:
        """Who that is; empty where nobody is known."""
        return self.user.identity if self.user else ""

    @property
    def actor(self) -> str:
        """Who sent it; not `identity` where that is who they act for. Empty where nobody is known."""
        return str(self.user.get("actor") or self.identity) if self.user else ""

    @property
    def credential(self) -> str | None:
        """By what they were known, as ``key:…``, if that is built in. It opens nothing."""
        found: str | None = getattr(self.user, "credential", None)
        return found

    def has(self, permission: str) -> bool:
        """
        Whether the caller has a permission, such as ``audit:read``; all of it without authentication.

        By the permissions that they were granted, whoever granted them: a custom `Auth` too.
        """
        return self.may_everything or (
            self.user is not None and is_granted(self.user.permissions, permission)
        )

    def sender_has(self, permission: str) -> bool:
        """Whether who sent it has a permission: of who acts for a user, not the user."""
        granted = getattr(self.user, "sender_permissions", None)
        return self.has(permission) if granted is None else is_granted(granted, permission)

    def require(self, permission: str) -> None:
        """
        Refuse what has no row to ask about, such as one's own webhooks, to a scoped key without it.

        A custom `Auth` is not asked: its permissions mean what its handlers say.

        Raises:
            PermissionDeniedError: They have not.
        """
        if self.authority is not None and self.user is not None:
            self.authority.require(self.user, permission)

    def lasting(self, access: Access) -> Access:
        """What of the threads that they may see is for what outlives the request, and their key."""
        if self.authority is None or self.user is None:
            return access
        return self.authority.lasting(self.user, access)

    async def require_still(self) -> None:
        """
        Refuse somebody who would not be let in any more; PostgreSQL may be away.

        Raises:
            Error: They would not.
        """
        if self.again is not None:
            with suppress(UnavailableError):
                await self.again()

    @property
    def injected(self) -> JsonObject:
        """What the server adds to a run's configurable; a client cannot set it."""
        about: JsonObject = {
            **self.headers,
            "langgraph_auth_user": self.user.dict() if self.user else None,
            "langgraph_auth_user_id": self.identity,
            "langgraph_auth_permissions": self.user.permissions if self.user else [],
            "langgraph_request_id": self.request_id,
        }
        return about | {"user_id": self.user.identity} if self.user else about

    @property
    def may_everything(self) -> bool:
        """Nobody is asked what the caller may do, or changes what is to be done."""
        return self.authority is None or self.user is None

    async def may(
        self, resource: Resource, action: Action, value: JsonObject, *, shared: bool = True
    ) -> Access:
        """
        Ask whether the caller may do something, before it is done or anything is read for it.

        Args:
            value: What is to be done. It may be changed: use what it holds afterwards.
            shared: False leaves out what others share with the caller.

        Returns:
            On which rows; for threads also those that are shared with the caller, if the role does.

        Raises:
            PermissionDeniedError: On none at all. An author's handler may raise other errors.
        """
        if self.authority is None or self.user is None:
            return EVERYTHING
        # Before a handler adds to it.
        roles = _roles(action, value) if shared and resource == "threads" else ()
        access = await self.authority.authorize(self.user, resource, action, value)
        return access.of_members(self.user.identity, roles)


def _roles(action: Action, value: JsonObject) -> tuple[Role, ...]:
    named = {key for key in value if value[key] is not None}
    if action == "update" and not named <= _OF_CONTENT:
        return ()
    return _OF_MEMBERS.get(action, ())


def is_late(scope: Scope) -> bool:
    """Whether a request may say later who sends it than in its handshake: browsers cannot set its headers."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return bool(scope["type"] == "websocket" and path == LATE_PATH)


def is_open(scope: Scope) -> bool:
    """Whether a request is for what everybody may see."""
    path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
    return scope["type"] == "http" and is_open_path(scope["method"], path)


def is_open_path(method: str, path: str) -> bool:
    """Whether everybody may ask for a path."""
    # A shared link is its own key.
    is_page = method == "GET" and (path == "/ui" or path.startswith(_OPEN_BELOW))
    return path in OPEN_PATHS or is_page


class Authentication:
    """
    Lets through who is known, as ``scope["state"]["caller"]``; Starlette's ``user`` is set too.

    HTTP and WebSocket alike; a WebSocket on `LATE_PATH` gets ``knock`` instead, by which its route lets
    the caller in. A scope that has a caller is let through; so is a graph of this process,
    which may do everything.

    Args:
        authority: None lets everybody in, as nobody.
        headers: Which of a request's headers its caller has; None for none.
        unless: Requests that are none of its business; they have no caller.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authority: Authority | None,
        headers: HeaderFilter | None = None,
        unless: Callable[[Scope], bool] = is_open,
    ) -> None:
        self.app = app
        self._authority = authority
        self._headers = headers
        self._unless = unless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket") or self._unless(scope):
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        # An author's middleware may have put something of this name there.
        if isinstance(state.get("caller"), Caller):
            await self.app(scope, receive, send)
            return
        if is_late(scope):
            state["knock"] = partial(self._let_in, scope)
            await self.app(scope, receive, send)
            return
        reading = _Rereading(receive)
        try:
            caller = await self._caller(scope, reading.first)
        except Error as exc:
            await deny(response_to(exc), scope, receive, send)
            return
        _enter(scope, caller)
        await self.app(scope, reading.again, send)

    async def _let_in(self, scope: Scope, token: str | None) -> Caller:
        """
        Find out who has opened a WebSocket, which may say so by a token.

        Raises:
            Error: It is not known, or refused.
        """
        asked = dict(scope)
        if token is not None:
            others = [one for one in scope["headers"] if one[0] != b"authorization"]
            asked["headers"] = [*others, (b"authorization", b"Bearer " + token.encode())]
        caller = await self._caller(asked, _nothing)
        _enter(scope, caller)
        return caller

    async def _caller(self, scope: Scope, receive: Receive) -> Caller:
        request_id = scope["state"].get("request_id") or str(uuid4())
        sent = Headers(scope=scope)
        headers = self._headers.of(sent) if self._headers else {}
        language = preferred_language(sent.get("accept-language", ""))
        if self._authority is None or is_loopback(scope):
            return Caller(request_id=request_id, headers=headers, language=language)
        is_http = scope["type"] == "http"
        user = await self._authority.authenticate(
            bounded(Request(scope, receive)) if is_http else HTTPConnection(scope),
            path_params=lambda: _path_params(scope),
        )
        return Caller(
            request_id=request_id,
            user=user,
            authority=self._authority,
            headers=headers,
            language=language,
            again=partial(self._authority.again, HTTPConnection(scope)),
        )


def _enter(scope: Scope, caller: Caller) -> None:
    scope["state"]["caller"] = caller
    if caller.user is not None:
        scope["user"] = caller.user
        act_for(caller.user)


async def _nothing() -> Message:
    return {"type": "websocket.connect"}


async def deny(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or the handshake of a WebSocket, that is not let through."""
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    socket = WebSocket(scope, receive, send)
    with suppress(RuntimeError):  # the server cannot answer a handshake but by closing
        await socket.send_denial_response(response)
        return
    await socket.close(code=1008)


class _Rereading:
    """The messages of a request; those that were read before it is let through come again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read: list[Message] = []

    async def first(self) -> Message:
        message = await self._receive()
        self._read.append(message)
        return message

    async def again(self) -> Message:
        return self._read.pop(0) if self._read else await self._receive()


def _path_params(scope: Scope) -> Mapping[str, Any]:
    """What the path of a request says, by the route that it will come to."""
    for route in scope["app"].routes:
        match, child = route.matches(scope)
        if match is Match.FULL:
            return dict(child.get("path_params", {}))
    return {}
