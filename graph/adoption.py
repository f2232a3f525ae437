"""
Conversations that were held elsewhere, as the state of a graph that takes them over.

Its messages become what the graph's own node would have returned last, so that nothing is left to
be done: one checkpoint for a conversation in a line, one more for each turn that it took and left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langgraph.constants import END, START
from langgraph.errors import InvalidUpdateError

from graph.factory import AnyGraph
from graph.message_json import REFUSALS, require_addressable
from graph.schema import ending_node
from store.errors import CONTENT_ERRORS, InvalidInputError
from store.models import JsonObject

_CLASSES: dict[str, type[BaseMessage]] = {
    "user": HumanMessage,
    "assistant": AIMessage,
    "system": SystemMessage,
    "tool": ToolMessage,
}
#: What of a message is taken over beside its id and its content, by role. Nothing is ever loaded by
#: the name of a class that a file brings.
_FIELDS: dict[str, frozenset[str]] = {
    "user": frozenset({"name", "additional_kwargs"}),
    "assistant": frozenset(
        {
            "name", "additional_kwargs", "tool_calls", "invalid_tool_calls", "usage_metadata",
            "response_metadata",
        }
    ),
    "system": frozenset({"name", "additional_kwargs"}),
    "tool": frozenset({"name", "additional_kwargs", "tool_call_id", "status"}),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stretch:
    """
    Messages that follow one another, up to where a conversation turned or ended.

    Args:
        messages: Each with ``role``, ``id``, ``content``, and fields of LangChain's messages.
        after: The stretch that they follow, by its place in the list; None for the thread's newest
            state.
    """

    messages: Sequence[JsonObject]
    after: int | None = None


def message_of(fields: JsonObject) -> BaseMessage:
    """
    A message of LangChain, made of plain fields.

    Raises:
        InvalidInputError: They make none.
    """
    require_addressable(fields["id"])
    role = fields["role"]
    kept = {name: fields[name] for name in _FIELDS[role] if fields.get(name) is not None}
    if role == "tool":
        kept.setdefault("tool_call_id", "")
    try:
        return _CLASSES[role](content=fields["content"], id=fields["id"], **kept)
    except REFUSALS as exc:
        raise InvalidInputError(
            f"Message {fields['id']} is not one that a graph takes", code="invalid_message"
        ) from exc


async def adopt(
    graph: AnyGraph,
    config: RunnableConfig,
    channel: str,
    stretches: Sequence[Stretch],
    *,
    head: int,
    forgotten: Sequence[str] = (),
) -> RunnableConfig:
    """
    Write stretches of a conversation, each in a checkpoint that follows that of its predecessor.

    Args:
        config: Of the thread.
        head: The stretch that the thread is at in the end.
        forgotten: Messages of it that the model does not see any more, though they were said.

    Returns:
        The address of the newest checkpoint.
    """
    places: list[RunnableConfig] = []
    for stretch in stretches:
        at = config if stretch.after is None else _beside(config, places[stretch.after])
        messages = [message_of(fields) for fields in stretch.messages]
        places.append(await end_with(graph, at, {channel: messages}))
    newest = places[-1]
    if head != len(stretches) - 1:
        newest = _beside(config, await graph.aupdate_state(places[head], None, as_node="__copy__"))
    if forgotten:
        gone = [RemoveMessage(id=id_) for id_ in forgotten]
        newest = await end_with(graph, newest, {channel: gone})
    return newest


async def end_with(graph: AnyGraph, at: RunnableConfig, values: JsonObject) -> RunnableConfig:
    """
    Update a state so that nothing is next, whatever the graph would make of it.

    One checkpoint, where the graph has a node after which it ends; else another one clears what would
    be next: an edge of the node may see something to do in what was said elsewhere.

    Args:
        at: The checkpoint to go on from, or the thread.

    Returns:
        The address of the newest checkpoint.
    """
    try:
        written = await graph.aupdate_state(at, values, as_node=ending_node(graph))
    except (InvalidUpdateError, RuntimeError, *CONTENT_ERRORS):
        # What decides where the node leads to may not know such a state, such as one without any
        # message: nothing was written.
        written = await graph.aupdate_state(at, values, as_node=START)
    place = _beside(at, written)
    if not (await graph.aget_state(place)).next:
        return place
    return _beside(at, await graph.aupdate_state(place, None, as_node=END))


def _beside(config: RunnableConfig, place: RunnableConfig) -> RunnableConfig:
    """The address of a checkpoint, with what else the config says of the thread."""
    said: dict[str, Any] = config["configurable"]
    return {**config, "configurable": {**said, **place["configurable"]}}
