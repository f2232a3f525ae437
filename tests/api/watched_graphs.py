"""Graphs of which operators are to see something, and of what is said in them nothing."""

import logging

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.graph.sample_graphs import ScriptedModel


async def _answer(state: MessagesState, config: RunnableConfig) -> MessagesState:
    logging.getLogger("watched").warning("answering")
    said = state["messages"][-1].text
    if "fail" in said:
        try:
            int(said)
        except ValueError as exc:
            raise RuntimeError(f"cannot do {said}") from exc
    return {"messages": [await ScriptedModel().ainvoke(state["messages"])]}


def _check(state: MessagesState) -> MessagesState:
    return {"messages": []}


_builder = StateGraph(MessagesState)
_builder.add_node("answer", _answer)
_builder.add_node("check", _check)
_builder.add_edge(START, "answer")
_builder.add_edge("answer", "check")
_builder.add_edge("check", END)
watched = _builder.compile()
