"""Graphs and threads for the tests of the checkpointer."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import interrupt

from store import threads
from store.access import EVERYTHING
from store.checkpoints import Saver
from store.database import Database
from store.models import Lease


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    steps: int
    note: Any


Graph = CompiledStateGraph[Any, Any, Any, Any]


def talk(saver: BaseCheckpointSaver[Any]) -> Graph:
    """Two nodes: one answers, one counts."""

    async def answer(state: State) -> State:
        await asyncio.sleep(0)
        return {"messages": [AIMessage(f"answer {len(state['messages'])}")]}

    async def count(state: State) -> State:
        return {"steps": state.get("steps", 0) + 1}

    graph = StateGraph(State)
    graph.add_node("answer", answer)
    graph.add_node("count", count)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", "count")
    graph.add_edge("count", END)
    return graph.compile(checkpointer=saver)


def ask(saver: BaseCheckpointSaver[Any]) -> Graph:
    """Says something, asks, says what it was told."""

    async def before(state: State) -> State:
        return {"messages": [AIMessage("before")]}

    async def human(state: State) -> State:
        return {"messages": [AIMessage(f"told {interrupt('well?')}")]}

    graph = StateGraph(State)
    graph.add_node("before", before)
    graph.add_node("human", human)
    graph.add_edge(START, "before")
    graph.add_edge("before", "human")
    graph.add_edge("human", END)
    return graph.compile(checkpointer=saver)


async def create_thread(db: Database, thread_id: str) -> None:
    await db.execute("INSERT INTO thread (thread_id) VALUES (%(id)s)", {"id": thread_id})


async def take_lease(db: Database, thread_id: str) -> Lease:
    return await threads.lease(db, thread_id, access=EVERYTHING)


async def leased(
    db: Database,
    saver: Saver,
    thread_id: str,
    *,
    run_id: str | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> Saver:
    """A saver with a new lease on the thread."""
    lease = await take_lease(db, thread_id)
    return saver.leased(lease, run_id=run_id, messages_channel="messages", alive=alive)


def config(thread_id: str, **configurable: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, **configurable}}
