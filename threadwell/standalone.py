"""Sessions without a server: code that has nothing but the database's URL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from threadwell import own_packages

own_packages.require("api")

from api.app import create_app
from api.bootstrap import open_services
from api.loopback import Loopback
from api.observability import logs
from api.settings_reading import read_settings
from store.migrate import migrate
from threadwell.connection import Connection


def open_database(
    database_url: str, *, config: str | Path = "langgraph.json", redis_url: str = ""
) -> Connection:
    """
    A connection that needs no server: it writes to the database as one would.

    It executes no runs. Servers on the same database see what it writes, and it waits for their runs.

    Args:
        config: The langgraph.json, for whose graphs the conversations are written.
        redis_url: Of the servers' Redis; without it, clients that follow a thread live are not
            told of what is written here.
    """
    logs.be_a_guest()
    settings = read_settings(
        config=Path(config),
        database_url=database_url,
        redis_url=redis_url,
        slots=1,
        # For `threadwell.repository`.
        compat=("chatchat",),
    )

    @asynccontextmanager
    async def client() -> AsyncIterator[httpx.AsyncClient]:
        await migrate(database_url)
        async with (
            open_services(settings, database_url=database_url, redis_url=redis_url) as services,
            httpx.AsyncClient(  # nosec B113
                base_url="http://threadwell",
                transport=_Here(Loopback(create_app(services))),
                # Nothing goes over a network.
                timeout=None,
            ) as client,
        ):
            yield client

    return Connection.through(client)


class _Here(httpx.AsyncBaseTransport):
    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._loopback.request(request)
