"""Which nodes led to what is next, by the checkpoints before."""

from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from graph.branches import _last_nodes


class Counting(InMemorySaver):
    def __init__(self) -> None:
        super().__init__()
        # Graphs use a copy of it.
        self.reads: list[RunnableConfig] = []

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        self.reads.append(config)
        return await super().aget_tuple(config)


async def test_of_a_long_row_of_updates_only_the_newest_are_read() -> None:
    def say(name: str) -> Any:
        return lambda state: {"messages": [("ai", name)]}

    builder = StateGraph(MessagesState)
    builder.add_node("first", say("first")).add_node("second", say("second"))
    builder.add_edge(START, "first").add_edge("first", "second")
    saver = Counting()
    graph = builder.compile(checkpointer=saver, interrupt_before=["second"])
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke(MessagesState(messages=[HumanMessage("go")]), config)

    found: list[tuple[list[str], int]] = []
    for count in (3, 100):
        for _ in range(count):
            await graph.aupdate_state(config, {"messages": []}, as_node="first")
        snapshot = await graph.aget_state(config)
        newest = await saver.aget_tuple(config)
        saver.reads.clear()
        found.append((await _last_nodes(graph, snapshot, newest), len(saver.reads)))

    assert found == [(["first"], 4), (["first"], 50)]
