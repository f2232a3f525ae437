"""
One execution of a graph as the events a client reads: names, suffixes, order and JSON.

LangGraph yields parts `(namespace, mode, payload)`; each becomes no, one or two events.
"""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    message_chunk_to_message,
)
from langchain_core.runnables import RunnableConfig
from langgraph.types import Durability, Interrupt, StateSnapshot

from graph.encode import dumps
from graph.factory import AnyGraph
from graph.stopped import Speeches
from store.errors import InvalidInputError

Event = tuple[str, bytes]
Part = tuple[tuple[str, ...], str, Any]

STREAM_MODES = (
    "values",
    "messages",
    "messages-tuple",
    "tasks",
    "checkpoints",
    "updates",
    "events",
    "debug",
    "custom",
)

#: What a run that a session began logs about the event which comes right after: for those who read
#: the log as a session's, and nobody else.
ASIDE = "session:aside"

_INTERRUPT = "__interrupt__"
_HIDDEN_TAG = "langsmith:hidden"
# Model calls that stream at the same time; beyond it their metadata is encoded again.
_METADATA_CACHE_COUNT = 64


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What a client asked to see of a run; made by `parse()`."""

    modes: frozenset[str]
    subgraphs: bool = False
    asides: bool = False

    @classmethod
    def parse(
        cls,
        stream_mode: str | Sequence[str] | None,
        *,
        subgraphs: bool = False,
        asides: bool = False,
    ) -> "StreamPlan":
        """
        Check the modes of a request; without any it is ``values``.

        Args:
            asides: Say how long answers took, as `ASIDE`, before the ``updates`` that have them.

        Raises:
            InvalidInputError: A mode is not one of `STREAM_MODES`.
        """
        modes = [stream_mode] if isinstance(stream_mode, str) else stream_mode
        if modes is None:
            modes = ["values"]
        for mode in modes:
            if mode not in STREAM_MODES:
                expected = ", ".join(STREAM_MODES)
                raise InvalidInputError(f"Unknown stream mode {mode!r}. Expected: {expected}")
        return cls(frozenset(modes), subgraphs, asides)

    @property
    def graph_modes(self) -> list[str]:
        """The modes LangGraph is run with: those asked for, and what the outcome is read from."""
        asked = self.modes - {"messages-tuple", "events"}
        if "messages-tuple" in self.modes:
            asked |= {"messages"}
        return sorted(asked | {"values", "updates"})


@dataclass(slots=True)
class Outcome:
    """
    How an execution ended, known without reading the state again; filled by `stream()`.

    Args:
        keep_on: Called after each step, raises if the next is not to begin.
    """

    keep_on: Callable[[], None] = field(default=lambda: None, compare=False)

    began_at: float = field(default_factory=time.monotonic, compare=False)
    """When it began, by the monotonic clock."""

    values: Any = None
    """The root graph's last values; None if it never got as far."""

    interrupts: list[Interrupt] = field(default_factory=list)
    """What nodes ask; empty when it stopped at `interrupt_before` or `interrupt_after`."""

    interrupted: bool = False
    """It stopped before its end, to be continued."""

    speeches: Speeches = field(default_factory=Speeches)
    """The answers under way, as far as they were streamed."""

    def observe(self, mode: str, payload: Any) -> None:
        """Take note of a part of the root graph."""
        if mode == "messages":
            self.speeches.hear(*payload)
            return
        self.keep_on()
        if mode == "updates" and isinstance(payload, Mapping):
            self.speeches.returned(payload)
        pending = payload.get(_INTERRUPT) if isinstance(payload, Mapping) else None
        if pending is not None and mode in ("values", "updates"):
            self.interrupted = True
            # Told in both modes, and again by each task that interrupts.
            known = {interrupt.id for interrupt in self.interrupts}
            self.interrupts += [found for found in pending if found.id not in known]
        if mode != "values":
            return
        if pending is None:
            self.values = payload
        elif rest := {key: value for key, value in payload.items() if key != _INTERRUPT}:
            self.values = rest

    def stop_at(self, state: StateSnapshot, keys: str | Sequence[str]) -> None:
        """Take note that it stopped where the state is, at a breakpoint; `keys` are told of it."""
        self.interrupted = True
        self.values = state.values
        if not isinstance(keys, str):
            self.values = {key: state.values[key] for key in keys if key in state.values}


async def stream(
    graph: AnyGraph,
    input: Any,
    config: RunnableConfig,
    plan: StreamPlan,
    *,
    outcome: Outcome,
    context: Any = None,
    interrupt_before: Literal["*"] | Sequence[str] | None = None,
    interrupt_after: Literal["*"] | Sequence[str] | None = None,
    durability: Durability | None = None,
) -> AsyncGenerator[Event]:
    """
    Execute a graph and yield its events, in order, as (name, JSON).

    Only modes of the plan are yielded; `outcome` is kept up to date with each part. When the
    consumer is cancelled or closes the iterator, the nodes are cancelled and awaited first.

    Args:
        input: The graph's input, a `Command`, or None to continue.

        durability: Has no meaning, and is ignored, for a graph without a checkpointer.

    Raises:
        Exception: Whatever the graph raises; `encode.error_event()` makes the last event of it.
    """
    writer = _Writer(plan)
    options: dict[str, Any] = {
        "context": context,
        "stream_mode": plan.graph_modes,
        "subgraphs": plan.subgraphs,
        # What the graph tells by its output schema; by default LangGraph tells all it keeps.
        "output_keys": graph.output_channels,
        "interrupt_before": interrupt_before,
        "interrupt_after": interrupt_after,
        "durability": durability if graph.checkpointer else None,
    }
    parts = _parts_and_events if "events" in plan.modes else _parts
    async with aclosing(parts(graph, input, config, options)) as source:
        async for namespace, mode, payload in source:
            if not namespace:
                # Before it is forgotten when they began.
                if plan.asides and mode == "updates" and (about := _times(payload, outcome)):
                    yield ASIDE, dumps(about)
                outcome.observe(mode, payload)
            for event in writer.write(namespace, mode, payload):
                yield event


def _times(updates: Any, outcome: Outcome) -> dict[str, Any]:
    """How long the answers of an update took from the run's beginning, by their ids."""
    now = time.monotonic()
    found = {}
    for node, message in _answers(updates):
        first_at = outcome.speeches.first_token_at(node, message.id or "")
        found[message.id] = {
            "latency_ms": round(1000 * (now - outcome.began_at)),
            "ttft_ms": None if first_at is None else round(1000 * (first_at - outcome.began_at)),
        }
    return {"messages": found} if found else {}


def _answers(updates: Any) -> Iterator[tuple[str, AIMessage]]:
    for node, found in updates.items() if isinstance(updates, Mapping) else ():
        # A list of them, if the node returned several.
        for update in found if isinstance(found, list) else [found]:
            said = update.get("messages") if isinstance(update, Mapping) else None
            for message in said if isinstance(said, list) else [said]:
                if isinstance(message, AIMessage):
                    yield node, message


async def _parts(
    graph: AnyGraph, value: Any, config: RunnableConfig, options: dict[str, Any]
) -> AsyncGenerator[Part]:
    chunks = cast(AsyncGenerator[Any], graph.astream(value, config, **options))
    async with aclosing(chunks) as source:
        async for chunk in source:
            yield _part(chunk, options["subgraphs"])


async def _parts_and_events(
    graph: AnyGraph, value: Any, config: RunnableConfig, options: dict[str, Any]
) -> AsyncGenerator[Part]:
    root_id = None
    events = graph.astream_events(value, config, version="v2", **options)
    async with aclosing(cast(AsyncGenerator[Any], events)) as source:
        async for event in source:
            root_id = root_id or event["run_id"]
            if event["event"] == "on_chain_stream" and event["run_id"] == root_id:
                yield _part(event["data"]["chunk"], options["subgraphs"])
            elif _HIDDEN_TAG not in event.get("tags", ()):
                yield (), "events", event


def _part(chunk: Any, has_namespace: bool) -> Part:
    return chunk if has_namespace else ((), *chunk)


class _Writer:
    """Parts to events. Keeps what one execution's `messages` events build upon."""

    def __init__(self, plan: StreamPlan) -> None:
        self._plan = plan
        self._messages: dict[str, BaseMessage] = {}
        self._metadata: dict[int, tuple[dict[str, Any], bytes]] = {}

    def write(self, namespace: tuple[str, ...], mode: str, payload: Any) -> Sequence[Event]:
        """The events of one part."""
        modes = self._plan.modes
        name = "|".join((mode, *namespace)) if namespace else mode
        if mode == "messages" and "messages-tuple" in modes:
            return ((name, self._token(*payload)),)
        if mode not in modes:
            return ()
        if mode == "messages":
            return self._accumulated(*payload)
        return ((name, dumps(_debug(payload) if mode == "debug" else payload)),)

    def _token(self, message: BaseMessage, metadata: dict[str, Any]) -> bytes:
        # All tokens of a model call carry the same metadata object: the larger half of an event.
        known = self._metadata.get(id(metadata))
        if known is None:
            if len(self._metadata) >= _METADATA_CACHE_COUNT:
                self._metadata.clear()
            known = self._metadata[id(metadata)] = metadata, dumps(metadata)
        return b"".join((b"[", dumps(message), b",", known[1], b"]"))

    def _accumulated(self, message: BaseMessage, metadata: dict[str, Any]) -> Sequence[Event]:
        events: list[Event] = []
        key = str(message.id)
        before = self._messages.get(key)
        if before is None:
            events.append(("messages/metadata", dumps({key: {"metadata": metadata}})))
        if not isinstance(message, BaseMessageChunk):
            self._messages[key] = message
            return [*events, ("messages/complete", dumps([message]))]
        whole = before + message if isinstance(before, BaseMessageChunk) else message
        self._messages[key] = whole
        return [*events, ("messages/partial", dumps([message_chunk_to_message(whole)]))]


def _debug(part: dict[str, Any]) -> dict[str, Any]:
    """A part of `debug`, with checkpoints named as the API names them elsewhere."""
    if part["type"] != "checkpoint":
        return part
    payload = part["payload"]
    return {
        **part,
        "payload": {
            **payload,
            "tasks": [_debug_task(task) for task in payload["tasks"]],
            "checkpoint": _checkpoint(payload["config"]),
            "parent_checkpoint": _checkpoint(payload["parent_config"]),
        },
    }


def _debug_task(task: dict[str, Any]) -> dict[str, Any]:
    state = task.get("state")
    if not isinstance(state, Mapping) or "configurable" not in state:
        return task
    rest = {key: value for key, value in task.items() if key != "state"}
    return {**rest, "checkpoint": state["configurable"]}


def _checkpoint(config: RunnableConfig | None) -> dict[str, Any] | None:
    if not config:
        return None
    configurable = config["configurable"]
    keys = ("checkpoint_id", "thread_id", "checkpoint_ns", "checkpoint_map")
    return {key: configurable[key] for key in keys if key in configurable}
