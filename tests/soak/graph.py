"""The graph that the soak runs: four steps, each told to the turnstile and kept in the state."""

import os
from itertools import pairwise
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from tests.acceptance.graphs import Talk, report

STEPS = ("greet", "a", "b", "c")


def _step(step: str) -> Any:
    async def work(state: Talk, config: RunnableConfig) -> dict[str, Any]:
        run_id, thread_id = (config["configurable"][key] for key in ("run_id", "thread_id"))
        await report(state["gate"], f"{run_id} {thread_id} {step} {os.getpid()}")
        done = f"{run_id}:{step}"
        return {"log": [done], "messages": [("ai", done)]}

    return work


def _build() -> Any:
    builder: StateGraph[Any] = StateGraph(Talk)
    for step in STEPS:
        builder.add_node(step, _step(step))
    for source, target in pairwise([START, *STEPS, END]):
        builder.add_edge(source, target)
    return builder.compile()


graph = _build()
