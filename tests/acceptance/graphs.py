"""Graphs that do what their input says. Plain LangGraph: served from a copy elsewhere."""

import asyncio
import math
import operator
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from typing import Annotated, Any, TypedDict

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.language_models.chat_models import BaseChatModel, agenerate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.stream import (
    LifecycleTransformer,
    ProtocolEvent,
    StreamChannel,
    StreamTransformer,
    UpdatesTransformer,
)
from langgraph.stream.transformers import ValuesTransformer
from langgraph.types import Command, Send, interrupt

from graph.agents.chat import State, call_model


def report_and_block(port: int, name: str) -> None:
    """The same without awaiting: whatever else is on this event loop waits too."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{name}\n".encode())
        connection.recv(16)


def report_and_compute(port: int, name: str) -> None:
    """The same, and the processor is busy all the while: so is Python's lock."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{name}\n".encode())
        connection.setblocking(False)
        while True:
            sum(number * number for number in range(50_000))
            with suppress(BlockingIOError):
                connection.recv(16)
                return


async def report(port: int, name: str) -> None:
    """Tell the test's gate where we are, and wait there if it says so."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{name}\n".encode())
        await reader.readline()
    finally:
        writer.close()


class Echo(BaseChatModel):
    """
    Says what it was told, a word a token.

    `hold PORT NAME words` stops at the gate after the first token; `fail words` breaks down there,
    and `fail` alone before it. `think words` thinks them first, a word a token.
    """

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, run_manager))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        order, *words = str(messages[-1].text).split(" ")
        gate = (int(words.pop(0)), words.pop(0)) if order == "hold" else None
        if order not in ("hold", "fail"):
            words = [order, *words]
        thoughts = _thoughts(words[1:] if order == "think" else [])
        said = [
            AIMessageChunk(content=token)
            for token in (f"({len(messages)})", *(f" {w}" for w in words))
        ]
        for number, message in enumerate([*thoughts, *said], start=-len(thoughts)):
            if number == 1 and gate:
                await report(*gate)
            if order == "fail" and (number == 1 or not words):
                raise ValueError("the model broke down")
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def _thoughts(words: list[str]) -> list[AIMessageChunk]:
    return [
        AIMessageChunk(content="", additional_kwargs={"reasoning_content": word}) for word in words
    ]


async def _answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await Echo().ainvoke(state["messages"])]}


async def _answer_too(state: State) -> dict[str, Any]:
    return {"messages": [await Echo().ainvoke(state["messages"])]}


class Work(TypedDict, total=False):
    gate: int
    name: str
    #: What `poison` returns and where `boom` fails.
    kind: str
    log: Annotated[list[Any], operator.add]


def _chain(state: type, *nodes: tuple[str, Any]) -> Any:
    builder: StateGraph[Any] = StateGraph(state)
    for name, node in nodes:
        builder.add_node(name, node)
    for source, target in pairwise([START, *(name for name, _ in nodes), END]):
        builder.add_edge(source, target)
    return builder.compile()


def _step(step: str) -> Any:
    async def work(state: Work) -> Work:
        await report(state["gate"], f"{state['name']}:{step}")
        return {"log": [f"{state['name']}:{step}"]}

    return work


async def _block(state: Work) -> Work:
    report_and_block(state["gate"], f"{state['name']}:block")
    return {"log": ["blocked"]}


async def _compute(state: Work) -> Work:
    report_and_compute(state["gate"], f"{state['name']}:block")
    return {"log": ["computed"]}


class Talk(Work):
    messages: Annotated[list[Any], add_messages]


def _greet(state: Talk) -> dict[str, Any]:
    return {"messages": [("ai", f"working for {state['name']}")]}


async def _alone(state: Work, config: RunnableConfig) -> Work:
    run_id = config["configurable"]["run_id"]
    await report(state["gate"], f"{run_id}:start")
    await report(state["gate"], f"{run_id}:end")
    return {"log": [run_id]}


def _ask(state: Work) -> Work:
    return {"log": [f"asked: {interrupt({'question': 'Go on?'})}"]}


async def _stubborn(state: Work) -> Work:
    """Does not let itself be cancelled."""
    told = asyncio.create_task(report(state["gate"], f"{state['name']}:stays"))
    while not told.done():
        try:
            await asyncio.wait({told})
        except asyncio.CancelledError:
            await report(state["gate"], f"{state['name']}:refuses")
    return {"log": [f"{state['name']}:stayed"]}


async def _ask_twice(state: Work) -> Work:
    first = interrupt({"question": "Go on?"})
    second = interrupt({"question": "Really?"})
    await report(state["gate"], f"{state['name']}:told")
    return {"log": [f"told: {first} and {second}"]}


def _asking(state: MessagesState) -> dict[str, Any]:
    return {"messages": [("ai", f"told {interrupt('Well?')}")]}


def _after(state: Work) -> Work:
    return {"log": ["after"]}


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def _cycle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _poison(state: Work) -> Work:
    poisons: dict[str, Any] = {
        "object": object(),
        "lock": asyncio.Lock(),
        "nul": "a\0b",
        "surrogate": "a\ud800b",
        "nan": math.nan,
        "big": 10**400,
        "lambda": lambda: None,
        "infinity": math.inf,
        "keys": {1: "int", None: "none", ("a", 2): "tuple", "\ud800": "surrogate"},
        "deep": _nested(2_000),
        "cycle": _cycle(),
        "fine": "fine",
    }
    return {"log": [poisons[state["kind"]]]}


def _asks_oddly(state: Work) -> Work:
    interrupt(_poison(state)["log"][0])
    return {}


def _tells_oddly(state: Work) -> Work:
    get_stream_writer()(_poison(state)["log"][0])
    return {"log": ["told"]}


def _large(state: Work) -> Work:
    """As much text as `kind` says, in pieces or in one."""
    shape, count = state["kind"].split(" ")
    text = "a" * int(count)
    size = 1000
    return (
        {"log": [text[i : i + size] for i in range(0, len(text), size)]}
        if shape == "list"
        else {"name": text}
    )


class _PrivateError(Exception):
    pass


def _boom(state: Work) -> Work:
    if state["kind"] == "private":
        raise _PrivateError("a secret")
    raise ValueError("boom!")


def _ask_in_chat(state: MessagesState) -> dict[str, Any]:
    answer = interrupt({"question": "Go on?"})
    return {"messages": [AIMessage(f"You said {answer}")]}


@tool
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


def _adds(state: MessagesState) -> dict[str, Any]:
    last = state["messages"][-1]
    if last.type == "tool":
        return {"messages": [AIMessage(f"It is {last.content}.")]}
    call = {"name": "add", "args": {"left": 2, "right": 3}, "id": f"call-{last.id}"}
    return {"messages": [AIMessage("Let me see.", tool_calls=[call])]}


def _calculator() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("model", _adds)
    builder.add_node("tools", ToolNode([add]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


@tool
async def wait_at(port: int, name: str) -> str:
    """Wait at the test's gate."""
    await report(port, name)
    return "passed"


def _agent_with_a_tool() -> Any:
    """The bundled agent, with another tool."""
    builder = StateGraph(State)
    builder.add_node("model", call_model)
    builder.add_node("tools", ToolNode([wait_at]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


def _endless() -> Any:
    builder: StateGraph[Any] = StateGraph(Work)
    builder.add_node("again", _after)
    builder.add_edge(START, "again")
    builder.add_edge("again", "again")
    return builder.compile()


def _tell(state: Work) -> Work:
    tell = get_stream_writer()
    tell({"progress": 1})
    tell({"name": "status", "payload": {"done": True}})
    return {"log": ["told"]}


class Upper(StreamTransformer):
    """A transformer of the graph's own: counts its updates on a channel of its own."""

    before_builtins = True

    def __init__(self, scope: tuple[str, ...] = ()) -> None:
        super().__init__(scope)
        self._channel: StreamChannel[Any] = StreamChannel("counts")
        self._count = 0

    def init(self) -> dict[str, Any]:
        return {"counts": self._channel}

    def process(self, event: ProtocolEvent) -> bool:
        if event["method"] == "updates":
            self._count += 1
            self._channel.push(self._count)
        return True


def _transforming() -> Any:
    builder: StateGraph[Any] = StateGraph(Work)
    builder.add_node("tell", _tell)
    builder.add_edge(START, "tell")
    # Two that LangGraph's own v3 stream brings, one that it does not, and one of its own.
    own = [ValuesTransformer, LifecycleTransformer, UpdatesTransformer, Upper]
    return builder.compile(transformers=own)


async def _answer_twice(state: MessagesState) -> dict[str, Any]:
    """Two models that speak at the same time."""
    return {"messages": await asyncio.gather(*(Echo().ainvoke(state["messages"]) for _ in "12"))}


def _duet() -> Any:
    """Two nodes that answer in the last step."""
    builder = StateGraph(MessagesState)
    for name in ("left", "right"):
        builder.add_node(name, lambda state, name=name: {"messages": [("ai", name)]})
        builder.add_edge(START, name)
    return builder.compile()


def _sing(name: str, *, to: str | None = None) -> Any:
    def sing(state: MessagesState) -> Any:
        said = {"messages": [("ai", name)]}
        return Command(update=said, goto=to) if to else said

    return sing


def _close(state: MessagesState) -> dict[str, Any]:
    if "wrong" in state["messages"][0].text:
        raise ValueError("a wrong note")
    return {"messages": [("ai", "closed")]}


def _trio() -> Any:
    """Two nodes that answer in one step, of which one sends on by a Command, and one that may fail then."""
    builder = StateGraph(MessagesState)
    builder.add_node("left", _sing("left", to="close"), destinations=("close",))
    builder.add_node("right", _sing("right"))
    builder.add_node("close", _close)
    builder.add_edge(START, "left")
    builder.add_edge(START, "right")
    return builder.compile()


def _parts(state: MessagesState) -> list[Send]:
    """What a plan sends on: nothing once it is taken out."""
    is_planned = any(message.text == "plan" for message in state["messages"])
    return [Send("work", {"part": part}) for part in "ab" if is_planned]


def _plan_and_send(state: MessagesState) -> Command[Any]:
    planned = _plan(state)
    return Command(update=planned, goto=_parts(MessagesState(messages=planned["messages"])))


def _plan(state: MessagesState) -> dict[str, Any]:
    calls = (
        [{"name": "work", "args": {}, "id": "c1"}] if "call" in state["messages"][0].text else []
    )
    return {"messages": [AIMessage("plan", tool_calls=calls)]}


def _work_in_parts(*, edges: bool) -> Any:
    """A plan whose parts are sent to workers, by conditional edges or by a Command, and a sum of theirs."""
    builder = StateGraph(MessagesState)
    builder.add_node("plan", _plan if edges else _plan_and_send)
    builder.add_node("work", lambda state: {"messages": [("ai", state["part"])]})
    builder.add_node("sum", lambda state: {"messages": [("ai", "sum")]})
    builder.add_edge(START, "plan")
    if edges:
        builder.add_conditional_edges("plan", _parts, ["work"])
    builder.add_edge("work", "sum")
    return builder.compile()


def _plan_halves(state: MessagesState) -> Command[Any]:
    port = int(state["messages"][0].text)
    return Command(goto=[Send("work", {"part": part, "gate": port}) for part in "ab"])


async def _work_or_fail(state: Any) -> dict[str, Any]:
    if state["part"] == "b":
        await report(state["gate"], "b")
        raise ValueError("b is broken")
    return {"messages": [("ai", "a")]}


def _half() -> Any:
    """Two parts that are sent to workers, of which one fails when it may go on."""
    builder = StateGraph(MessagesState)
    builder.add_node("plan", _plan_halves)
    builder.add_node("work", _work_or_fail)
    builder.add_edge(START, "plan")
    return builder.compile()


def _by_the_question(state: MessagesState) -> str:
    return "refund" if "refund" in state["messages"][0].text else "greet"


def _route() -> Any:
    """A node after which the question decides, and one after each of both ways."""
    builder = StateGraph(MessagesState)
    for name in ("read", "greet", "refund", "close"):
        builder.add_node(name, _sing(name))
    builder.add_edge(START, "read")
    builder.add_conditional_edges("read", _by_the_question, ["greet", "refund"])
    builder.add_edge("greet", "close")
    builder.add_edge("refund", "close")
    return builder.compile()


class Finding(MessagesState, total=False):
    topic: str
    steps: Annotated[list[str], operator.add]


def _find(state: Finding) -> dict[str, Any]:
    page = Document("Rivers flow.", metadata={"source": "https://example.com/r", "title": "Rivers"})
    note = {"id": "n1", "source": "notes.md", "content": "Down."}
    get_stream_writer()({"documents": [page, note]})
    get_stream_writer()({"progress": 1})
    return {"steps": ["found"], "topic": state.get("topic", "rivers")}


async def _answer_found(state: Finding) -> dict[str, Any]:
    return {"messages": [await Echo().ainvoke(state["messages"])], "steps": ["answered"]}


chat = _chain(MessagesState, ("model", _answer))
finds = _chain(Finding, ("find", _find), ("model", _answer_found))
#: The same on a channel like the bundled agent's.
delta = _chain(State, ("model", _answer_too))
steps = _chain(Work, ("a", _step("a")), ("b", _step("b")), ("c", _step("c")))
talking_steps = _chain(Talk, ("greet", _greet), ("a", _step("a")), ("b", _step("b")))
blocking = _chain(Work, ("block", _block), ("after", _after))
computing = _chain(Work, ("block", _compute), ("after", _after))
alone = _chain(Work, ("alone", _alone))
ask = _chain(Work, ("ask", _ask), ("after", _after))
asking = _chain(MessagesState, ("ask", _asking))
ask_twice = _chain(Work, ("ask", _ask_twice), ("after", _after))
tools = _agent_with_a_tool()
stubborn = _chain(Work, ("stay", _stubborn), ("after", _step("after")))
poison = _chain(Work, ("poison", _poison), ("after", _after))
asks_oddly = _chain(Work, ("ask", _asks_oddly))
tells_oddly = _chain(Work, ("tell", _tells_oddly), ("after", _after))
large = _chain(Work, ("large", _large), ("after", _after))
boom = _chain(Work, ("after", _after), ("boom", _boom))
endless = _endless()
nested = _chain(MessagesState, ("inner", chat), ("after", lambda state: {}))
nested_ask = _chain(Work, ("inner", ask))
tells = _chain(Work, ("tell", _tell))
transforming = _transforming()
adds = _calculator()
ask_in_chat = _chain(MessagesState, ("ask", _ask_in_chat))
choir = _chain(MessagesState, ("both", _answer_twice))
duet = _duet()
trio = _trio()
half = _half()
route = _route()
parts_by_edges = _work_in_parts(edges=True)
parts_by_command = _work_in_parts(edges=False)
