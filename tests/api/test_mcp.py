"""MCP by the official client, over HTTP, and what it does not show of the protocol."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest
from mcp import Client
from mcp_types import CallToolResult, TextContent

from api.bootstrap import Services
from api.routes.mcp import PAGE, named
from store.models import Assistant
from tests.api.conftest import GRAPHS

ACCEPT = {"accept": "application/json, text/event-stream"}


def _call(method: str | None, params: Any = None, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params, **more}


def _text(answer: CallToolResult) -> str:
    (content,) = answer.content
    assert isinstance(content, TextContent)
    return content.text


async def _asked(http: httpx.AsyncClient, method: str, params: Any = None) -> Any:
    answer = await http.post("/mcp", json=_call(method, params), headers=ACCEPT)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_lists_and_calls_assistants(url: str, mode: str) -> None:
    async with Client(f"{url}/mcp", mode=mode) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        chat = await client.call_tool("chat", {"messages": "hello"})
        things = await client.call_tool("steps", {"log": ["mine"]})
        failed = await client.call_tool("boom", {"log": []})
        asked = await client.call_tool("ask", {"log": []})

    assert set(listed) == set(GRAPHS)
    assert listed["chat"].input_schema["properties"]["messages"]["type"] == "string"
    assert "$defs" not in listed["chat"].input_schema
    said = json.loads(_text(chat))["messages"]
    assert (said[0]["type"], said[0]["content"]) == ("human", "hello")
    assert said[-1]["type"] == "ai"
    assert json.loads(_text(things))["log"][0] == "mine"
    assert (failed.is_error, _text(failed)) == (True, "ValueError: boom!")
    assert "__interrupt__" in json.loads(_text(asked))
    assert not asked.is_error


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_a_version_that_is_known_is_spoken(http: httpx.AsyncClient, version: str) -> None:
    begun = await _asked(http, "initialize", {"protocolVersion": version, "capabilities": {}})

    assert begun["result"]["protocolVersion"] == version
    assert begun["result"]["capabilities"] == {"tools": {"listChanged": False}}
    newer = await _asked(http, "initialize", {"protocolVersion": "2099-01-01"})
    assert newer["result"]["protocolVersion"] == "2025-11-25"


async def test_what_cannot_be_called_is_an_error_of_the_protocol(http: httpx.AsyncClient) -> None:
    wrong: list[Any] = [
        {"name": "nothing"},
        {"arguments": {}},
        {"name": "chat", "arguments": [1]},
        {"name": "chat", "context": "?"},
    ]
    for params in wrong:
        answer = await _asked(http, "tools/call", params)
        assert answer["error"]["code"] == -32602, params
    assert (await _asked(http, "resources/list"))["error"]["code"] == -32601
    assert (await _asked(http, "tools/list", {"cursor": "next"}))["error"]["code"] == -32602
    assert (await _asked(http, "ping"))["result"] == {}


async def test_messages_that_are_no_requests(http: httpx.AsyncClient) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    for message in (note, {"jsonrpc": "2.0", "id": 3, "result": {}}, {**note, "id": None}):
        told = await http.post("/mcp", json=message, headers=ACCEPT)
        assert (told.status_code, told.content) == (202, b"")
    for wrong in (b"{", b"[]", b'{"id": 1}'):
        refused = await http.post("/mcp", content=wrong, headers=ACCEPT)
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
    html = await http.post("/mcp", json=_call("ping"), headers={"accept": "text/html"})
    assert (html.status_code, html.json()["code"]) == (400, "bad_request")
    slash = await http.post("/mcp/", json=_call("ping"), headers=ACCEPT)
    assert (slash.status_code, slash.headers["location"]) == (307, "/mcp")
    assert (await http.get("/mcp", headers=ACCEPT)).status_code == 405
    assert (await http.delete("/mcp")).status_code == 404


async def test_tools_come_in_pages(services: Services, http: httpx.AsyncClient) -> None:
    await services.db.execute(
        "INSERT INTO assistant (assistant_id, graph_id, name)"
        " SELECT gen_random_uuid(), 'chat', 'Same name' FROM generate_series(1, %(count)s)",
        {"count": PAGE},
    )

    first = (await _asked(http, "tools/list"))["result"]
    rest = (await _asked(http, "tools/list", {"cursor": first["nextCursor"]}))["result"]

    names = [tool["name"] for tool in first["tools"] + rest["tools"]]
    assert (len(first["tools"]), "nextCursor" in rest) == (PAGE, False)
    assert len(set(names)) == len(names) == PAGE + len(GRAPHS)
    params = {"name": names[-1], "arguments": {"messages": "hello"}}
    assert not (await _asked(http, "tools/call", params))["result"]["isError"]


def test_names_of_tools_are_unique_and_fit() -> None:
    def assistant(name: str) -> Assistant:
        now = datetime.now(UTC)
        return Assistant(
            assistant_id=str(uuid4()), graph_id="agent", name=name, description=None, config={},
            context={}, metadata={}, version=1, created_at=now, updated_at=now,
        )  # fmt: skip

    names = list(named(map(assistant, ["Ann's agent", "Ann s agent", "键", "x" * 99, "x" * 98])))

    assert names[0] == "Ann_s_agent"
    assert names[1].startswith("Ann_s_agent_")
    assert names[2:4] == ["agent", "x" * 64]
    assert all(len(name) <= 64 for name in names)
    assert len(set(names)) == 5
