"""Edits, answers given again, and the branches that they make."""

import asyncio
import signal
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.acceptance.conftest import Sql
from tests.acceptance.gate import Gate
from tests.acceptance.process import ServerProcess
from tests.acceptance.sse import Frame, collect, follow, frames
from tests.acceptance.talk import contents
from tests.acceptance.test_sessions import ask, session

GRAPHS = ("chat", "delta")


async def said(http: httpx.AsyncClient, session_id: str, **params: Any) -> list[dict[str, Any]]:
    """The messages of a session."""
    answer = await http.get(f"/api/sessions/{session_id}/messages", params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


async def again(
    http: httpx.AsyncClient, session_id: str, message_id: str, **body: Any
) -> httpx.Response:
    path = f"/api/sessions/{session_id}/messages/{message_id}/regenerate"
    return await http.post(path, json=body)


@pytest.mark.parametrize("graph", GRAPHS)
async def test_an_edit_goes_on_from_the_parent_and_leaves_the_first_wording(
    graph: str, http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id=graph)
    first = (await ask(http, session_id, "one")).json()
    await ask(http, session_id, "two")

    edited = await ask(http, session_id, "two, in other words", parent_id=first["id"])
    begun_anew = await ask(http, session_id, "one, in other words", parent_id=None)
    after = await ask(http, session_id, "and on")

    assert edited.json()["response"] == "(3) two, in other words"
    assert begun_anew.json()["response"] == "(1) one, in other words"
    assert after.json()["response"] == "(3) and on"
    line = ["one, in other words", "(1) one, in other words", "and on", "(3) and on"]
    assert texts(await said(http, session_id)) == line
    assert contents((await client.threads.get_state(session_id))["values"]) == line
    assert texts(await said(http, session_id, branch="all")) == [
        "one", "(1) one", "two", "(3) two", "two, in other words", "(3) two, in other words", *line,
    ]  # fmt: skip


@pytest.mark.parametrize("graph", GRAPHS)
async def test_an_answer_given_again_is_a_sibling_of_the_first(
    graph: str, http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id=graph)
    first = (await ask(http, session_id, "one")).json()

    second = (await again(http, session_id, first["id"])).json()
    third = (await again(http, session_id, second["id"])).json()
    refused = await again(http, session_id, first["user_message_id"])

    assert first["response"] == second["response"] == third["response"] == "(1) one"
    assert len({first["id"], second["id"], third["id"]}) == 3
    assert third["user_message_id"] == first["user_message_id"]
    assert refused.status_code == 422
    assert [row["id"] for row in await said(http, session_id)] == [
        first["user_message_id"], third["id"],
    ]  # fmt: skip
    assert len(await said(http, session_id, branch="all")) == 4
    state = await client.threads.get_state(session_id)
    assert (contents(state["values"]), state["next"]) == (["one", "(1) one"], [])
    assert (await ask(http, session_id, "two")).json()["response"] == "(3) two"


@pytest.mark.parametrize("graph", GRAPHS)
async def test_after_an_edit_the_head_is_switched_and_studio_shows_the_same(
    graph: str, http: httpx.AsyncClient, client: LangGraphClient, sql: Sql
) -> None:
    session_id = await session(http, assistant_id=graph)
    one = (await ask(http, session_id, "one")).json()
    two = (await ask(http, session_id, "two")).json()
    other = (await ask(http, session_id, "other", parent_id=one["id"])).json()
    again_ = (await again(http, session_id, other["id"])).json()

    everything = {m["id"]: m for m in await said(http, session_id, branch="all")}
    assert {m["content"]: m["parent_id"] for m in everything.values()} == {
        "one": None,
        "(1) one": one["user_message_id"],
        "two": one["id"],
        "(3) two": two["user_message_id"],
        "other": one["id"],
        "(3) other": other["user_message_id"],
    }
    questions = [two["user_message_id"], other["user_message_id"]]
    for question in questions:
        assert everything[question]["sibling_ids"] == questions
    for answer in (other["id"], again_["id"]):
        assert everything[answer]["sibling_ids"] == [other["id"], again_["id"]]
    assert everything[one["id"]]["sibling_ids"] == [one["id"]]

    for head, line in (
        (two["id"], ["one", "(1) one", "two", "(3) two"]),
        (other["id"], ["one", "(1) one", "other", "(3) other"]),
        (one["id"], ["one", "(1) one"]),
        (two["id"], ["one", "(1) one", "two", "(3) two"]),
    ):
        moved = await http.put(f"/api/sessions/{session_id}/head", json={"message_id": head})
        assert moved.status_code == 200, moved.text
        assert moved.json()["head_message_id"] == head
        shown = await said(http, session_id)
        # What Studio asks: the newest state, and the newest of the history.
        state = await client.threads.get_state(session_id)
        [newest] = await client.threads.get_history(session_id, limit=1)
        assert state["checkpoint"] == newest["checkpoint"]
        assert state["checkpoint"]["checkpoint_id"] == moved.json()["checkpoint_id"]
        assert texts(shown) == contents(state["values"]) == line
        assert shown[-1]["id"] == head
        assert state["next"] == []
    assert (await client.threads.get(session_id))["status"] == "idle"
    three = (await ask(http, session_id, "three")).json()
    assert three["response"] == "(5) three"
    [asked] = [m for m in await said(http, session_id) if m["id"] == three["user_message_id"]]
    assert (asked["parent_id"], asked["sibling_ids"]) == (two["id"], [asked["id"]])
    for wrong in ("nobody", "x" * 300, ""):
        answer = await http.put(f"/api/sessions/{session_id}/head", json={"message_id": wrong})
        assert answer.status_code in (404, 422)


@pytest.mark.parametrize("graph", GRAPHS)
async def test_a_message_is_corrected_and_another_taken_out(
    graph: str, http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id=graph)
    one = (await ask(http, session_id, "one")).json()
    two = (await ask(http, session_id, "two")).json()
    path = f"/api/sessions/{session_id}/messages"

    edited = await http.patch(f"{path}/{one['user_message_id']}", json={"content": "uno"})
    deleted = await http.delete(f"{path}/{two['user_message_id']}")
    again_ = await http.delete(f"{path}/{two['user_message_id']}")

    assert edited.status_code == 200, edited.text
    assert (edited.json()["content"], edited.json()["id"]) == ("uno", one["user_message_id"])
    assert edited.json()["edited_at"] is not None
    assert (deleted.status_code, again_.status_code) == (204, 404), deleted.text
    line = ["uno", "(1) one", "(3) two"]
    assert texts(await said(http, session_id)) == line
    state = await client.threads.get_state(session_id)
    assert (contents(state["values"]), state["next"]) == (line, [])
    [gone] = [m for m in await said(http, session_id, branch="all") if m["deleted_at"]]
    assert (gone["content"], gone["meta_data"], gone["in_context"]) == ("", {}, False)
    assert (await ask(http, session_id, "three")).json()["response"] == "(4) three"
    # The message that follows one that is gone still says which.
    [answer] = [m for m in await said(http, session_id) if m["id"] == two["id"]]
    assert answer["parent_id"] == two["user_message_id"]
    left = await http.patch(f"{path}/{one['id']}", json={"content": ""})
    assert left.status_code == 422
    await ask(http, session_id, "elsewhere", parent_id=None)
    refused = await http.patch(f"{path}/{one['id']}", json={"content": "x"})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_in_context")


async def test_the_answers_of_tools_go_with_what_called_them(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = (await client.threads.create(graph_id="delta"))["thread_id"]
    call = {"name": "add", "args": {}, "id": "call-1", "type": "tool_call"}
    given = [
        {"type": "human", "content": "sum", "id": "q"},
        {"type": "ai", "content": "", "id": "c", "tool_calls": [call]},
        {"type": "tool", "content": "3", "id": "t", "tool_call_id": "call-1"},
        {"type": "ai", "content": "It is 3", "id": "a"},
    ]
    await client.threads.update_state(session_id, {"messages": given}, as_node="model")
    path = f"/api/sessions/{session_id}/messages"

    refused = await http.delete(f"{path}/t")
    deleted = await http.delete(f"{path}/c")

    assert (refused.status_code, deleted.status_code) == (422, 204)
    assert texts(await said(http, session_id)) == ["sum", "It is 3"]
    state = await client.threads.get_state(session_id)
    assert (contents(state["values"]), state["next"]) == (["sum", "It is 3"], [])
    # Without the answer the tool's is the last word, which a model would be asked to go on from.
    session_id = await session(http, assistant_id="adds")
    answered = (await ask(http, session_id, "sum")).json()
    await http.delete(f"/api/sessions/{session_id}/messages/{answered['id']}")
    state = await client.threads.get_state(session_id)
    assert (contents(state["values"]), state["next"]) == (["sum", "Let me see.", "5"], [])


async def test_the_answers_of_tools_go_also_where_the_model_does_not_see_them(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = (await client.threads.create(graph_id="chat"))["thread_id"]
    call = {"name": "add", "args": {}, "id": "call_0", "type": "tool_call"}
    given = [
        message
        for n in (1, 2)
        for message in (
            {"type": "human", "content": f"sum {n}", "id": f"q{n}"},
            # There are models that count their calls anew each time.
            {"type": "ai", "content": "", "id": f"c{n}", "tool_calls": [call]},
            {"type": "tool", "content": f"is {n}", "id": f"t{n}", "tool_call_id": "call_0"},
        )
    ]
    await client.threads.update_state(session_id, {"messages": given}, as_node="model")
    summarised = [{"type": "remove", "content": "", "id": id_} for id_ in ("q1", "c1", "t1")]
    await client.threads.update_state(session_id, {"messages": summarised}, as_node="model")
    path = f"/api/sessions/{session_id}/messages"

    first = await http.delete(f"{path}/c1")
    left = await said(http, session_id)
    second = await http.delete(f"{path}/c2")

    assert (first.status_code, second.status_code) == (204, 204)
    assert [row["id"] for row in left] == ["q1", "q2", "c2", "t2"]
    assert texts(await said(http, session_id)) == ["sum 1", "sum 2"]
    assert contents((await client.threads.get_state(session_id))["values"]) == ["sum 2"]


async def test_nothing_is_next_after_a_change_whichever_node_spoke_last(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    file = {
        "format": "threadwell",
        "version": 1,
        "session": {"graph_id": "chat", "name": "From a file"},
        "messages": [
            {"id": "question", "role": "user", "content": "one"},
            {"id": "answer", "role": "assistant", "content": "eins"},
        ],
    }
    report = (await http.post("/api/sessions/import", json=file)).json()
    imported = report["sessions"][0]["id"]
    sung = await session(http, assistant_id="duet")
    await ask(http, sung, "sing")
    [asked, left, right] = await said(http, sung)

    changes = [
        await http.delete(f"/api/sessions/{imported}/messages/answer"),
        await http.patch(f"/api/sessions/{imported}/messages/question", json={"content": "two"}),
        await http.patch(f"/api/sessions/{sung}/messages/{asked['id']}", json={"content": "hum"}),
        await http.delete(f"/api/sessions/{sung}/messages/{left['id']}"),
    ]

    assert [change.status_code for change in changes] == [204, 200, 200, 204], changes
    assert right["content"] == "right"
    for session_id, line in ((imported, ["two"]), (sung, ["hum", "right"])):
        state = await client.threads.get_state(session_id)
        assert (contents(state["values"]), state["next"]) == (line, [])
        assert texts(await said(http, session_id)) == line
        shown = (await http.get(f"/api/sessions/{session_id}")).json()
        assert shown["thread_status"] == "idle"
        resumed = await http.post(f"/api/sessions/{session_id}/messages", json={"resume": 1})
        assert (resumed.status_code, resumed.json()["code"]) == (409, "not_interrupted")
    assert (await ask(http, imported, "three")).json()["response"] == "(2) three"


async def test_ids_with_slashes_are_addressed_as_they_are_or_encoded(
    http: httpx.AsyncClient,
) -> None:
    file = {
        "format": "threadwell",
        "version": 1,
        "session": {"graph_id": "chat"},
        "messages": [
            {"id": "a/question", "role": "user", "content": "one"},
            {"id": "a/answer", "role": "assistant", "content": "eins"},
        ],
    }
    report = (await http.post("/api/sessions/import", json=file)).json()
    session_id = report["sessions"][0]["id"]
    path = f"/api/sessions/{session_id}/messages"

    answers = [
        await http.patch(f"{path}/a/question", json={"content": "two"}),
        await http.put(f"{path}/a%2Fanswer/feedback", json={"score": 1}),
        await http.delete(f"{path}/a/answer/feedback"),
        await again(http, session_id, "a%2Fanswer"),
        await http.delete(f"{path}/a%2Fquestion"),
        await http.delete(f"{path}/a/question"),
    ]

    assert [a.status_code for a in answers] == [200, 200, 204, 200, 204, 404], answers
    assert texts(await said(http, session_id)) == ["(1) two"]


async def test_what_failed_is_corrected_and_goes_on(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id="trio")
    path = f"/api/sessions/{session_id}/messages"
    failed = await http.post(path, json={"query": "a wrong song"})
    [asked, left, _] = await said(http, session_id)

    corrected = await http.patch(f"{path}/{asked['id']}", json={"content": "a song"})
    gone = await http.delete(f"{path}/{left['id']}")
    before = await client.threads.get_state(session_id)
    await client.runs.wait(session_id, "trio", input=None)

    assert failed.status_code == 502, failed.text
    assert (corrected.status_code, gone.status_code) == (200, 204), corrected.text
    assert (contents(before["values"]), before["next"]) == (["a song", "right"], ["close"])
    assert texts(await said(http, session_id)) == ["a song", "right", "closed"]


@pytest.mark.parametrize("graph", ["parts_by_edges", "parts_by_command"])
async def test_what_was_sent_to_a_node_is_sent_to_it_still_after_a_correction(
    graph: str, http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id=graph)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "one", "id": "q"}]}
    path = f"/api/sessions/{session_id}/messages/q"

    async def corrected(*texts: str) -> list[str]:
        for text in texts:
            answer = await http.patch(path, json={"content": text})
            assert answer.status_code == 200, answer.text
        state = await client.threads.get_state(session_id)
        return list(state["next"])

    await client.runs.wait(session_id, graph, input=asked, interrupt_before=["work"])
    before_the_work = await corrected("two", "three")
    await client.runs.wait(session_id, graph, input=None, interrupt_before=["sum"])
    before_the_sum = await corrected("four", "five")
    await client.runs.wait(session_id, graph, input=None)

    assert before_the_work == ["work", "work"]
    assert before_the_sum == ["sum"]
    assert texts(await said(http, session_id)) == ["five", "plan", "a", "b", "sum"]


async def test_a_correction_that_decides_otherwise_runs_the_other_way_alone(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id="route")
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "refund me", "id": "q"}]}
    path = f"/api/sessions/{session_id}/messages/q"
    stop = ["refund", "greet"]
    await client.runs.wait(session_id, "route", input=asked, interrupt_before=stop)
    before = await client.threads.get_state(session_id)

    await http.patch(path, json={"content": "hello"})
    once = await client.threads.get_state(session_id)
    await http.patch(path, json={"content": "refund me after all"})
    twice = await client.threads.get_state(session_id)
    await http.patch(path, json={"content": "hello"})
    await client.runs.wait(session_id, "route", input=None)

    assert (before["next"], once["next"], twice["next"]) == (["refund"], ["greet"], ["refund"])
    assert texts(await said(http, session_id)) == ["hello", "read", "greet", "close"]


async def test_what_a_client_wrote_as_a_node_is_not_done_by_it_after_a_correction(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id="route")
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "refund me", "id": "q"}]}
    path = f"/api/sessions/{session_id}/messages/q"
    await client.runs.wait(session_id, "route", input=asked, interrupt_before=["refund"])

    for text in ("by hand", "and again"):
        by_hand = {"messages": [{"role": "assistant", "content": text}]}
        await client.threads.update_state(session_id, by_hand, as_node="refund")
    before = await client.threads.get_state(session_id)
    corrected = [await http.patch(path, json={"content": text}) for text in ("hello", "hi")]
    state = await client.threads.get_state(session_id)
    await client.runs.wait(session_id, "route", input=None)

    assert [answer.status_code for answer in corrected] == [200, 200], corrected
    assert state["next"] == ["close"]
    # What is kept for the next correction is not shown.
    assert set(state["metadata"] or ()) == set(before["metadata"] or ())
    assert texts(await said(http, session_id)) == ["hi", "read", "by hand", "and again", "close"]


async def test_in_the_middle_of_a_step_nothing_is_corrected(
    http: httpx.AsyncClient, client: LangGraphClient, gate: Gate
) -> None:
    gate.hold("b")
    session_id = await session(http, assistant_id="half")
    path = f"/api/sessions/{session_id}/messages"
    asking = asyncio.create_task(http.post(path, json={"query": f"{gate.port}"}))
    await gate.arrived("b")
    while not any(task["result"] for task in (await client.threads.get_state(session_id))["tasks"]):
        assert not asking.done()
    gate.release("b")
    failed = await asking
    before = await client.threads.get_state(session_id)
    [question] = await said(http, session_id)

    refused = [
        await http.patch(f"{path}/{question['id']}", json={"content": "x"}),
        await http.delete(f"{path}/{question['id']}"),
    ]
    after = await client.threads.get_state(session_id)

    assert failed.status_code == 502, failed.text
    assert before["next"] == ["work"]
    assert {(a.status_code, a.json()["code"]) for a in refused} == {(409, "step_unfinished")}
    assert after["checkpoint"] == before["checkpoint"]
    assert contents(after["values"]) == [f"{gate.port}", "a"]


@pytest.mark.parametrize("graph", ["parts_by_edges", "parts_by_command"])
async def test_what_is_deleted_before_its_tools_are_called_calls_none(
    graph: str, http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id=graph)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "call"}]}
    await client.runs.wait(session_id, graph, input=asked, interrupt_before=["work"])
    [_, calling] = await said(http, session_id)

    gone = await http.delete(f"/api/sessions/{session_id}/messages/{calling['id']}")

    assert gone.status_code == 204, gone.text
    assert (await client.threads.get_state(session_id))["next"] == []


async def test_while_the_graph_waits_for_an_answer_nothing_is_corrected(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id="asking")
    asked = (await ask(http, session_id, "may I?")).json()
    path = f"/api/sessions/{session_id}"
    message = f"{path}/messages/{asked['user_message_id']}"

    refused = [
        await http.patch(message, json={"content": "x"}),
        await http.delete(message),
    ]
    answered = await http.post(f"{path}/messages", json={"resume": "yes"})

    assert asked["status"] == "interrupted"
    assert {(a.status_code, a.json()["code"]) for a in refused} == {(409, "session_interrupted")}
    assert answered.json()["response"] == "told yes"
    assert answered.json()["user_message_id"] == asked["user_message_id"]
    again_ = (await again(http, session_id, answered.json()["id"])).json()
    assert again_["status"] == "interrupted"


@pytest.mark.parametrize("graph", GRAPHS)
async def test_a_fork_is_a_session_of_its_own_up_to_a_message(
    graph: str, http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = await session(http, assistant_id=graph, user_id="ada", name="First")
    one = (await ask(http, session_id, "one")).json()
    await ask(http, session_id, "two")
    other = (await ask(http, session_id, "other", parent_id=one["id"])).json()
    path = f"/api/sessions/{session_id}/fork"

    whole = (await http.post(path, json={})).json()
    part = (await http.post(path, json={"message_id": one["id"], "name": "Short"})).json()
    await http.delete(f"/api/sessions/{session_id}")

    assert (whole["name"], whole["user_id"]) == ("First", "ada")
    assert part["name"] == "Short"
    assert part["metadata"]["forked_from"] == {"session_id": session_id, "message_id": one["id"]}
    assert part["thread_status"] == whole["thread_status"] == "idle"
    line = ["one", "(1) one", "other", "(3) other"]
    assert texts(await said(http, whole["id"], branch="all")) == line
    assert texts(await said(http, part["id"], branch="all")) == line[:2]
    assert [m["parent_id"] for m in await said(http, whole["id"])][1:] == [
        m["id"] for m in await said(http, whole["id"])
    ][:-1]
    assert contents((await client.threads.get_state(part["id"]))["values"]) == line[:2]
    assert (await ask(http, part["id"], "on")).json()["response"] == "(3) on"
    edited = await ask(http, whole["id"], "edited", parent_id=one["id"])
    assert edited.json()["response"] == "(3) edited"
    assert (await again(http, whole["id"], other["id"])).json()["response"] == "(3) other"


@pytest.mark.parametrize("graph", GRAPHS)
async def test_a_conversation_that_came_in_one_piece_branches_anywhere(
    graph: str, http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = (await client.threads.create(graph_id=graph))["thread_id"]
    kinds = ["human", "ai"] * 3
    given = [{"type": kind, "content": f"{n}", "id": f"m{n}"} for n, kind in enumerate(kinds)]
    await client.threads.update_state(session_id, {"messages": given}, as_node="model")
    regenerated = (await again(http, session_id, "m3")).json()
    back = await http.put(f"/api/sessions/{session_id}/head", json={"message_id": "m1"})
    edited = (await ask(http, session_id, "edited", parent_id="m1")).json()
    await ask(http, session_id, "on")
    lost = await http.put(f"/api/sessions/{session_id}/head", json={"message_id": "m4"})
    anew = (await ask(http, session_id, "anew", parent_id=None)).json()

    assert regenerated["response"] == "(3) 2"
    assert regenerated["user_message_id"] == "m2"
    assert back.status_code == 200, back.text
    assert edited["response"] == "(3) edited"
    assert (lost.status_code, lost.json()["code"]) == (409, "no_state")
    assert anew["response"] == "(1) anew"
    parents = {
        m["content"]: (m["parent_id"], len(m["sibling_ids"]))
        for m in await said(http, session_id, branch="all")
    }
    assert parents["(3) 2"] == ("m2", 2)
    assert parents["3"] == ("m2", 2)
    assert parents["edited"] == ("m1", 2)
    assert parents["anew"] == (None, 2)
    state = await client.threads.get_state(session_id)
    assert texts(await said(http, session_id)) == contents(state["values"]) == ["anew", "(1) anew"]


@pytest.mark.parametrize("graph", GRAPHS)
async def test_a_conversation_that_came_in_one_piece_is_forked_anywhere(
    graph: str, http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session_id = (await client.threads.create(graph_id=graph))["thread_id"]
    given = [{"type": "human", "content": f"{n}", "id": f"m{n}"} for n in range(4)]
    await client.threads.update_state(session_id, {"messages": given}, as_node="model")
    shown = await said(http, session_id)
    path = f"/api/sessions/{session_id}/fork"

    forked = (await http.post(path, json={"message_id": "m1"})).json()
    await http.put(f"/api/sessions/{session_id}/head", json={"message_id": "m1"})
    # The model does not see it any more.
    refused = await http.post(path, json={"message_id": "m2"})

    assert (refused.status_code, refused.json()["code"]) == (409, "no_state")
    of_this = {"forked_from": {"session_id": session_id}}
    assert await client.threads.count(metadata=of_this) == 1
    assert (await ask(http, forked["id"], "on")).json()["response"] == "(3) on"
    copied = await said(http, forked["id"], branch="all")
    assert texts(copied) == ["0", "1", "on", "(3) on"]
    assert [row["create_time"] for row in copied[:2]] == [row["create_time"] for row in shown[:2]]
    edited = await ask(http, forked["id"], "edited", parent_id="m0")
    assert edited.json()["response"] == "(2) edited"


async def test_a_stopped_answer_stays_as_far_as_it_came(
    http: httpx.AsyncClient, replica: ServerProcess, gate: Gate
) -> None:
    gate.hold("stop")
    session_id = await session(http)
    path = f"/api/sessions/{session_id}"
    idle = await http.post(f"{path}/stop")
    asking = asyncio.create_task(ask(http, session_id, f"hold {gate.port} stop one"))
    await gate.arrived("stop")
    busy = [
        await http.put(f"{path}/head", json={"message_id": "nobody"}),
        await http.patch(f"{path}/messages/nobody", json={"content": "x"}),
    ]

    stopped = await http.post(f"{replica.url}{path}/stop")
    answered = await asking

    assert (idle.status_code, idle.json()["code"]) == (409, "session_idle")
    assert [answer.status_code for answer in busy] == [404, 404]
    assert stopped.status_code == 200, stopped.text
    assert stopped.json()["status"] == answered.json()["status"] == "stopped"
    assert stopped.json()["message_id"] == answered.json()["id"]
    assert answered.json()["response"] == "(1)"
    assert texts(await said(http, session_id))[1:] == ["(1)"]
    assert (await ask(http, session_id, "on")).json()["response"] == "(3) on"


async def test_a_client_that_was_lost_comes_back_and_reads_the_same_text(
    http: httpx.AsyncClient, replica: ServerProcess, gate: Gate
) -> None:
    gate.hold("lost")
    session_id = await session(http)
    path = f"/api/sessions/{session_id}"
    first = (await ask(http, session_id, "before")).json()
    body = {"query": f"hold {gate.port} lost one two three", "stream": True}
    heard: list[Frame] = []
    async with http.stream("POST", f"{path}/messages", json=body) as response:
        async for frame in frames(response):
            heard.append(frame)
            if frame.name == "message.delta":
                break
    await gate.arrived("lost")

    refused = [
        await http.put(f"{path}/head", json={"message_id": first["user_message_id"]}),
        await http.patch(f"{path}/messages/{first['id']}", json={"content": "x"}),
        await http.delete(f"{path}/messages/{first['id']}"),
        await again(http, session_id, first["id"]),
    ]
    # Open before it goes on: who comes when it has ended is told nothing.
    following = await follow(http, f"{path}/stream", last_event_id="")
    resuming = await follow(http, f"{replica.url}{path}/stream", last_event_id=heard[-1].id)
    gate.release("lost")
    whole, rest = await following, await resuming
    later = await collect(http, "GET", f"{path}/stream?since={heard[-1].id}")

    assert {(a.status_code, a.json()["code"]) for a in refused} == {(409, "session_busy")}
    text = "(3) one two three"
    for read in (whole, [*heard, *rest], [*heard, *later]):
        assert read[0].name == "run.start"
        assert read[-1].name == "run.end"
        assert "".join(e.data["delta"] for e in read if e.name == "message.delta") == text
        assert [e.data["content"] for e in read if e.name == "message.end"] == [text]
    assert texts(await said(http, session_id))[-1] == text
    for known in ("", whole[-1].id):
        idle = await http.get(f"{path}/stream", headers={"Last-Event-ID": known})
        assert (idle.status_code, idle.content) == (204, b"")


async def test_pages_lie_before_and_after_a_message(http: httpx.AsyncClient) -> None:
    session_id = await session(http)
    for word in ("one", "two", "three"):
        await ask(http, session_id, word)
    ids = [message["id"] for message in await said(http, session_id)]

    async def page(**params: Any) -> list[str]:
        return [message["id"] for message in await said(http, session_id, **params)]

    assert await page(before=ids[3], order="desc", limit=2) == [ids[2], ids[1]]
    assert await page(after=ids[1], before=ids[4]) == ids[2:4]
    assert await page(after=ids[5]) == []
    unknown = await http.get(f"/api/sessions/{session_id}/messages", params={"before": "nobody"})
    assert unknown.status_code == 404


async def test_the_same_key_is_one_run_and_one_answer(
    http: httpx.AsyncClient, replica: ServerProcess, gate: Gate, sql: Sql
) -> None:
    gate.hold("once")
    session_id = await session(http)
    path, key = f"/api/sessions/{session_id}/messages", {"Idempotency-Key": "k1"}
    body = {"query": f"hold {gate.port} once one"}
    urls = (path, path, f"{replica.url}{path}")
    asked = [asyncio.create_task(http.post(url, json=body, headers=key)) for url in urls]
    await gate.arrived("once")

    other = await http.post(path, json={"query": "something else"}, headers=key)
    gate.release("once")
    first, *more = [await answered for answered in asked]
    later = await http.post(path, json=body, headers=key)

    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert first.status_code == 200
    assert all(answer.json() == first.json() for answer in (*more, later))
    assert gate.seen.count("once") == 1
    assert sql("SELECT count(*) FROM run WHERE thread_id = %s", session_id) == [(1,)]
    sql(
        "UPDATE idempotency_key SET expires_at = now() WHERE conversation_id = %s RETURNING key",
        session_id,
    )
    expired = await http.post(path, json={"query": "something else"}, headers=key)
    assert expired.json()["response"] == "(3) something else"


async def test_the_key_of_a_refused_request_may_come_again(
    http: httpx.AsyncClient, gate: Gate, sql: Sql
) -> None:
    gate.hold("again")
    session_id = await session(http)
    path, key = f"/api/sessions/{session_id}/messages", {"Idempotency-Key": "k1"}
    asking = asyncio.create_task(ask(http, session_id, f"hold {gate.port} again one"))
    await gate.arrived("again")

    refused = await http.post(path, json={"query": "two"}, headers=key)
    gate.release("again")
    await asking
    answered = [await http.post(path, json={"query": "two"}, headers=key) for _ in range(2)]

    assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
    assert answered[0].json() == answered[1].json()
    assert answered[0].json()["response"] == "(3) two"
    [(run_id,)] = sql(
        "SELECT run_id::text FROM idempotency_key WHERE conversation_id = %s", session_id
    )
    assert answered[0].json()["run_id"] == run_id


async def test_of_two_sends_at_once_one_waits_for_its_turn_and_nothing_is_lost(
    http: httpx.AsyncClient, replica: ServerProcess, client: LangGraphClient, gate: Gate
) -> None:
    gate.hold("turn")
    session_id = await session(http)
    path, query = f"/api/sessions/{session_id}/messages", f"hold {gate.port} turn one"
    # To two processes.
    sends = [
        asyncio.create_task(http.post(url, json={"query": query}))
        for url in (path, f"{replica.url}{path}")
    ]
    done, _ = await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
    gate.release("turn")
    answers = sorted([await send for send in sends], key=lambda answer: answer.status_code)

    assert {task.result().status_code for task in done} == {409}
    assert [answer.status_code for answer in answers] == [200, 409]
    assert answers[1].json()["code"] == "session_busy"
    assert texts(await said(http, session_id)) == [query, "(1) one"]
    # Who was refused says it again.
    assert (await ask(http, session_id, "two")).json()["response"] == "(3) two"
    line = [query, "(1) one", "two", "(3) two"]
    assert texts(await said(http, session_id)) == line
    assert contents((await client.threads.get_state(session_id))["values"]) == line


async def test_a_message_that_waits_is_not_taken_twice(http: httpx.AsyncClient, gate: Gate) -> None:
    gate.hold("wait")
    session_id = await session(http)
    one = asyncio.create_task(ask(http, session_id, f"hold {gate.port} wait one"))
    await gate.arrived("wait")
    waits = {"id": "two", "on_busy": "enqueue"}
    two = asyncio.create_task(ask(http, session_id, "two", **waits))
    while len((await http.get(f"/threads/{session_id}/runs")).json()) < 2:
        assert not two.done()

    twice = await ask(http, session_id, "two", **waits)
    gate.release("wait")
    answers = [(await task).json()["response"] for task in (one, two)]
    later = await ask(http, session_id, "two", **waits)

    assert (twice.status_code, twice.json()["code"]) == (409, "already_exists")
    assert (later.status_code, later.json()["code"]) == (409, "already_exists")
    assert answers == ["(1) one", "(3) two"]
    assert len(await said(http, session_id, branch="all")) == 4


async def test_what_does_not_fit_is_refused_and_changes_nothing(http: httpx.AsyncClient) -> None:
    session_id = await session(http)
    first = (await ask(http, session_id, "one")).json()
    path = f"/api/sessions/{session_id}/messages"

    wrong: list[dict[str, Any]] = [
        {},
        {"query": "x", "content": [{"type": "text", "text": "x"}]},
        {"query": "x", "resume": "y"},
        {"content": []},
        {"content": [{"text": "x"}]},
        {"resume": 1, "parent_id": first["id"]},
    ]
    refused = {await _code(http, path, body) for body in wrong}
    assert refused == {(422, "invalid_input")}
    assert await _code(http, path, {"query": "x", "parent_id": "nobody"}) == (404, "not_found")
    assert await _code(http, path, {"resume": "yes"}) == (409, "not_interrupted")
    assert await _code(http, path, {"query": "x", "id": first["id"]}) == (409, "already_exists")
    assert len(await said(http, session_id, branch="all")) == 2
    assert (await again(http, session_id, "nobody")).status_code == 404


async def _code(http: httpx.AsyncClient, path: str, body: Any) -> tuple[int, str]:
    answer = await http.post(path, json=body)
    return answer.status_code, answer.json()["code"]


async def test_blocks_and_an_id_of_ones_own_arrive(http: httpx.AsyncClient) -> None:
    session_id = await session(http)
    blocks = [{"type": "text", "text": "in "}, {"type": "text", "text": "pieces"}]

    answered = await http.post(
        f"/api/sessions/{session_id}/messages",
        json={"content": blocks, "id": "mine", "chat_type": "llm_chat"},
    )

    assert answered.json()["response"] == "(1) in pieces"
    assert answered.json()["user_message_id"] == "mine"
    [asked, _] = await said(http, session_id)
    assert asked["meta_data"]["content"] == blocks
    assert asked["meta_data"]["additional_kwargs"] == {"chat_type": "llm_chat"}


async def test_a_question_of_the_graph_is_answered_by_resume(http: httpx.AsyncClient) -> None:
    session_id = await session(http, assistant_id="ask")

    asked = (await ask(http, session_id, "go")).json()
    answered = await http.post(f"/api/sessions/{session_id}/messages", json={"resume": "yes"})

    assert asked["status"] == "interrupted"
    assert [one["value"] for one in asked["interrupts"]] == [{"question": "Go on?"}]
    assert answered.json()["status"] == "success"


async def test_a_thousand_turns_take_a_small_multiple_of_what_was_said(
    http: httpx.AsyncClient, sql: Sql
) -> None:
    """Figures of PostgreSQL: docs/performance.md tells them."""
    signal.alarm(900)  # 25 s on a machine of its own
    turns, text = 1000, "x" * 600
    session_id = await session(http, assistant_id="delta")
    for _ in range(turns):
        answered = await ask(http, session_id, text)
        assert answered.status_code == 200, answered.text

    [(said_bytes, count)] = sql(
        "SELECT sum(octet_length(content)), count(*) FROM message WHERE conversation_id = %s",
        session_id,
    )
    stored = (await http.get(f"/threads/{session_id}/storage")).json()
    print(f"{count} messages, {said_bytes:,} bytes of text: {stored}")  # noqa: T201
    assert count == 2 * turns
    assert stored["checkpoints"]["count"] <= 300
    assert stored["total_bytes"] < 4 * said_bytes
    # And not by the server's word alone.
    columns = {
        "checkpoints": "pg_column_size(checkpoint) + pg_column_size(metadata)",
        "checkpoint_blobs": "octet_length(blob)",
        "checkpoint_writes": "octet_length(blob)",
    }
    measured = [
        sql(f"SELECT coalesce(sum({size}), 0) FROM {table} WHERE thread_id = %s", session_id)
        for table, size in columns.items()
    ]
    assert sum(int(size) for [(size,)] in measured) < 4 * said_bytes
    shown = await said(http, session_id, order="desc", limit=100)
    assert len(shown) == 100
    edited = await ask(http, session_id, "edited", parent_id=shown[51]["id"])
    assert edited.status_code == 200
    long_ago = await said(http, session_id, limit=10)
    from_rows = await ask(http, session_id, "from the tenth", parent_id=long_ago[9]["id"])
    assert from_rows.json()["response"] == "(11) from the tenth"
