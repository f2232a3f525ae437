"""The MCP endpoint, §1.6 of the contract."""

from typing import Any

from tests.differential.registry import case, single
from tests.differential.talk import Talk

HEADERS = {"accept": "application/json, text/event-stream"}


def call(method: str, params: Any = None, number: Any = 1) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "id": number, "method": method}
    return body if params is None else {**body, "params": params}


def _initialize(version: Any) -> dict[str, Any]:
    client = {"name": "test", "version": "1"}
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": client}
    return call("initialize", params)


single(
    __name__,
    {
        "mcp is initialized with 2024-11-05": ("POST", "/mcp", _initialize("2024-11-05")),
        "mcp is initialized with 2025-03-26": ("POST", "/mcp", _initialize("2025-03-26")),
        "mcp is initialized with 2025-06-18": ("POST", "/mcp", _initialize("2025-06-18")),
        "mcp is initialized with 2025-11-25": ("POST", "/mcp", _initialize("2025-11-25")),
        "mcp is initialized with an unknown version": ("POST", "/mcp", _initialize("1999-01-01")),
        "mcp is pinged": ("POST", "/mcp", call("ping")),
        "mcp is called by an unknown method": ("POST", "/mcp", call("nope")),
        "mcp is notified": (
            "POST",
            "/mcp",
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
        ),
        "mcp is answered": ("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "result": {}}),
        "mcp is read": ("GET", "/mcp"),
        "mcp is deleted": ("DELETE", "/mcp"),
        "mcp gets no method": ("POST", "/mcp", {"jsonrpc": "2.0", "id": 1}),
        "mcp gets another protocol": ("POST", "/mcp", {"id": 1, "method": "ping"}),
        "mcp gets a batch": ("POST", "/mcp", [call("ping")]),
        "mcp gets a word for an id": ("POST", "/mcp", call("ping", number="seven")),
        "mcp calls an unknown tool": (
            "POST",
            "/mcp",
            call("tools/call", {"name": "nope", "arguments": {}}),
        ),
        "mcp calls a tool without a name": ("POST", "/mcp", call("tools/call", {})),
        "mcp reads resources": ("POST", "/mcp", call("resources/list")),
        "mcp reads prompts": ("POST", "/mcp", call("prompts/list")),
    },
    headers=HEADERS,
)


@case
async def mcp_gets_no_json(talk: Talk) -> None:
    await talk.post("/mcp", content=b"{nope", headers=HEADERS)


@case
async def mcp_is_asked_for_something_other_than_json(talk: Talk) -> None:
    await talk.post("/mcp", call("ping"), headers={"accept": "text/html"})


@case
async def mcp_lists_a_tool_for_an_assistant(talk: Talk) -> None:
    wanted, tools, cursor = ("steps", "chat", "form"), [], None
    while True:
        page = call("tools/list", {"cursor": cursor} if cursor else None)
        result = (await talk.post("/mcp", page, headers=HEADERS, unseen=True))["result"]
        tools += [tool for tool in result["tools"] if tool["name"] in wanted]
        if (cursor := result.get("nextCursor")) is None:
            break
    tools.sort(key=lambda tool: str(tool["name"]))
    talk.exchanges.append({"ask": "tools/list", "body": tools})


def _call(name: str, arguments: Any) -> dict[str, Any]:
    return call("tools/call", {"name": name, "arguments": arguments})


@case
async def mcp_calls_a_graph(talk: Talk) -> None:
    await talk.post("/mcp", _call("steps", {"text": "x"}), headers=HEADERS)


@case
async def mcp_talks_to_a_graph(talk: Talk) -> None:
    message = {"role": "user", "content": "hello", "id": "question"}
    await talk.post("/mcp", _call("chat", {"messages": [message]}), headers=HEADERS)


@case
async def mcp_calls_a_graph_that_fails(talk: Talk) -> None:
    await talk.post("/mcp", _call("boom", {"text": "x"}), headers=HEADERS)


@case
async def mcp_calls_a_graph_that_asks(talk: Talk) -> None:
    await talk.post("/mcp", _call("ask", {"text": "x"}), headers=HEADERS)
