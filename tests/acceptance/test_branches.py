"""Edits, answers given again, and the branches that they make."""

import asyncio
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.acceptance.conftest import Sql
from tests.acceptance.gate import Gate
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


async def test_the_same_key_is_one_run_and_one_answer(
    http: httpx.AsyncClient, gate: Gate, sql: Sql
) -> None:
    gate.hold("once")
    session_id = await session(http)
    path, key = f"/api/sessions/{session_id}/messages", {"Idempotency-Key": "k1"}
    body = {"query": f"hold {gate.port} once one"}
    asked = [asyncio.create_task(http.post(path, json=body, headers=key)) for _ in range(3)]
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


async def test_of_two_sends_at_once_one_waits_for_its_turn_and_nothing_is_lost(
    http: httpx.AsyncClient, gate: Gate
) -> None:
    gate.hold("turn")
    session_id = await session(http)
    query = f"hold {gate.port} turn one"
    sends = [asyncio.create_task(ask(http, session_id, query)) for _ in range(2)]
    done, _ = await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
    gate.release("turn")
    answers = sorted([await send for send in sends], key=lambda answer: answer.status_code)

    assert {task.result().status_code for task in done} == {409}
    assert [answer.status_code for answer in answers] == [200, 409]
    assert answers[1].json()["code"] == "session_busy"
    assert texts(await said(http, session_id)) == [query, "(1) one"]


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
