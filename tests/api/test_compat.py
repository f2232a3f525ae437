"""The routes of the projects that Threadwell stands in for, as their front ends use them."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from api.app import create_app
from api.bootstrap import Services
from api.compat.chatchat import Chunks
from api.settings import Settings
from graph.agents.chat import TOOLS
from store import users
from tests.serving import serving

GRAPHS = {
    "echo": "tests.acceptance.graphs:chat",
    "tooled": "tests.api.test_compat:tooled",
    "boom": "tests.graph.sample_graphs:boom",
}
LONG = "长" * 5000


def _call(state: MessagesState) -> dict[str, Any]:
    if state["messages"][-1].type == "tool":
        return {"messages": [AIMessage(f"it is {state['messages'][-1].content}")]}
    call = {"name": "calculate", "args": {"expression": "6*7"}, "id": "call-1"}
    return {"messages": [AIMessage("", tool_calls=[call])]}


def _tooled() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("model", _call)
    builder.add_node("tools", ToolNode(TOOLS))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


tooled = _tooled()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": GRAPHS}))
    return Settings(config=config, compat=("fufan", "chatchat"))


async def lines(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON of a bare stream; nothing else is in it."""
    async with http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join([part async for part in answer.aiter_text()])
    told = [line for line in text.splitlines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in told)
    return [json.loads(line.removeprefix("data: ")) for line in told]


async def conversation(http: httpx.AsyncClient, **more: Any) -> str:
    body = {"user_id": "ada", "name": "新对话", "chat_type": "general_chat", **more}
    created = (await http.post("/api/conversations", json=body)).json()
    assert created["status"] == 200
    return str(created["id"])


async def test_fufans_users_register_and_log_in(http: httpx.AsyncClient) -> None:
    person = {"username": "ada", "password": "analytical"}
    registered = await http.post("/api/users/register", json=person)
    taken = await http.post("/api/users/register", json=person)
    wrong = await http.post("/api/users/login", json={**person, "password": "guess"})
    nobody = await http.post("/api/users/login", json={**person, "username": "eve"})
    user = (await http.post("/api/users/login", json=person)).json()

    assert (registered.status_code, registered.json()["id"]) == (201, user["id"])
    assert (taken.status_code, taken.json()["code"]) == (400, "already_exists")
    assert (user["status"], user["username"]) == (200, "ada")
    for refused in (wrong, nobody):
        assert (refused.status_code, refused.json()["status"]) == (200, 401)


async def test_a_hash_of_another_kind_or_a_damaged_one_is_nobodys(
    http: httpx.AsyncClient, services: Services
) -> None:
    for kept in ("", "md5", "密码", "pbkdf2:sha256$a$b", "scrypt$1$%%$x", "$2b$", "$2b$04$short"):
        await users.create(services.db, str(uuid4()), username=kept or "ada", password_hash=kept)

        person = {"username": kept or "ada", "password": "analytical"}
        answer = await http.post("/api/users/login", json=person)

        assert (answer.status_code, answer.json()["status"]) == (200, 401), answer.text


async def test_fufans_front_end_finds_everything_it_asks_for(http: httpx.AsyncClient) -> None:
    id_ = await conversation(http)
    await conversation(http, chat_type="chat_with_search")
    asked = {"query": "hello there", "conversation_id": id_, "model_name": "zhipu-api"}
    said = await lines(http, "/api/chat", {**asked, "prompt_name": "general_chat"})
    history = (await http.get(f"/api/conversations/{id_}/messages?chat_types=x")).json()

    assert "".join(piece["text"] for piece in said) == "(1) hello there"
    assert len(said) > 1
    [pair] = history["data"]
    assert {piece["message_id"] for piece in said} == {pair["id"]}
    assert (pair["query"], pair["response"]) == ("hello there", "(1) hello there")
    assert (pair["chat_type"], pair["meta_data"]) == ("general_chat", {})

    path = "/api/users/ada/conversations"
    listed = (await http.get(path, params={"chat_types": "general_chat"})).json()
    unasked = await http.get(path)
    renamed = await http.put(f"/api/conversations/{id_}/update_name", json={"name": "茶"})
    named = (await http.get(path, params={"chat_types": "general_chat"})).json()["data"]
    deleted = await http.delete(f"/api/conversations/{id_}")
    again = await http.delete(f"/api/conversations/{id_}")
    models = (await http.get("/api/llm_model/list_running_models")).json()

    assert (listed["status"], listed["msg"]) == (200, "success")
    assert [sorted(row) for row in listed["data"]] == [["chat_type", "create_time", "id", "name"]]
    assert unasked.status_code == 422
    assert (renamed.json()["status"], [row["name"] for row in named]) == (200, ["茶"])
    assert (deleted.json(), again.status_code) == ({"status": 200}, 404)
    assert models["data"]["models"] == list(GRAPHS)


async def test_fufans_conversations_are_named_by_the_question_and_listed_the_newest_first(
    http: httpx.AsyncClient,
) -> None:
    first = await conversation(http, name="问" * 300)
    second = await conversation(http)
    await lines(http, "/api/chat", {"query": "hello", "conversation_id": first})

    path = "/api/users/ada/conversations?chat_types=general_chat"
    listed = (await http.get(path)).json()["data"]

    assert [row["id"] for row in listed] == [second, first]
    assert listed[1]["name"] == "问" * 50


async def test_each_of_fufans_modes_has_its_own_stream(http: httpx.AsyncClient) -> None:
    id_ = (
        await http.post("/api/sessions", json={"user_id": "ada", "assistant_id": "tooled"})
    ).json()["id"]
    body = {"query": "6*7?", "conversation_id": id_}

    kb = await lines(http, "/api/chat/knowledge_base_chat", body)
    search = await lines(http, "/api/chat/search_engine_chat", body)
    recommended = await lines(http, "/api/chat/recommend_chat", body)
    agent = await lines(http, "/api/chat/agent_chat", body)
    pairs = (await http.get(f"/api/conversations/{id_}/messages")).json()["data"]

    ids = [pair["id"] for pair in pairs]
    assert kb == [
        {"text": "it is 42", "message_id": ids[0]}, {"docs": ["42"], "message_id": ids[0]},
    ]  # fmt: skip
    assert search == [{"text": "it is 42"}, {"docs": ["42"]}, {"search": ["42"]}]
    assert recommended == [{"answer": "it is 42"}, {"recommend course": ["42"]}]
    assert agent == [
        {"tools": ["calculate: 42"]}, {"answer": "it is 42"}, {"final_answer": "it is 42"},
    ]  # fmt: skip
    assert [pair["chat_type"] for pair in pairs] == [
        "knowledge_base_chat", "real_time_search", "recommend_base_chat", "agent_chat",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["/api/chat", "/chat/chat"])
async def test_answers_longer_than_the_old_column_come_whole(
    path: str, http: httpx.AsyncClient
) -> None:
    """Case 12: the old tables cut, or refused, what is beyond 4096 characters."""
    id_ = await conversation(http)
    said = await lines(http, path, {"query": LONG, "conversation_id": id_, "stream": True})
    [pair] = (await http.get(f"/api/conversations/{id_}/messages")).json()["data"]

    assert "".join(piece["text"] for piece in said) == f"(1) {LONG}" == pair["response"]
    assert pair["query"] == LONG


async def test_what_fails_or_is_wrong_is_said_and_never_a_fault(http: httpx.AsyncClient) -> None:
    id_ = await conversation(http)
    failed = await lines(http, "/api/chat", {"query": "fail please", "conversation_id": id_})
    unknown = await http.post("/api/chat", json={"query": "x", "conversation_id": str(uuid4())})
    odd = await http.post("/chat/chat", json={"query": "x", "conversation_id": "odd"})
    said = [{"role": "user", "content": "x"}]
    nameless = [
        await http.post("/chat/chat", json={"query": "x", "conversation_id": id_, "model": ""}),
        await http.post(
            "/chat/chat/completions", json={"messages": said, "conversation_id": id_, "model": ""}
        ),
    ]
    whole = await http.post("/chat/chat/completions", json={
        "messages": [{"role": "user", "content": "fail please"}], "conversation_id": id_,
    })  # fmt: skip
    unsaid = await http.post("/chat/chat/completions", json={
        "messages": [{"role": "assistant", "content": "x"}], "conversation_id": id_,
    })  # fmt: skip
    empty = await http.post("/chat/chat/completions", json={"messages": [{}]})
    strange = await http.post("/chat/feedback", json={"message_id": "nothing"})

    assert failed[-1] == {"error": "the model broke down"}
    assert [answer.status_code for answer in nameless] == [200, 200], "an empty model is none"
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert (whole.status_code, whole.json()["code"]) == (502, "run_failed")
    for refused, status in ((odd, 422), (unsaid, 422), (empty, 422), (strange, 404)):
        assert refused.status_code == status, refused.text


async def test_knowledge_bases_are_said_to_be_none_of_this_server_s(
    http: httpx.AsyncClient,
) -> None:
    refused = [
        await http.get("/api/knowledge-bases/ada"),
        await http.post("/api/knowledge_base/create_knowledge_base", json={"a": 1}),
        await http.delete("/api/knowledge_base/delete_knowledge_base?id=1"),
        await http.get("/api/knowledge_base/list_files"),
        await http.get("/knowledge_base/list_knowledge_bases"),
        await http.post("/knowledge_base/upload_docs", files={"files": b"x"}),
    ]

    assert {(a.status_code, a.json()["code"]) for a in refused} == {(501, "unsupported")}


async def test_chatchats_conversations_are_made_as_they_are_used(
    http: httpx.AsyncClient,
) -> None:
    id_ = uuid4().hex
    whole = await lines(http, "/chat/chat", {"query": "one", "conversation_id": id_})
    pieces = await lines(
        http, "/chat/chat", {"query": "two", "conversation_id": id_, "stream": True}
    )
    docs = await lines(http, "/chat/knowledge_base_chat", {"query": "6*7?", "model": "tooled"})
    agent = await lines(
        http, "/chat/agent_chat", {"query": "6*7?", "model_name": "tooled", "stream": True}
    )
    alone = await lines(http, "/chat/chat", {
        "query": "and?", "history": [["user", "a"], {"role": "assistant", "content": "b"}],
    })  # fmt: skip
    session = (await http.get(f"/api/sessions/{id_}")).json()
    everything = (await http.get("/api/sessions")).json()["data"]

    [said] = whole
    assert said["text"] == "(1) one"
    assert "".join(piece["text"] for piece in pieces) == "(3) two"
    assert docs == [{"answer": "it is 42", "docs": ["42"]}]
    assert [list(piece) for piece in agent] == [["tools"], ["answer"], ["final_answer"]]
    assert [piece["text"] for piece in alone] == ["(3) and?"]
    assert (session["id"], session["chat_type"]) == (id_, "llm_chat")
    assert [row["id"] for row in everything] == [id_], "what has no conversation leaves nothing"


async def test_chatchat_03_speaks_openai_with_a_conversation(http: httpx.AsyncClient) -> None:
    id_ = uuid4().hex
    body = {
        "messages": [{"role": "user", "content": "one"}],
        "model": "glm4", "conversation_id": id_, "tools": ["weather"], "metadata": {},
    }  # fmt: skip
    whole = (await http.post("/chat/chat/completions", json={**body, "stream": None})).json()
    streamed = await lines(http, "/chat/chat/completions", {**body, "stream": True})
    tools = await lines(http, "/chat/chat/completions", {
        "messages": body["messages"], "model": "tooled", "stream": True,
    })  # fmt: skip
    kb = await lines(http, "/chat/kb_chat", {"query": "x", "model": "tooled", "stream": True})

    [choice] = whole["choices"]
    assert choice["message"]["content"] == "(1) one"
    assert choice["message"]["finish_reason"] == "stop"
    assert whole["object"] == "chat.completion"
    deltas = [chunk["choices"][0]["delta"]["content"] for chunk in streamed]
    assert "".join(deltas) == "(3) one"
    assert {chunk["choices"][0]["role"] for chunk in streamed} == {"assistant"}
    assert [chunk["status"] for chunk in streamed] == [2] * (len(streamed) - 1) + [-999]
    assert [chunk["status"] for chunk in tools] == [chunk["status"] for chunk in kb] == [
        7, 8, 2, -999,
    ]  # fmt: skip
    assert tools[1]["docs"] == ["42"]
    [call] = tools[1]["choices"][0]["delta"]["tool_calls"]
    assert (call["function"]["name"], call["tool_output"]) == ("calculate", "42")


@pytest.mark.parametrize(
    ("reason", "told"), [("incomplete", "length"), ("length", "length"), ("stop", "stop")]
)
def test_chatchat_is_told_that_an_answer_is_not_whole(reason: str, told: str) -> None:
    encoder = Chunks("glm4", "")
    said = {"message_id": "m", "content": "one two", "finish_reason": reason}
    for name, data in (("message.end", said), ("run.end", {"status": "success"})):
        list(encoder.objects(name, data))

    [choice] = encoder.whole()["choices"]
    assert (choice["message"]["content"], choice["message"]["finish_reason"]) == ("one two", told)


async def test_what_is_deleted_is_in_no_pair(http: httpx.AsyncClient, database_url: str) -> None:
    id_ = await conversation(http)
    for query in ("one", "two", "three"):
        await lines(http, "/api/chat", {"query": query, "conversation_id": id_})
    history = (await http.get(f"/api/sessions/{id_}/messages")).json()["data"]
    [question, its_answer, _, answer, *_] = [row["id"] for row in history]
    for gone in (question, answer):
        removed = await http.delete(f"/api/sessions/{id_}/messages/{gone}")
        assert removed.status_code == 204, removed.text
    shown = (await http.get(f"/api/conversations/{id_}/messages")).json()["data"]
    listed = (await http.get("/api/pairs", params={"conversation_id": id_})).json()["data"]
    with psycopg.connect(database_url) as connection:
        said = connection.execute(
            "SELECT query, response FROM message_pair ORDER BY seq"
        ).fetchall()
    of_each = [await http.get(f"/api/pairs/{gone}") for gone in (question, its_answer, answer)]
    judged = [
        await http.put(f"/api/pairs/{answer}/feedback", json={"score": 1}),
        await http.put(f"/api/sessions/{id_}/messages/{answer}/feedback", json={"score": 1}),
    ]

    assert said == [("two", ""), ("three", "(5) three")]
    assert [(pair["query"], pair["response"]) for pair in shown] == said
    assert [(pair["query"], pair["response"]) for pair in listed] == said[1:]
    assert [answer.status_code for answer in (*of_each, *judged)] == [404] * 5


async def test_passwords_are_kept_as_hashes_only(
    http: httpx.AsyncClient, database_url: str
) -> None:
    for name in ("ada", "grace"):
        await http.post("/api/users/register", json={"username": name, "password": "secret"})
    with psycopg.connect(database_url) as connection:
        kept = [row[0] for row in connection.execute('SELECT password_hash FROM "user"')]

    assert len(set(kept)) == 2
    assert all(hash_.startswith("scrypt$") and "secret" not in hash_ for hash_ in kept)


async def test_without_the_setting_none_of_it_is_there(services: Services) -> None:
    off = services.settings.model_copy(update={"compat": ()})
    plain = create_app(
        type(services)(**{n: getattr(services, n) for n in services.__slots__} | {"settings": off})
    )
    async with serving(plain) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        for path in ("/api/conversations", "/chat/chat", "/api/users/login", "/api/pairs"):
            assert (await http.post(path, json={})).status_code == 404, path
