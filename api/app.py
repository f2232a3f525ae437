"""The HTTP application: its routers, its errors, and what every request passes."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import Scope

from api import __version__, custom_app, errors, loopback
from api.bootstrap import Services, are_origins_set, mount_prefix
from api.browsers import ANY, KnownHosts, KnownOrigins
from api.compat import COMPAT_ROUTERS
from api.custom_app import CustomApp, Theirs, chooser, with_theirs
from api.description import describe
from api.http.headers import TRACING, HeaderFilter
from api.http.held import HeldBodies
from api.http.languages import Languages
from api.http.origins import is_loopback_host
from api.http.problems import Problems
from api.identity.auth import Authentication, is_open
from api.identity.openapi import secure
from api.limits import HEADERS, IdentityLimits
from api.metrics_gate import MetricsGate
from api.middleware import (
    BodyLimit,
    LastResort,
    MountPrefix,
    RequestLog,
    WithoutContext,
    WithoutSlash,
)
from api.observability.traces import TracedRequests
from api.routes import (
    a2a,
    agui,
    ai_sdk,
    assistants,
    audit,
    crons,
    events,
    exchange,
    files,
    items,
    mcp,
    openai,
    openai_conversations,
    openai_responses,
    protocol,
    runs,
    search,
    session_context,
    session_messages,
    session_socket,
    sessions,
    shares,
    states,
    stats,
    system,
    threads,
    ui,
    users,
)
from graph.http_section import Http
from store.models import JsonObject

#: What browsers may read of an answer beside its body; the SDKs reconnect by the first two.
EXPOSED_HEADERS = (
    "content-location", "location", "x-pagination-total", "x-pagination-next", *HEADERS,
)  # fmt: skip

#: Asked in this order for every request: what is asked most comes first.
ROUTERS = (
    runs.router,
    system.router,
    assistants.router,
    threads.router,
    states.router,
    crons.router,
    protocol.router,
    items.router,
    mcp.router,
    a2a.router,
    # Its paths are more than ids of sessions.
    exchange.router,
    sessions.router,
    session_context.router,
    session_messages.router,
    shares.router,
    search.router,
    files.router,
    openai.router,
    openai_responses.router,
    openai_conversations.router,
    ai_sdk.router,
    agui.router,
    stats.router,
    events.router,
    session_socket.router,
    users.router,
    audit.router,
    ui.router,
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


#: A session is a thread, and its messages are runs: they are switched off with either.
OF_SESSIONS = (
    "/api/sessions",
    "/api/events",
    "/api/webhooks",
    "/api/ws",
    "/api/shares",
    "/api/imports",
    "/api/search",
    "/api/files",
    "/api/stats",
    "/api/ai",
    "/v1",
    "/agui",
)


#: FastAPI's own spans have paths and queries, so what people search for and keys of shared links, and
#: its logs what exceptions say: none of it. Ours are `api.observability.traces`.
OF_ITS_OWN: Final[TelemetryConfig] = {
    "auto_configure": False, "tracing": False, "metrics": False, "logs": False,
}  # fmt: skip


class Application(FastAPI):
    """FastAPI, whose description of the API has how to authenticate, and the user's routes."""

    theirs: Starlette | None = None

    def openapi(self) -> JsonObject:
        """The description, made when it is first asked for."""
        is_made = self.openapi_schema is not None
        schema = super().openapi()
        authority = self.state.services.authority
        if not is_made:
            describe(schema)
            if authority:
                secure(schema, authority.openapi)
        return with_theirs(schema, self.theirs) if self.theirs else schema


@asynccontextmanager
async def open_app(services: Services) -> AsyncIterator[FastAPI]:
    """
    Start the application, and the user's within it; graphs reach it without a URL.

    Raises:
        InvalidInputError: What langgraph.json names as `http.app` cannot be served.
    """
    http, root = services.graphs.http, services.graphs.path.parent
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
    served = [*ROUTERS, *_of_other_projects(services.settings.compat)]
    routers = [_enabled(router, http) for router in served]
    meta = not http.disable_meta
    app = Application(
        title="Threadwell",
        version=__version__,
        docs_url="/docs" if meta else None,
        openapi_url="/openapi.json" if meta else None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=OF_ITS_OWN,
        middleware=[
            *_middleware(services, http),
            *(_around(services, custom, routers) if custom else ()),
            Middleware(WithoutSlash),
            Middleware(Authentication, **_authentication(services)),
            *_limits(services),
        ],
    )
    app.state.services = services
    app.theirs = custom.app if custom else None
    errors.install(app)
    # Not `include_router`: a router within a router is asked twice, and makes more of each route to be asked.
    app.router.routes.extend(route for router in routers for route in router.routes)
    return app


def _of_other_projects(compat: Iterable[str]) -> list[APIRouter]:
    """The routers of the projects that this one stands in for, each once."""
    return list({id(router): router for name in compat for router in COMPAT_ROUTERS[name]}.values())


def _enabled(router: APIRouter, http: Http) -> APIRouter:
    """The routes of a router that are not switched off."""
    enabled = APIRouter(route_class=router.route_class)
    enabled.routes = [route for route in router.routes if not _is_disabled(route, http.disabled)]
    return enabled


def _is_disabled(route: BaseRoute, disabled: frozenset[str]) -> bool:
    path = getattr(route, "path", "")
    if path.startswith(OF_SESSIONS):
        return bool(disabled & {"threads", "runs"})
    found = (switch for prefix, switch in SWITCHES if path.startswith(prefix))
    return next(found, "") in disabled


def _middleware(services: Services, http: Http) -> list[Middleware]:
    """The outermost first: an answer of any of them is logged, and one from CORS inwards read."""
    prefix = mount_prefix(services.settings, services.graphs)
    tracing = services.tracing
    return [
        Middleware(
            RequestLog,
            headers=HeaderFilter(http.logging_headers),
            meter=services.http_meter,
            prefix=prefix,
        ),
        Middleware(CORSMiddleware, **_cors(services, http)),
        *([Middleware(MountPrefix, prefix=prefix)] if prefix else []),
        *([Middleware(TracedRequests, tracing=tracing)] if tracing else []),
        Middleware(Languages, everywhere=services.settings.translate_everything),
        Middleware(Problems),
        *_of_pages(services, http),
        Middleware(LastResort),
        Middleware(
            BodyLimit,
            max_body_bytes=services.settings.request_body_max_bytes,
            max_json_bytes=services.settings.json_body_max_bytes,
            held=HeldBodies(services.settings.json_bodies_max_bytes),
        ),
        Middleware(WithoutContext),
    ]


def _of_pages(services: Services, http: Http) -> Iterator[Middleware]:
    """What keeps pages of others from a server; most where it does not ask who calls."""
    settings, auth = services.settings, services.graphs.auth
    # Studio's user is whoever says so on this machine.
    asks_all = services.authority is not None and not (auth and not auth.disable_studio_auth)
    is_bare = not asks_all and is_loopback_host(settings.host)
    names = settings.http_allowed_hosts
    if ANY not in names and (names or is_bare):
        yield Middleware(KnownHosts, names=names, only_loopback=not names)
    yield Middleware(
        KnownOrigins,
        origins=None
        if is_bare and not are_origins_set(settings, services.graphs)
        else allowed_origins(services),
        names=names,
        origin_regex=http.cors.allow_origin_regex,
        only_sockets=asks_all,
    )


def _limits(services: Services) -> list[Middleware]:
    return [Middleware(IdentityLimits, limits=services.limits)] if services.limits else []


def _authentication(services: Services) -> dict[str, Any]:
    headers = HeaderFilter(services.graphs.http.configurable_headers, also=TRACING)
    gate = MetricsGate.of(services.settings)
    return {
        "authority": services.authority,
        "headers": headers,
        "unless": lambda scope: is_open(scope) or gate.lets_in(scope),
    }


def _around(
    services: Services, custom: Theirs, routers: Iterable[APIRouter]
) -> Iterator[Middleware]:
    """The user's application, and when who calls it is found out; ours is always, behind it."""
    http, known = services.graphs.http, _authentication(services)
    is_open_here = known.pop("unless")
    is_theirs = chooser(custom, [route for router in routers for route in router.routes])
    is_covered = http.enable_custom_route_auth

    def is_let_through(scope: Scope) -> bool:
        return not is_covered if is_theirs(scope) else is_open_here(scope)

    if http.middleware_order == "auth_first":
        yield Middleware(Authentication, **known, unless=is_let_through)
    if is_covered:
        # Also those of their routes that have the path of one that is open.
        guard = partial(Authentication, **known, unless=lambda _: False)
        yield Middleware(CustomApp, theirs=custom, is_theirs=is_theirs, guard=guard)
    else:
        yield Middleware(CustomApp, theirs=custom, is_theirs=is_theirs)
    # What fails in ours is answered here: it is nothing for their handlers.
    yield Middleware(LastResort)


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
