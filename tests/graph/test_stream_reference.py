"""The events of every case are, to the byte, the reference server's."""

import json
import uuid
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from graph.encode import error_event
from graph.stream import Event, Outcome, StreamPlan, stream
from tests.graph import sample_graphs
from tests.graph.reference import RECORD, Case, cases, normalise

ANSWERS = json.loads(RECORD.read_text())


def _input(turn: dict[str, Any]) -> Any:
    if "command" in turn:
        # The reference leaves what is not asked for at null.
        return Command(**{"goto": None, **turn["command"]})
    return turn["input"]


async def _run(graph: Any, case: Case, turn: dict[str, Any], thread_id: str) -> list[Event]:
    options = {**case.options, **turn}
    config: RunnableConfig = {
        "configurable": {"thread_id": thread_id},
        "metadata": {"run_id": str(uuid.uuid4())},
        "recursion_limit": turn.get("config", {}).get("recursion_limit", 25),
    }
    plan = StreamPlan.parse(
        options.get("stream_mode"), subgraphs=options.get("stream_subgraphs", False)
    )
    events: list[Event] = []
    try:
        execution = stream(
            graph,
            _input(turn),
            config,
            plan,
            outcome=Outcome(),
            interrupt_before=options.get("interrupt_before"),
            interrupt_after=options.get("interrupt_after"),
            durability=options.get("durability"),
        )
        # One by one: what came before an error counts.
        async for event in execution:
            events += (event,)
    except Exception as error:  # noqa: BLE001 - as the executor does, for any graph's error
        events.append(("error", error_event(error)))
    return events


@pytest.mark.parametrize("name", cases())
async def test_a_run_streams_what_the_reference_streams(name: str) -> None:
    case, thread_id = cases()[name], str(uuid.uuid4())
    graph = getattr(sample_graphs, case.graph_id)
    saver = None if case.stateless else InMemorySaver()
    graph = graph.copy(update={"checkpointer": saver, "name": case.graph_id})
    for turn, expected in zip(case.turns, ANSWERS[name], strict=True):
        assert normalise(await _run(graph, case, turn, thread_id)) == expected
