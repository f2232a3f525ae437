"""
One execution of a graph for clients of the event-streaming protocol, as events of its thread's log.

What other clients read too (values, updates, tasks, custom) is logged in the one form that all know,
`graph.stream`'s. What only this protocol has is logged beside it as it goes out, under `PREFIX`:
content blocks of messages, tool calls, the life of subgraphs, what the graph asks. `graph.protocol`
makes one stream of both. See docs/decisions/0016.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, cast

from langchain_core.language_models._compat_bridge import message_to_events
from langchain_core.messages import (
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langgraph.errors import UnknownInterruptError
from langgraph.stream import (
    LifecycleTransformer,
    ProtocolEvent,
    StreamTransformer,
    SubgraphTransformer,
)
from langgraph.stream._convert import convert_to_protocol_event
from langgraph.stream._mux import StreamMux
from langgraph.stream.transformers import MessagesTransformer, ValuesTransformer
from langgraph.types import Interrupt

from graph.encode import dumps
from graph.factory import AnyGraph
from graph.stream import Event, Outcome

#: What events of the log are called that only clients of the protocol read.
PREFIX = "v2:"

#: Says that a run logs them, right after its beginning.
BEGIN = PREFIX + "begin"

#: Names the interrupts that a run answers; and why such a run was refused.
ANSWERED, REFUSED = PREFIX + "input.answered", PREFIX + "refused"

#: What a run of the protocol is listed with: all there is.
STREAM_MODES = (
    "values", "updates", "messages", "tools", "lifecycle", "custom", "tasks", "checkpoints",
)  # fmt: skip

#: What LangGraph is asked for; the life of subgraphs is made of tasks.
_GRAPH_MODES = ("checkpoints", "custom", "messages", "tasks", "tools", "updates", "values")

#: Has models called by a node stream their content blocks, as LangGraph's own
#: `astream_events(version="v3")` does. That is not used: a run that is cancelled could not wait
#: there for its nodes to end.
_CONTENT_BLOCKS = "__pregel_stream_messages_v2"

#: What LangGraph gives to graphs that transform their streams themselves.
_TRANSFORMERS = (ValuesTransformer, MessagesTransformer, LifecycleTransformer, SubgraphTransformer)

_INTERRUPT = "__interrupt__"
_ROLES = ((HumanMessage, "human"), (SystemMessage, "system"))


async def stream(
    graph: AnyGraph, input: Any, config: RunnableConfig, *, outcome: Outcome, **options: Any
) -> AsyncGenerator[Event]:
    """
    Execute a graph and yield its events, in order, as (name, JSON).

    `outcome` is kept up to date. When the consumer is cancelled or closes the iterator, the nodes
    are cancelled and awaited first.

    Args:
        options: As `graph.stream.stream` has them.

    Raises:
        Exception: Whatever the graph raises, or a transformer of its own.
    """
    pipeline = _Pipeline(graph, _Writer(outcome))
    options["durability"] = options.get("durability") if graph.checkpointer else None
    configurable = {**config.get("configurable", {}), _CONTENT_BLOCKS: True}
    parts = graph.astream(
        input,
        cast("RunnableConfig", {**config, "configurable": configurable}),
        stream_mode=pipeline.modes,
        subgraphs=True,
        version="v2",
        **options,
    )
    try:
        async with (
            aclosing(cast("AsyncGenerator[Any]", parts)) as source,
            aclosing(_checkpoints_first(source)) as ordered,
        ):
            async for part in ordered:
                for event in await pipeline.put(part):
                    yield event
        for event in await pipeline.close():
            yield event
    except BaseException as exc:
        left = await pipeline.fail(exc)
        # Whoever cancelled reads no more.
        for event in left if isinstance(exc, Exception) else ():
            yield event
        raise


async def _checkpoints_first(source: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """
    The parts, a checkpoint before the values that are in it.

    LangGraph tells of them the other way round, in one breath; clients take a checkpoint for that
    of the values which follow.
    """
    held = None
    async for part in source:
        if held is not None:
            if part["type"] == "checkpoints" and part["ns"] == held["ns"]:
                yield part
                part = None
            yield held
            held = None
        if part is not None and part["type"] == "values" and not part["interrupts"]:
            held = part
        elif part is not None:
            yield part
    if held is not None:
        yield held


class _Pipeline:
    """The parts of an execution on their way through the transformers of its graph."""

    def __init__(self, graph: AnyGraph, writer: "_Writer") -> None:
        self._writer = writer
        own = graph.stream_transformers
        given = _TRANSFORMERS if own else (LifecycleTransformer,)
        # A graph may bring one of them itself, and none can be there twice.
        factories = [*(one for one in given if one not in own), *own]
        self._tasks = _Tasks()
        self._mux = StreamMux([self._tasks], factories=factories, is_async=True)
        # Nobody else reads the log that the transformers write: events are taken out at once.
        self._mux._events._subscribed = True
        required = {mode for one in self._mux._transformers for mode in one.required_stream_modes}
        self.modes = cast("Any", sorted(required.union(_GRAPH_MODES)))

    async def put(self, part: Any) -> list[Event]:
        """The events that come of a part."""
        self._writer.observe(part)
        await self._mux.apush(convert_to_protocol_event(part))
        return self._taken()

    async def close(self) -> list[Event]:
        """What comes at the end."""
        await self._mux.aclose()
        return self._taken()

    async def fail(self, error: BaseException) -> list[Event]:
        """What comes at an end that was none."""
        await self._mux.afail(error)
        return self._taken()

    def _taken(self) -> list[Event]:
        items = self._mux._events._items
        found = [event for _, event in items]
        items.clear()
        found += self._tasks.found
        self._tasks.found = []
        return [told for event in found for told in self._writer.write(event)]


class _Tasks(StreamTransformer):
    """Keeps the tasks, which the transformers of LangGraph take out of the stream."""

    def __init__(self, scope: tuple[str, ...] = ()) -> None:
        super().__init__(scope)
        self.found: list[ProtocolEvent] = []

    def init(self) -> dict[str, Any]:
        """No projection: nothing that could clash with a transformer of the graph's."""
        return {}

    def process(self, event: ProtocolEvent) -> bool:
        """Take note of a task."""
        if event["method"] == "tasks":
            self.found.append(event)
        return True


class _Writer:
    """What came through the transformers, as events of the log."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._asked: set[str] = set()
        # The message of each model call under way, by namespace.
        self._speaking: dict[tuple[str, ...], dict[str, str]] = {}

    def observe(self, part: Any) -> None:
        """Take note of what the root graph comes to, whatever becomes of its stream."""
        if part["ns"]:
            return
        kind, data = part["type"], part["data"]
        if kind == "values":
            if not part["interrupts"]:
                self._outcome.observe("values", data)
                return
            self._outcome.observe("updates", {_INTERRUPT: part["interrupts"]})
            self._outcome.values = data
        elif kind == "updates":
            self._outcome.observe("updates", data)
        elif kind == "messages":
            payload, metadata = data
            self._outcome.speeches.hear_block(payload, metadata)

    def write(self, event: ProtocolEvent) -> Iterator[Event]:
        """The events of one event."""
        method, params = event["method"], event["params"]
        namespace, data = tuple(params["namespace"]), params["data"]
        if method == "values":
            yield from self._values(namespace, data, params.get("interrupts") or ())
        elif method == "updates":
            yield _name("updates", namespace), dumps(data)
            asked = data.get(_INTERRUPT) if isinstance(data, Mapping) else None
            yield from self._requests(namespace, asked or ())
        elif method == "messages":
            for told in self._messages(namespace, *data):
                yield _name(PREFIX + "messages", namespace), dumps(told)
        elif method in ("custom", "tasks"):
            yield _name(method, namespace), dumps(data)
        else:
            yield from _own(method, namespace, data)

    def _values(
        self, namespace: tuple[str, ...], data: Any, asked: tuple[Interrupt, ...]
    ) -> Iterator[Event]:
        told = {**data, _INTERRUPT: asked} if asked and isinstance(data, dict) else data
        yield _name("values", namespace), dumps(told)
        yield from self._requests(namespace, asked)

    def _requests(self, namespace: tuple[str, ...], asked: Any) -> Iterator[Event]:
        """What is asked, once each: every graph around it tells of it again."""
        for one in asked:
            if one.id not in self._asked:
                self._asked.add(one.id)
                shown = {"id": one.id, "value": one.value, "response_schema": one.response_schema}
                yield _name(PREFIX + "input.requested", namespace), dumps(request(shown))

    def _messages(
        self, namespace: tuple[str, ...], payload: Any, metadata: Mapping[str, Any]
    ) -> Iterator[Any]:
        if isinstance(payload, dict):
            yield self._block(namespace, payload, metadata)
        elif isinstance(payload, BaseMessage) and not isinstance(
            payload, AIMessageChunk | ToolMessage
        ):
            # One that came whole: no model said it, or one that did not stream.
            for event in message_to_events(payload):
                told: dict[str, Any] = dict(event)
                if event["event"] == "message-start":
                    role = next((r for kind, r in _ROLES if isinstance(payload, kind)), "ai")
                    told = _started({**told, "role": role}, metadata)
                yield told

    def _block(
        self, namespace: tuple[str, ...], event: dict[str, Any], metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A piece of an answer; of which one it says if several are being given."""
        speaking = self._speaking.setdefault(namespace, {})
        run_id = str(metadata.get("run_id", ""))
        if event["event"] == "message-start":
            message_id = str(event.get("id") or event.get("message_id") or "")
            speaking[run_id] = message_id
            return _started({**event, "id": message_id, "run_id": run_id}, metadata)
        several, message_id = len(speaking) > 1, speaking.get(run_id, "")
        if event["event"] in ("message-finish", "error"):
            speaking.pop(run_id, None)
        return {**event, "run_id": run_id, "message_id": message_id} if several else event


def _own(method: str, namespace: tuple[str, ...], data: Any) -> Iterator[Event]:
    """What the protocol alone has, of which nothing is to be remembered."""
    if method == "checkpoints":
        yield _name(PREFIX + method, namespace), dumps(checkpoint(data))
    elif method == "tools":
        yield _name(PREFIX + method, namespace), dumps(data)
    elif method == "lifecycle":
        yield _name(PREFIX + method, tuple(data["namespace"])), dumps(_lifecycle(data))
    elif method.startswith("custom:"):
        # A channel of one of the graph's own transformers.
        named = {"name": method.removeprefix("custom:"), "payload": data}
        yield _name(PREFIX + "custom", namespace), dumps(named)


def checkpoint(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint as the protocol tells of it: where it is in the history."""
    metadata = payload.get("metadata") or {}
    told = {"id": _checkpoint_id(payload.get("config")), "parent_id": None}
    told["parent_id"] = _checkpoint_id(payload.get("parent_config"))
    if told["parent_id"] is None:
        del told["parent_id"]
    return {**told, "step": metadata.get("step"), "source": metadata.get("source")}


def refusal(error: UnknownInterruptError) -> bytes:
    """Why a resume was refused, for clients that offer the question again."""
    ids = {"interrupt_ids": error.interrupt_ids, "pending_ids": error.pending_ids}
    return dumps({"reason": error.reason, **ids})


def request(asked: Mapping[str, Any]) -> dict[str, Any]:
    """An interrupt as the protocol tells of it; clients read its value under two names."""
    value = asked.get("value")
    told = {"interrupt_id": asked.get("id"), "payload": value, "value": value}
    schema = asked.get("response_schema")
    return told if schema is None else {**told, "response_schema": schema}


def _checkpoint_id(config: Any) -> Any:
    return (config or {}).get("configurable", {}).get("checkpoint_id")


def _started(event: dict[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The beginning of a message, with the node and the model that it comes from."""
    named = {
        "langgraph_node": metadata.get("langgraph_node"),
        "provider": metadata.get("ls_provider"),
        "model": metadata.get("ls_model_name"),
    }
    about = {key: value for key, value in named.items() if value is not None}
    with suppress(TypeError):
        about |= event.get("metadata") or {}
    return {**event, "metadata": about}


def _lifecycle(data: Mapping[str, Any]) -> dict[str, Any]:
    """A subgraph's life; where it is, is said of the event, and LangGraph drains where we hand over."""
    told = {"graph_name": data["namespace"][-1].partition(":")[0]}
    told |= {key: value for key, value in data.items() if key != "namespace"}
    return {**told, "event": "interrupted"} if data["event"] == "drained" else told


def _name(name: str, namespace: tuple[str, ...]) -> str:
    return "|".join((name, *namespace)) if namespace else name
