"""Graphs without a model behind them: what they cost is what runs them. Served from a copy."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

Node = Callable[[MessagesState], Awaitable[dict[str, Any]]]


async def _answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"echo: {state['messages'][-1].content}")]}


async def _hundred_words(state: MessagesState) -> dict[str, Any]:
    words = " ".join(f"t{number}" for number in range(100))
    model = GenericFakeChatModel(messages=iter([AIMessage(words)]))
    return {"messages": [await model.ainvoke(state["messages"])]}


async def _compute(state: MessagesState) -> dict[str, Any]:
    """As many milliseconds of CPU as the message says, however busy the machine is."""
    until = time.thread_time() + float(str(state["messages"][-1].content)) / 1000
    while time.thread_time() < until:
        pass
    return await _answer(state)


class Sleep(TypedDict, total=False):
    seconds: float
    slept: float


async def _sleep(state: Sleep) -> Sleep:
    """Sleep without awaiting, as no node should."""
    began = time.monotonic()
    time.sleep(state["seconds"])  # noqa: ASYNC251
    return {"slept": time.monotonic() - began}


async def _count(state: Sleep) -> Sleep:
    """Compute as long without awaiting, as no node should either."""
    began = time.monotonic()
    while time.monotonic() - began < state["seconds"]:
        sum(number * number for number in range(50_000))
    return {"slept": time.monotonic() - began}


def _without_awaiting(node: Any) -> Any:
    builder: Any = StateGraph(Sleep)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile()


def _chain(node: Node, length: int) -> Any:
    builder: Any = StateGraph(MessagesState)
    names = [f"node{number}" for number in range(length)]
    for name in names:
        builder.add_node(name, node)
    for start, end in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(start, end)
    return builder.compile()


echo = _chain(_answer, 1)
tokens = _chain(_hundred_words, 1)
steps = _chain(_answer, 10)
busy = _chain(_compute, 1)
asleep = _without_awaiting(_sleep)
computing = _without_awaiting(_count)
