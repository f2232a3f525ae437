"""`http.app` of langgraph.json: an application of the user's, whose routes come before ours."""

import copy
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from graph.factory import reason, variable
from store.errors import InvalidInputError

#: What no application may take for itself.
OURS = frozenset({"/ok", "/metrics", "/docs", "/openapi.json"})

#: Whether a route of the user's answers a request.
IsTheirs = Callable[[Scope], bool]
Guard = Callable[[ASGIApp], ASGIApp]


@dataclass(frozen=True, slots=True)
class Theirs:
    """The user's application, and the state that its lifespan gives each of its requests."""

    app: Starlette
    state: dict[str, Any] = field(default_factory=dict)

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """
        Between its start and its end.

        Raises:
            InvalidInputError: Its lifespan fails before it has begun.
        """
        async with AsyncExitStack() as stack:
            lifespan: AbstractAsyncContextManager[Any] = self.app.router.lifespan_context(self.app)
            try:
                self.state.update(await stack.enter_async_context(lifespan) or {})
            except Exception as error:
                raise InvalidInputError(
                    f"http.app: its lifespan failed: {reason(error)}"
                ) from error
            yield


def load(target: str, root: Path) -> Theirs:
    """
    Import the application that langgraph.json names.

    Raises:
        InvalidInputError: It cannot be imported, or is none that could be served here.
    """
    try:
        app = variable(target, root)
    except (Exception, SystemExit) as error:
        raise InvalidInputError(f"http.app {target}: {reason(error)}") from error
    if not isinstance(app, Starlette):
        raise InvalidInputError(f"http.app {target} is no Starlette or FastAPI application")
    if getattr(app.router, "on_startup", None) or getattr(app.router, "on_shutdown", None):
        # With a lifespan beside them they would never be called.
        raise InvalidInputError(
            f"http.app {target} has on_startup or on_shutdown handlers: use `lifespan` instead"
        )
    return Theirs(app)


class CustomApp:
    """
    Puts an application of the user's in front of ours.

    Its middleware sees every request. Its routes are looked at first, but for `OURS`; its
    exception handlers are for them alone. What it has no route for, or not for that method while we
    have, is ours.

    Args:
        app: The rest of ours.
        theirs: The user's; it is not changed.
        is_theirs: Whether a request is for one of its routes.
        guard: What is put around its routes, behind its middleware.
    """

    def __init__(
        self, app: ASGIApp, *, theirs: Theirs, is_theirs: IsTheirs, guard: Guard = lambda app: app
    ) -> None:
        self._state = theirs.state
        self._theirs = copy.copy(theirs.app)
        # The innermost middleware, before their exception handlers and their router.
        self._theirs.user_middleware = [
            *theirs.app.user_middleware,
            Middleware(_Fork, ours=app, is_theirs=is_theirs, guard=guard),
        ]
        self._theirs.middleware_stack = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        state = {**self._state, **scope.get("state", {})}
        # Starlette sets `app` to its own.
        await self._theirs({**scope, "state": state, _OUR_APP: scope.get("app")}, receive, send)


#: Where a scope has our application while it is in the user's.
_OUR_APP = "threadwell.app"


class _Fork:
    def __init__(self, app: ASGIApp, *, ours: ASGIApp, is_theirs: IsTheirs, guard: Guard) -> None:
        self._theirs = guard(app)
        self._ours = ours
        self._is_theirs = is_theirs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_theirs(scope):
            await self._theirs(scope, receive, send)
        else:
            await self._ours({**scope, "app": scope[_OUR_APP]}, receive, send)


def chooser(theirs: Theirs, ours: Sequence[BaseRoute]) -> IsTheirs:
    """What finds out whether a request is for a route of the user's, or one of ours."""

    def is_theirs(scope: Scope) -> bool:
        if route_path(scope) in OURS:
            return False
        found = {route.matches(scope)[0] for route in theirs.app.routes}
        if Match.FULL in found:
            return True
        return Match.PARTIAL in found and not any(
            route.matches(scope)[0] is Match.FULL for route in ours
        )

    return is_theirs


def route_path(scope: Scope) -> str:
    """The path of a request below what the application is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def with_theirs(ours: dict[str, Any], theirs: Starlette) -> dict[str, Any]:
    """Our OpenAPI document with the routes of the user's application, if it tells them."""
    if not isinstance(theirs, FastAPI):
        return ours
    document = theirs.openapi()
    known = ours.get("components", {}).get("schemas", {})
    named = document.get("components", {}).get("schemas", {})
    text = orjson.dumps(document).decode()
    for name in named:
        if name in known and named[name] != known[name]:
            # Another thing of the same name.
            text = text.replace(
                f'"#/components/schemas/{name}"', f'"#/components/schemas/App{name}"'
            )
            text = text.replace(f'"{name}":', f'"App{name}":')
    document = orjson.loads(text)
    merged = {**ours, "info": document["info"], "paths": {**ours["paths"]}}
    for path, operations in document.get("paths", {}).items():
        if path not in OURS:
            merged["paths"][path] = {**merged["paths"].get(path, {}), **operations}
    components = dict(ours.get("components", {}))
    for kind, entries in document.get("components", {}).items():
        components[kind] = {**components.get(kind, {}), **entries}
    merged["components"] = components
    return merged
