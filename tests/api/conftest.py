"""The application behind a live uvicorn, with the graphs of `tests.graph.sample_graphs`."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from api.app import create_app
from api.bootstrap import Services, open_services
from api.processes.embedded import Servers
from api.settings import Settings
from graph.loop import Backing
from store import threads
from store.access import EVERYTHING
from tests.api.issuers import Issuer
from tests.serving import serving

GRAPHS = (
    "chat", "ask", "nested_ask", "boom", "steps", "things", "ask_user", "endless",
)  # fmt: skip
BODY_MAX_BYTES = 64 * 1024

#: Runs a graph on a thread, as a run would, and tells how its thread was left.
Run = Callable[..., Awaitable[None]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    graphs = {name: f"tests.graph.sample_graphs:{name}" for name in GRAPHS}
    graphs["bad"] = "tests.graph.sample_graphs:nothing"
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": graphs}))
    return Settings(config=config, request_body_max_bytes=BODY_MAX_BYTES)


@pytest.fixture
async def services(
    settings: Settings, servers: Servers, database_url: str
) -> AsyncIterator[Services]:
    async with (
        open_services(settings, database_url=database_url, redis_url=servers.redis_url) as services,
        services.worker.working(),
    ):
        yield services


@pytest.fixture
async def url(services: Services) -> AsyncIterator[str]:
    async with serving(create_app(services)) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=url) as client:
        yield client


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        yield http


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An identity provider that is up."""
    async with Issuer().issuing() as issuer:
        yield issuer


@pytest.fixture
def run(services: Services) -> Run:
    async def execute(thread_id: str, graph_id: str, value: Any) -> None:
        db = services.db
        await threads.create(db, thread_id, if_exists="do_nothing", access=EVERYTHING)
        await threads.update(db, thread_id, metadata={"graph_id": graph_id}, access=EVERYTHING)
        lease = await threads.lease(db, thread_id, access=EVERYTHING)
        config: Any = {"configurable": {"thread_id": thread_id}}

        async def invoke(backing: Backing) -> None:
            saver = backing.saver.leased(lease, run_id=None, alive=lambda: True)
            async with services.registry.open(
                graph_id, config, checkpointer=saver, store=backing.items
            ) as graph:
                await graph.ainvoke(value, config)

        await services.place.run(invoke)

    return execute
