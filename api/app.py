"""The HTTP application: its routers, its errors, and what every request passes."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from api import __version__, errors
from api.auth import Authentication
from api.bootstrap import Services
from api.middleware import BodyLimit, LastResort, RequestLog
from api.routes import assistants, items, runs, sessions, states, system, threads, unsupported
from api.security import secure
from store.models import JsonObject

#: What browsers may read of an answer beside its body; the SDKs reconnect by the first two.
EXPOSED_HEADERS = ("content-location", "location", "x-pagination-total", "x-pagination-next")

ROUTERS = (
    system.router,
    assistants.router,
    threads.router,
    states.router,
    runs.router,
    items.router,
    sessions.router,
    unsupported.router,
)


class Application(FastAPI):
    """FastAPI, whose description of the API says how to authenticate."""

    def openapi(self) -> JsonObject:
        """The description, made when it is first asked for."""
        is_made = self.openapi_schema is not None
        schema = super().openapi()
        auth = self.state.services.graphs.auth
        if auth and not is_made:
            secure(schema, auth.openapi)
        return schema


def create_app(
    services: Services,
    *,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """
    Build the application on services that are open for as long as it is used.

    Args:
        services: What the routes work with.
        lifespan: Entered before the first request and left after the last.
    """
    app = Application(
        title="Threadwell",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        middleware=_middleware(services),
    )
    app.state.services = services
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _middleware(services: Services) -> list[Middleware]:
    """The outermost first: an answer of any of them is logged, and one from CORS inwards read."""
    origins = services.settings.cors_allow_origins
    return [
        Middleware(RequestLog),
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            # A browser sends credentials nowhere that says "*".
            allow_credentials="*" not in origins,
            # Studio is a public page that calls a private address.
            allow_private_network=True,
            expose_headers=EXPOSED_HEADERS,
            max_age=600,
        ),
        Middleware(LastResort),
        Middleware(BodyLimit, max_body_bytes=services.settings.request_body_max_bytes),
        Middleware(Authentication, authority=services.authority),
    ]
