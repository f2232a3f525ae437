"""The graph that the soak runs: four steps, each told to the turnstile and kept in the state."""

import asyncio
import os
from itertools import pairwise
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from tests.acceptance.graphs import Talk, report

STEPS = ("greet", "a", "b", "c")
#: The step that asks, of a run whose kind is ``ask``; and where it tells that it begins, unless the
#: input says so.
ASKING = "b"
GATE = "SOAK_GATE"


def _step(step: str) -> Any:
    async def work(state: Talk, config: RunnableConfig) -> dict[str, Any]:
        run_id, thread_id = (config["configurable"][key] for key in ("run_id", "thread_id"))
        port = state.get("gate") or int(os.environ[GATE])
        await report(port, f"{run_id} {thread_id} {step} {os.getpid()}")
        if step == ASKING and state.get("kind") == "ask":
            interrupt("Go on?")
        done = f"{run_id}:{step}"
        return {"log": [done], "messages": [AIMessage(done)]}

    return work


def _leads_to(step: str) -> Any:
    async def lead(state: Talk) -> str:
        # Long enough to be stopped in.
        await asyncio.sleep(0.02)
        return step

    return lead


def _build() -> Any:
    builder: StateGraph[Any] = StateGraph(Talk)
    for step in STEPS:
        builder.add_node(step, _step(step))
    builder.add_edge(START, STEPS[0])
    for source, target in pairwise([*STEPS, END]):
        builder.add_conditional_edges(source, _leads_to(target), [target])
    return builder.compile()


graph = _build()
