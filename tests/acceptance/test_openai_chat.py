"""OpenAI's chat completions with its own client, as Open WebUI and others call them."""

import base64
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.acceptance.conftest import Sql
from tests.acceptance.gate import Gate
from tests.acceptance.process import ServerProcess
from tests.openai_server import OpenAIServer, Reply, openai_server

TOOLS: list[Any] = [{"type": "function", "function": {"name": "f"}}]
Talk = list[dict[str, Any]]


@pytest.fixture
async def ai(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def model(model_port: int) -> AsyncIterator[OpenAIServer]:
    async with openai_server(model_port) as model:
        yield model


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


async def complete(ai: AsyncOpenAI, talk: Talk, model: str = "chat", **more: Any) -> Any:
    return await ai.chat.completions.create(model=model, messages=talk, **more)  # type: ignore[arg-type]


async def said(ai: AsyncOpenAI, talk: Talk, **more: Any) -> str:
    """The text of an answer."""
    return str((await complete(ai, talk, **more)).choices[0].message.content)


async def history(http: httpx.AsyncClient, chat_id: str, branch: str = "active") -> list[str]:
    answer = await http.get(f"/api/sessions/{chat_id}/messages", params={"branch": branch})
    assert answer.status_code == 200, answer.text
    return [row["content"] for row in answer.json()["data"]]


class Front:
    """A front end that keeps its chat itself, as Open WebUI does: a tree, of which it sends a branch."""

    def __init__(self, ai: AsyncOpenAI) -> None:
        self.ai = ai
        self.chat_id = str(uuid.uuid4())

    async def send(
        self, talk: Talk, *, message: str = "", parent: str = "", reply: str = "", task: str = ""
    ) -> str:
        """Ask with the headers that Open WebUI fills; what has no value it leaves empty."""
        headers = {
            "X-OpenWebUI-Chat-Id": self.chat_id,
            "X-OpenWebUI-User-Message-Id": message,
            "X-OpenWebUI-User-Message-Parent-Id": parent,
            "X-OpenWebUI-Message-Id": reply,
            "X-OpenWebUI-Task": task,
            "X-OpenWebUI-User-Id": "ada",
        }
        # It offers tools of its own to every model.
        stream = await complete(
            self.ai, talk, stream=True, tools=TOOLS, tool_choice="auto", extra_headers=headers
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "stop"
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


async def test_graphs_are_models(ai: AsyncOpenAI) -> None:
    listed = [model.id async for model in ai.models.list()]

    assert {"chat", "chat@stateless", "agent"} <= set(listed)
    assert (await ai.models.retrieve("chat")).id == "chat"
    with pytest.raises(openai.NotFoundError) as refused:
        await ai.models.retrieve("gpt-9")
    assert refused.value.code == "model_not_found"


async def test_without_a_conversation_nothing_is_kept(ai: AsyncOpenAI, sql: Sql) -> None:
    before = sql("SELECT count(*) FROM thread")

    talk = [user("one"), assistant("hm"), user("two")]
    assert await said(ai, talk) == "(3) two"
    chat_id = str(uuid.uuid4())
    headers = {"X-Chat-Id": chat_id}
    assert await said(ai, [user("one")], model="chat@stateless", extra_headers=headers) == "(1) one"

    assert sql("SELECT count(*) FROM thread") == before
    assert sql("SELECT * FROM message WHERE conversation_id = %s", chat_id) == []


@pytest.mark.parametrize(
    "named",
    [
        {"extra_body": {"conversation_id": "ID"}},
        {"metadata": {"session_id": "ID"}},
        {"extra_headers": {"X-Conversation-Id": "ID"}},
        {"extra_headers": {"X-Session-Id": "ID"}},
    ],
)
async def test_a_conversation_that_is_named_is_a_session(
    named: dict[str, Any], ai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    chat_id = str(uuid.uuid4())
    named = json.loads(json.dumps(named).replace("ID", chat_id))

    first = await complete(ai, [user("one")], **named)
    talk = [user("one"), assistant("(1) one"), user("two")]
    second = await said(ai, talk, **named)

    assert first.choices[0].message.content == "(1) one"
    assert first.conversation_id == chat_id
    assert second == "(3) two"
    assert await history(http, chat_id) == ["one", "(1) one", "two", "(3) two"]
    session = (await http.get(f"/api/sessions/{chat_id}")).json()
    assert session["id"] == chat_id


async def test_a_client_of_sessions_need_not_send_what_was_said(
    ai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    named = {"extra_body": {"conversation_id": str(uuid.uuid4())}}

    answers = [await said(ai, [user("yes")], **named) for _ in range(2)]

    assert answers == ["(1) yes", "(3) yes"]


async def test_editing_and_regenerating_in_open_webui_make_siblings_and_tasks_leave_nothing(
    ai: AsyncOpenAI, http: httpx.AsyncClient, sql: Sql
) -> None:
    front = Front(ai)
    one = await front.send([user("one")], message="u1", reply="a1")
    title = await front.send([user("Name this chat")], message="u1", task="title_generation")
    tags = await front.send([user("Tag this chat")], reply="a1", task="tags_generation")
    talk = [user("one"), assistant(one)]
    two = await front.send([*talk, user("two")], message="u2", parent="a1", reply="a2")

    edited = await front.send([*talk, user("zwei")], message="u3", parent="a1", reply="a3")
    again = await front.send([*talk, user("zwei")], message="u3", parent="a1", reply="a4")
    first_edited = await front.send([user("eins")], message="u4", reply="a5")
    # Back on the branch that was left, where the front end still is.
    on = [*talk, user("two"), assistant(two), user("three")]
    back = await front.send(on, message="u5", parent="a2", reply="a6")

    assert (one, title, tags) == ("(1) one", "(1) Name this chat", "(1) Tag this chat")
    assert (two, edited, again) == ("(3) two", "(3) zwei", "(3) zwei")
    assert (first_edited, back) == ("(1) eins", "(5) three")
    assert await history(http, front.chat_id) == [
        "one", "(1) one", "two", "(3) two", "three", "(5) three",
    ]  # fmt: skip
    everything = await history(http, front.chat_id, "all")
    assert sorted(everything) == sorted(
        [
            "one", "(1) one", "two", "(3) two", "zwei", "(3) zwei", "(3) zwei", "eins", "(1) eins",
            "three", "(5) three",
        ]
    )  # fmt: skip
    rows = (await http.get(f"/api/sessions/{front.chat_id}/messages?branch=all")).json()["data"]
    texts = {row["id"]: row["content"] for row in rows}
    siblings = sorted(
        [texts[id_] for id_ in row["sibling_ids"]]
        for row in rows
        if row["id"] == row["sibling_ids"][0]
    )
    assert siblings == [
        ["(1) eins"], ["(1) one"], ["(3) two"], ["(3) zwei", "(3) zwei"], ["(5) three"],
        ["one", "eins"], ["three"], ["two", "zwei"],
    ]  # fmt: skip
    assert sql("SELECT content FROM message WHERE content LIKE '%% this chat%%'") == []
    session = (await http.get(f"/api/sessions/{front.chat_id}")).json()
    assert session["user_id"] == "ada"


async def test_librechat_whose_ids_of_answers_nobody_else_knows_makes_siblings_too(
    ai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    chat_id = str(uuid.uuid4())

    async def send(talk: Talk, message: str, parent: str, model: str = "chat") -> str:
        headers = {
            "X-Conversation-ID": chat_id,
            "X-User-Message-ID": message,
            "X-Parent-Message-ID": parent,
            "X-User-ID": "ada",
        }
        return await said(ai, talk, model=model, extra_headers=headers)

    one = await send([user("one")], "u1", "00000000-0000-0000-0000-000000000000")
    talk = [user("one"), assistant(one)]
    title = await send([user("Name this chat")], "u1", "r1", "chat@stateless")
    two = await send([*talk, user("two")], "u2", "r1")
    edited = await send([*talk, user("zwei")], "u3", "r1")
    again = await send([*talk, user("zwei")], "u3", "r1")

    assert (one, title) == ("(1) one", "(1) Name this chat")
    assert (two, edited, again) == ("(3) two", "(3) zwei", "(3) zwei")
    assert await history(http, chat_id) == ["one", "(1) one", "zwei", "(3) zwei"]
    assert sorted(await history(http, chat_id, "all")) == sorted(
        ["one", "(1) one", "two", "(3) two", "zwei", "(3) zwei", "(3) zwei"]
    )
    session = (await http.get(f"/api/sessions/{chat_id}")).json()
    assert session["user_id"] == "ada"


async def test_without_ids_branches_are_found_by_what_was_said(
    ai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    headers = {"extra_headers": {"X-Chat-Id": (chat_id := str(uuid.uuid4()))}}
    one = await said(ai, [user("one")], **headers)
    talk = [user("one"), assistant(f" {one}\n")]
    await said(ai, [*talk, user("two")], **headers)

    again = await said(ai, [*talk, user("two")], **headers)
    edited = await said(ai, [*talk, user("zwei")], **headers)
    cut = await said(ai, [user("zwei"), assistant(edited), user("drei")], **headers)
    corrected = await said(ai, [user("one"), assistant("mine"), user("four")], **headers)

    assert (again, edited, cut, corrected) == ("(3) two", "(3) zwei", "(5) drei", "(3) four")
    assert await history(http, chat_id) == ["one", "mine", "four", "(3) four"]


async def test_what_a_client_brings_along_is_taken_in_once(
    ai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    headers = {"extra_headers": {"X-Chat-Id": (chat_id := str(uuid.uuid4()))}}
    talk = [user("one"), assistant("eins"), user("two")]

    seeded = await said(ai, talk, **headers)
    on = await said(ai, [*talk, assistant(seeded), user("three")], **headers)

    assert (seeded, on) == ("(3) two", "(5) three")
    assert (await history(http, chat_id))[:3] == ["one", "eins", "two"]
    assert len(await history(http, chat_id, "all")) == 6


async def test_the_systems_words_and_options_reach_the_model_and_not_the_history(
    ai: AsyncOpenAI, http: httpx.AsyncClient, model: OpenAIServer
) -> None:
    named = {"extra_body": {"conversation_id": (chat_id := str(uuid.uuid4()))}}
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    content = [{"type": "text", "text": "what is it?"}, image]
    model.replies.append(Reply(tokens=("A picture.",)))

    await said(
        ai,
        [{"role": "system", "content": "Be terse."}, {"role": "user", "content": content}],
        model="agent",
        temperature=0.5,
        max_tokens=7,
        **named,
    )
    await said(ai, [user("and now?")], model="agent", **named)

    first, second = model.requests
    assert first["messages"][0] == {"role": "system", "content": "Be terse."}
    assert first["messages"][1]["content"][1] == image
    assert (first["temperature"], first["max_tokens"]) == (0.5, 7)
    assert "Be terse." not in json.dumps(second)
    assert "temperature" not in second
    assert (await history(http, chat_id))[0] == "what is it?"
    # A file, by its id: what is in it is the model's alone.
    assert data not in (await http.get(f"/threads/{chat_id}/history?limit=99")).text
    stored = (await http.get(f"/api/sessions/{chat_id}/messages")).json()["data"]
    assert [row["role"] for row in stored] == ["user", "assistant"] * 2
    assert stored[0]["message_type"] == "image"


async def test_tokens_are_counted_and_tools_stay_inside(
    ai: AsyncOpenAI, model: OpenAIServer
) -> None:
    calls = (("calculate", {"expression": "6 * 7"}),)
    replies = [Reply(tokens=("Let me see.",), tool_calls=calls), Reply(tokens=("It is ", "42."))]
    model.replies.extend([*replies, *replies])
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}

    whole = await complete(ai, [user("6 * 7?")], model="agent")
    stream = await complete(ai, [user("6 * 7?")], model="agent", **options)
    chunks = [chunk async for chunk in stream]

    assert whole.choices[0].message.content == "Let me see.\n\nIt is 42."
    assert whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].message.tool_calls is None
    assert whole.usage.completion_tokens == 3
    assert whole.usage.prompt_tokens == 14
    told = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert told == "Let me see.\n\nIt is 42."
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 17
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


async def test_an_answer_that_the_models_server_breaks_off_is_incomplete(
    ai: AsyncOpenAI, http: httpx.AsyncClient, model: OpenAIServer
) -> None:
    broken = Reply(tokens=("one ", "two ", "three "), errs_after=2)
    model.replies.extend([broken] * 3)
    session = (await http.post("/api/sessions", json={"assistant_id": "agent"})).json()
    path = f"/api/sessions/{session['id']}/messages"

    whole = await complete(ai, [user("hello")], model="agent")
    response = await ai.responses.create(model="agent", input="hello")
    answered = (await http.post(path, json={"query": "hello"})).json()

    assert whole.choices[0].message.content == "one two "
    assert whole.choices[0].finish_reason == "length"
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "upstream_truncated"  # type: ignore[comparison-overlap]
    assert (answered["response"], answered["status"]) == ("one two ", "incomplete")
    kept = (await http.get(path)).json()["data"][-1]
    assert kept["meta_data"]["response_metadata"]["finish_reason"] == "incomplete"


async def test_a_run_that_fails_is_an_error_before_and_amid_the_answer(ai: AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        await complete(ai, [user("fail please")])
    stream = await complete(ai, [user("fail please")], stream=True)
    heard = [(await anext(stream)).choices[0].delta.content for _ in range(2)]
    with pytest.raises(openai.APIError) as amid:
        await anext(stream)

    assert (failed.value.status_code, failed.value.code) == (502, "run_failed")
    assert failed.value.body["message"] == "the model broke down"  # type: ignore[index]
    assert heard == ["", "(1)"]
    assert amid.value.message == "the model broke down"


async def test_a_client_that_leaves_stops_nothing_and_the_next_question_does(
    ai: AsyncOpenAI, http: httpx.AsyncClient, gate: Gate
) -> None:
    headers = {"X-Chat-Id": (chat_id := str(uuid.uuid4()))}
    gate.hold("left")
    stream = await complete(
        ai, [user(f"hold {gate.port} left one two")], stream=True, extra_headers=headers
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    await gate.arrived("left")
    session = (await http.get(f"/api/sessions/{chat_id}")).json()
    with pytest.raises(openai.ConflictError) as refused:
        await complete(ai, [user("and?")], extra_headers=headers, extra_body={"on_busy": "reject"})

    talk = [user(f"hold {gate.port} left one two"), assistant("(1)"), user("and?")]
    answer = await said(ai, talk, extra_headers=headers)

    assert session["thread_status"] == "busy"
    assert refused.value.code == "session_busy"
    assert answer == "(3) and?"
    assert (await history(http, chat_id))[1:] == ["(1)", "and?", "(3) and?"]


async def test_a_question_of_the_graph_is_said_and_the_next_message_answers_it(
    ai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    headers = {"extra_headers": {"X-Chat-Id": str(uuid.uuid4())}}

    asked = await said(ai, [user("go")], model="ask_in_chat", **headers)
    talk = [user("go"), assistant(asked), user("yes please")]
    answered = await said(ai, talk, model="ask_in_chat", **headers)

    assert asked == '{"question":"Go on?"}'
    assert answered == "You said yes please"


async def test_a_key_makes_two_requests_one(ai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    headers = {"X-Chat-Id": (chat_id := str(uuid.uuid4())), "Idempotency-Key": "k"}

    first = await complete(ai, [user("one")], extra_headers=headers)
    second = await complete(ai, [user("one")], extra_headers=headers)

    assert first.id == second.id
    assert first.choices[0].message.content == second.choices[0].message.content == "(1) one"
    assert len(await history(http, chat_id, "all")) == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"n": 2}, "only one answer"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"messages": [assistant("hi")]}, "must be the user's"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "role"),
        ({"messages": []}, "messages"),
        ({"model": "gpt-9"}, "gpt-9"),
        ({"extra_headers": {"X-Chat-Id": "x" * 300}}, ""),
    ],
)
async def test_what_is_not_supported_is_said_in_openais_words(
    wrong: dict[str, Any], told: str, ai: AsyncOpenAI
) -> None:
    asked: Any = {"model": "chat", "messages": [user("hi")], **wrong}
    if not told:
        # A longer name of a chat is cut.
        assert (await ai.chat.completions.create(**asked)).choices
        return
    with pytest.raises(openai.APIStatusError) as refused:
        await ai.chat.completions.create(**asked)

    assert refused.value.status_code in (400, 404)
    assert refused.value.type in ("invalid_request_error", "not_found_error")
    assert told in str(refused.value.body["message"])  # type: ignore[index]
