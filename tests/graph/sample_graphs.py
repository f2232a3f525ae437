"""Graphs whose every answer is known: they run here and under `langgraph dev`, unchanged."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel


class ScriptedModel(BaseChatModel):
    """Says what the last message tells it to, a word a chunk, with usage in the last one."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        first, *rest = _script(messages)
        whole = sum(rest, start=first)
        return ChatResult(generations=[ChatGeneration(message=message_chunk_to_message(whole))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for message in _script(messages):
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                await run_manager.on_llm_new_token(str(message.content), chunk=chunk)
            yield chunk


def _script(messages: list[BaseMessage]) -> list[AIMessageChunk]:
    last = messages[-1]
    if isinstance(last, HumanMessage) and last.text.startswith("add "):
        _, left, right = last.text.split()
        first = tool_call_chunk(name="add", args=f'{{"left": {left}, ', id="call-1", index=0)
        second = tool_call_chunk(args=f'"right": {right}}}', index=0)
        return [AIMessageChunk(content="", tool_call_chunks=[call]) for call in (first, second)]
    words = f"You said: {last.text} 你好 \U0001f9f5".split(" ")
    chunks = [AIMessageChunk(content=word + " ") for word in words]
    usage = UsageMetadata(input_tokens=3, output_tokens=len(words), total_tokens=3 + len(words))
    ending = AIMessageChunk(
        content="",
        response_metadata={"finish_reason": "stop"},
        usage_metadata=usage,
    )
    return [*chunks, ending]


async def _answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await ScriptedModel().ainvoke(state["messages"])]}


def _chain(state: type, *nodes: tuple[str, Any]) -> StateGraph[Any]:
    builder: StateGraph[Any] = StateGraph(state)
    for name, node in nodes:
        builder.add_node(name, node)
    for source, target in pairwise([START, *(name for name, _ in nodes), END]):
        builder.add_edge(source, target)
    return builder


chat = _chain(MessagesState, ("model", _answer)).compile()


@tool
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


def _with_tools() -> StateGraph[Any]:
    builder = StateGraph(MessagesState)
    builder.add_node("model", _answer)
    builder.add_node("tools", ToolNode([add]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder


tools = _with_tools().compile()


def _greet(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("Let me ask.", id="greeting")]}


nested = _chain(MessagesState, ("greet", _greet), ("expert", chat)).compile()


class Notes(TypedDict, total=False):
    text: str
    log: Annotated[list[str], lambda left, right: left + right]


def _write(state: Notes) -> Notes:
    write = get_stream_writer()
    write({"progress": 0.5})
    write("half")
    write(None)
    return {"log": ["wrote"]}


custom = _chain(Notes, ("write", _write)).compile()


async def _ask(state: Notes) -> Notes:
    answer = interrupt({"question": "Go on?"})
    return {"log": [f"answered {answer}"]}


def _first(state: Notes) -> Notes:
    return {"log": ["first"]}


def _second(state: Notes) -> Notes:
    return {"log": ["second"]}


ask = _chain(Notes, ("first", _first), ("ask", _ask)).compile()
nested_ask = _chain(Notes, ("outer", ask), ("second", _second)).compile()
steps = _chain(Notes, ("first", _first), ("second", _second)).compile()


class _HouseError(Exception):
    """Not one of the types whose message is shown to a client."""


def _fail(state: Notes) -> Notes:
    if state.get("text") == "house":
        raise _HouseError("secret")
    if state.get("text") == "key":
        raise KeyError("missing")
    raise ValueError("boom!")


boom = _chain(Notes, ("first", _first), ("fail", _fail)).compile()


def _fan_out(state: Notes) -> list[Send]:
    return [Send("part", {"text": letter}) for letter in state["text"]]


def _part(state: Notes) -> Notes:
    return {"log": [state["text"].upper()]}


def _mapped() -> StateGraph[Any]:
    builder = StateGraph(Notes)
    builder.add_node("plan", _first)
    builder.add_node("part", _part)
    builder.add_node("join", _second)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", _fan_out, ["part"])
    builder.add_edge("part", "join")
    builder.add_edge("join", END)
    return builder


sends = _mapped().compile()


def _jump(state: Notes) -> Command[Any]:
    return Command(goto="second", update={"log": ["jumped"]})


def _commanded() -> StateGraph[Any]:
    builder = StateGraph(Notes)
    builder.add_node("jump", _jump, destinations=("second",))
    builder.add_node("second", _second)
    builder.add_edge(START, "jump")
    return builder


command = _commanded().compile()


def _whole_messages(state: MessagesState) -> dict[str, Any]:
    return {
        "messages": [
            AIMessage("whole", id="whole-1"),
            ToolMessage("result", tool_call_id="call-9", id="tool-1"),
        ]
    }


whole = _chain(MessagesState, ("say", _whole_messages)).compile()


class Colour(Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Box:
    size: int
    made_at: datetime


class Label(BaseModel):
    text: str
    colour: Colour = Colour.RED


class Plain:
    def __repr__(self) -> str:
        return "<Plain>"


class Anything(TypedDict, total=False):
    thing: Any


THINGS: dict[str, Any] = {
    "pydantic": Label(text="x"),
    "dataclass": Box(size=1, made_at=datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)),
    "named tuple": Point(1, 2),
    "set": {1},
    "frozen set": frozenset({"a"}),
    "bytes": b"\x00\xffabc",
    "exception": ValueError("bad", 1),
    "enum": Colour.RED,
    "naive time": datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001 - graphs do produce them
    "date": date(2026, 1, 2),
    "time delta": timedelta(seconds=90.5),
    "decimal": Decimal("1.50"),
    "uuid": UUID(int=7),
    "path": PurePosixPath("a/b"),
    "float": [float("nan"), float("inf"), 1e300, 0.1],
    "keys": {1: "int", None: "none", (1, 2): "tuple", Colour.RED: "enum"},
    "surrogate": "a\ud800b",
    "nul": "a\x00b",
    "big": 2**70,
    "class": Label,
    "function": _first,
    "object": Plain(),
    "message": HumanMessage("hi", id="h"),
    "send": Send("node", {"a": 1}),
    "command": Command(goto="x", update={"a": 1}),
    "complex": 1 + 2j,
    "generator": (n for n in (1,)),
}


def _make(state: Anything) -> Anything:
    return {"thing": THINGS[state["thing"]]}


things = _chain(Anything, ("make", _make)).compile()


@task
async def _double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


@entrypoint()
async def functional(numbers: list[int]) -> list[int]:
    return [await _double(number) for number in numbers]


def _thread(state: Notes, config: RunnableConfig) -> Notes:
    return {"text": str(config["configurable"].get("graph_id"))}


configured = _chain(Notes, ("thread", _thread)).compile()


@dataclass
class Settings:
    """What a caller may choose."""

    language: str = "en"
    temperature: float = 0.0


class Form(BaseModel):
    name: str = "nobody"
    age: int = 0


class FormOutput(TypedDict):
    age: int


def _birthday(state: Form) -> FormOutput:
    return {"age": state.age + 1}


def _formal() -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(Form, context_schema=Settings, output_schema=FormOutput)
    builder.add_node("birthday", _birthday)
    builder.add_edge(START, "birthday")
    return builder


form = _formal()


async def _ask_user(state: MessagesState) -> dict[str, Any]:
    answer = interrupt({"sure?": state["messages"][-1].content})
    return {"messages": [("ai", f"You said {answer}")]}


ask_user = _chain(MessagesState, ("ask", _ask_user)).compile()


async def _wait(state: MessagesState) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


endless = _chain(MessagesState, ("wait", _wait)).compile()


class HaltingModel(ScriptedModel):
    """Says a word, and nothing more until it is stopped."""

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chunk = ChatGenerationChunk(message=AIMessageChunk(content="Well"))
        if run_manager is not None:
            await run_manager.on_llm_new_token("Well", chunk=chunk)
        yield chunk
        await asyncio.Event().wait()


async def _halt(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await HaltingModel().ainvoke(state["messages"])]}


halting = _chain(MessagesState, ("model", _halt)).compile()
