"""A project of a langgraph.json, served whole in this process."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from api.app import create_app
from api.bootstrap import Services, open_services
from api.processes.embedded import Servers
from api.settings import Settings
from tests.serving import serving


@asynccontextmanager
async def serving_project(
    directory: Path, servers: Servers, database_url: str, **sections: Any
) -> AsyncIterator[tuple[LangGraphClient, httpx.AsyncClient, Services]]:
    """Serve what a langgraph.json of these sections names; the SDK's client and an HTTP one."""
    config = directory / "langgraph.json"
    config.write_text(json.dumps(sections))
    urls = {"database_url": database_url, "redis_url": servers.redis_url}
    async with (
        open_services(Settings(config=config), **urls) as services,
        services.worker.working(),
        serving(create_app(services)) as url,
        get_client(url=url) as client,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        yield client, http, services
