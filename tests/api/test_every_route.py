"""Whatever is sent to whatever route: an answer in the one form, and never a fault."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute

from api.app import create_app
from api.bootstrap import Services
from api.settings import Settings
from tests.api.conftest import BODY_MAX_BYTES, Run
from tests.api.test_threads import UNKNOWN

#: Too long for an index of PostgreSQL, which compresses what it can.
LONG = random.Random(0).randbytes(6000).hex()
#: A place in a list of sessions that none of them has: its id is a NUL.
NUL_CURSOR = "WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwiXHUwMDAwIl0"
WRONG_VALUES: list[Any] = [
    5, -1, 2**70, 1.5, "text", "", "\x00", True, None, [], [1], [None], {}, {"a": {"b": [None]}},
    {"$a": "\x00"}, LONG, {"user_id": LONG}, [LONG],
]  # fmt: skip
BODIES = [
    b"", b"{bad", b"[]", b"[1]", b"null", b"1", b'"text"', b"{}", b"\xff\xfe", b"[" * 5000,
    b'{"a":' * 99 + b"1" + b"}" * 99, b'{"\\u0000": "\\u0000"}',
]  # fmt: skip
PARAMETERS = [UNKNOWN, "nothing", "%00", "..%2F..", "x" * 3000, "%F0%9F%A7%B5"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With the routes of other projects, which are routes too."""
    return settings.model_copy(update={"compat": ("fufan", "chatchat")})


@pytest.fixture
def routes(services: Services) -> list[tuple[str, str]]:
    """Every method and path of the application."""
    return sorted(
        (method, route.path)
        for route in create_app(services).routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    )


@pytest.fixture
async def thread_id(run: Run) -> str:
    """A thread that has a state."""
    thread_id = "00000000-0000-7000-8000-00000000abcd"
    await run(thread_id, "ask", {"text": "a"})
    return thread_id


def _paths(path: str) -> Iterator[str]:
    """The path with each parameter filled wrongly, one at a time."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    for name in names or [""]:
        for value in PARAMETERS if names else [""]:
            filled = path.replace(f"{{{name}}}", value)
            for other in names:
                filled = filled.replace(f"{{{other}}}", UNKNOWN)
            yield filled


def _check(response: httpx.Response) -> str | None:
    """What is wrong with an answer."""
    request = f"{response.request.method} {response.request.url}"
    if isinstance(response.request.stream, httpx.ByteStream):
        request += f" {response.request.content[:99]!r}"
    if response.status_code >= 500 and response.status_code != 501:
        return f"{response.status_code} {request}"
    if response.status_code >= 400 and response.request.method != "HEAD":
        body = response.json()
        if response.request.url.path.startswith("/v1/") and "error" in body:
            error = body["error"]
            is_whole = set(error) == {"message", "type", "param", "code"} and error["message"]
            return None if is_whole else f"{body} {request}"
        if set(body) != {"detail", "code"} or not all(isinstance(v, str) for v in body.values()):
            return f"{body} {request}"
    return None


async def _ask(http: httpx.AsyncClient, method: str, url: str, **given: Any) -> httpx.Response:
    """Send a request; of what a GET tells no more than an error is read: some never end."""
    if method.upper() != "GET":
        return await http.request(method, url, **given)
    async with http.stream(method, url, **given) as response:
        if response.status_code >= 400:
            await response.aread()
    return response


async def test_there_are_routes_to_try(routes: list[tuple[str, str]]) -> None:
    assert ("POST", "/threads/{thread_id}/state") in routes
    assert len(routes) > 40


async def test_a_body_that_is_nonsense_is_refused(
    http: httpx.AsyncClient, routes: list[tuple[str, str]]
) -> None:
    faults = [
        _check(await _ask(http, method, next(_paths(path)), content=body))
        for method, path in routes
        if method != "GET"
        for body in BODIES
    ]

    assert [fault for fault in faults if fault] == []


async def test_a_value_of_a_wrong_type_is_refused(http: httpx.AsyncClient, thread_id: str) -> None:
    spec = (await http.get("/openapi.json")).json()
    faults = []
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            for body in _wrong_bodies(spec, operation):
                filled = path.replace("{thread_id}", thread_id)
                response = await _ask(http, method, next(_paths(filled)), json=body)
                faults.append(_check(response))

    assert len(faults) > 500
    assert [fault for fault in faults if fault] == []


def _json_body(operation: Any) -> Any:
    content = operation.get("requestBody", {}).get("content", {})
    return content.get("application/json", {})


def _wrong_bodies(spec: Any, operation: Any) -> Iterator[dict[str, Any]]:
    if "requestBody" not in operation:
        return
    schema = _json_body(operation).get("schema", {})
    if "$ref" not in schema:
        return
    model = spec["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    valid = {"namespace": ["a"], "value": {}, "checkpoint": {}}
    required = {name: valid.get(name, "text") for name in model.get("required", [])}
    for name in model["properties"]:
        for value in WRONG_VALUES:
            yield {**required, name: value}


def _deep_bodies(session_id: str) -> dict[str, Any]:
    """Of the routes that take a conversation: a body with something in each of its places."""
    name = str(uuid4())
    image = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlh"}}
    item = {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "a"},
            {"type": "input_file", "file_url": "https://example.com/a", "filename": "a"},
        ],
    }
    call = {"id": "c", "name": "add", "args": {"left": 1}, "type": "tool_call"}
    called = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    source = {"type": "data", "value": "R0lGODlh", "mimeType": "image/gif"}
    said = [
        {"type": "human", "id": "m1", "content": [{"type": "text", "text": "a"}, image]},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"type": "ai", "content": "", "tool_calls": [call], "usage_metadata": usage},
        {"type": "tool", "content": "3", "tool_call_id": "c", "status": "success"},
    ]
    return {
        "/v1/chat/completions": {
            "model": "chat",
            "messages": [
                {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
                {"role": "user", "name": "ada", "content": [{"type": "text", "text": "b"}, image]},
            ],
            "conversation_id": name,
            "metadata": {"session_id": name},
            "stream_options": {"include_usage": True},
            "stop": ["."],
        },
        "/v1/responses": {
            "model": "chat",
            "input": [item],
            "conversation": {"id": session_id},
            "metadata": {"a": "b"},
            "reasoning": {"effort": "low"},
            "text": {"format": {"type": "text"}},
        },
        "/v1/conversations": {"items": [item], "metadata": {"name": "a", "graph_id": "chat"}},
        "/v1/conversations/{id}/items": {"items": [item]},
        "/v1/conversations/{id}": {"metadata": {"name": "a", "tags": ["b"], "graph_id": "chat"}},
        "/api/ai/chat": {
            "id": name,
            "model": "chat",
            "trigger": "submit-message",
            "messages": [
                {
                    "id": "m1",
                    "role": "user",
                    "parts": [
                        {"type": "text", "text": "a"},
                        {"type": "file", "url": "https://example.com/a", "mediaType": "image/png"},
                    ],
                }
            ],
        },
        "/api/ai/chat?answers": {
            "id": name,
            "messages": [
                {
                    "role": "assistant",
                    "parts": [
                        {
                            "type": "dynamic-tool",
                            "toolName": "interrupt",
                            "state": "approval-responded",
                            "input": {"action_requests": [{}]},
                            "approval": {"id": "i", "approved": True, "reason": "so"},
                        },
                    ],
                },
            ],
        },
        "/agui": {
            "threadId": name,
            "runId": "r",
            "state": {"a": 1},
            "messages": [
                {
                    "id": "m1",
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "image", "source": source}],
                }
            ],
            "tools": [{"name": "t"}],
            "context": [{"value": "c"}],
            "forwardedProps": {"a": "b"},
        },
        "/agui?resume": {
            "threadId": name,
            "runId": "r",
            "messages": [],
            "resume": [{"interruptId": "i", "status": "resolved", "payload": "a"}],
        },
        "/api/sessions": {
            "name": "a",
            "tags": ["b"],
            "metadata": {"graph_id": "chat", "name": "a", "tags": ["b"], "status": "active"},
        },
        "/api/sessions/{id}/messages": {
            "content": [{"type": "text", "text": "a"}, image],
            "attachments": [],
            "id": str(uuid4()),
        },
        "/api/sessions/{id}/context": {"messages": said, "wait_seconds": 0.5},
        "/api/sessions/import": {"messages": [{"role": "user", "content": "a", "id": "m"}]},
    }


JSON = {"content-type": "application/json"}
#: In place of each thing in a body: a lone surrogate and a NUL among them.
ELSE: list[Any] = [None, 1, {}, ["x"], "\ud800", "\0"]


def _replaced(value: Any, other: Any) -> Iterator[Any]:
    """Copies of a value with one thing in it replaced, and itself."""
    yield other
    places = range(len(value)) if isinstance(value, list) else value
    for place in places if isinstance(value, dict | list) else ():
        for changed in _replaced(value[place], other):
            copy: Any = value.copy()
            copy[place] = changed
            yield copy


async def test_whatever_stands_in_place_of_a_thing_in_a_conversation_is_no_fault(
    http: httpx.AsyncClient,
) -> None:
    session_id = (await http.post("/api/sessions", json={})).json()["id"]
    places = asyncio.Semaphore(8)

    async def ask(path: str, body: Any) -> httpx.Response:
        url = path.replace("{id}", session_id)
        async with places:
            # httpx itself would not encode a lone surrogate.
            return await http.post(url, content=json.dumps(body), headers=JSON)

    # As they are they are taken, but for answers to what nobody asked.
    for path, body in _deep_bodies(session_id).items():
        answer = await ask(path, body)
        assert answer.status_code < 300 or "?" in path, (path, answer.text)
    asked = [
        ask(path, body)
        for path in _deep_bodies(session_id)
        for other in ELSE
        for body in _replaced(_deep_bodies(session_id)[path], other)
    ]
    faults = [_check(answer) for answer in await asyncio.gather(*asked)]

    assert len(faults) > 1000
    assert [fault for fault in faults if fault] == []


async def test_whatever_a_threads_metadata_says_its_session_has_no_fault(
    http: httpx.AsyncClient,
) -> None:
    faults = []
    keys = ("graph_id", "assistant_id", "user_id", "name", "tags", "pinned", "status", "chat_type")
    for metadata in ({key: other} for key in keys for other in ELSE[1:4]):
        created = await http.post("/threads", json={"metadata": metadata})
        session = f"/api/sessions/{created.json()['thread_id']}"
        said = {"id": created.json()["thread_id"], "messages": [{"role": "user", "parts": []}]}
        said["messages"][0]["parts"] = [{"type": "text", "text": "a"}]
        faults += [
            _check(created),
            _check(await http.post(f"{session}/messages", json={"query": "a"})),
            _check(await http.post("/api/ai/chat", json=said)),
            _check(
                await http.post(
                    f"{session}/context", json={"messages": [{"role": "user", "content": "a"}]}
                )
            ),
            _check(await http.get(session)),
        ]
    faults.append(_check(await http.get("/api/sessions", params={"counts": True, "status": "all"})))

    assert [fault for fault in faults if fault] == []


async def test_a_path_that_names_nothing_is_refused(
    http: httpx.AsyncClient, routes: list[tuple[str, str]]
) -> None:
    faults = [
        _check(await _ask(http, method, filled, content=b"{}" if method != "GET" else None))
        for method, path in routes
        for filled in _paths(path)
    ]

    assert [fault for fault in faults if fault] == []


async def test_a_query_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, thread_id: str
) -> None:
    spec = (await http.get("/openapi.json")).json()
    faults = []
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                if parameter["in"] != "query":
                    continue
                for value in ("", "\x00", "text", "-1", "9" * 30, "[]", "a" * 5000, NUL_CURSOR):
                    filled = next(_paths(path.replace("{thread_id}", thread_id)))
                    query = {parameter["name"]: value}
                    faults.append(_check(await _ask(http, method, filled, params=query)))

    assert faults
    assert [fault for fault in faults if fault] == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large_is_refused(
    http: httpx.AsyncClient, routes: list[tuple[str, str]], announced: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(BODY_MAX_BYTES // 4096 + 1):
            yield b" " * 4096

    spec = (await http.get("/openapi.json")).json()
    for method, path in routes:
        body = b" " * (BODY_MAX_BYTES + 1) if announced else chunks()
        response = await _ask(http, method, next(_paths(path)), content=body)
        assert _check(response) is None
        operation = spec["paths"].get(path, {}).get(method.lower(), {})
        is_read = _json_body(operation) and operation["requestBody"].get("required")
        if announced or is_read:
            assert response.status_code == 413, (method, path)


async def test_what_a_route_makes_is_linked_to_where_it_is_used_and_deleted(
    http: httpx.AsyncClient,
) -> None:
    spec = (await http.get("/openapi.json")).json()
    operations = {
        operation["operationId"]: (method.upper(), path)
        for path, methods in spec["paths"].items()
        for method, operation in methods.items()
    }
    made = {
        "/threads": {},
        "/assistants": {"graph_id": "chat"},
        "/runs/crons": {"assistant_id": "chat", "schedule": "0 0 1 1 *", "input": {}},
        "/api/sessions": {},
        "/v1/conversations": {},
    }
    used = set()
    for path, body in made.items():
        answer = (await http.post(path, json=body)).json()
        links = spec["paths"][path]["post"]["responses"]["200"]["links"].values()
        there = [(*operations[link["operationId"]], link["parameters"]) for link in links]
        for method, to, parameters in there:
            if method == "GET" and to.endswith("}"):
                [(name, where)] = parameters.items()
                field = where.removeprefix("$response.body#/")
                found = await http.get(
                    to.replace(f"{{{name.removeprefix('path.')}}}", answer[field])
                )
                assert found.status_code == 200, (to, found.text)
                used.add(path)
        # Brought back is only what was deleted.
        assert not [to for _, to, _ in there if to.endswith("/restore")]
        assert "DELETE" in {method for method, _, _ in there}

    assert used == set(made)
    # What is said there is told too, and what it names of what was made.
    said = spec["paths"]["/api/sessions/{session_id}/messages"]["post"]["responses"]["200"]["links"]
    assert {"message_id": "$response.body#/id"} in [
        link.get("requestBody") for link in said.values()
    ]
    run = spec["paths"]["/threads/{thread_id}/runs"]["post"]["responses"]["200"]["links"]
    assert {
        "path.run_id": "$response.body#/run_id",
        "path.thread_id": "$request.path.thread_id",
    } in [link["parameters"] for link in run.values()]
