"""A graph that keeps what it is told in as many ways as a graph can."""

import asyncio
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph, add_messages
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from tests.graph.sample_graphs import ScriptedModel


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    #: Scalars lie beside a checkpoint, and not in a blob.
    summary: str
    notes: dict[str, Any]
    log: Annotated[list[str], lambda left, right: left + right]


async def _keep(state: State, runtime: Runtime[None]) -> State:
    said = str(state["messages"][-1].content)
    get_stream_writer()({"heard": said})
    if runtime.store is not None:
        await runtime.store.aput(("kept",), "last", {"text": said, "about": {"who": said}})
    if "fail" in said:
        raise ValueError(f"{said} is too much")
    return {"summary": f"about {said}", "notes": {"deep": [said]}, "log": [said]}


async def _confirm(state: State) -> State:
    said = str(state["messages"][-1].content)
    if "ask" not in said:
        return {"log": []}
    answer = interrupt({"question": f"Sure of {said}?"})
    return {"log": [f"answered {answer}"]}


async def _answer(state: State) -> dict[str, Any]:
    if "wait" in str(state["messages"][-1].content):
        await asyncio.Event().wait()
    return {"messages": [await ScriptedModel().ainvoke(state["messages"])]}


def _built() -> Any:
    builder = StateGraph(State)
    for name, node in (("keep", _keep), ("confirm", _confirm), ("answer", _answer)):
        builder.add_node(name, node)
    builder.add_edge(START, "keep")
    builder.add_edge("keep", "confirm")
    builder.add_edge("confirm", "answer")
    return builder.compile()


graph = _built()

#: What `title` is asked with; it says what it was given.
MODEL = ScriptedModel()


def embed(texts: list[str]) -> list[list[float]]:
    """Vectors that say how long a text is."""
    return [[float(len(text)), 1.0, 0.5, 0.25] for text in texts]


__all__ = ["MODEL", "AIMessage", "HumanMessage", "embed", "graph"]
