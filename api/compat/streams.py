"""
Answers as the old front ends read them: bare `data:` lines of JSON, or the same at once.

Made from the events of a session's stream, one encoder each; what is missing in the stream is made
up for by the whole message that ends it.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from fastapi import Response

from api.bootstrap import Services
from api.http.responses import json_response
from api.identity.auth import Caller
from api.session_events import SessionReader
from api.sse import EventStream, RunStream, stream_of_run
from graph.encode import dumps
from graph.runs import Submitted
from store import messages
from store.errors import RunFailedError
from store.events import Event, Gap
from store.models import JsonObject, Run


class Encoder(Protocol):
    """Turns the events of a session's stream into what a front end reads."""

    def objects(self, name: str, data: JsonObject) -> Iterator[JsonObject]:
        """What one event is to it; often nothing."""
        ...

    def whole(self) -> JsonObject:
        """The answer in one piece, once all events were encoded."""
        ...


@dataclass
class Heard:
    """What was heard of a run so far."""

    texts: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    #: Of the last message that is whole.
    finish_reason: str | None = None

    def news(self, name: str, data: JsonObject) -> tuple[str, str]:
        """The id and the new text of an answer in an event; empty for others."""
        if name == "error":
            self.error = str(data["message"])
        if name not in ("message.delta", "message.end"):
            return "", ""
        message_id = str(data["message_id"])
        had = self.texts.get(message_id, "")
        if name == "message.delta":
            new = str(data["delta"])
        else:
            # The rest of it, or all that came whole.
            content = str(data["content"])
            new = content[len(had) :] if content.startswith(had) else ""
            self.finish_reason = data.get("finish_reason")
        self.texts[message_id] = had + new
        return message_id, new

    @property
    def answer(self) -> tuple[str, str]:
        """The id and the text of the last message that has any."""
        said = [(id_, text) for id_, text in self.texts.items() if text]
        return said[-1] if said else ("", "")


class BareStream(RunStream):
    """A run for one of the old front ends: no names of events, no ids, and the end is the end."""

    def __init__(self, services: Services, submitted: Submitted, encoder: Encoder) -> None:
        super().__init__(services, submitted)
        self._encoder = encoder
        self._reader = SessionReader(submitted.run.thread_id)

    def _frame(self, event: Event) -> bytes:
        return b"".join(self._lines(*part) for part in self._reader.read(event))

    def _lines(self, name: str, data: JsonObject) -> bytes:
        return b"".join(_line(said) for said in self._encoder.objects(name, data))

    async def _missed(self, gap: Gap | None) -> bytes:
        """The answers of the run so far, as far as they were not sent."""
        run, services = self._submitted.run, self._services
        rows = await services.follower.patiently(
            lambda: messages.of_run(services.db, run.thread_id, run.run_id)
        )
        ends = ({"message_id": m.id, "content": m.content} for m in rows if m.role == "assistant")
        return b"".join(self._lines("message.end", end) for end in ends)

    async def _ending(self, run: Run | None) -> bytes:
        missed = await self._missed(None) if run and run.first_epoch is not None else b""
        failed = b""
        if run and run.error:
            error = {"code": run.error["error"], "message": run.error["message"]}
            failed = self._lines("error", error)
        status = run.status if run else "interrupted"
        return missed + failed + self._lines("run.end", {"status": status})


async def respond(
    services: Services,
    caller: Caller,
    submitted: Submitted,
    encoder: Encoder,
    *,
    stream: bool = True,
    whole: Callable[[JsonObject], Response] | None = None,
) -> Response:
    """
    Answer with a run, as it comes or when it is over.

    Args:
        whole: How what is whole is sent; else as a stream of one.

    Raises:
        RunFailedError: It failed, and nothing was to be streamed.
    """
    frames = BareStream(services, submitted, encoder).frames()
    if not stream:
        async for _ in frames:
            pass
        return (whole or json_response)(encoder.whole())
    return stream_of_run(services, caller, submitted, frames)


def one_frame(services: Services) -> Callable[[JsonObject], Response]:
    """A stream that has the whole in one event."""

    async def frames(said: JsonObject) -> AsyncGenerator[bytes, None]:
        yield _line(said)

    return lambda said: EventStream(frames(said), headers={}, settings=services.settings)


def _line(said: JsonObject) -> bytes:
    return b"data: " + dumps(said) + b"\n\n"


@dataclass
class Plain:
    """
    `{"text", "message_id"}` a piece, or under another key; then what was found.

    Args:
        key: Of the text.
        has_id: Whether the pieces name their message.
        sources: Keys under which what tools have found, and the graph goes by, comes in the end.
        is_agent: Tools are told as they are called, and the answer once more as a whole.
    """

    key: str = "text"
    has_id: bool = True
    sources: tuple[str, ...] = ()
    is_agent: bool = False
    heard: Heard = field(default_factory=Heard)
    found: list[str] = field(default_factory=list)

    def objects(self, name: str, data: JsonObject) -> Iterator[JsonObject]:
        """What one event is to it."""
        message_id, text = self.heard.news(name, data)
        if text:
            yield {self.key: text, **self._id(message_id)}
        elif name == "source":
            self.found += said_by(data)
        elif name == "tool.end":
            self.found.append(_text(data["output"]))
            if self.is_agent:
                yield {"tools": [f"{data['name']}: {self.found[-1]}"]}
        elif name == "error":
            yield {"error": self.heard.error}
        elif name == "run.end" and self.heard.error is None:
            yield from self._last()

    def whole(self) -> JsonObject:
        """All of it in one."""
        if self.heard.error is not None:
            raise RunFailedError(self.heard.error)
        message_id, text = self.heard.answer
        last = {key: value for said in self._last() for key, value in said.items()}
        return {self.key: text, **self._id(message_id), **last}

    def _last(self) -> Iterator[JsonObject]:
        for key in self.sources:
            yield {key: self.found, **self._id(self.heard.answer[0])}
        if self.is_agent:
            yield {"final_answer": self.heard.answer[1]}

    def _id(self, message_id: str) -> JsonObject:
        return {"message_id": message_id} if self.has_id else {}


def _text(output: Any) -> str:
    return output if isinstance(output, str) else orjson.dumps(output, default=str).decode()


def said_by(source: JsonObject) -> list[str]:
    """What the documents say that a graph goes by, as the old front ends show it."""
    told = source["documents"]
    return [text for d in told if (text := d["content"] or d["title"] or d["url"])]
