"""A listener of its own for probes and metrics: of processes that serve nobody, or not to everybody."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_response
from api.identity.auth import METRICS_PATH, Caller
from api.metrics_gate import MetricsGate
from api.settings import Settings
from store.errors import InvalidInputError

#: What is served there.
PATHS = frozenset({"/ok", "/ready", METRICS_PATH})
CLOSING_SECONDS = 1
#: As many at once: probes and collectors are few.
CONNECTIONS = 100


class ForOperators:
    """
    Passes on what operators ask, to who need not say who they are: this listener is theirs.

    Args:
        app: The server's.
        gate: Whose token is asked for, if it has one.
    """

    def __init__(self, app: ASGIApp, *, gate: MetricsGate) -> None:
        self.app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        if scope["path"] not in PATHS:
            await error_response(404, "Not Found", "not_found")(scope, receive, send)
            return
        if self._gate.has_token and scope["path"] == METRICS_PATH and not self._gate.lets_in(scope):
            refused = error_response(401, "The metrics need METRICS_TOKEN", "unauthenticated")
            await refused(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = Caller(request_id=str(uuid4()))
        await self.app(scope, receive, send)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process: probes are answered while it drains."""
        yield


@asynccontextmanager
async def listening(settings: Settings, app: ASGIApp) -> AsyncIterator[None]:
    """
    Serve operators on a port of their own, if the settings name one, until the block ends.

    Raises:
        InvalidInputError: Somebody else listens there.
    """
    if settings.metrics_port is None:
        yield
        return
    config = uvicorn.Config(
        ForOperators(app, gate=MetricsGate.of(settings)),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    server = _Server(config)
    with _socket(settings) as listener:
        serving = asyncio.create_task(server.serve([listener]), name="operators")
        try:
            yield
        finally:
            server.should_exit = True
            await serving


def _socket(settings: Settings) -> socket.socket:
    address = (settings.metrics_host, settings.metrics_port or 0)
    family = socket.AF_INET6 if ":" in settings.metrics_host else socket.AF_INET
    try:
        # Processes that share a port share this one too.
        return socket.create_server(address, family=family, reuse_port=settings.workers > 1)
    except OSError as exc:
        raise InvalidInputError(
            f"METRICS_PORT: cannot listen on {address[0]}:{address[1]}: {exc.strerror}"
        ) from exc
