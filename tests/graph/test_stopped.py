"""What is kept of an answer that was stopped, and which calls are answered in its place."""

from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, HumanMessage, ToolMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer

from graph.stopped import NO_ANSWER, Speeches, answer_calls, keep_speech

CONFIG: Any = {"configurable": {"thread_id": "t"}}
CALLS: Any = [{"id": "1", "name": "look", "args": {}}, {"id": "2", "name": "look", "args": {}}]
ASKED = AIMessage("", id="asked", tool_calls=CALLS)


class DeltaState(TypedDict):
    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=4)
    ]


class LastState(TypedDict):
    messages: list[AnyMessage]


def talk(*, route: Any = None, state: Any = MessagesState) -> Any:
    """A model and a critic, of which only the first ever speaks."""

    def say(state: Any) -> dict[str, Any]:
        raise NotImplementedError

    builder = StateGraph(state)
    builder.add_node("model", say)
    builder.add_node("critic", say)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", route or (lambda state: END))
    return builder.compile(checkpointer=InMemorySaver(), interrupt_before=["model", "critic"])


def heard(*tokens: str, node: str = "model", message_id: str = "said") -> Speeches:
    speeches = Speeches()
    for token in tokens:
        speeches.hear(AIMessageChunk(content=token, id=message_id), {"langgraph_node": node})
    return speeches


async def begin(graph: Any, *messages: Any) -> Any:
    await graph.ainvoke({"messages": [HumanMessage("hello", id="h"), *messages]}, CONFIG)
    return await graph.aget_state(CONFIG)


async def keep(graph: Any, speeches: Speeches) -> Any:
    snapshot = await graph.aget_state(CONFIG)
    return await keep_speech(graph, CONFIG, snapshot, channel="messages", speeches=speeches)


def said(snapshot: Any) -> list[tuple[str, str]]:
    return [(message.id, message.content) for message in snapshot.values["messages"]]


@pytest.mark.parametrize("state", [MessagesState, DeltaState])
async def test_what_was_said_is_what_the_node_returned(state: Any) -> None:
    graph = talk(state=state)
    await begin(graph)

    kept = await keep(graph, heard("Once ", "upon"))

    assert said(kept) == [("h", "hello"), ("said", "Once upon")]
    assert kept.next == ()


async def test_of_two_calls_of_a_node_the_later_one_is_kept() -> None:
    graph = talk()
    await begin(graph)
    speeches = heard("a plan")
    speeches.hear(AIMessageChunk(content="Once", id="later"), {"langgraph_node": "model"})

    assert said(await keep(graph, speeches))[1:] == [("later", "Once")]


@pytest.mark.parametrize(
    "speeches",
    [heard(), heard(""), heard("of another", node="critic")],
    ids=["nothing", "no word", "of another node"],
)
async def test_nothing_is_kept_of_who_said_nothing(speeches: Speeches) -> None:
    graph = talk()
    before = await begin(graph)

    assert await keep(graph, speeches) == before


async def test_a_list_that_would_be_replaced_is_left_alone() -> None:
    graph = talk(state=LastState)
    before = await begin(graph, ASKED)

    assert await keep(graph, heard("Once")) == before
    assert await given(graph, HumanMessage("well?")) == [HumanMessage("well?")]


async def test_what_a_node_returned_is_no_speech_any_more() -> None:
    graph = talk()
    before = await begin(graph)
    speeches = heard("Once")
    speeches.returned({"model": {}})

    assert await keep(graph, speeches) == before


async def test_a_node_that_returned_before_its_step_was_over_has_said_it_all() -> None:
    graph = talk()
    before = await begin(graph)
    whole = AIMessage("Once upon a time", id="said")
    await graph.checkpointer.aput_writes(before.config, [("messages", [whole])], before.tasks[0].id)

    kept = await keep(graph, heard("Once "))

    assert said(kept)[1:] == [("said", "Once upon a time")]


async def test_a_tool_that_speaks_is_no_answer() -> None:
    graph = talk()
    before = await begin(graph, ASKED)

    assert await keep(graph, heard("from within a tool")) == before


async def test_a_graph_that_fails_to_go_on_keeps_what_it_had() -> None:
    def fail(state: MessagesState) -> str:
        raise ValueError("no way")

    graph = talk(route=fail)
    before = await begin(graph)

    assert await keep(graph, heard("Once")) == before


async def given(graph: Any, *messages: Any) -> list[Any]:
    mended = await answer_calls(graph, CONFIG, {"messages": [*messages]}, channel="messages")
    return list(mended["messages"])


@pytest.mark.parametrize("state", [MessagesState, DeltaState])
async def test_every_open_call_is_answered_before_what_is_new(state: Any) -> None:
    graph = talk(state=state)
    await begin(graph, ASKED, ToolMessage("found", tool_call_id="1"))

    answer, new = await given(graph, {"role": "user", "content": "well?"})

    assert (answer.tool_call_id, answer.content, answer.status) == ("2", NO_ANSWER, "error")
    assert new == {"role": "user", "content": "well?"}


async def test_a_call_whose_arguments_were_cut_short_is_answered_too() -> None:
    graph = talk()
    broken: Any = [{"id": "3", "name": "look", "args": "{", "error": None}]
    await begin(graph, AIMessage("", invalid_tool_calls=broken))

    answer, _new = await given(graph, HumanMessage("well?"))

    assert answer.tool_call_id == "3"


@pytest.mark.parametrize(
    "new",
    [
        [ToolMessage("a", tool_call_id="1"), {"role": "tool", "tool_call_id": "2", "content": "b"}],
        [{"type": "remove", "id": "asked", "content": ""}],
        [AIMessage("never mind", id="asked")],
    ],
    ids=["answered", "removed", "replaced"],
)
async def test_what_the_input_sees_to_itself_is_left_to_it(new: list[Any]) -> None:
    graph = talk()
    await begin(graph, ASKED)

    assert await given(graph, *new) == new


async def test_a_conversation_without_open_calls_is_left_alone() -> None:
    graph = talk()
    await begin(graph, ASKED, *(ToolMessage("x", tool_call_id=i) for i in "12"), AIMessage("so"))

    assert await given(graph, HumanMessage("well?")) == [HumanMessage("well?")]
    assert await answer_calls(graph, CONFIG, None, channel="messages") is None
