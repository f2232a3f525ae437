"""Graphs beside those of `tests.graph.sample_graphs`: they run here and under `langgraph dev`."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.types import interrupt


class Log(TypedDict, total=False):
    gate: str
    text: str
    log: Annotated[list[str], operator.add]


async def _wait(state: Log, *, store: BaseStore) -> Log:
    """Go on once somebody has put the item that opens the gate."""
    await store.aput(("arrived",), state["gate"], {"here": True}, index=False)
    while await store.aget(("gate",), state["gate"]) is None:  # noqa: ASYNC110 - across processes
        await asyncio.sleep(0.02)
    return {"log": ["waited"]}


def _first(state: Log) -> Log:
    return {"log": ["first"]}


def _last(state: Log) -> Log:
    return {"log": ["last"]}


def _held() -> StateGraph[Any]:
    builder = StateGraph(Log)
    builder.add_node("first", _first)
    builder.add_node("wait", _wait)
    builder.add_node("last", _last)
    builder.add_edge(START, "first")
    builder.add_edge("first", "wait")
    builder.add_edge("wait", "last")
    builder.add_edge("last", END)
    return builder


held = _held().compile()


def _left(state: Log) -> Log:
    return {"log": [f"left {interrupt({'side': 'left'})}"]}


def _right(state: Log) -> Log:
    return {"log": [f"right {interrupt({'side': 'right'})}"]}


def _both() -> StateGraph[Any]:
    builder = StateGraph(Log)
    builder.add_node("left", _left)
    builder.add_node("right", _right)
    builder.add_edge(START, "left")
    builder.add_edge(START, "right")
    return builder


ask_both = _both().compile()


class Seen(TypedDict, total=False):
    seen: Any


#: What servers put into a run's configurable and metadata beside what clients ask for.
_SHOWN = ("langgraph_", "__", "checkpoint", "ls_", "thread_ts")


def _look(state: Seen, config: RunnableConfig) -> Seen:
    def shown(value: Any) -> Any:
        found = value.items() if isinstance(value, dict) else ()
        return {k: v for k, v in found if not str(k).startswith(_SHOWN)}

    return {
        "seen": {
            "configurable": shown(config.get("configurable")),
            "metadata": shown(config.get("metadata")),
            "tags": config.get("tags"),
            "recursion_limit": config.get("recursion_limit"),
        }
    }


def _looking() -> StateGraph[Any]:
    builder = StateGraph(Seen)
    builder.add_node("look", _look)
    builder.add_edge(START, "look")
    return builder


look = _looking().compile()


class Told(TypedDict, total=False):
    told: str


class Kept(Told, total=False):
    kept: str


def _tell(state: Kept) -> Kept:
    return {"told": "yes", "kept": "secret"}


def _telling() -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(Kept, output_schema=Told)
    builder.add_node("tell", _tell)
    builder.add_edge(START, "tell")
    return builder


#: It keeps more than it tells.
reticent = _telling().compile()


async def embed(texts: list[str]) -> list[list[float]]:
    """How much of fruit, of sea and of anything is in a text."""
    return [
        [float(text.count("fruit")), float(text.count("sea")), 0.1 + 0.01 * len(text)]
        for text in texts
    ]
