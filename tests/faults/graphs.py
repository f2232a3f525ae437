"""Graphs that are a fault themselves, or that one always strikes in the middle of something."""

import asyncio
import resource
from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from tests.acceptance.graphs import Work, _chain, report

TICK_SECONDS = 0.005
HOARD: list[bytearray] = []


class Ticking(TypedDict, total=False):
    gate: int
    name: str
    #: How often it says something before it stops at the gate, for each stop.
    ticks: list[int]
    said: int


async def _tick(state: Ticking) -> dict[str, Any]:
    write = get_stream_writer()
    said = 0
    for stop, count in enumerate(state["ticks"]):
        for _ in range(count):
            said += 1
            write(said)
            await asyncio.sleep(TICK_SECONDS)
        await report(state["gate"], f"{state['name']}:{stop}")
    return {"said": said}


def _build() -> Any:
    builder: StateGraph[Any] = StateGraph(Ticking)
    builder.add_node("tick", _tick)
    builder.add_edge(START, "tick")
    builder.add_edge("tick", END)
    return builder.compile()


ticks = _build()


async def _hog(state: Work) -> dict[str, Any]:
    """Take all the memory that its process may have, if that is limited, and keep it."""
    await report(state["gate"], f"{state['name']}:hog")
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    size = 1 << 26
    while limited and size > 8:
        try:
            HOARD.append(bytearray(size))
        except MemoryError:
            size //= 2
    return {"log": ["hog"]}


hog = _chain(Work, ("hog", _hog))
