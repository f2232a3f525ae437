"""OpenAI's responses and conversations with its own client."""

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
from tests.openai_server import Reply, openai_server


@pytest.fixture
async def ai(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def events(stream: Any) -> list[Any]:
    return [event async for event in stream]


def text_of(item: Any) -> str:
    return "".join(part.text for part in item.content)


async def test_a_conversation_and_its_items(ai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    items: Any = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "hm"}]
    made = await ai.conversations.create(metadata={"topic": "demo"}, items=items)
    first = await ai.responses.create(model="chat", input="one", conversation=made.id)
    second = await ai.responses.create(model="chat", input="two", conversation={"id": made.id})
    more: Any = [{"type": "message", "role": "user", "content": "unanswered"}]
    added = await ai.conversations.items.create(made.id, items=more)
    after = await ai.responses.create(model="chat", input="three", conversation=made.id)

    assert (first.output_text, second.output_text) == ("(3) one", "(5) two")
    assert after.output_text == "(8) three"
    assert first.conversation is not None
    assert first.conversation.id == made.id
    listed = [item async for item in ai.conversations.items.list(made.id, order="asc", limit=3)]
    assert [text_of(item) for item in listed] == [
        "before", "hm", "one", "(3) one", "two", "(5) two", "unanswered", "three", "(8) three",
    ]  # fmt: skip
    newest = await ai.conversations.items.list(made.id, limit=2)
    assert [text_of(item) for item in newest.data] == ["(8) three", "three"]
    assert newest.has_more
    got: Any = await ai.conversations.items.retrieve(listed[3].id or "", conversation_id=made.id)
    assert (got.role, got.content[0].type, text_of(got)) == ("assistant", "output_text", "(3) one")
    assert added.data[0].id == listed[6].id

    await ai.conversations.items.delete(listed[6].id or "", conversation_id=made.id)
    assert (
        await ai.responses.create(model="chat", input="four", conversation=made.id)
    ).output_text == "(9) four"
    updated = await ai.conversations.update(made.id, metadata={"topic": "other"})
    assert (await ai.conversations.retrieve(made.id)).metadata == updated.metadata
    session = (await http.get(f"/api/sessions/{made.id}")).json()
    assert session["metadata"]["topic"] == "other"
    assert (await ai.conversations.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await ai.responses.create(model="chat", input="five", conversation=made.id)
    with pytest.raises(openai.NotFoundError):
        await ai.conversations.retrieve(made.id)


async def test_responses_follow_one_another_and_branch(
    ai: AsyncOpenAI, http: httpx.AsyncClient, sql: Sql
) -> None:
    before = sql("SELECT count(*) FROM thread")
    alone = await ai.responses.create(model="chat", input="alone", store=False)
    assert (alone.output_text, alone.conversation) == ("(1) alone", None)
    assert sql("SELECT count(*) FROM thread") == before

    one = await ai.responses.create(model="chat", input="one", metadata={"a": "b"})
    two = await ai.responses.create(model="chat", input="two", previous_response_id=one.id)
    zwei = await ai.responses.create(model="chat", input="zwei", previous_response_id=one.id)
    three = await ai.responses.create(model="chat", input="three", previous_response_id=two.id)
    read = await ai.responses.retrieve(one.id)

    assert [r.output_text for r in (one, two, zwei, three)] == [
        "(1) one", "(3) two", "(3) zwei", "(5) three",
    ]  # fmt: skip
    assert {r.conversation and r.conversation.id for r in (one, two, zwei, three)} == {
        one.conversation and one.conversation.id
    }
    assert (read.output_text, read.status, read.metadata) == ("(1) one", "completed", {"a": "b"})
    assert two.previous_response_id == one.id
    assert one.conversation is not None
    path = f"/api/sessions/{one.conversation.id}/messages"
    shown = [row["content"] for row in (await http.get(path)).json()["data"]]
    assert shown == ["one", "(1) one", "two", "(3) two", "three", "(5) three"]


async def test_a_response_is_streamed_and_taken_up_again_from_any_event(
    ai: AsyncOpenAI, model_port: int
) -> None:
    async with openai_server(model_port) as model:
        call = ("calculate", {"expression": "6 * 7"})
        model.replies.append(Reply(tokens=("Let me see.",), tool_calls=(call,)))
        model.replies.append(Reply(tokens=("It is ", "42.")))
        stream = await ai.responses.create(
            model="agent", input="6 * 7?", instructions="Be terse.", stream=True
        )
        heard = await events(stream)
    last = heard[-1].response

    assert [event.sequence_number for event in heard] == list(range(len(heard)))
    assert [event.type for event in heard[:3]] == [
        "response.created", "response.in_progress", "response.output_item.added",
    ]  # fmt: skip
    assert heard[-1].type == "response.completed"
    assert [item.type for item in last.output] == [
        "message", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    assert (last.output[1].name, last.output[1].arguments) == (
        "calculate", '{"expression":"6 * 7"}',
    )  # fmt: skip
    assert last.output[2].output == "42"
    assert last.output_text == "Let me see.It is 42."
    assert (last.usage.output_tokens, last.usage.input_tokens) == (3, 14)
    assert model.requests[0]["messages"][0]["content"] == "Be terse."
    for place in (-1, 0, 4, len(heard) - 2):
        again = await ai.responses.retrieve(last.id, stream=True, starting_after=place)
        assert await events(again) == heard[place + 1 :]
    async with ai.responses.stream(model="chat", input="hello") as helped:
        final = await helped.get_final_response()
    assert final.output_text == "(1) hello"


async def test_a_response_in_the_background_is_followed_and_cancelled(
    ai: AsyncOpenAI, gate: Gate
) -> None:
    gate.hold("back")
    text = f"hold {gate.port} back one two"
    begun = await ai.responses.create(model="chat", input=text, background=True)
    await gate.arrived("back")
    under_way = await ai.responses.retrieve(begun.id)
    assert begun.conversation is not None
    with pytest.raises(openai.ConflictError):
        await ai.responses.create(model="chat", input="x", conversation=begun.conversation.id)
    stream = await ai.responses.retrieve(begun.id, stream=True)
    heard = [await anext(stream) for _ in range(5)]

    cancelled = await ai.responses.cancel(begun.id)
    rest = await events(stream)

    assert begun.status in ("queued", "in_progress")
    assert under_way.status == "in_progress"
    assert heard[4].type == "response.output_text.delta"
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "(1)")
    assert rest[-1].type == "response.incomplete"
    assert (await ai.responses.retrieve(begun.id)).status == "cancelled"
    on = await ai.responses.create(model="chat", input="on", previous_response_id=begun.id)
    assert on.output_text == "(3) on"


async def test_what_fails_and_what_is_not_supported(ai: AsyncOpenAI) -> None:
    failed = await ai.responses.create(model="chat", input="fail please")
    stream = await ai.responses.create(model="chat", input="fail please", stream=True)
    wrong: list[Any] = [
        {"input": "x", "tools": [{"type": "web_search"}]},
        {"input": "x", "tool_choice": "required"},
        {"input": "x", "text": {"format": {"type": "json_object"}}},
        {"input": "x", "store": False, "background": True},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        {"input": [{"role": "assistant", "content": "x"}]},
        {"input": "x", "previous_response_id": "none"},
    ]

    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.message == "the model broke down"
    assert (await events(stream))[-1].type == "response.failed"
    for body in wrong:
        with pytest.raises(openai.APIStatusError) as refused:
            await ai.responses.create(model="chat", **body)
        assert refused.value.status_code in (400, 404), body
        assert refused.value.body["message"]  # type: ignore[index]
    with pytest.raises(openai.NotFoundError):
        await ai.responses.retrieve(str(uuid.uuid4()))
    with pytest.raises(openai.NotFoundError):
        await ai.responses.create(model="chat", input="x", conversation=str(uuid.uuid4()))


async def test_what_a_model_thinks_and_what_an_answer_goes_by_come_with_the_response(
    ai: AsyncOpenAI,
) -> None:
    async with ai.responses.stream(model="chat", input="think hm so") as stream:
        heard = await events(stream)
        thought = await stream.get_final_response()
    found = await ai.responses.create(model="finds", input="Which rivers?")
    more: Any = [*(item.to_dict() for item in thought.output), {"role": "user", "content": "and?"}]
    again = await ai.responses.create(model="chat", input=more, store=False)

    deltas = [event.delta for event in heard if event.type == "response.reasoning_text.delta"]
    assert [item.type for item in thought.output] == ["reasoning", "message"]
    assert "".join(deltas) == text_of(thought.output[0]) == "hmso"
    cited: Any = found.output[0]
    assert [note.type for note in cited.content[0].annotations] == [
        "url_citation", "file_citation",
    ]  # fmt: skip
    assert again.output_text == "(2) and?"
