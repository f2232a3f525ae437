"""What a graph looks like from outside: JSON schemas and a drawing."""

from collections.abc import Callable
from typing import Any

from langgraph.channels.base import BaseChannel
from langgraph.graph import END, START
from langgraph.graph.message import add_messages
from pydantic import Field, create_model
from pydantic.errors import PydanticUserError

from graph.factory import AnyGraph

JSON = dict[str, Any]

# What asking for a schema raises when a type of the graph has none.
_NO_SCHEMA = (PydanticUserError, TypeError, ValueError, NameError, AttributeError, KeyError)


def schemas(graph: AnyGraph) -> JSON:
    """The five schemas of the API; null where the graph's types have no JSON schema."""
    context = _or_none(graph.get_context_jsonschema)
    return {
        "input_schema": _or_none(graph.get_input_jsonschema),
        "output_schema": _or_none(graph.get_output_jsonschema),
        "state_schema": _or_none(lambda: _state_schema(graph)),
        "config_schema": context or {},
        "context_schema": context,
    }


def drawable(graph: AnyGraph, *, xray: bool | int = False) -> JSON:
    """Nodes and edges as Studio draws them; `xray` opens subgraphs, an int so many levels."""
    drawing: JSON = graph.get_graph(xray=xray).to_json()
    for node in drawing["nodes"]:
        if isinstance(data := node.get("data"), dict):
            # Where the node's class was defined is nobody's business.
            data.pop("id", None)
    return drawing


def subgraphs(graph: AnyGraph, namespace: str | None = None, *, recurse: bool = False) -> JSON:
    """The schemas of subgraphs by namespace; none of an unknown namespace."""
    found = graph.get_subgraphs(namespace=namespace, recurse=recurse)
    return {name: schemas(subgraph) for name, subgraph in found}  # type: ignore[arg-type]


def messages_channel(graph: AnyGraph) -> str | None:
    """The channel a conversation's messages are in, if the graph has one."""
    if isinstance(graph.channels.get("messages"), BaseChannel):
        return "messages"
    for name, channel in graph.channels.items():
        if getattr(channel, "operator", None) is add_messages:
            return name
    return None


def ending_node(graph: AnyGraph) -> str:
    """
    The node as which messages are written that no run wrote: after it the graph ends.

    The first that leads nowhere else; else one that may end it, as after an answer that calls no
    tool; else the start of the graph, after which something is next.
    """
    leaving: dict[str, set[str]] = {}
    for edge in graph.get_graph().edges:
        leaving.setdefault(edge.source, set()).add(edge.target)
    ending = [name for name, to in leaving.items() if END in to and name in graph.nodes]
    return min(ending, key=lambda name: len(leaving[name]), default=START)


def _state_schema(graph: AnyGraph) -> JSON:
    channels = {name: graph.channels[name] for name in graph.stream_channels_list}
    # By alias: pydantic refuses names that begin with an underscore, such as `__end__`.
    fields: JSON = {
        f"field_{number}": (channel.UpdateType, Field(default=None, alias=name))
        for number, (name, channel) in enumerate(channels.items())
        if isinstance(channel, BaseChannel)
    }
    schema: JSON = create_model(graph.get_name("State"), **fields).model_json_schema()
    return schema


def _or_none(schema: Callable[[], JSON | None]) -> JSON | None:
    try:
        return schema()
    except _NO_SCHEMA:
        return None
