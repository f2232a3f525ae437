"""Threadwell inside a FastAPI or Starlette application of yours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from threadwell import own_packages

own_packages.require("api")

from api.app import open_app
from api.bootstrap import open_services
from api.errors import error_response
from api.observability import logs
from api.processes.embedded import embedded_servers
from api.settings_reading import read_settings
from store.migrate import migrate


class Threadwell:
    """
    The server as an ASGI application, to be mounted: ``app.mount("/threadwell", threadwell)``.

    It answers while `living` is entered, in your application's lifespan; a mounted application's own
    is not called. Code of yours in the same process reaches it by `threadwell.connection` without a
    URL.

    Args:
        settings: By the names of docs/settings.md's fields, such as ``config``, ``database_url``;
            what is not given is in the environment. One process is one server: ``workers`` is of
            no use here.

    Raises:
        InvalidInputError: A setting is wrong.
    """

    def __init__(self, **settings: Any) -> None:
        if isinstance(settings.get("config"), str):
            settings["config"] = Path(settings["config"])
        self._settings = read_settings(**settings)
        self._app: ASGIApp | None = None

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """
        Serve and work on runs for the length of the block; on the way out runs finish or are handed on.

        Raises:
            InvalidInputError: The langgraph.json is wrong.
            UnavailableError: PostgreSQL does not answer.
        """
        logs.be_a_guest()
        settings = self._settings
        async with AsyncExitStack() as stack:
            started = embedded_servers(
                settings.data_dir,
                postgres=settings.database_url is None,
                valkey=settings.redis_url is None,
            )
            servers = await asyncio.to_thread(started.__enter__)
            stack.push_async_callback(asyncio.to_thread, started.__exit__, None, None, None)
            database_url = settings.database_url or servers.database_url
            await migrate(database_url)
            services = await stack.enter_async_context(
                open_services(
                    settings,
                    database_url=database_url,
                    redis_url=settings.redis_url or servers.redis_url,
                )
            )
            app = await stack.enter_async_context(open_app(services))
            await stack.enter_async_context(services.worker.working())
            self._app = app
            try:
                yield
            finally:
                self._app = None
                await services.worker.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            refusal = error_response(503, "Threadwell is not running", "unavailable")
            await refusal(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1012})
