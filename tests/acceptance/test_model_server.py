"""The bundled agent with a model behind HTTP, in the wire format of OpenAI."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.acceptance.sse import collect
from tests.acceptance.talk import contents, says, tokens
from tests.openai_server import OpenAIServer, Reply, openai_server


@pytest.fixture
async def model(model_port: int) -> AsyncIterator[OpenAIServer]:
    """The model that the servers were told of."""
    async with openai_server(model_port) as model:
        yield model


async def test_tokens_and_usage_come_from_the_model(
    client: LangGraphClient, http: httpx.AsyncClient, model: OpenAIServer
) -> None:
    model.replies.append(Reply(tokens=("你", "好", "!")))
    thread_id = (await client.threads.create())["thread_id"]

    received = await collect(
        http,
        "POST",
        f"/threads/{thread_id}/runs/stream",
        json={
            "assistant_id": "agent",
            "input": says("hello"),
            "stream_mode": ["messages-tuple", "values"],
        },
    )

    assert [text for text in tokens(received) if text] == ["你", "好", "!"]
    answer = received[-1].data["messages"][-1]
    assert answer["content"] == "你好!"
    assert answer["usage_metadata"]["total_tokens"] == 10
    assert [sent["role"] for sent in model.requests[0]["messages"]] == ["system", "user"]


async def test_the_model_calls_a_tool_and_speaks_of_what_came_of_it(
    client: LangGraphClient, model: OpenAIServer
) -> None:
    model.replies.extend(
        [
            Reply(tool_calls=(("calculate", {"expression": "6 * 7"}),)),
            Reply(tokens=("It is ", "42.")),
        ]
    )
    thread_id = (await client.threads.create())["thread_id"]

    updates = [
        part.data
        async for part in client.runs.stream(
            thread_id, "agent", input=says("6 * 7?"), stream_mode="updates"
        )
    ][1:-1]
    values: Any = (await client.threads.get_state(thread_id))["values"]

    assert [list(update) for update in updates] == [["model"], ["tools"], ["model"]]
    assert [message["type"] for message in values["messages"]] == ["human", "ai", "tool", "ai"]
    assert contents(values) == ["6 * 7?", "", "42", "It is 42."]
    assert [sent["role"] for sent in model.requests[1]["messages"]][2:] == ["assistant", "tool"]


async def test_an_error_amid_the_stream_ends_the_run_and_not_the_thread(
    client: LangGraphClient, http: httpx.AsyncClient, model: OpenAIServer
) -> None:
    model.replies.append(Reply(tokens=("one ", "two ", "three "), fails_after=2))
    thread_id = (await client.threads.create())["thread_id"]

    received = await collect(
        http,
        "POST",
        f"/threads/{thread_id}/runs/stream",
        json={"assistant_id": "agent", "input": says("hello"), "stream_mode": "messages-tuple"},
    )
    failed = await client.threads.get(thread_id)
    values = await client.runs.wait(thread_id, "agent", input=says("again"))

    assert [text for text in tokens(received) if text] == ["one ", "two "]
    assert received[-1].name == "error"
    assert received[-1].data["error"] == "APIError"
    assert failed["status"] == "error"
    assert contents(values) == ["hello", "again", "echo: again "]


async def test_a_session_streams_its_tools_and_its_answer(
    http: httpx.AsyncClient, model: OpenAIServer
) -> None:
    model.replies.extend(
        [
            Reply(tool_calls=(("calculate", {"expression": "1 + 1"}),)),
            Reply(tokens=("It is ", "2.")),
        ]
    )
    session = (await http.post("/api/sessions", json={"assistant_id": "agent"})).json()
    path = f"/api/sessions/{session['id']}/messages"

    events = await collect(http, "POST", path, json={"query": "1 + 1?", "stream": True})
    answered = (await http.post(path, json={"query": "thanks"})).json()

    assert [event.name for event in events] == [
        "run.start",
        "session.updated",
        "message.end",
        "tool.start",
        "tool.end",
        "message.delta",
        "message.delta",
        "message.end",
        "run.end",
    ]
    began, ended = events[3].data, events[4].data
    assert began["args"] == {"expression": "1 + 1"}
    assert (ended["output"], ended["is_error"]) == ("2", False)
    assert began["call_id"] == ended["call_id"]
    assert answered["response"] == "echo: thanks "
    assert answered["usage"]["total_tokens"] == 9
    history = (await http.get(path)).json()["data"]
    assert [row["role"] for row in history] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
        "assistant",
    ]


async def test_tokens_that_the_models_server_does_not_count_are_estimated(
    http: httpx.AsyncClient, model: OpenAIServer
) -> None:
    model.replies.append(Reply(tokens=("word ",) * 20, counts=False))
    session = (await http.post("/api/sessions", json={"assistant_id": "agent"})).json()
    path = f"/api/sessions/{session['id']}/messages"
    events = await collect(http, "POST", path, json={"query": "x" * 400, "stream": True})
    counted = (await http.post(path, json={"query": "hello"})).json()["usage"]
    rows = (await http.get(path)).json()["data"]
    stats = (await http.get("/api/stats", params={"group_by": "day"})).json()["data"]

    usage = events[-2].data["usage"]
    assert usage["estimated"] is True
    assert usage["input_tokens"] > 100
    assert usage["output_tokens"] >= 25
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert rows[1]["meta_data"]["usage_metadata"] == usage
    assert "estimated" not in counted
    assert sum(day["tokens"]["output"] for day in stats) >= usage["output_tokens"]


async def test_a_model_that_refuses_is_a_502(http: httpx.AsyncClient, model: OpenAIServer) -> None:
    model.replies.append(Reply(status=400))
    session = (await http.post("/api/sessions", json={"assistant_id": "agent"})).json()

    refused = await http.post(f"/api/sessions/{session['id']}/messages", json={"query": "hello"})

    assert (refused.status_code, refused.json()["code"]) == (502, "run_failed")
