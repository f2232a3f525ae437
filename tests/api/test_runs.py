"""Runs over HTTP, with the official SDK."""

from typing import Any

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
