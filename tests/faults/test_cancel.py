"""Runs that are stopped in the middle of an answer or of a tool, from any process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.acceptance.gate import Gate
from tests.acceptance.sse import Frame, collect, frames
from tests.acceptance.talk import contents, says, tokens
from tests.faults.cluster import Cluster, kill
from tests.faults.test_strategies import ask, new_thread, runs_of, settled, wait
from tests.openai_server import OpenAIServer, Reply, openai_server

Http = list[httpx.AsyncClient]

WORDS = tuple(f"word{number} " for number in range(1500))


@pytest.fixture
async def model(cluster: Cluster, model_port: int) -> AsyncIterator[OpenAIServer]:
    """The model that the servers were told of."""
    async with openai_server(model_port) as model:
        yield model


async def stream_until(
    http: httpx.AsyncClient, thread_id: str, count: int, **more: Any
) -> tuple[str, asyncio.Task[list[Frame]]]:
    """Ask for an answer, and return when so many tokens of it have come; the run, and the rest."""
    heard = asyncio.Event()
    run_ids: list[str] = []
    body = {"assistant_id": "agent", "stream_mode": ["messages-tuple", "values"], **more}

    async def read() -> list[Frame]:
        found: list[Frame] = []
        url = f"/threads/{thread_id}/runs/stream"
        async with http.stream("POST", url, json=body) as response:
            run_ids.append(response.headers["content-location"].split("/")[-1])
            async for frame in frames(response):
                found.append(frame)
                if len([token for token in tokens(found) if token]) >= count:
                    heard.set()
        return found

    task = asyncio.create_task(read())
    async with asyncio.timeout(20):
        await heard.wait()
    return run_ids[0], task


async def cancel(http: httpx.AsyncClient, thread_id: str, run_id: str, **params: Any) -> Any:
    """Stop a run; what it came to, if that is waited for."""
    path = f"/threads/{thread_id}/runs/{run_id}/cancel"
    answer = await http.post(path, params={"wait": True, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def state_of(http: httpx.AsyncClient, thread_id: str) -> Any:
    return (await http.get(f"/threads/{thread_id}/state")).json()


async def test_what_was_said_of_an_answer_is_kept_and_the_next_question_finds_it(
    cluster: Cluster, http: Http, model: OpenAIServer
) -> None:
    thread_id = await new_thread(http)
    model.replies.append(Reply(tokens=("Once ", "upon ", "a time"), stops_after=2))
    run_id, streaming = await stream_until(http[0], thread_id, 2, input=says("a story"))

    await cancel(http[1], thread_id, run_id)

    received = await streaming
    state = await state_of(http[1], thread_id)
    question, partial = state["values"]["messages"]
    assert (partial["type"], partial["content"]) == ("ai", "Once upon ")
    assert partial["id"] == next(f.data[0]["id"] for f in received if f.name == "messages")
    assert state["next"] == []
    assert await settled(cluster, thread_id) == "idle"
    assert runs_of(cluster, thread_id) == {run_id: "interrupted"}
    table = (await http[0].get(f"/api/sessions/{thread_id}/messages")).json()["data"]
    assert [(row["id"], row["content"]) for row in table] == [
        (question["id"], "a story"),
        (partial["id"], "Once upon "),
    ]
    after = await wait(http[1], thread_id, "agent", input=says("go on"))
    assert contents(after)[:3] == ["a story", "Once upon ", "go on"]
    sent = [(m["role"], m["content"]) for m in model.requests[-1]["messages"][1:]]
    assert sent == [("user", "a story"), ("assistant", "Once upon "), ("user", "go on")]


async def test_a_question_that_interrupts_an_answer_finds_what_was_said_of_it(
    cluster: Cluster, http: Http, model: OpenAIServer
) -> None:
    thread_id = await new_thread(http)
    model.replies.append(Reply(tokens=("Once ", "upon ", "a time"), stops_after=1))
    _, streaming = await stream_until(http[0], thread_id, 1, input=says("a story"))

    second = says("another one")
    after = await wait(http[1], thread_id, "agent", input=second, multitask_strategy="interrupt")

    await streaming
    assert contents(after)[:3] == ["a story", "Once ", "another one"]
    assert await settled(cluster, thread_id) == "idle"


async def test_whenever_an_answer_is_stopped_all_that_was_streamed_of_it_is_kept(
    cluster: Cluster, http: Http, model: OpenAIServer
) -> None:
    stopped, number = 0, 0
    while number < 8 or (not stopped and number < 30):
        thread_id = await new_thread(http)
        model.replies.append(Reply(tokens=WORDS))
        # The later ones come when the node returns.
        count = min(1 + 250 * (number % 8), len(WORDS))
        run_id, streaming = await stream_until(http[number % 2], thread_id, count, input=says("go"))

        answer = await http[1].post(f"/threads/{thread_id}/runs/{run_id}/cancel?wait=true")

        await streaming
        path = f"/threads/{thread_id}/runs/{run_id}/stream"
        heard = "".join(tokens(await collect(http[0], "GET", path, last_event_id="-1")))
        state = await state_of(http[0], thread_id)
        said = contents(state["values"])[1:]
        assert said == [heard], (number, answer.status_code, runs_of(cluster, thread_id))
        assert state["next"] == []
        stopped += "interrupted" in runs_of(cluster, thread_id).values()
        number += 1
    assert stopped > 0


async def test_a_model_that_never_pauses_is_stopped_at_once(
    cluster: Cluster, http: Http, model: OpenAIServer
) -> None:
    for server in http:
        thread_id = await new_thread(http)
        model.replies.append(Reply(tokens=WORDS * 16))
        run_id, streaming = await stream_until(server, thread_id, 10, input=says("go"))

        await cancel(http[0], thread_id, run_id)

        await streaming
        assert runs_of(cluster, thread_id) == {run_id: "interrupted"}
    logs = "".join(member.now.log for member in cluster.members)
    assert "what was cancelled does not end" not in logs


async def test_an_answer_that_is_rolled_back_leaves_nothing(
    cluster: Cluster, http: Http, model: OpenAIServer
) -> None:
    thread_id = await new_thread(http)
    model.replies.append(Reply(tokens=("Once ", "upon "), stops_after=1))
    run_id, streaming = await stream_until(http[0], thread_id, 1, input=says("a story"))

    await cancel(http[1], thread_id, run_id, action="rollback")

    await streaming
    state = await state_of(http[1], thread_id)
    assert (state["values"], state["next"]) == ({}, [])
    assert cluster.sql("SELECT 1 FROM message WHERE conversation_id = %s", thread_id) == []
    assert runs_of(cluster, thread_id) == {}
    assert await settled(cluster, thread_id) == "idle"


@pytest.mark.parametrize("by", ["a cancel", "another question", "the last loss of its owner"])
async def test_a_tool_that_was_stopped_does_not_keep_the_model_from_answering(
    by: str, cluster: Cluster, http: Http, model: OpenAIServer, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    gate.hold("one", "two")
    calls = [("wait_at", {"port": gate.port, "name": name}) for name in ("one", "two")]
    model.replies.append(Reply(tool_calls=tuple(calls)))
    run = (await ask(http[0], thread_id, "tools", input=says("wait"), durability="sync")).json()
    await gate.arrived("one")
    await gate.arrived("two")
    question: dict[str, Any] = {"input": says("never mind")}
    if by == "another question":
        question["multitask_strategy"] = "interrupt"
    else:
        await _stop(by, cluster, http, thread_id, run["run_id"])
        stopped = await state_of(http[0], thread_id)
        assert stopped["next"] == ["tools"]
        assert [m["type"] for m in stopped["values"]["messages"]] == ["human", "ai"]

    after = await wait(http[1], thread_id, "tools", **question)

    # The model of these tests refuses a call without an answer, as OpenAI's do.
    assert [m["type"] for m in after["messages"]] == ["human", "ai", "tool", "tool", "human", "ai"]
    assert {m["tool_call_id"] for m in after["messages"] if m["type"] == "tool"} == {
        call["id"] for call in after["messages"][1]["tool_calls"]
    }
    assert await settled(cluster, thread_id) == "idle"
    gate.release("one", "two")


async def _stop(by: str, cluster: Cluster, http: Http, thread_id: str, run_id: str) -> None:
    if by == "a cancel":
        await cancel(http[1], thread_id, run_id)
        return
    cluster.sql("UPDATE run SET attempt = 3 WHERE run_id = %s RETURNING 1", run_id)
    await kill(cluster.owner(run_id))
    await asyncio.to_thread(cluster.revive)
    await asyncio.to_thread(cluster.wait_until_up)
    assert await settled(cluster, thread_id) == "error"


async def test_a_tool_that_was_stopped_is_begun_anew_if_that_is_wanted(
    cluster: Cluster, http: Http, model: OpenAIServer, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    gate.hold("one")
    model.replies.append(Reply(tool_calls=(("wait_at", {"port": gate.port, "name": "one"}),)))
    run = (await ask(http[0], thread_id, "tools", input=says("wait"), durability="sync")).json()
    await gate.arrived("one")
    await cancel(http[1], thread_id, run["run_id"])
    gate.release("one")

    after = await wait(http[1], thread_id, "tools", input=None)

    assert [m["content"] for m in after["messages"] if m["type"] == "tool"] == ["passed"]


async def test_a_client_that_answers_the_call_itself_is_believed(
    cluster: Cluster, http: Http, model: OpenAIServer
) -> None:
    thread_id = await new_thread(http)
    model.replies.append(Reply(tool_calls=(("calculate", {"expression": "6 * 7"}),)))
    asked = await wait(
        http[0], thread_id, "agent", input=says("6 * 7?"), interrupt_before=["tools"]
    )
    [call] = asked["messages"][-1]["tool_calls"]
    answer = {"type": "tool", "tool_call_id": call["id"], "content": "54"}

    after = await wait(http[1], thread_id, "agent", input={"messages": [answer]})

    assert [m["content"] for m in after["messages"] if m["type"] == "tool"] == ["54"]


async def test_a_node_that_does_not_let_itself_be_cancelled_is_left_behind(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    names = {"interrupt": "interrupted", "rollback": "idle"}
    gate.hold(*(f"{name}:stays" for name in names))

    async def stop(action: str) -> str:
        thread_id = await new_thread(http)
        work = {"gate": gate.port, "name": action}
        run = (await ask(http[0], thread_id, "stubborn", input=work, durability="sync")).json()
        await gate.arrived(f"{action}:stays")
        await cancel(http[1], thread_id, run["run_id"], action=action)
        return thread_id

    threads = dict(zip(names, await asyncio.gather(*map(stop, names)), strict=True))

    for name, thread_id in threads.items():
        await gate.arrived(f"{name}:refuses")
        assert await settled(cluster, thread_id) == names[name]
        # It is still there, and the next run does not mind.
        await wait(http[0], thread_id, "alone", input={"gate": gate.port, "log": ["next"]})
        gate.release(f"{name}:stays")
        await wait(http[1], thread_id, "alone", input={"gate": gate.port})
        log = (await state_of(http[0], thread_id))["values"]["log"]
        assert (log[0], len(log)) == ("next", 3)
        assert f"{name}:after" not in gate.seen


async def test_every_run_of_many_threads_is_cancelled_by_one_request(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    threads = [await new_thread(http) for _ in range(20)]
    gate.hold("many:b")
    for number, thread_id in enumerate(threads):
        work = {"gate": gate.port, "name": "many"}
        await ask(http[number % 2], thread_id, "steps", input=work, durability="sync")
        await ask(http[number % 2], thread_id, "steps", input=work, after_seconds=3600)
    await gate.arrived("many:b", times=20)

    answer = await http[1].post("/runs/cancel", json={"status": "all"})

    assert answer.status_code == 204
    for thread_id in threads:
        assert await settled(cluster, thread_id) == "interrupted"
        assert list(runs_of(cluster, thread_id).values()) == ["interrupted"] * 2


async def test_what_is_over_cannot_be_cancelled(cluster: Cluster, http: Http, gate: Gate) -> None:
    thread_id = await new_thread(http)
    await wait(http[0], thread_id, "alone", input={"gate": gate.port})
    [run_id] = runs_of(cluster, thread_id)

    for server in http:
        for waits in (True, False):
            path = f"/threads/{thread_id}/runs/{run_id}/cancel"
            answer = await server.post(path, params={"wait": waits})
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    answer = await http[0].post("/runs/cancel", json={"thread_id": thread_id, "run_ids": [run_id]})
    assert answer.status_code == 404
    assert runs_of(cluster, thread_id) == {run_id: "success"}
