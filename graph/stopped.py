"""
What a run that was stopped midway leaves of a conversation, made fit for the next model call.

A model that was speaking is not taken back: what was streamed of its answer becomes a message of
the thread. A tool that was at work left its call without an answer, which no model accepts: the
next input brings one along. Both happen under the lease, in checkpoints of the run that they are
of. See docs/decisions/0009.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import BinaryOperatorAggregate, DeltaChannel
from langgraph.errors import InvalidUpdateError
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import StateSnapshot

from graph.factory import AnyGraph
from store.errors import CONTENT_ERRORS

log = structlog.get_logger(__name__)

#: What a tool call is answered with that was stopped before it had an answer of its own.
NO_ANSWER = "The tool was stopped before it answered."

#: What a graph may raise that is given a message: its reducers and edges are anybody's code.
_REFUSALS = (InvalidUpdateError, RuntimeError, *CONTENT_ERRORS)


@dataclass(slots=True)
class Speech:
    """What a node's model has said so far."""

    message_id: str
    tokens: list[str] = field(default_factory=list)
    #: When its first token came, by the monotonic clock.
    first_at: float | None = None


@dataclass(slots=True)
class Speeches:
    """The model calls of the root graph that clients were shown and that no node returned yet."""

    _by_node: dict[str, Speech] = field(default_factory=dict)
    #: When the first token came, by the monotonic clock.
    first_at: float | None = None

    def __bool__(self) -> bool:
        return bool(self._by_node)

    def hear(self, message: Any, metadata: Mapping[str, Any]) -> None:
        """Take note of a token; of two model calls of a node the later one counts."""
        if not isinstance(message, AIMessageChunk) or not message.id:
            return
        node = metadata["langgraph_node"]
        speech = self._by_node.get(node)
        if speech is None or speech.message_id != message.id:
            speech = self._by_node[node] = Speech(message.id)
        content = message.content
        if speech.first_at is None and (content or message.tool_call_chunks):
            speech.first_at = time.monotonic()
            if self.first_at is None:
                self.first_at = speech.first_at
        # Each token comes by here; of a plain one `text` costs more than the rest.
        speech.tokens.append(content if type(content) is str else message.text)

    def hear_block(self, event: Any, metadata: Mapping[str, Any]) -> None:
        """The same of a piece of an answer that comes in content blocks."""
        if not isinstance(event, dict):
            return
        node, delta = metadata["langgraph_node"], event.get("delta") or {}
        if event["event"] == "message-start":
            message_id = event.get("id") or event.get("message_id")
            self._by_node[node] = Speech(str(message_id))
            return
        if self.first_at is None and delta:
            self.first_at = time.monotonic()
        if delta.get("type") == "text-delta" and node in self._by_node:
            self._by_node[node].tokens.append(delta["text"])

    def first_token_at(self, node: str, message_id: str) -> float | None:
        """When the first token of a message came, while its node has not returned; None of others."""
        speech = self._by_node.get(node)
        return speech.first_at if speech and speech.message_id == message_id else None

    def returned(self, update: Mapping[str, Any]) -> None:
        """Forget what nodes have returned by themselves."""
        for node in update:
            self._by_node.pop(node, None)

    def of(self, node: str) -> AIMessage | None:
        """What a node's model said; None if it said nothing yet."""
        speech = self._by_node.get(node)
        text = "".join(speech.tokens) if speech else ""
        return AIMessage(text, id=speech.message_id) if speech and text else None


async def keep_speech(
    graph: AnyGraph,
    config: RunnableConfig,
    snapshot: StateSnapshot,
    *,
    channel: str | None,
    speeches: Speeches,
) -> StateSnapshot:
    """
    Make a message of what a model had said when it was cut short, as if its node had returned it.

    Only if that node was all that was left to do, and the conversation is one to be answered. If
    the node had returned already, and the run went no further, what it returned is kept.

    Args:
        snapshot: The newest state of the thread.

    Returns:
        The state that the thread is in now.

    Raises:
        LeaseLostError: The thread belongs to another process now.
        UnavailableError: PostgreSQL did not answer.
    """
    task = snapshot.tasks[0] if len(snapshot.tasks) == 1 else None
    said = speeches.of(task.name) if task else None
    if task is None or said is None or channel is None or not appends(graph, channel):
        return snapshot
    if task.result is None and any(_unanswered(snapshot.values.get(channel))):
        return snapshot
    update = {channel: [said]} if task.result is None else task.result
    try:
        await graph.aupdate_state(config, update, as_node=task.name)
        return await graph.aget_state(config)
    except _REFUSALS as exc:
        log.warning("what was said of an answer is not kept", error=exc)
        return snapshot


async def answer_calls(
    graph: AnyGraph, config: RunnableConfig, given: Any, *, channel: str | None
) -> Any:
    """
    An input with an answer to every tool call that the thread's last message still waits for.

    Args:
        config: Names the state that the input is given to.
        given: The input; its own answers count, and what it replaces needs none.
    """
    if not isinstance(given, dict) or channel is None or not appends(graph, channel):
        return given
    state = (await graph.aget_state(config)).values
    found = state.get(channel) if isinstance(state, dict) else None
    new = given.get(channel) or []
    new = new if isinstance(new, list) else [new]
    answers = list(_unanswered(found, new))
    return {**given, channel: [*answers, *new]} if answers else given


def _unanswered(found: Any, new: Sequence[Any] = ()) -> Iterator[ToolMessage]:
    """Answers to the calls of the last message that have none, be it in `new`."""
    listed = found if isinstance(found, list) else []
    place = next(
        (i for i, m in enumerate(reversed(listed)) if not isinstance(m, ToolMessage)), None
    )
    if place is None or not isinstance(asked := listed[-1 - place], AIMessage):
        return
    if any(_read(message, "id") in (asked.id, REMOVE_ALL_MESSAGES) for message in new):
        return
    answered = {_read(m, "tool_call_id") for m in (*listed[len(listed) - place :], *new)}
    for call in (*asked.tool_calls, *asked.invalid_tool_calls):
        if call["id"] not in answered:
            yield ToolMessage(
                NO_ANSWER, tool_call_id=call["id"] or "", name=call["name"], status="error"
            )


def appends(graph: AnyGraph, channel: str) -> bool:
    """Whether messages are added to the channel; else they would replace what is there."""
    return isinstance(graph.channels.get(channel), BinaryOperatorAggregate | DeltaChannel)


def _read(message: Any, key: str) -> Any:
    return message.get(key) if isinstance(message, dict) else getattr(message, key, None)
