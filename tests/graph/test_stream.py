import asyncio
from contextlib import aclosing
from typing import Any

import orjson
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from graph.factory import AnyGraph
from graph.stream import ASIDE, STREAM_MODES, Event, Outcome, StreamPlan, stream
from store.errors import InvalidInputError
from tests.graph import sample_graphs
from tests.graph.sample_graphs import Notes

THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}
NOTE: Notes = {"text": "ab", "log": ["in"]}
NOTHING = StreamPlan.parse([])


async def _outcome(graph: AnyGraph, value: Any, **options: Any) -> Outcome:
    outcome = Outcome()
    async for _ in stream(graph, value, THREAD, NOTHING, outcome=outcome, **options):
        pytest.fail("an event nobody asked for")
    return outcome


def _with_saver(graph: AnyGraph) -> AnyGraph:
    return graph.copy(update={"checkpointer": InMemorySaver()})


def test_a_plan_takes_one_mode_or_many_and_none_is_values() -> None:
    assert StreamPlan.parse(None).modes == {"values"}
    assert StreamPlan.parse("events").modes == {"events"}
    assert StreamPlan.parse(STREAM_MODES, subgraphs=True) == StreamPlan(
        frozenset(STREAM_MODES), subgraphs=True
    )


@pytest.mark.parametrize("mode", ["tools", "", "Values"])
def test_an_unknown_mode_is_refused_with_the_known_ones(mode: str) -> None:
    with pytest.raises(InvalidInputError, match=r"Expected: values, messages, "):
        StreamPlan.parse(["values", mode])


async def test_the_outcome_of_a_run_to_its_end_is_its_last_values() -> None:
    outcome = await _outcome(sample_graphs.steps, NOTE)
    assert outcome == Outcome(values={"text": "ab", "log": ["in", "first", "second"]})


async def test_the_outcome_tells_what_a_node_asks() -> None:
    graph = _with_saver(sample_graphs.nested_ask)
    outcome = await _outcome(graph, NOTE)
    assert outcome.interrupted
    assert [found.value for found in outcome.interrupts] == [{"question": "Go on?"}]
    assert outcome.values == NOTE
    answered = await _outcome(graph, Command(resume="yes"))
    assert not answered.interrupted
    assert answered.interrupts == []
    assert answered.values["log"][-2:] == ["answered yes", "second"]


async def test_the_outcome_has_every_question_of_parallel_nodes() -> None:
    def ask(state: Notes) -> Notes:
        return {"log": [interrupt("?"), interrupt("never reached")]}

    builder: Any = StateGraph(Notes)
    for name in ("left", "right"):
        builder.add_node(name, ask)
        builder.add_edge(START, name)
    graph = builder.compile(checkpointer=InMemorySaver())
    outcome = await _outcome(graph, NOTE)
    assert len({found.id for found in outcome.interrupts}) == len(outcome.interrupts) == 2
    assert outcome.values == NOTE


@pytest.mark.parametrize(
    ("pause", "log"),
    [
        ({"interrupt_before": ["second"]}, ["in", "first"]),
        ({"interrupt_after": ["first"]}, ["in", "first"]),
        ({"interrupt_before": "*"}, ["in"]),
    ],
)
async def test_the_outcome_tells_a_pause_without_a_question(
    pause: dict[str, Any], log: list[str]
) -> None:
    graph = _with_saver(sample_graphs.steps)
    outcome = await _outcome(graph, NOTE, **pause)
    assert outcome == Outcome(values={"text": "ab", "log": log}, interrupted=True)


async def test_the_outcome_of_a_failed_run_is_what_it_reached() -> None:
    outcome = Outcome()
    with pytest.raises(ValueError, match="boom"):
        async for _ in stream(sample_graphs.boom, NOTE, THREAD, NOTHING, outcome=outcome):
            pass
    assert outcome == Outcome(values={"text": "ab", "log": ["in", "first"]})


async def test_answers_of_several_updates_of_a_node_have_their_times() -> None:
    def answer(state: MessagesState) -> Any:
        updates = [{"messages": [AIMessage(id_, id=id_)]} for id_ in ("one", "two")]
        return [Command(update=update) for update in updates]

    builder: Any = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    plan = StreamPlan.parse(["updates"], asides=True)
    told = stream(builder.compile(), {"messages": []}, THREAD, plan, outcome=Outcome())
    events = {name: orjson.loads(data) async for name, data in told}
    assert isinstance(events["updates"]["answer"], list)
    assert events[ASIDE]["messages"].keys() == {"one", "two"}


async def test_durability_without_a_checkpointer_is_ignored() -> None:
    outcome = await _outcome(sample_graphs.steps, NOTE, durability="sync")
    assert not outcome.interrupted


async def test_the_context_reaches_the_nodes() -> None:
    def node(state: Notes, runtime: Any) -> Notes:
        return {"text": runtime.context["word"]}

    builder: Any = StateGraph(Notes)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    outcome = await _outcome(builder.compile(), NOTE, context={"word": "up"})
    assert outcome.values["text"] == "up"


async def test_tokens_of_parallel_model_calls_keep_their_own_metadata() -> None:
    builder: Any = StateGraph(Notes)

    async def speak(state: Notes) -> Notes:
        await sample_graphs.ScriptedModel().ainvoke("hello")
        return {}

    for number in range(70):  # more than the metadata that is remembered
        builder.add_node(f"n{number}", speak)
        builder.add_edge(START, f"n{number}")
    plan = StreamPlan.parse("messages-tuple")
    speakers: dict[str, set[str]] = {}
    async for _, data in stream(builder.compile(), NOTE, THREAD, plan, outcome=Outcome()):
        message, metadata = orjson.loads(data)
        speakers.setdefault(message["id"], set()).add(metadata["langgraph_node"])
    assert sorted(map(len, speakers.values())) == [1] * 70
    assert set().union(*speakers.values()) == {f"n{number}" for number in range(70)}


async def test_messages_of_two_calls_are_accumulated_apart() -> None:
    plan = StreamPlan.parse("messages")
    question = {"messages": [{"role": "user", "content": "add 2 3"}]}
    events: list[Event] = []
    async for event in stream(sample_graphs.tools, question, THREAD, plan, outcome=Outcome()):
        events += (event,)
    ids = {orjson.loads(data)[0]["id"] for name, data in events if name == "messages/partial"}
    names = [name for name, _ in events]
    assert len(ids) == 2
    assert names.count("messages/metadata") == 3
    assert names.count("messages/complete") == 1


class Patient:
    """A graph whose only node waits for ever, and says how that ended."""

    def __init__(self, *, speaks: bool = False) -> None:
        self.started, self.cancelled = asyncio.Event(), asyncio.Event()
        self._speaks = speaks
        builder: Any = StateGraph(Notes)
        builder.add_node("wait", self._wait)
        builder.add_edge(START, "wait")
        self.graph: AnyGraph = builder.compile()

    async def _wait(self, state: Notes) -> Notes:
        self.started.set()
        try:
            if self._speaks:
                await sample_graphs.ScriptedModel().ainvoke("hello")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # Only awaited nodes get as far as this.
            await asyncio.sleep(0)
            self.cancelled.set()
            raise
        return {}


@pytest.mark.parametrize("modes", [["values"], ["messages-tuple", "custom"], ["events"]])
async def test_a_cancelled_consumer_cancels_the_nodes_and_awaits_them(modes: list[str]) -> None:
    patient = Patient()
    before = asyncio.all_tasks()

    async def consume() -> None:
        plan = StreamPlan.parse(modes, subgraphs=True)
        async for _ in stream(patient.graph, NOTE, THREAD, plan, outcome=Outcome()):
            pass

    consumer = asyncio.create_task(consume())
    await asyncio.wait_for(patient.started.wait(), 5)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(consumer, 5)
    assert patient.cancelled.is_set()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("modes", [["messages-tuple"], ["messages"], ["messages-tuple", "events"]])
async def test_a_closed_iterator_cancels_the_nodes_and_awaits_them(modes: list[str]) -> None:
    patient = Patient(speaks=True)
    before = asyncio.all_tasks()
    plan = StreamPlan.parse(modes)
    async with aclosing(stream(patient.graph, NOTE, THREAD, plan, outcome=Outcome())) as events:
        async for name, _ in events:
            if name.startswith("messages"):
                break
    assert patient.cancelled.is_set()
    assert asyncio.all_tasks() == before


def test_chunks_have_no_fields_but_those_of_their_dump() -> None:
    # The encoder writes `__dict__`; a langchain that keeps more there must be noticed.
    chunk = AIMessageChunk(content="x")
    assert list(chunk.__dict__) == list(chunk.model_dump())
