"""
A run as people who think in conversations see it stream.

    run.start      run_id, session_id, user_message_id        what is being answered
    session.updated  session_id, name, title_source           it has a name now
    message.delta  message_id, delta                          text of the answer, as it comes
    reasoning.delta  message_id, delta                        what the model thinks, if it tells
    source         documents                                  what the graph says that it goes by
    tool.start     message_id, call_id, name, args
    tool.end       message_id, call_id, name, output, is_error
    message.end    message_id, content, usage, finish_reason, latency_ms, ttft_ms
    interrupt      id, value                                  the graph asks something
    error          code, message
    gap            run_id                                     events are missing here
    run.end        run_id, status

They are made from the same log as the LangGraph API's, and carry its ids: a client that lost its
stream gets the rest, in that API's form, from the run's own stream with ``Last-Event-ID``.
"""

from collections.abc import Iterator
from typing import Any, Final

import orjson

from graph.stream import ASIDE
from store.events import Event
from store.models import JsonObject, Message

#: The stream modes that a session's run is started with.
MODES = ("messages-tuple", "updates", "custom")
#: How many documents a graph may name at a time.
MAX_DOCUMENTS: Final = 100

#: Of a message that was not streamed, or is told of again.
_NO_TIMES: Final = {"latency_ms": None, "ttft_ms": None}

Part = tuple[str, JsonObject]


class SessionReader:
    """
    Reads a log as a session's.

    What is said about an event comes right before it, so that whoever goes on after any event which
    means something to a session reads both.
    """

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._aside: JsonObject = {}

    def read(self, event: Event) -> list[Part]:
        """The session's events that the next event of the log means; often none."""
        if event.name == ASIDE:
            self._aside = orjson.loads(event.data)
            return []
        aside, self._aside = self._aside, {}
        return list(_parts(event, self._session_id, aside))


def _parts(event: Event, session_id: str, aside: JsonObject) -> Iterator[Part]:
    name = event.name.partition("|")[0]
    if name == "metadata":
        yield from _begun(event.run_id, session_id, aside)
    elif name == "messages":
        message, _metadata = orjson.loads(event.data)
        yield from _of_token(message)
    elif event.name == "updates":
        yield from _of_updates(orjson.loads(event.data), aside.get("messages", {}))
    elif event.name == "custom":
        if documents := _documents(orjson.loads(event.data), event.id):
            yield "source", {"documents": documents}
    elif name == "error":
        error = orjson.loads(event.data)
        yield "error", {"code": error["error"], "message": error["message"]}
    elif name == "end":
        end = orjson.loads(event.data)
        yield "run.end", {"run_id": end["run_id"], "status": end["status"]}


def _begun(run_id: str, session_id: str, aside: JsonObject) -> Iterator[Part]:
    asked = {"user_message_id": aside.get("user_message_id")}
    yield "run.start", {"run_id": run_id, "session_id": session_id, **asked}
    if name := aside.get("name"):
        source = aside.get("title_source")
        yield "session.updated", {"session_id": session_id, "name": name, "title_source": source}


def _documents(told: Any, event_id: str) -> list[JsonObject]:
    """
    What a graph says that it goes by: the ``documents`` of what it writes to its stream.

    Those without ids are told apart by where they are told.
    """
    found = told.get("documents") if isinstance(told, dict) else None
    listed = found[:MAX_DOCUMENTS] if isinstance(found, list) else []
    return [
        _document(one, f"{event_id}-{place}")
        for place, one in enumerate(listed)
        if isinstance(one, dict)
    ]


def _document(told: JsonObject, place: str) -> JsonObject:
    """A document, LangChain's or one that has these keys itself."""
    metadata = told.get("metadata")
    about = {**(metadata if isinstance(metadata, dict) else {}), **told}
    url = about.get("url") or about.get("source")
    is_url = isinstance(url, str) and url.startswith(("https://", "http://"))
    return {
        "id": str(about.get("id") or place),
        "title": _text_or_none(about.get("title")) or (None if is_url else _text_or_none(url)),
        "url": url if is_url else None,
        "content": _text_or_none(about.get("content", about.get("page_content"))),
    }


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


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


def _of_updates(updates: JsonObject, times: JsonObject) -> Iterator[Part]:
    for node, update in updates.items():
        if node == "__interrupt__":
            for asked in update:
                yield "interrupt", {"id": asked.get("id"), "value": asked.get("value")}
            continue
        # A list of them, if the node returned several.
        for one in update if isinstance(update, list) else [update]:
            yield from _of_update(one, times)


def _of_update(update: Any, times: JsonObject) -> Iterator[Part]:
    found = update.get("messages") if isinstance(update, dict) else None
    for message in found if isinstance(found, list) else [found]:
        if isinstance(message, dict):
            yield from _of_message(message, times.get(str(message.get("id")), {}))


def _of_message(message: JsonObject, times: JsonObject) -> Iterator[Part]:
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
                **_NO_TIMES,
                **times,
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
        **_NO_TIMES,
    }


def text_of(content: Any) -> str:
    """The text of a message's content, whether it is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    blocks = (b if isinstance(b, str) else b.get("text") for b in content if b)
    return "".join(text for text in blocks if isinstance(text, str))
