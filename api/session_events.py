"""
A run as people who think in conversations see it stream.

    run.start      run_id, session_id
    message.delta  message_id, delta                          text of the answer, as it comes
    reasoning.delta  message_id, delta                        what the model thinks, if it tells
    tool.start     message_id, call_id, name, args
    tool.end       message_id, call_id, name, output, is_error
    message.end    message_id, content, usage, finish_reason  a message is whole
    interrupt      id, value                                  the graph asks something
    error          code, message
    gap            run_id                                     events are missing here
    run.end        run_id, status

They are made from the same log as the LangGraph API's, and carry its ids: a client that lost its
stream gets the rest, in that API's form, from the run's own stream with ``Last-Event-ID``.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from store.events import Event
from store.models import JsonObject, Message

#: The stream modes that a session's run is started with.
MODES = ("messages-tuple", "updates")

Part = tuple[str, JsonObject]


def parts_of(event: Event, session_id: str) -> Iterator[Part]:
    """The session's events that one event of the log means; often none."""
    name = event.name.partition("|")[0]
    if name == "metadata":
        yield "run.start", {"run_id": event.run_id, "session_id": session_id}
    elif name == "messages":
        message, _metadata = orjson.loads(event.data)
        yield from _of_token(message)
    elif event.name == "updates":
        yield from _of_updates(orjson.loads(event.data))
    elif name == "error":
        error = orjson.loads(event.data)
        yield "error", {"code": error["error"], "message": error["message"]}
    elif name == "end":
        end = orjson.loads(event.data)
        yield "run.end", {"run_id": end["run_id"], "status": end["status"]}


def _of_token(message: JsonObject) -> Iterator[Part]:
    """A piece of an answer. A message that comes whole comes with its node's update."""
    if message.get("type") != "AIMessageChunk":
        return
    content = message.get("content")
    if thought := _reasoning_of(content, message.get("additional_kwargs")):
        yield "reasoning.delta", {"message_id": message["id"], "delta": thought}
    if delta := text_of(content):
        yield "message.delta", {"message_id": message["id"], "delta": delta}


def _reasoning_of(content: Any, more: Any) -> str:
    """What a model thinks in a piece of an answer, as LangChain has it of one provider or another."""
    told = more.get("reasoning_content") if more else None
    if isinstance(told, str):
        return told
    if not isinstance(content, list):
        return ""
    blocks = (b.get("reasoning") or b.get("thinking") for b in content if isinstance(b, dict))
    return "".join(text for text in blocks if isinstance(text, str))


def _of_updates(updates: JsonObject) -> Iterator[Part]:
    for node, update in updates.items():
        if node == "__interrupt__":
            for asked in update:
                yield "interrupt", {"id": asked.get("id"), "value": asked.get("value")}
            continue
        found = update.get("messages") if isinstance(update, dict) else None
        for message in found if isinstance(found, list) else [found]:
            if isinstance(message, dict):
                yield from _of_message(message)


def _of_message(message: JsonObject) -> Iterator[Part]:
    if message.get("type") == "tool":
        yield (
            "tool.end",
            {
                "message_id": message.get("id"),
                "call_id": message.get("tool_call_id"),
                "name": message.get("name"),
                "output": message.get("content"),
                "is_error": message.get("status") == "error",
            },
        )
    elif message.get("type") == "ai":
        about = message.get("response_metadata") or {}
        yield (
            "message.end",
            {
                "message_id": message.get("id"),
                "content": text_of(message.get("content")),
                "usage": message.get("usage_metadata"),
                "finish_reason": about.get("finish_reason"),
            },
        )
        for call in message.get("tool_calls") or ():
            yield (
                "tool.start",
                {
                    "message_id": message.get("id"),
                    "call_id": call.get("id"),
                    "name": call.get("name"),
                    "args": call.get("args"),
                },
            )


def whole_message(row: Message) -> JsonObject:
    """What `message.end` tells of a message that is kept."""
    about = row.meta_data.get("response_metadata") or {}
    return {
        "message_id": row.id,
        "content": row.content,
        "usage": row.meta_data.get("usage_metadata"),
        "finish_reason": about.get("finish_reason"),
    }


def text_of(content: Any) -> str:
    """The text of a message's content, whether it is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    blocks = (b if isinstance(b, str) else b.get("text") for b in content if b)
    return "".join(text for text in blocks if isinstance(text, str))
