"""`http.app` of langgraph.json: an application of the user's, whose routes come before ours."""

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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

#: Whether one of our routes answers a request.
IsOurs = Callable[[Scope], bool]


def load(target: str, root: Path) -> Starlette:
    """
    Import the application that langgraph.json names.

    Raises:
        InvalidInputError: It cannot be imported, or is none that could be served here.
    """
    try:
        app = variable(target, root)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's module raises anything
        raise InvalidInputError(f"http.app {target}: {reason(error)}") from error
    if not isinstance(app, Starlette):
        raise InvalidInputError(f"http.app {target} is no Starlette or FastAPI application")
    if getattr(app.router, "on_startup", None) or getattr(app.router, "on_shutdown", None):
        # With a lifespan beside them they would never be called.
        raise InvalidInputError(
            f"http.app {target} has on_startup or on_shutdown handlers: use `lifespan` instead"
        )
    return app


class CustomApp:
    """
    Puts an application of the user's in front of ours.

    Its middleware sees every request. Its routes are looked at first, but for `OURS`; its
    exception handlers are for them alone. What it has no route for, or not for that method while we
    have, is ours.

    Args:
        app: The rest of ours.
        theirs: The user's; changed, so that it is of use nowhere else.
        is_ours: Looks at our routes.
    """

    def __init__(self, app: ASGIApp, *, theirs: Starlette, is_ours: IsOurs) -> None:
        self._theirs = copy.copy(theirs)
        # The innermost middleware, before their exception handlers and their router.
        self._theirs.user_middleware = [
            *theirs.user_middleware,
            Middleware(_Fork, ours=app, routes=theirs.routes, is_ours=is_ours),
        ]
        self._theirs.middleware_stack = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        # Starlette sets its own.
        await self._theirs({**scope, _OUR_APP: scope.get("app")}, receive, send)


#: Where a scope has our application while it is in the user's.
_OUR_APP = "threadwell.app"


class _Fork:
    def __init__(
        self, app: ASGIApp, *, ours: ASGIApp, routes: list[BaseRoute], is_ours: IsOurs
    ) -> None:
        self._app = app
        self._ours = ours
        self._routes = routes
        self._is_ours = is_ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_theirs(scope):
            await self._app(scope, receive, send)
        else:
            await self._ours({**scope, "app": scope[_OUR_APP]}, receive, send)

    def _is_theirs(self, scope: Scope) -> bool:
        if route_path(scope) in OURS:
            return False
        found = {route.matches(scope)[0] for route in self._routes}
        if Match.FULL in found:
            return True
        return Match.PARTIAL in found and not self._is_ours(scope)


def route_path(scope: Scope) -> str:
    """The path of a request below what the application is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


@asynccontextmanager
async def living(theirs: Starlette) -> AsyncIterator[dict[str, Any]]:
    """The user's application between its start and its end; the state that its requests have."""
    async with theirs.router.lifespan_context(theirs) as state:
        yield dict(state or {})


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
            text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/App{name}"')
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
