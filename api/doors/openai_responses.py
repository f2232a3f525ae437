"""Responses and conversations of OpenAI: runs and sessions, and their events and items."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.bootstrap import Services
from api.doors.content import content_of, media_block, text_block
from api.doors.conversation import REQUEST
from api.doors.openai_chat import is_demanded
from api.doors.spoken import Door
from api.errors import SENTENCE
from api.schemas.common import Payload
from api.schemas.sessions import SessionMetadata
from api.session_events import Part
from graph.encode import dumps
from graph.runs import Submitted
from store.models import JsonObject, Message, Run, Session

#: Of a run's metadata: what only its response tells.
RESPONSE: Final = "response"
_STATUSES: Final = {
    "pending": "queued",
    "running": "in_progress",
    "success": "completed",
    "error": "failed",
    "timeout": "failed",
    "interrupted": "cancelled",
}
_INCOMPLETE: Final = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
    "incomplete": "upstream_truncated",
}
_ENDS: Final = {"completed": "completed", "failed": "failed"}
_TEXTS: Final = frozenset({"text", "input_text", "output_text", "refusal"})
Label = Annotated[str, Field(min_length=1, max_length=255)]


class Item(Payload):
    """A message of an input, or of a conversation; other items are none of a client's."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[JsonObject]
    id: str | None = None

    @model_validator(mode="after")
    def _is_readable(self) -> "Item":
        if isinstance(self.content, list):
            for part in self.content:
                if _block(part) is None:
                    raise PydanticCustomError(
                        SENTENCE, "A part is input_text, output_text, input_image or input_file"
                    )
        return self

    def given(self) -> JsonObject:
        """It as a graph takes it."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        blocks = [block for part in self.content if (block := _block(part))]
        return {"role": self.role, "content": content_of(blocks)}

    def text(self) -> str:
        """What it says."""
        content = self.given()["content"]
        blocks = [text_block(content)] if isinstance(content, str) else content
        return "".join(block.get("text", "") for block in blocks)


def _block(part: JsonObject) -> JsonObject | None:
    kind = part.get("type")
    if not isinstance(kind, str):
        return None
    if kind in _TEXTS:
        text = part.get("refusal" if kind == "refusal" else "text")
        return text_block(text) if isinstance(text, str) else None
    url = part.get("image_url") if kind == "input_image" else part.get("file_data")
    if kind == "input_file":
        url = url or part.get("file_url")
    if kind not in ("input_image", "input_file") or not isinstance(url, str):
        return None
    return media_block(url, "image/*" if kind == "input_image" else None, part.get("filename"))


def _without_thoughts(given: Any) -> Any:
    """Clients send back all that a response has; what the model thought was for them alone."""
    if not isinstance(given, list):
        return given
    return [one for one in given if not (isinstance(one, dict) and one.get("type") == "reasoning")]


Items = Annotated[list[Item], BeforeValidator(_without_thoughts), Field(max_length=1000)]


class ConversationName(Payload):
    """A conversation by its id."""

    id: Label


class Reasoning(Payload):
    """How much a model is to think."""

    effort: str | None = None


class ResponseCreate(Payload):
    """
    A request for a response.

    What follows a conversation, or a response, is added to its session; else one is made, unless
    `store` is false.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "agent", "input": "hello", "instructions": "Be terse.", "stream": True}
            ]
        }
    )

    model: Label | None = None
    input: str | Items
    instructions: str | None = None
    conversation: Label | ConversationName | None = None
    previous_response_id: Label | None = None
    stream: bool | None = False
    background: bool | None = False
    store: bool | None = True
    metadata: JsonObject | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1)
    reasoning: Reasoning | None = None
    tools: list[JsonObject] | None = None
    tool_choice: Any = None
    text: JsonObject | None = None
    prompt: JsonObject | None = None

    @model_validator(mode="after")
    def _is_supported(self) -> "ResponseCreate":
        form = (self.text or {}).get("format")
        kept = self.conversation or self.previous_response_id or self.background
        faults = {
            "Not supported: tools other than functions": any(
                tool.get("type") != "function" for tool in self.tools or ()
            ),
            "Not supported: tool_choice: a graph calls tools of its own": is_demanded(
                self.tool_choice
            ),
            "Not supported: text.format: only text is given": isinstance(form, dict)
            and form.get("type") != "text",
            "Not supported: prompt": self.prompt is not None,
            "Give either a conversation or a previous_response_id": bool(self.conversation)
            and bool(self.previous_response_id),
            "With store false there is no conversation, previous_response_id or background": bool(
                kept
            )
            and self.store is False,
        }
        for reason, is_fault in faults.items():
            if is_fault:
                raise PydanticCustomError(SENTENCE, reason)
        return self

    @property
    def named(self) -> str | None:
        """The conversation that it names."""
        found = self.conversation
        return found.id if isinstance(found, ConversationName) else found

    def items(self) -> list[Item]:
        """What is said."""
        if isinstance(self.input, str):
            return [Item(role="user", content=self.input)]
        return self.input

    def messages(self) -> list[JsonObject]:
        """What is added to the conversation."""
        return [item.given() for item in self.items() if item.role in ("user", "assistant")]

    def about(self) -> JsonObject:
        """What the graph is told of the request: the instructions and how to answer."""
        told = [item.text() for item in self.items() if item.role in ("system", "developer")]
        system = "\n\n".join(text for text in (self.instructions, *told) if text)
        found = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_output_tokens,
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            "system": system or None,
        }
        return {key: value for key, value in found.items() if value is not None}

    def echoed(self) -> JsonObject:
        """What the response repeats of the request."""
        return {
            "model": self.model,
            "instructions": self.instructions,
            "metadata": self.metadata or {},
            "previous_response_id": self.previous_response_id,
            "background": bool(self.background),
            "max_output_tokens": self.max_output_tokens,
        }


class ConversationCreate(Payload):
    """A new conversation, and what was said in it before."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "metadata": {"topic": "demo"},
                    "items": [{"type": "message", "role": "user", "content": "hello"}],
                }
            ]
        }
    )

    items: Items | None = None
    metadata: SessionMetadata | None = None


class ConversationUpdate(Payload):
    """What is changed of a conversation."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"topic": "demo"}}]})

    metadata: SessionMetadata


class ItemsCreate(Payload):
    """What is added to a conversation without an answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"type": "message", "role": "user", "content": "hello"}]}]
        }
    )

    items: Annotated[list[Item], Field(min_length=1, max_length=20)]


def conversation_json(session: Session) -> JsonObject:
    """A conversation; its metadata are those of the session that are texts."""
    return {
        "id": session.id,
        "object": "conversation",
        "created_at": int(session.create_time.timestamp()),
        "metadata": {k: v for k, v in session.metadata.items() if isinstance(v, str)},
    }


def items_of(row: Message) -> list[JsonObject]:
    """The items that a message is: itself, and each of its calls of a tool."""
    if row.role == "tool":
        call_id = row.meta_data.get("tool_call_id")
        return [_call_output(row.id, call_id, row.content)]
    kind = "output_text" if row.role == "assistant" else "input_text"
    part: JsonObject = {"type": kind, "text": row.content}
    if kind == "output_text":
        part |= {"annotations": [], "logprobs": []}
    message = {**_message(row.id, [part], "completed"), "role": row.role}
    calls = row.meta_data.get("tool_calls") or ()
    made = [_call(row.id, call) for call in calls if isinstance(call, dict)]
    return [*([message] if row.content or not made else []), *made]


def _message(message_id: str, content: list[JsonObject], status: str) -> JsonObject:
    about = {"id": message_id, "type": "message", "role": "assistant"}
    return {**about, "status": status, "content": content}


def _call(message_id: str, call: JsonObject) -> JsonObject:
    call_id = call.get("id") or call.get("call_id")
    return {
        "id": f"{message_id}/{call_id}",
        "type": "function_call",
        "call_id": call_id,
        "name": call.get("name"),
        "arguments": dumps(call.get("args") or {}).decode(),
        "status": "completed",
    }


def _call_output(message_id: str, call_id: Any, output: Any) -> JsonObject:
    return {
        "id": message_id,
        "type": "function_call_output",
        "call_id": call_id,
        "output": output if isinstance(output, str) else dumps(output).decode(),
        "status": "completed",
    }


def item_page(rows: Iterable[Message], *, has_more: bool = False) -> JsonObject:
    """A list of items; the ids at its ends are those of messages, to go on from."""
    found = list(rows)
    return {
        "object": "list",
        "data": [item for row in found for item in items_of(row)],
        "first_id": found[0].id if found else None,
        "last_id": found[-1].id if found else None,
        "has_more": has_more,
    }


def response_json(run: Run, *, output: Sequence[JsonObject] = (), **more: Any) -> JsonObject:
    """A response as it stands."""
    told = run.metadata.get(RESPONSE) or {}
    configurable = run.kwargs["config"]["configurable"]
    about = configurable.get(REQUEST) or {}
    return {
        "id": run.run_id,
        "object": "response",
        "created_at": int(run.created_at.timestamp()),
        "status": _STATUSES[run.status],
        "background": told.get("background", False),
        "conversation": None if run.temporary else {"id": run.thread_id},
        "error": None,
        "incomplete_details": None,
        "instructions": told.get("instructions"),
        "max_output_tokens": told.get("max_output_tokens"),
        "metadata": told.get("metadata", {}),
        "model": told.get("model") or configurable["graph_id"],
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": told.get("previous_response_id"),
        "reasoning": {"effort": about.get("reasoning_effort"), "summary": None},
        "store": not run.temporary,
        "temperature": about.get("temperature"),
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": about.get("top_p"),
        "truncation": "disabled",
        "usage": None,
        **more,
    }


class ResponseAnswer(Door):
    """
    The session's events as those of a response, and that response once it is whole.

    A run's log says the same to everybody who reads it, so its events have the same numbers each
    time: who comes back gets those that are missing.

    Args:
        after: The number of the last event that the client has.
    """

    def __init__(self, services: Services, submitted: Submitted, *, after: int = -1) -> None:
        super().__init__(services, submitted)
        self._client_has = after
        self._number = 0
        self._begun = False
        self._output: list[JsonObject] = []
        self._places: dict[str, int] = {}
        #: What is being thought ahead of a message, and what the next answer goes by.
        self._thoughts: dict[str, JsonObject] = {}
        self._documents: list[JsonObject] = []
        self._incomplete: str | None = None
        self._error: JsonObject | None = None
        self.response: JsonObject | None = None

    def encoded(self, parts: Sequence[Part], event_id: str) -> bytes:
        """The events that these are."""
        frames = []
        for event in self.objects(parts):
            numbered = {**event, "sequence_number": self._number}
            if self._number > self._client_has:
                frames.append(
                    b"event: %b\ndata: %b\n\n" % (event["type"].encode(), dumps(numbered))
                )
            self._number += 1
        return b"".join(frames)

    def on_run_start(self, data: JsonObject) -> list[JsonObject]:
        """It is in progress."""
        return self._start()

    def on_gap(self, data: JsonObject) -> list[JsonObject]:
        """Of what is lost nobody knows how many events it was."""
        self._number = max(self._number, self._client_has + 1)
        return self._start()

    def on_message_delta(self, data: JsonObject) -> list[JsonObject]:
        """A piece of an answer."""
        return self._text(data["message_id"], self._spoken.delta(data))

    def on_reasoning_delta(self, data: JsonObject) -> list[JsonObject]:
        """A piece of what the model thinks: an item of its own, until the model speaks."""
        message_id, delta = str(data["message_id"]), str(data["delta"])
        begun = [] if message_id in self._thoughts else self._think(message_id)
        item = self._thoughts[message_id]
        item["content"][0]["text"] += delta
        at = self._at(item["id"])
        return [*begun, {"type": "response.reasoning_text.delta", **at, "delta": delta}]

    def _think(self, message_id: str) -> list[JsonObject]:
        item = _reasoning(f"{message_id}/reasoning/{len(self._output)}")
        self._thoughts[message_id] = item
        return self._begin(item, {"type": "reasoning_text", "text": ""})

    def _conclude(self, *message_ids: str, status: str = "completed") -> list[JsonObject]:
        """The ends of what is thought ahead of messages, of all unless they are named."""
        told = []
        for message_id in [id_ for id_ in self._thoughts if not message_ids or id_ in message_ids]:
            item = self._thoughts.pop(message_id)
            item["status"] = status
            at, [part] = self._at(item["id"]), item["content"]
            told += [
                {"type": "response.reasoning_text.done", **at, "text": part["text"]},
                {"type": "response.content_part.done", **at, "part": part},
                self._done(at, item),
            ]
        return told

    def on_source(self, data: JsonObject) -> list[JsonObject]:
        """What the graph goes by: told with the answer that follows."""
        self._documents += data["documents"]
        return []

    def on_tool_start(self, data: JsonObject) -> list[JsonObject]:
        """A call of a tool, by the graph."""
        return [*self._conclude(), *self._item(_call(data["message_id"], data))]

    def on_tool_end(self, data: JsonObject) -> list[JsonObject]:
        """What the tool gave."""
        return self._item(_call_output(data["message_id"], data["call_id"], data["output"]))

    def on_error(self, data: JsonObject) -> list[JsonObject]:
        """It has failed; the end tells."""
        self._error = {"code": "server_error", "message": data["message"]}
        return []

    def _start(self) -> list[JsonObject]:
        if self._begun:
            return []
        self._begun = True
        response = self._as("in_progress")
        return [
            {"type": "response.created", "response": response},
            {"type": "response.in_progress", "response": response},
        ]

    def _as(self, status: str, **more: Any) -> JsonObject:
        return response_json(self._submitted.run, output=self._output, status=status, **more)

    def _text(self, message_id: str, text: str) -> list[JsonObject]:
        if not text:
            return []
        begun = self._conclude(message_id)
        if message_id not in self._places:
            begun += self._begin(_message(message_id, [], "in_progress"), _output_text(""))
        delta = {"delta": text, "logprobs": []}
        return [*begun, {"type": "response.output_text.delta", **self._at(message_id), **delta}]

    def _begin(self, item: JsonObject, part: JsonObject) -> list[JsonObject]:
        """An item whose one part comes piece by piece."""
        self._places[item["id"]] = len(self._output)
        self._output.append(item)
        at = self._at(item["id"])
        added = {"output_index": at["output_index"], "item": {**item, "content": []}}
        return [
            {"type": "response.output_item.added", **added},
            {"type": "response.content_part.added", **at, "part": part},
        ]

    def _at(self, item_id: str) -> JsonObject:
        return {"item_id": item_id, "output_index": self._places[item_id], "content_index": 0}

    def _done(self, at: JsonObject, item: JsonObject) -> JsonObject:
        index = {"output_index": at["output_index"]}
        return {"type": "response.output_item.done", **index, "item": item}

    def on_message_end(self, data: JsonObject) -> list[JsonObject]:
        """An answer is whole."""
        rest = self._spoken.rest(data)
        if rest is None:
            return []
        self._usage.add(data)
        self._incomplete = _INCOMPLETE.get(str(data.get("finish_reason")))
        status = "incomplete" if self._incomplete else "completed"
        message_id = str(data["message_id"])
        concluded = self._conclude(message_id)
        return [*concluded, *self._close(message_id, data["content"], rest, status=status)]

    def _close(
        self, message_id: str, content: str, rest: str, *, status: str = "completed"
    ) -> list[JsonObject]:
        told = self._text(message_id, rest)
        if message_id not in self._places:
            return told
        at, part = self._at(message_id), _output_text(content)
        told += self._cited(at, part)
        item = _message(message_id, [part], status)
        self._output[at["output_index"]] = item
        return [
            *told,
            {"type": "response.output_text.done", **at, "text": content, "logprobs": []},
            {"type": "response.content_part.done", **at, "part": part},
            self._done(at, item),
        ]

    def _cited(self, at: JsonObject, part: JsonObject) -> list[JsonObject]:
        """What an answer goes by, as annotations of its text; it is put there."""
        found, self._documents = self._documents, []
        part["annotations"] = [_citation(document, part["text"]) for document in found]
        kind = "response.output_text.annotation.added"
        return [
            {"type": kind, **at, "annotation_index": place, "annotation": annotation}
            for place, annotation in enumerate(part["annotations"])
        ]

    def on_interrupt(self, data: JsonObject) -> list[JsonObject]:
        """What a graph asks is said as a message: the next input answers it."""
        value = data["value"]
        text = value if isinstance(value, str) else dumps(value).decode()
        return [*self._conclude(), *self._close(f"interrupt_{data['id']}", text, text)]

    def _item(self, item: JsonObject) -> list[JsonObject]:
        """An item that is whole at once."""
        index = {"output_index": len(self._output)}
        self._output.append(item)
        added = {**item, "status": "in_progress"}
        events: list[JsonObject] = [
            {"type": "response.output_item.added", **index, "item": added},
            {"type": "response.output_item.done", **index, "item": item},
        ]
        if item["type"] == "function_call":
            done = {"item_id": item["id"], **index, "arguments": item["arguments"]}
            named = {"name": item["name"]}
            events.insert(1, {"type": "response.function_call_arguments.done", **done, **named})
        return events

    def on_run_end(self, data: JsonObject) -> list[JsonObject]:
        """The response is whole, or as whole as it gets."""
        started = [*self._start(), *self._conclude(status="incomplete")]
        for message_id, text in self._spoken.unfinished().items():
            started += self._close(message_id, text, "", status="incomplete")
        status, more = _STATUSES.get(data["status"], "cancelled"), {}
        if status == "failed":
            more["error"] = self._error or {"code": "server_error", "message": "The run failed"}
        elif status == "completed" and self._incomplete:
            status, more["incomplete_details"] = "incomplete", {"reason": self._incomplete}
        if self._usage.is_known:
            more["usage"] = self._usage_json()
        self.response = self._as(status, **more)
        kind = f"response.{_ENDS.get(status, 'incomplete')}"
        # Whatever was lost, the end is told.
        return [*started, {"type": kind, "response": self.response}]

    def _usage_json(self) -> JsonObject:
        asked, said = self._usage.input, self._usage.output
        return {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": said,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + said,
        }

    async def whole(self) -> JsonObject:
        """The response, once the run has ended."""
        async for _ in self.frames():
            pass
        assert self.response is not None
        return self.response


def _output_text(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning(item_id: str) -> JsonObject:
    content = [{"type": "reasoning_text", "text": ""}]
    about = {"id": item_id, "type": "reasoning", "status": "in_progress"}
    return {**about, "summary": [], "content": content}


def _citation(document: JsonObject, text: str) -> JsonObject:
    """A document as an annotation of all of a text: which words go by it nobody says."""
    title = document["title"] or ""
    if document["url"]:
        place = {"start_index": 0, "end_index": len(text)}
        return {"type": "url_citation", "url": document["url"], "title": title, **place}
    about = {"file_id": document["id"], "filename": title}
    return {"type": "file_citation", **about, "index": len(text)}
