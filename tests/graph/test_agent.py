"""The bundled agent through the real ChatOpenAI, against an HTTP server; and without a model."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from openai import APIError, AuthenticationError

from graph.agents.chat import calculate, current_time
from graph.config import load_config
from graph.factory import AnyGraph
from graph.registry import Registry
from graph.stream import Outcome, StreamPlan, stream
from tests.openai_server import OpenAIServer, Reply, openai_server

ROOT = Path(__file__).parents[2]
THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}
TOKENS = StreamPlan.parse("messages-tuple")


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "MODEL", "MODEL_MAX_TOKENS", "MODEL_TOOLS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def openai(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIServer]:
    async with openai_server() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


@pytest.fixture
async def agent() -> AsyncIterator[AnyGraph]:
    registry = await Registry.load(load_config(ROOT / "langgraph.json"))
    async with registry.open("agent", THREAD, checkpointer=InMemorySaver(), store=None) as graph:
        yield graph


async def _ask(agent: AnyGraph, text: str) -> tuple[list[str], list[Any]]:
    """The streamed pieces of text, and the messages of the conversation."""
    question = {"messages": [{"role": "user", "content": text}]}
    outcome = Outcome()
    pieces = [
        orjson.loads(data)[0]["content"]
        async for _, data in stream(agent, question, THREAD, TOKENS, outcome=outcome)
    ]
    return [piece for piece in pieces if piece], outcome.values["messages"]


async def test_tokens_of_an_openai_server_arrive_one_by_one(
    agent: AnyGraph, openai: OpenAIServer
) -> None:
    openai.replies.append(Reply(tokens=("Good ", "morning", "!")))
    pieces, messages = await _ask(agent, "hello")
    assert pieces == ["Good ", "morning", "!"]
    assert messages[-1].usage_metadata["total_tokens"] == 10
    assert messages[-1].response_metadata["finish_reason"] == "stop"


async def test_the_model_is_asked_with_the_whole_conversation(
    agent: AnyGraph, openai: OpenAIServer
) -> None:
    await _ask(agent, "one")
    await _ask(agent, "two")
    asked = openai.requests[-1]["messages"]
    assert [m["role"] for m in asked] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in asked[1:]] == ["one", "echo: one ", "two"]


async def test_a_tool_call_is_executed_and_answered(agent: AnyGraph, openai: OpenAIServer) -> None:
    openai.replies.append(Reply(tool_calls=(("calculate", {"expression": "(2 + 3) * 4"}),)))
    openai.replies.append(Reply(tokens=("It ", "is ", "20.")))
    pieces, messages = await _ask(agent, "what is (2 + 3) * 4?")
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[2].content == "20"
    assert pieces == ["20", "It ", "is ", "20."]


async def test_an_error_in_mid_stream_fails_the_run(agent: AnyGraph, openai: OpenAIServer) -> None:
    openai.replies.append(Reply(tokens=("half ", "an ", "answer"), fails_after=2))
    with pytest.raises(APIError, match="broke down"):
        await _ask(agent, "hello")


async def test_a_refusal_of_the_server_fails_the_run(agent: AnyGraph, openai: OpenAIServer) -> None:
    openai.replies.append(Reply(status=401))
    with pytest.raises(AuthenticationError):
        await _ask(agent, "hello")


async def test_compatible_servers_are_asked_in_the_words_they_know(
    agent: AnyGraph, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", "gpt-5-pro")
    monkeypatch.setenv("MODEL_MAX_TOKENS", "64")
    monkeypatch.setenv("MODEL_TOOLS", "off")
    await _ask(agent, "hello")
    request = openai.requests[-1]
    assert request["model"] == "gpt-5-pro"
    assert request["max_tokens"] == 64
    assert "max_completion_tokens" not in request
    assert "tools" not in request
    assert request["stream_options"] == {"include_usage": True}


async def test_tools_are_offered_by_default(agent: AnyGraph, openai: OpenAIServer) -> None:
    await _ask(agent, "hello")
    names = [tool["function"]["name"] for tool in openai.requests[-1]["tools"]]
    assert names == ["current_time", "calculate"]


async def test_without_a_key_the_offline_model_says_what_it_is(agent: AnyGraph) -> None:
    pieces, messages = await _ask(agent, "hello there")
    assert len(pieces) > 20
    assert "offline model" in messages[-1].content
    assert "OPENAI_API_KEY" in messages[-1].content
    assert "".join(pieces) == messages[-1].content


async def test_the_offline_model_remembers_the_conversation(agent: AnyGraph) -> None:
    await _ask(agent, "my cat is called {Tom}")
    _, messages = await _ask(agent, "and now?")
    assert "message 3" in messages[-1].content
    assert "my cat is called {Tom}" in messages[-1].content


async def test_the_offline_model_answers_in_the_language_of_the_question(agent: AnyGraph) -> None:
    await _ask(agent, "hello")
    pieces, messages = await _ask(agent, "你好")
    assert "离线模型" in messages[-1].content
    assert "".join(pieces) == messages[-1].content


async def test_the_offline_model_says_the_same_when_not_streamed(agent: AnyGraph) -> None:
    question = {"messages": [{"role": "user", "content": "hello"}]}
    answer = (await agent.ainvoke(question, THREAD))["messages"][-1]
    assert "offline model" in answer.content
    assert answer.usage_metadata["output_tokens"] > 20


@pytest.mark.parametrize(
    ("expression", "value"), [("1 + 2 * 3", 7), ("-(7 // 2) % 5", 2), ("0.5 / 2", 0.25)]
)
def test_the_calculator_calculates(expression: str, value: float) -> None:
    assert calculate.invoke({"expression": expression}) == value


@pytest.mark.parametrize(
    "expression", ["9 ** 9", "__import__('os')", "x", "True or 1", "1 +" * 300]
)
def test_the_calculator_refuses_what_is_not_arithmetic(expression: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        calculate.invoke({"expression": expression})


def test_the_clock_knows_time_zones() -> None:
    assert current_time.invoke({"timezone": "Asia/Shanghai"}).endswith("+08:00")
