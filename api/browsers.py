"""
Which pages of a browser may reach this server: by the host that their URL names, and by their origin.

A page has no API key, so where callers must have one it can do nothing. Where nobody is asked who they are, a page
that reaches the server may do everything. Two kinds of pages are therefore refused there: a page whose domain
name has been led to 127.0.0.1 (DNS rebinding), and a page of an origin that is not allowed, which could start a run by
a plain form.
"""

import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from api.errors import RefusedError, refuse, response_to
from api.identity.auth import deny, is_open
from api.loopback import is_in_process
from store.errors import PermissionDeniedError

ANY: Final = "*"
#: `Host`, or an origin after its scheme, in lower case: a name or an address, and perhaps a port.
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
#: By which containers on this machine find it. Nobody can have a domain below `.internal`.
_FROM_CONTAINERS = frozenset({"host.docker.internal", "host.containers.internal"})
#: LangGraph Studio is served from this host, and from hosts of regions below it; agent-chat-ui from that.
STUDIO: Final = "smith.langchain.com"
AGENT_CHAT: Final = "agentchat.vercel.app"


class KnownHosts:
    """
    Refuses a request whose `Host` is no name of this server, with 421, before anything of it is read.

    The names of this machine, and those by which its containers know it, are always known. What comes over no network
    is not checked.

    Args:
        app: What is behind it.
        names: More names that are known, `*.example.com` for all below it.
        only_loopback: Check only connections that came to a loopback address.
    """

    def __init__(self, app: ASGIApp, *, names: Collection[str], only_loopback: bool) -> None:
        self.app = app
        self._exact = _FROM_CONTAINERS.union(name for name in names if name[:2] != "*.")
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))
        self._only_loopback = only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not self._is_checked(scope) or self._is_known(scope):
            await self.app(scope, receive, send)
            return
        error = RefusedError(
            421, "The Host of this request is no name of this server: see HTTP_ALLOWED_HOSTS"
        )
        await deny(response_to(error), scope, receive, send)

    def _is_checked(self, scope: Scope) -> bool:
        if not is_from_network(scope):
            return False
        came_to = scope.get("server")
        return not self._only_loopback or came_to is None or is_loopback_host(came_to[0])

    def _is_known(self, scope: Scope) -> bool:
        given = Headers(scope=scope).getlist("host")
        host = host_of(given[0]) if len(given) == 1 else None
        return host is not None and (
            is_of_this_machine(host) or host in self._exact or host.endswith(self._endings)
        )


class KnownOrigins:
    """
    Refuses a request of a page whose origin may not call, with 403.

    CORS alone keeps such a page from reading an answer, but not from sending a request that browsers ask no
    leave for: a form, a text, a WebSocket. What is open to everybody is open to every page.

    Args:
        app: What is behind it.
        origins: Those that may call; None: pages of this machine, LangGraph Studio and agent-chat-ui.
        origin_regex: More of them.
        only_sockets: Check only WebSockets.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        origins: Collection[str] | None,
        origin_regex: str | None = None,
        only_sockets: bool = False,
    ) -> None:
        self.app = app
        self._are_default = origins is None
        self._cors = CORSMiddleware(
            app, allow_origins=origins or (), allow_origin_regex=origin_regex
        )
        self._only_sockets = only_sockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not is_from_network(scope) or is_open(scope) or self._may_call(scope):
            await self.app(scope, receive, send)
            return
        error = PermissionDeniedError("This origin is not allowed: see CORS_ALLOW_ORIGINS")
        if scope["type"] == "websocket":
            await refuse(WebSocket(scope, receive, send), error)
        else:
            await response_to(error)(scope, receive, send)

    def _may_call(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None or (self._only_sockets and scope["type"] == "http"):
            return True
        if origin.partition("://")[2] == headers.get("host"):
            # The server's own page, such as /docs.
            return True
        if self._are_default and is_default_origin(origin):
            return True
        return self._cors.is_allowed_origin(origin)


def is_from_network(scope: Scope) -> bool:
    """Whether a request came by a connection, so to an address: clients of ASGI have a name there."""
    came_to = scope.get("server")
    try:
        if came_to is not None:
            ip_address(came_to[0])
    except ValueError:
        return False
    return not is_in_process(scope)


def host_of(authority: str) -> str | None:
    """The name or address of a `Host`, without port and brackets; None if it is no such thing."""
    found = _AUTHORITY.fullmatch(authority.lower())
    return found[1].strip("[]") if found else None


def is_loopback_host(host: str) -> bool:
    """Whether who listens on an address is reached from this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_of_this_machine(host: str) -> bool:
    """Whether a browser finds a host on its own machine, whatever a name server says of it."""
    return host.endswith(".localhost") or is_loopback_host(host)


def is_default_origin(origin: str) -> bool:
    """Whether a page may call a server on its machine that says nothing of origins."""
    scheme, _, authority = origin.partition("://")
    host = host_of(authority)
    if host is None:
        return False
    if scheme == "https" and (host in (STUDIO, AGENT_CHAT) or host.endswith(f".{STUDIO}")):
        return True
    return scheme in ("http", "https") and is_of_this_machine(host)
