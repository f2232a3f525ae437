"""Tokens, as clients of other streams get them, made into the protocol's content blocks again."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import _compat_bridge as bridge
from langchain_core.messages import AIMessageChunk, messages_from_dict
from langchain_core.messages.base import BaseMessage

Namespace = tuple[str, ...]
Block = tuple[str, Any]

#: Model calls of a run that are kept at the most; a run has few that speak at the same time.
MAX_SPEAKING = 64


@dataclass(slots=True)
class _Speech:
    """One message under way."""

    namespace: Namespace
    node: str
    message_id: str
    blocks: dict[Any, tuple[int, Any]] = field(default_factory=dict)
    usage: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def hear(self, chunk: AIMessageChunk) -> Iterator[Any]:
        """The events of a token."""
        for key, block in bridge._iter_protocol_blocks(chunk):
            if key not in self.blocks:
                self.blocks[key] = len(self.blocks), dict(block)
                index = self.blocks[key][0]
                skeleton = bridge._start_skeleton(block)
                yield {"event": "content-block-start", "index": index, "content": skeleton}
            else:
                index, known = self.blocks[key]
                self.blocks[key] = index, bridge._accumulate(known, block)
            delta = bridge._to_content_delta(block)
            if delta is not None:
                yield {"event": "content-block-delta", "index": index, "delta": delta}
        self.metadata |= chunk.response_metadata
        if chunk.usage_metadata:
            self.usage = bridge._accumulate_usage(self.usage, chunk.usage_metadata)

    def end(self) -> Iterator[Any]:
        """The events of its end."""
        for index, block in self.blocks.values():
            content = bridge._finalize_block(block)
            yield {"event": "content-block-finish", "index": index, "content": content}
        finish: dict[str, Any] = {"event": "message-finish"}
        if self.usage:
            finish["usage"] = self.usage
        if self.metadata:
            finish["metadata"] = self.metadata
        yield finish


class Speakers:
    """The messages of one run that are under way."""

    def __init__(self) -> None:
        self._speeches: dict[tuple[Namespace, str], _Speech] = {}

    def hear(self, namespace: Namespace, content: Any) -> list[Block]:
        """The events of a token or of a whole message, each with its node."""
        message, metadata = content
        node = str(metadata.get("langgraph_node") or "")
        told = self._heard(namespace, node, message)
        return [(node, event) for event in told]

    def end(self) -> list[tuple[Namespace, str, Any]]:
        """What ends with the run."""
        left, self._speeches = self._speeches, {}
        return [(one.namespace, one.node, event) for one in left.values() for event in one.end()]

    def _heard(self, namespace: Namespace, node: str, message: Any) -> Iterator[Any]:
        kind = message.get("type")
        if kind == "AIMessageChunk":
            yield from self._token(namespace, node, AIMessageChunk(**message))
        elif kind in ("ai", "human", "system"):
            role = {"role": kind, "metadata": {"langgraph_node": node}}
            for event in bridge.message_to_events(_message(message)):
                yield {**event, **role} if event["event"] == "message-start" else event

    def _token(self, namespace: Namespace, node: str, chunk: AIMessageChunk) -> Iterator[Any]:
        key = namespace, str(chunk.id)
        speech = self._speeches.get(key)
        if speech is None:
            if len(self._speeches) >= MAX_SPEAKING:
                self._speeches.pop(next(iter(self._speeches)))
            speech = self._speeches[key] = _Speech(namespace, node, str(chunk.id))
            about = {"langgraph_node": node}
            yield {"event": "message-start", "role": "ai", "id": str(chunk.id), "metadata": about}
        yield from speech.hear(chunk)
        if chunk.chunk_position == "last":
            del self._speeches[key]
            yield from speech.end()


def _message(data: dict[str, Any]) -> BaseMessage:
    return messages_from_dict([{"type": data["type"], "data": data}])[0]
