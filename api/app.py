"""The HTTP application: its routers, its errors, and what every request passes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from api import __version__, custom_app, errors, loopback
from api.bootstrap import Services, mount_prefix
from api.custom_app import CustomApp, Theirs, with_theirs
from api.headers import TRACING, HeaderFilter
from api.middleware import BodyLimit, LastResort, MountPrefix, RequestLog
from api.routes import assistants, items, runs, sessions, system, threads, unsupported
from graph.http_section import Http
from store.errors import InvalidInputError

#: What browsers may read of an answer beside its body; the SDKs reconnect by the first two.
EXPOSED_HEADERS = ("content-location", "location", "x-pagination-total", "x-pagination-next")

ROUTERS = (
    system.router,
    assistants.router,
    threads.router,
    runs.router,
    items.router,
    sessions.router,
    unsupported.router,
)

#: Which ``http.disable_*`` of langgraph.json a path belongs to: the first prefix that it has.
SWITCHES = (
    ("/assistants", "assistants"),
    ("/threads/{thread_id}/runs", "runs"),
    ("/threads/{thread_id}/commands", "event_streaming"),
    ("/threads/{thread_id}/stream/events", "event_streaming"),
    ("/threads", "threads"),
    ("/runs", "runs"),
    ("/store", "store"),
    ("/mcp", "mcp"),
    ("/a2a", "a2a"),
    ("/.well-known/agent-card.json", "a2a"),
    ("/ui", "ui"),
    ("/info", "meta"),
    ("/metrics", "meta"),
)


@asynccontextmanager
async def open_app(services: Services) -> AsyncIterator[FastAPI]:
    """
    Start the application, and the user's within it; graphs reach it without a URL.

    Raises:
        InvalidInputError: What langgraph.json names as `http.app` cannot be served.
    """
    http, root = services.graphs.http, services.graphs.path.parent
    if http.enable_custom_route_auth:
        raise InvalidInputError(
            "`http.enable_custom_route_auth` is not supported: your routes would be open to all"
        )
    custom = custom_app.load(http.app, root) if http.app else None
    app = create_app(services, custom=custom)
    with loopback.serving(app):
        async with custom.living() if custom else nullcontext():
            yield app


def create_app(services: Services, *, custom: Theirs | None = None) -> FastAPI:
    """
    Build the application on services that are open for as long as it is used.

    Args:
        services: What the routes work with.
        custom: The user's, whose routes come before ours.
    """
    http = services.graphs.http
    routers = [_enabled(router, http) for router in ROUTERS]
    routes = [route for router in routers for route in router.routes]

    def is_ours(scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in routes)

    meta = not http.disable_meta
    app = FastAPI(
        title="Threadwell",
        version=__version__,
        docs_url="/docs" if meta else None,
        openapi_url="/openapi.json" if meta else None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=_middleware(services, http)
        + (
            [Middleware(CustomApp, theirs=custom, is_ours=is_ours), Middleware(LastResort)]
            if custom
            else []
        ),
    )
    app.state.services = services
    app.state.configurable_headers = HeaderFilter(http.configurable_headers, also=TRACING)
    errors.install(app)
    for router in routers:
        app.include_router(router)
    if custom:
        _merge_documents(app, custom.app)
    return app


def _enabled(router: APIRouter, http: Http) -> APIRouter:
    """The routes of a router that are not switched off."""
    enabled = APIRouter(route_class=router.route_class)
    enabled.routes = [route for route in router.routes if not _is_disabled(route, http.disabled)]
    return enabled


def _is_disabled(route: BaseRoute, disabled: frozenset[str]) -> bool:
    path = getattr(route, "path", "")
    if path.startswith("/api/sessions"):
        # A session is a thread, and its messages are runs.
        return bool(disabled & {"threads", "runs"})
    found = (switch for prefix, switch in SWITCHES if path.startswith(prefix))
    return next(found, "") in disabled


def _merge_documents(app: FastAPI, custom: Starlette) -> None:
    """Let `/openapi.json` tell the user's routes too."""
    ours = app.openapi

    def openapi() -> dict[str, Any]:
        return with_theirs(ours(), custom)

    app.openapi = openapi  # type: ignore[method-assign]


def _middleware(services: Services, http: Http) -> list[Middleware]:
    """The outermost first: an answer of any of them is logged, and one from CORS inwards read."""
    prefix = mount_prefix(services.settings, services.graphs)
    return [
        Middleware(RequestLog, headers=HeaderFilter(http.logging_headers)),
        Middleware(CORSMiddleware, **_cors(services, http)),
        *([Middleware(MountPrefix, prefix=prefix)] if prefix else []),
        Middleware(LastResort),
        Middleware(BodyLimit, max_body_bytes=services.settings.request_body_max_bytes),
    ]


def allowed_origins(services: Services) -> list[str]:
    """The origins that browsers may call from, besides those of an expression."""
    cors, settings = services.graphs.http.cors, services.settings
    if "cors_allow_origins" in settings.model_fields_set:
        return list(settings.cors_allow_origins)
    if cors.allow_origins is None and cors.allow_origin_regex:
        # Not all: then it would say nothing.
        return []
    return list(settings.cors_allow_origins) if cors.allow_origins is None else cors.allow_origins


def _cors(services: Services, http: Http) -> dict[str, Any]:
    cors, origins = http.cors, allowed_origins(services)
    credentials = cors.allow_credentials
    return {
        "allow_origins": origins,
        "allow_origin_regex": cors.allow_origin_regex,
        "allow_methods": cors.allow_methods,
        "allow_headers": cors.allow_headers,
        # A browser sends credentials nowhere that says "*".
        "allow_credentials": "*" not in origins if credentials is None else credentials,
        # Studio is a public page that calls a private address.
        "allow_private_network": True,
        "expose_headers": list(dict.fromkeys([*EXPOSED_HEADERS, *cors.expose_headers])),
        "max_age": cors.max_age,
    }
