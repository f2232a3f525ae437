"""Runs that stop to ask, and runs that fail."""

from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.acceptance.gate import Gate
from tests.acceptance.sse import collect


async def new_thread(client: LangGraphClient) -> str:
    return str((await client.threads.create())["thread_id"])


async def test_a_graph_asks_and_goes_on_with_the_answer(
    client: LangGraphClient, other_client: LangGraphClient
) -> None:
    thread_id = await new_thread(client)
    started: dict[str, Any] = {"log": ["start"]}

    asked = await client.runs.wait(thread_id, "ask", input=started)
    waiting = await client.threads.get(thread_id)
    state = await client.threads.get_state(thread_id)
    [run] = await client.runs.list(thread_id)
    joined = await other_client.runs.join(thread_id, run["run_id"])
    answered = await client.runs.wait(thread_id, "ask", command={"resume": "yes"})
    after = await client.threads.get(thread_id)

    assert isinstance(asked, dict)
    assert isinstance(answered, dict)
    [question] = asked["__interrupt__"]
    assert question.pop("response_schema") is None
    assert question["value"] == {"question": "Go on?"}
    assert asked["log"] == ["start"]
    assert run["status"] == "success"
    assert waiting["status"] == "interrupted"
    [interrupts] = waiting["interrupts"].values()
    assert interrupts == state["interrupts"] == [question]
    assert state["next"] == ["ask"]
    assert isinstance(joined, dict)
    assert joined["__interrupt__"][0]["id"] == question["id"]
    assert answered["log"] == ["start", "asked: yes", "after"]
    assert (after["status"], after["interrupts"]) == ("idle", {})


async def test_an_answer_to_a_thread_that_asked_nothing_begins_its_graph(
    client: LangGraphClient,
) -> None:
    output = await client.runs.wait(await new_thread(client), "ask", command={"resume": "yes"})

    assert isinstance(output, dict)
    assert [asked["value"] for asked in output["__interrupt__"]] == [{"question": "Go on?"}]


async def test_the_question_is_in_the_stream(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)

    parts = [
        part
        async for part in client.runs.stream(
            thread_id, "ask", input={"log": []}, stream_mode=["values", "updates"]
        )
    ]
    resumed = [
        part.data
        async for part in client.runs.stream(
            thread_id,
            "ask",
            command={"resume": {parts[-2].data["__interrupt__"][0]["id"]: "by id"}},
            stream_mode="updates",
        )
    ]

    assert [(part.event, list(part.data)) for part in parts[2:-1]] == [
        ("updates", ["__interrupt__"]),
        ("values", ["log", "__interrupt__"]),
    ]
    assert resumed[1:-1] == [{"ask": {"log": ["asked: by id"]}}, {"after": {"log": ["after"]}}]


async def test_a_run_stops_before_a_node_and_goes_on_without_input(
    client: LangGraphClient, gate: Gate
) -> None:
    thread_id = await new_thread(client)
    work: dict[str, Any] = {"gate": gate.port, "name": "w"}

    stopped = await client.runs.wait(thread_id, "steps", input=work, interrupt_before=["b"])
    waiting = await client.threads.get(thread_id)
    state = await client.threads.get_state(thread_id)
    finished = await client.runs.wait(thread_id, "steps", input=None)

    assert isinstance(stopped, dict)
    assert isinstance(finished, dict)
    assert stopped["log"] == ["w:a"]
    assert (waiting["status"], waiting["interrupts"], state["next"]) == ("interrupted", {}, ["b"])
    assert finished["log"] == ["w:a", "w:b", "w:c"]
    assert (await client.threads.get(thread_id))["status"] == "idle"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("object", "Type is not msgpack serializable: object"),
        ("lock", "Type is not msgpack serializable: Lock"),
        ("lambda", "Type is not msgpack serializable: function"),
        ("big", "Integer exceeds 64-bit range"),
    ],
)
async def test_a_value_that_cannot_be_kept_ends_the_run_with_the_reason(
    kind: str, reason: str, client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    thread_id = await new_thread(client)
    body = {"assistant_id": "poison", "input": {"kind": kind}}

    waited = (await http.post(f"/threads/{thread_id}/runs/wait", json=body)).json()
    failed = await client.threads.get(thread_id)
    fine = await client.runs.wait(thread_id, "poison", input={"kind": "fine"})

    assert waited == {"__error__": {"error": "TypeError", "message": reason}}
    assert failed["status"] == "error"
    assert isinstance(fine, dict)
    assert fine["log"] == ["fine", "after"]
    assert (await client.threads.get(thread_id))["status"] == "idle"


@pytest.mark.parametrize(
    ("kind", "shown"), [("nul", "a\ufffdb"), ("surrogate", "a?b"), ("nan", None)]
)
async def test_a_value_that_json_cannot_hold_is_kept_and_shown_as_near_as_can_be(
    kind: str, shown: str | None, client: LangGraphClient
) -> None:
    thread_id = await new_thread(client)

    odd = await client.runs.wait(thread_id, "poison", input={"kind": kind})
    fine = await client.runs.wait(thread_id, "poison", input={"kind": "fine"})
    state: Any = await client.threads.get_state(thread_id)
    [found] = await client.threads.search(ids=[thread_id])

    assert isinstance(odd, dict)
    assert isinstance(fine, dict)
    assert odd["log"] == [shown, "after"]
    assert fine["log"] == state["values"]["log"] == [shown, "after", "fine", "after"]
    assert found["values"] == state["values"]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("plain", {"error": "ValueError", "message": "boom!"}),
        ("private", {"error": "_PrivateError", "message": "An internal error occurred"}),
    ],
)
async def test_a_node_that_raises_is_an_error_wherever_one_looks(
    kind: str, error: dict[str, str], client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    thread_id = await new_thread(client)
    body = {"assistant_id": "boom", "input": {"kind": kind, "log": ["start"]}}

    streamed = await collect(http, "POST", f"/threads/{thread_id}/runs/stream", json=body)
    waited = (await http.post(f"/threads/{thread_id}/runs/wait", json=body)).json()
    runs = await client.runs.list(thread_id)
    joined = (await http.get(f"/threads/{thread_id}/runs/{runs[0]['run_id']}/join")).json()
    thread: Any = await client.threads.get(thread_id)
    state = await client.threads.get_state(thread_id)
    fixed = await client.runs.wait(thread_id, "ask", input={"log": []})

    assert (streamed[-1].name, streamed[-1].data) == ("error", error)
    assert waited == joined == {"__error__": error}
    assert {run["status"] for run in runs} == {"error"}
    assert (thread["status"], thread["error"]) == ("error", error)
    assert state["tasks"][0]["error"].startswith(error["error"])  # type: ignore[union-attr]
    assert isinstance(fixed, dict)
    assert fixed["__interrupt__"]


async def test_a_graph_that_never_ends_is_stopped_by_its_recursion_limit(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    thread_id = await new_thread(client)
    body = {"assistant_id": "endless", "input": {"log": []}, "config": {"recursion_limit": 4}}

    waited = (await http.post(f"/threads/{thread_id}/runs/wait", json=body)).json()

    assert waited["__error__"]["error"] == "GraphRecursionError"
    assert "Recursion limit of 4" in waited["__error__"]["message"]
    assert (await client.threads.get(thread_id))["status"] == "error"
    assert (await client.threads.get_state(thread_id))["values"]["log"] == ["after"] * 4  # type: ignore[call-overload]
