"""Runs over HTTP, with the official SDK."""

from typing import Any

import httpx
from langgraph_sdk.client import LangGraphClient

from tests.api.test_every_route import LONG


async def test_a_run_streams_and_a_second_one_remembers(client: LangGraphClient) -> None:
    thread = await client.threads.create()
    question: dict[str, Any] = {"messages": [{"role": "user", "content": "one"}]}

    events = [
        part.event
        async for part in client.runs.stream(
            thread["thread_id"],
            "chat",
            input=question,
            stream_mode=["messages-tuple", "values", "updates"],
        )
    ]
    values = await client.runs.wait(thread["thread_id"], "chat", input=question)

    assert events[0] == "metadata"
    assert {"messages", "values", "updates"} <= set(events)
    assert isinstance(values, dict)
    assert len(values["messages"]) == 4


async def test_a_run_that_cannot_be_stored_fails_at_once(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    question: dict[str, Any] = {"messages": [{"role": "user", "content": "one", "id": LONG}]}

    answer: Any = await client.runs.wait(thread_id, "chat", input=question, raise_error=False)

    assert answer["__error__"]["error"] == "TooLargeError"
    (run,) = await client.runs.list(thread_id)
    assert run["status"] == "error"


async def test_a_run_is_refused_for_a_wrong_type_and_takes_a_command_of_pairs(
    http: httpx.AsyncClient,
) -> None:
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    url = f"/threads/{thread_id}/runs/wait"

    refused = await http.post(url, json={"assistant_id": "chat", "stream_subgraphs": "yes"})
    updated = await http.post(
        url,
        json={
            "assistant_id": "steps",
            "command": {"update": [["log", ["given"]]], "goto": "second"},
            "config": {"max_concurrency": 2},
        },
    )

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    assert updated.json()["log"][-1] == "second"
