"""Every route while PostgreSQL is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from api.bootstrap import Services, open_services
from api.processes.embedded import Servers
from api.settings import Settings
from tests.acceptance.talk import says
from tests.faults.stores import Network, network_to, through

#: So long that all of them together, on a busy machine, take less than ten times as long.
POOL_SECONDS = 2.0
#: These need no database, or wait for it: for a thread that may not be there yet.
ALWAYS = {
    "/", "/ok", "/info", "/metrics", "/threads/{thread_id}/stream/events", "/v1/models",
    "/v1/models/{model}", "/ui/{graph_id}", "/ui/{graph_id}/{file}",
}  # fmt: skip
#: These are never anything but an error.
NEVER = {("get", "/mcp"), ("delete", "/mcp")}
VALUES: dict[str, Any] = {
    "assistant_id": "chat",
    "namespace": ["a"],
    "value": {},
    "key": "k",
    "checkpoint": {},
    "query": "hello",
    "user_id": "ada",
    "graph_id": "chat",
    "message_id": "m",
    "content": "hello",
    "thread_ids": ["00000000-0000-7000-8000-000000000000"],
    "version": 1,
    "schedule": "0 0 1 1 *",
    "url": "https://1.1.1.1/hook",
    "model": "chat",
    "messages": [{"id": "m", "role": "user", "content": "x", "parts": []}],
    "id": "00000000-0000-7000-8000-000000000000",
    "input": "x",
    "items": [{"role": "user", "content": "x"}],
    "metadata": {},
    "threadId": "00000000-0000-7000-8000-000000000000",
    "runId": "r",
}
#: Whose bodies the specification does not spell out.
BODIES: dict[str, Any] = {
    "/api/sessions/import": {"messages": [{"role": "user", "content": "hello"}]},
    "/runs/crons/{cron_id}": {"enabled": True},
    "/api/sessions/{session_id}/messages/{message_id}/feedback": {"score": 1},
    "/api/sessions/{session_id}/messages": {"query": "hello"},
    "/runs/batch": [{"assistant_id": "chat"}],
    "/threads/{thread_id}/commands": {"id": 1, "method": "state.get", "params": {}},
    "/mcp": {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
    "/a2a/{assistant_id}": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "GetTask",
        "params": {"id": "00000000-0000-7000-8000-000000000000:1"},
    },
}


@pytest.fixture
def network(database_url: str) -> Iterator[Network]:
    with network_to(database_url) as network:
        yield network


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"database_pool_timeout_seconds": POOL_SECONDS})


@pytest.fixture
def behind(network: Network, database_url: str) -> str:
    return through(network, database_url)


@pytest.fixture
async def services(settings: Settings, servers: Servers, behind: str) -> AsyncIterator[Services]:
    async with (
        open_services(settings, database_url=behind, redis_url=servers.redis_url) as services,
        services.worker.working(),
    ):
        yield services


def body(spec: Any, path: str, operation: Any) -> Any:
    """As little as the operation takes."""
    if path in BODIES:
        return BODIES[path]
    if path == "/runs/cancel" or "requestBody" not in operation:
        return {"status": "all"}
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    model = spec["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return {name: VALUES[name] for name in model.get("required", [])}


def sent(spec: Any, path: str, operation: Any) -> dict[str, Any]:
    """The body, as httpx takes it."""
    if path not in BODIES and "multipart/form-data" in operation.get("requestBody", {}).get(
        "content", {}
    ):
        return {"files": {"file": ("a.txt", b"a")}}
    return {"json": body(spec, path, operation)}


async def test_every_route_says_so_in_time(
    client: LangGraphClient, http: httpx.AsyncClient, network: Network
) -> None:
    spec = (await http.get("/openapi.json")).json()
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "chat", input=says("hello"))
    [run] = await client.runs.list(thread_id)
    named: dict[str, Any] = {
        "session_id": thread_id,
        "message_id": "m",
        "checkpoint_id": "c",
        "namespace": "n",
        "chat_id": thread_id,
        "conversation_id": thread_id,
        "item_id": "i",
        "response_id": run["run_id"],
        "cron_id": thread_id,
        "share_id": thread_id,
        "import_id": thread_id,
        "token": "t",
        "webhook_id": thread_id,
        "delivery_id": thread_id,
        "file_id": thread_id,
        "user_id": "ada",
        "job_id": thread_id,
        **run,
    }
    network.refuses = True
    await asyncio.to_thread(network.cut)
    began = time.monotonic()

    answers = await asyncio.gather(
        *[
            http.request(
                method,
                path.format(**named),
                **sent(spec, path, operation),
                params={
                    "namespace": "a",
                    "key": "k",
                    "assistant_id": "chat",
                    "q": "hello",
                    "user": "eve",
                },
            )
            for path, operations in spec["paths"].items()
            for method, operation in operations.items()
            if path not in ALWAYS and (method, path) not in NEVER
        ]
    )

    network.refuses = False

    assert len(answers) > 30
    assert [(a.request.method, a.url.path, a.text) for a in answers if a.status_code != 503] == []
    assert {a.json().get("error", a.json())["code"] for a in answers} == {"unavailable"}
    assert time.monotonic() - began < 10 * POOL_SECONDS
