"""What LangGraph Studio asks of a server: a public page, that sends its JSON as text."""

import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.api.conftest import Run

HEADERS = {
    "Origin": "https://smith.langchain.com",
    "Content-Type": "text/plain;charset=UTF-8",
    "x-auth-scheme": "langsmith",
    "x-api-key": "lsv2",
}

#: What is asked for by its path alone.
NO_BODY = ("/cancel", "/clone", "/copy", "/export", "/replay", "/restore", "/stop", "/title")


class Studio:
    """Calls as the page does, and expects what its browser does."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        content = None if body is None else json.dumps(body).encode()
        answer = await self._http.request(method, path, content=content, headers=HEADERS)
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers["access-control-allow-origin"] == "*", path
        return answer.json() if answer.content else None

    async def stream(self, path: str, body: Any) -> list[tuple[str, Any]]:
        async with self._http.stream(
            "POST", path, content=json.dumps(body).encode(), headers=HEADERS
        ) as answer:
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "content-location" in answer.headers["access-control-expose-headers"]
            lines = [line async for line in answer.aiter_lines() if line]
        events = [line.partition(": ")[2] for line in lines if line.startswith("event")]
        data = [json.loads(line.partition(": ")[2]) for line in lines if line.startswith("data")]
        return list(zip(events, data, strict=True))


@pytest.fixture
def studio(http: httpx.AsyncClient) -> Studio:
    return Studio(http)


async def test_studio_is_let_in_and_told_what_there_is(
    studio: Studio, http: httpx.AsyncClient
) -> None:
    preflight = await http.options(
        "/threads/search",
        headers={
            "Origin": HEADERS["Origin"],
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key,x-auth-scheme",
            "Access-Control-Request-Private-Network": "true",
        },
    )
    info = await studio.ask("GET", "/info")

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-private-network"] == "true"
    assert info["flags"]["assistants"] is True
    assert [int(part) for part in info["version"].split(".")] > [0, 4]


async def test_studio_draws_a_graph(studio: Studio) -> None:
    search = {"limit": 10, "offset": 0, "metadata": {"created_by": "system"}}
    found = await studio.ask("POST", "/assistants/search", search)
    [assistant] = [a for a in found if a["graph_id"] == "nested_ask"]
    path = f"/assistants/{assistant['assistant_id']}"

    schemas = await studio.ask("GET", f"{path}/schemas")
    flat = await studio.ask("GET", f"{path}/graph")
    deep = await studio.ask("GET", f"{path}/graph?xray=true")
    subgraphs = await studio.ask("GET", f"{path}/subgraphs?recurse=true")
    versions = await studio.ask("POST", f"{path}/versions", {"limit": 10})

    assert schemas["graph_id"] == "nested_ask"
    assert len(deep["nodes"]) > len(flat["nodes"])
    assert list(subgraphs) == ["outer"]
    assert [version["version"] for version in versions] == [1]


async def test_studio_runs_forks_and_deletes_a_thread(studio: Studio) -> None:
    thread = await studio.ask("POST", "/threads", {})
    path = f"/threads/{thread['thread_id']}"
    modes = ["values", "updates", "messages", "debug"]
    run = {"assistant_id": "ask", "input": {"text": "a"}, "stream_mode": modes}

    events = await studio.stream(f"{path}/runs/stream", {**run, "stream_subgraphs": True})
    history = await studio.ask("POST", f"{path}/history", {"limit": 10})
    fork = await studio.ask(
        "POST",
        f"{path}/state",
        {"values": None, "checkpoint": history[1]["checkpoint"], "as_node": "first"},
    )
    state = await studio.ask("GET", f"{path}/state?subgraphs=true")
    resumed = await studio.stream(
        f"{path}/runs/stream", {**run, "input": None, "command": {"resume": "yes"}}
    )
    listed = await studio.ask("POST", "/threads/search", {"metadata": {"graph_id": "ask"}})
    await studio.ask("DELETE", path, status=204)

    assert {"metadata", "values", "updates", "debug"} <= {event for event, _ in events}
    assert any("__interrupt__" in data for event, data in events if event == "values")
    assert state["checkpoint"]["checkpoint_id"] == fork["checkpoint"]["checkpoint_id"]
    assert resumed[0][0] == "metadata"
    assert [one["thread_id"] for one in listed] == [thread["thread_id"]]


async def test_studio_keeps_and_finds_items(studio: Studio, run: Run) -> None:
    item = {"namespace": ["studio", "notes"], "key": "one", "value": {"text": "hello"}}
    await studio.ask("PUT", "/store/items", item, status=204)
    namespaces = await studio.ask("POST", "/store/namespaces", {"limit": 10})
    found = await studio.ask("POST", "/store/items/search", {"namespace_prefix": ["studio"]})
    query = f"namespace={quote('studio.notes')}&key=one"
    one = await studio.ask("GET", f"/store/items?{query}")
    await studio.ask(
        "DELETE", "/store/items", {"namespace": ["studio", "notes"], "key": "one"}, 204
    )

    assert namespaces["namespaces"] == [["studio", "notes"]]
    assert found["items"][0]["key"] == one["key"] == "one"


async def test_every_route_is_described_and_its_body_too(
    http: httpx.AsyncClient,
) -> None:
    spec = (await http.get("/openapi.json")).json()
    bare = [
        f"{method} {path}"
        for path, operations in spec["paths"].items()
        for method, operation in operations.items()
        if method in ("put", "patch") or (method == "post" and not path.endswith(NO_BODY))
        if "requestBody" not in operation
    ]
    silent = [
        f"{method} {path}"
        for path, operations in spec["paths"].items()
        for method, operation in operations.items()
        if not operation.get("description")
    ]

    assert bare == []
    assert silent == []
