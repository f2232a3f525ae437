"""Graphs that call the server they run on, and graphs that fail."""

import asyncio
import operator
from contextlib import aclosing
from typing import Annotated, Any, TypedDict, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from tests.graph.sample_graphs import chat

#: Made when there is no server yet.
client = get_client()

__all__ = ["chat"]


class State(TypedDict, total=False):
    """Of all of them."""

    text: str
    found: Annotated[list[Any], operator.add]


def _graph(node: Any) -> Any:
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile()


async def _echo(state: State, config: RunnableConfig) -> State:
    configurable = config["configurable"]
    seen = {key: value for key, value in configurable.items() if not key.startswith("__")}
    return {"found": [{"text": state.get("text"), "headers": seen}]}


async def _call(state: State) -> State:
    """Create a thread and run graphs on it: all at once, as a stream, and one that fails."""
    own: LangGraphClient = get_client()
    thread = await own.threads.create(metadata={"made_by": "a node"})
    waited = await client.runs.wait(thread["thread_id"], "echo", input={"text": "inner"})
    stream = client.runs.stream(
        thread["thread_id"],
        "chat",
        input=cast("Any", {"messages": [{"role": "user", "content": "one two three"}]}),
        stream_mode="messages-tuple",
    )
    parts = [part.event async for part in stream]
    failed = await own.runs.wait(None, "raising", input={}, raise_error=False)
    await own.aclose()
    return {"found": [thread["thread_id"], waited, parts, failed]}


def _call_from_a_thread(state: State) -> State:
    async def search() -> Any:
        async with get_client() as own:
            return await own.assistants.search(graph_id="echo")

    return {"found": [len(asyncio.run(search()))]}


async def _leave(state: State) -> State:
    """Stop reading a stream that would never end."""
    thread = await client.threads.create()
    await client.runs.create(thread["thread_id"], "echo", input={})
    stream: Any = await client.threads.join_stream(thread["thread_id"], last_event_id="-")
    async with asyncio.timeout(30), aclosing(stream):
        return {"found": [(await anext(stream)).event]}


async def _call_remote(state: State) -> State:
    """Not as a node itself: it would run on the thread that waits for it."""
    remote = RemoteGraph("echo", client=client)
    return {"found": [await remote.ainvoke({"text": "through a RemoteGraph"})]}


async def _call_by_protocol(state: State) -> State:
    async with client.threads.stream(assistant_id="echo") as thread:
        await thread.run.start(input={"text": "by events"})
        return {"found": [await thread.output]}


async def _hang(state: State) -> State:
    await asyncio.Event().wait()
    return {}


def raising(config: RunnableConfig) -> Any:
    raise ValueError("not today")


echo = _graph(_echo)
call = _graph(_call)
call_from_a_thread = _graph(_call_from_a_thread)
leave = _graph(_leave)
call_by_protocol = _graph(_call_by_protocol)
hang = _graph(_hang)
remote = _graph(_call_remote)
