"""
Which pages of a browser may reach this server: by the host that their URL names, and by their origin.

A page has no API key, so where callers must have one it can do nothing. Where nobody is asked who they are, a page
that reaches the server may do everything. Two kinds of pages are therefore refused there: a page whose domain
name has been led to 127.0.0.1 (DNS rebinding), and a page of an origin that is not allowed, which could start a run by
a plain form.
"""

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from api.errors import RefusedError, refuse, response_to
from api.http.origins import (
    host_of,
    is_address,
    is_default_origin,
    is_loopback_host,
    is_of_this_machine,
)
from api.identity.auth import deny, is_open
from api.loopback import is_in_process
from store.errors import PermissionDeniedError

ANY: Final = "*"
#: By which containers on this machine find it. Nobody can have a domain below `.internal`.
_FROM_CONTAINERS = frozenset({"host.docker.internal", "host.containers.internal"})
#: What a page may send to what is open to everybody.
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Names:
    """Names of this server: `*.example.com` is all below it."""

    def __init__(self, names: Collection[str]) -> None:
        self._exact = frozenset(name for name in names if name[:2] != "*.")
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))

    def __contains__(self, host: str) -> bool:
        return host in self._exact or host.endswith(self._endings)


class KnownHosts:
    """
    Refuses a request whose `Host` is no name of this server, with 421, before anything of it is read.

    The names of this machine, and those by which its containers know it, are always known. Who leads a name elsewhere
    needs a name, and a browser: an address passes, and so does a request without `Host`. What comes over no network is
    not checked.

    Args:
        app: What is behind it.
        names: More names that are known, `*.example.com` for all below it.
        only_loopback: Check only connections that came to a loopback address.
    """

    def __init__(self, app: ASGIApp, *, names: Collection[str], only_loopback: bool) -> None:
        self.app = app
        self._names = Names(_FROM_CONTAINERS.union(names))
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
        if not given:
            return True
        host = host_of(given[0]) if len(given) == 1 else None
        return host is not None and (
            is_address(host) or is_of_this_machine(host) or host in self._names
        )


class KnownOrigins:
    """
    Refuses a request of a page whose origin may not call, with 403.

    CORS alone keeps such a page from reading an answer, but not from sending a request that browsers ask no
    leave for: a form, a text, a WebSocket. What everybody may read every page may.

    Args:
        app: What is behind it.
        origins: Those that may call; None: pages of this machine and of `names`, and LangChain's hosted front ends.
        names: Names of this server, under which it may serve a page of its own.
        origin_regex: More of them.
        only_sockets: Check only WebSockets.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        origins: Collection[str] | None,
        names: Collection[str] = (),
        origin_regex: str | None = None,
        only_sockets: bool = False,
    ) -> None:
        self.app = app
        self._are_default = origins is None
        self._names = Names(names)
        self._cors = CORSMiddleware(
            app, allow_origins=origins or (), allow_origin_regex=origin_regex
        )
        self._only_sockets = only_sockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not is_from_network(scope) or _is_open_to_read(scope) or self._may_call(scope):
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
        if self._are_default and (is_default_origin(origin) or self._is_named(origin)):
            return True
        return self._cors.is_allowed_origin(origin)

    def _is_named(self, origin: str) -> bool:
        scheme, _, authority = origin.partition("://")
        host = host_of(authority)
        return scheme in ("http", "https") and host is not None and host in self._names


def _is_open_to_read(scope: Scope) -> bool:
    return is_open(scope) and scope["method"] in _READING


def is_from_network(scope: Scope) -> bool:
    """
    Whether this is a request, or a WebSocket, that came over a network.

    uvicorn puts the address that it came to into ``server``. Clients that call the application without a
    network, such as `httpx.ASGITransport`, put a name there.
    """
    if scope["type"] not in ("http", "websocket") or is_in_process(scope):
        return False
    came_to = scope.get("server")
    return came_to is None or is_address(came_to[0])
