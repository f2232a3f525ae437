"""Runs over HTTP, with the official SDK."""

from datetime import UTC, datetime, timedelta
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


async def test_a_run_keeps_what_it_was_asked_for(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    assistant = await client.assistants.create(
        "steps",
        config={"tags": ["assistant"], "recursion_limit": 50, "configurable": {"a": 1, "k": "a"}},
        metadata={"from": "assistant", "m": 1},
    )
    thread_id = (await client.threads.create(metadata={"from": "thread"}))["thread_id"]

    asked = {
        "assistant_id": assistant["assistant_id"],
        "config": {
            "tags": ["run"],
            "configurable": {"k": "r", "langgraph_auth_user": "x"},
            "metadata": {"c": 1, "run_id": "x"},
        },
        "metadata": {"m": 2},
        "feedback_keys": ["good"],
        "langsmith_tracer": {"project_name": "p"},
        "interrupt_before": ["second"],
        "durability": "exit",
        "stream_mode": "updates",
        "stream_subgraphs": True,
        "stream_resumable": True,
        "after_seconds": 3600,
        "unknown": 1,
    }
    run = (await http.post(f"/threads/{thread_id}/runs", json=asked)).json()

    kwargs = run["kwargs"]
    configurable = kwargs["config"].pop("configurable")
    assert (configurable["a"], configurable["k"]) == (1, "r")
    assert configurable["langgraph_auth_user"] is None
    assert kwargs["config"].pop("metadata") == run["metadata"]
    assert kwargs == {
        "input": None, "command": None, "config": {"tags": ["run"], "recursion_limit": 50},
        "context": {"a": 1, "k": "r"}, "stream_mode": ["updates"], "interrupt_before": ["second"],
        "interrupt_after": None, "webhook": None, "feedback_keys": ["good"], "temporary": False,
        "subgraphs": True, "resumable": True, "checkpoint_during": True, "durability": "exit",
    }  # fmt: skip
    assert run["metadata"] == {
        "from": "thread", "m": 2, "c": 1, "graph_id": "steps",
        "assistant_id": assistant["assistant_id"],
    }  # fmt: skip
    assert run["langsmith_session_name"] is None
    due_in = datetime.fromisoformat(run["created_at"]) - datetime.now(UTC)
    assert timedelta(minutes=50) < due_in < timedelta(minutes=70)
    thread: Any = await client.threads.get(thread_id)
    assert thread["config"] == {
        "tags": ["run"], "recursion_limit": 50, "metadata": {"c": 1},
        "configurable": {"a": 1, "k": "a"},
    }  # fmt: skip
    inherits: Any = await client.runs.create(thread_id, "steps", after_seconds=3600)
    assert inherits["kwargs"]["config"]["configurable"]["k"] == "a"
    assert "tags" not in inherits["kwargs"]["config"]


async def test_runs_are_created_by_the_dozen_or_not_at_all(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    one: Any = {"assistant_id": "steps", "input": {"text": "a"}, "on_completion": "keep"}

    other: Any = {**one, "input": {"text": "b"}}
    created = await client.runs.create_batch([one, other])

    values: list[Any] = [await client.runs.join(run["thread_id"], run["run_id"]) for run in created]
    assert [each["text"] for each in values] == ["a", "b"]
    before = await client.threads.count()
    for wrong, status in [
        ({"assistant_id": "nothing"}, 422),
        ({"assistant_id": "00000000-0000-4000-8000-000000000000"}, 404),
        ({**one, "command": {"resume": 1}}, 400),
        ({"input": 1}, 422),
    ]:
        refused = await http.post("/runs/batch", json=[one, wrong])
        assert refused.status_code == status, refused.text
    bodies: list[Any] = [[], {}, [one] * 1001]
    for body in bodies:
        assert (await http.post("/runs/batch", json=body)).status_code in (413, 422)
    assert await client.threads.count() == before


async def test_a_list_of_runs_has_the_fields_that_are_asked_for(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "steps", after_seconds=3600)
    url = f"/threads/{thread_id}/runs"

    repeated = await client.runs.list(thread_id, select=["run_id", "status"])
    as_json = await http.get(url, params={"select": '["run_id","status"]'})
    wrong = await http.get(url, params={"select": "nothing"})

    assert repeated == as_json.json() == [{"run_id": run["run_id"], "status": "pending"}]
    assert wrong.status_code == 422
    assert wrong.json()["detail"].startswith("Invalid select columns")


async def test_runs_are_cancelled_by_name_or_by_status(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    ids = [
        (await client.runs.create(thread_id, "steps", after_seconds=3600))["run_id"]
        for _ in range(3)
    ]
    unknown = "00000000-0000-4000-8000-000000000000"

    async def cancelled(**body: Any) -> tuple[int, str]:
        answer = await http.post("/runs/cancel", json=body)
        return answer.status_code, answer.json()["detail"] if answer.content else ""

    await client.runs.cancel_many(thread_id=thread_id, run_ids=ids[:1])
    assert (await cancelled(thread_id=thread_id, run_ids=ids[:1]))[1].startswith("No matching runs")
    for run_ids in ([], [unknown]):
        refused = (404, "No runs found to cancel.")
        assert await cancelled(thread_id=thread_id, run_ids=run_ids) == refused
        assert await cancelled(thread_id=unknown, run_ids=ids) == refused
    assert (await cancelled(status="all", thread_id=thread_id))[1].startswith(
        "When providing a 'status', 'thread_id' and 'run_ids' must be omitted."
    )
    for body in ({}, {"thread_id": thread_id}, {"run_ids": ids}, {"status": "success"}):
        assert (await cancelled(**body))[0] == 422
    assert await cancelled(thread_id="x", run_ids=ids) == (
        422, "Invalid thread ID: must be a UUID",
    )  # fmt: skip
    assert await cancelled(thread_id=thread_id, run_ids=ids[:2]) == (204, "")
    await client.runs.cancel_many(status="pending")
    assert await cancelled(status="all") == (404, "No runs found to cancel.")
    statuses = {run["status"] for run in await client.runs.list(thread_id)}
    assert statuses == {"interrupted"}


async def test_a_run_from_a_checkpoint_that_is_none_is_refused(http: httpx.AsyncClient) -> None:
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]

    refused = await http.post(
        f"/threads/{thread_id}/runs", json={"assistant_id": "steps", "checkpoint_id": "nothing"}
    )

    assert (refused.status_code, refused.json()["detail"]) == (422, "Invalid checkpoint ID")
