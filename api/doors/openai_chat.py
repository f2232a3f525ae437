"""Chat completions: what they ask, and the session's events as their chunks."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.bootstrap import Services
from api.doors.conversation import STATELESS, Asked, OnBusy
from api.doors.errors import error_json
from api.doors.spoken import SEPARATOR, Door
from api.errors import SENTENCE
from api.schemas.common import Payload
from api.session_events import Part, text_of
from graph.encode import dumps
from graph.runs import Submitted
from store.errors import RunFailedError
from store.models import JsonObject

#: Of `finish_reason`, what a client knows; an answer that is not whole has ended by its length.
_FINISHES: Final = {"length": "length", "content_filter": "content_filter", "incomplete": "length"}
#: What the graph is told of a request, besides the system's words.
OPTIONS: Final = (
    "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty",
    "reasoning_effort",
)  # fmt: skip
_PARTS: Final = frozenset({"text", "image_url", "input_audio", "file"})
Label = Annotated[str, Field(min_length=1, max_length=255)]


class ChatMessage(Payload):
    """A message of a request."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[JsonObject] | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _is_readable(self) -> "ChatMessage":
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError(SENTENCE, f"A message of role {self.role} needs its content")
        for part in self.content if isinstance(self.content, list) else ():
            kind = part.get("type")
            if kind == "text" and not isinstance(part.get("text"), str):
                raise PydanticCustomError(SENTENCE, "A part of type text needs its text")
            if not isinstance(kind, str) or kind not in _PARTS:
                expected = ", ".join(sorted(_PARTS))
                raise PydanticCustomError(
                    SENTENCE, f"Unknown part of content. Expected: {expected}"
                )
            if kind != "text" and not isinstance(part.get(kind), dict):
                raise PydanticCustomError(SENTENCE, f"A part of type {kind} needs its {kind}")
        return self

    def given(self) -> JsonObject:
        """It as a graph takes it."""
        return {"role": self.role, "content": self.content if self.content is not None else ""}


def is_demanded(tool_choice: Any) -> bool:
    """
    Whether a client's tool must be called. Front ends offer theirs to every model.

    A model may always choose to call none.
    """
    return tool_choice not in (None, "auto", "none")


class StreamOptions(Payload):
    """What a stream has beside the answer."""

    include_usage: bool | None = None


class ChatCompletion(Payload):
    """
    A request for an answer.

    `conversation_id`, or `session_id` of the metadata, names the conversation that keeps it.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "agent",
                    "messages": [{"role": "user", "content": "hello"}],
                    "stream": True,
                    "conversation_id": "019acbd0-7c5e-7a50-a4b4-6a5f8b7f0001",
                }
            ]
        }
    )

    model: Label
    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    conversation_id: Label | None = None
    metadata: JsonObject | None = None
    on_busy: OnBusy | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    reasoning_effort: str | None = None
    n: int | None = None
    tool_choice: Any = None
    function_call: Any = None
    response_format: JsonObject | None = None
    logprobs: bool | None = None
    logit_bias: JsonObject | None = None
    modalities: list[str] | None = None

    @model_validator(mode="after")
    def _is_supported(self) -> "ChatCompletion":
        wanted = {
            "n: only one answer is given": self.n not in (None, 1),
            "tool_choice: a graph calls tools of its own": is_demanded(self.tool_choice),
            "function_call: a graph calls tools of its own": is_demanded(self.function_call),
            "response_format: only text is given": (self.response_format or {}).get("type", "text")
            != "text",
            "logprobs: a graph tells none": bool(self.logprobs),
            "logit_bias: a graph takes none": bool(self.logit_bias),
            "modalities: only text is given": (self.modalities or ["text"]) != ["text"],
        }
        for reason, is_wanted in wanted.items():
            if is_wanted:
                raise PydanticCustomError(SENTENCE, f"Not supported: {reason}")
        named = (self.metadata or {}).get("session_id")
        if named is not None and (not isinstance(named, str) or not 0 < len(named) <= 255):
            raise PydanticCustomError(SENTENCE, "metadata.session_id must be a string")
        return self

    @property
    def named(self) -> str | None:
        """The conversation that the body names."""
        return self.conversation_id or (self.metadata or {}).get("session_id")

    def about(self) -> JsonObject:
        """What the graph is told of the request: the system's words and how to answer."""
        system = [text_of(m.content) for m in self.messages if m.role in ("system", "developer")]
        found = self.model_dump(include=set(OPTIONS), exclude_none=True)
        if limit := self.max_completion_tokens or self.max_tokens:
            found["max_tokens"] = limit
        return {**found, **({"system": "\n\n".join(system)} if system else {})}

    def asked(self, *, chat_id: str | None, message_id: str | None, **more: Any) -> Asked:
        """
        What it asks for.

        Args:
            chat_id: The conversation that its headers name.
            message_id: The client's id of the last message.
        """
        messages = [m.given() for m in self.messages if m.role in ("user", "assistant")]
        if messages and message_id:
            messages[-1]["id"] = message_id
        session_id = self.named or chat_id
        if self.model.endswith(STATELESS):
            session_id = None
        return Asked(
            messages=messages,
            model=self.model.removesuffix(STATELESS),
            session_id=session_id,
            about=self.about(),
            # One that speaks of conversations need not send them.
            alone=self.named is not None,
            on_busy=self.on_busy or "interrupt",
            **more,
        )


class ChatAnswer(Door):
    """
    The session's events as chunks of one completion, and that completion once it is whole.

    Args:
        model: As the client named it.
        include_usage: Tell of the tokens in a chunk of their own.
    """

    def __init__(
        self, services: Services, submitted: Submitted, *, model: str, include_usage: bool = False
    ) -> None:
        super().__init__(services, submitted)
        run = submitted.run
        self._about = {
            "id": f"chatcmpl-{run.run_id}",
            "created": int(run.created_at.timestamp()),
            "model": model,
        }
        if not run.temporary:
            self._about["conversation_id"] = run.thread_id
        self._include_usage = include_usage
        self._begun = False
        self._last: str | None = None
        #: What was said, by its messages; which of them are whole; and which are of no account, if
        #: they are not: attempts that were lost began them.
        self._texts: dict[str, str] = {}
        self._whole: set[str] = set()
        self._lost: set[str] = set()
        self._finish = "stop"
        self._error: JsonObject | None = None

    def encoded(self, parts: Sequence[Part], event_id: str) -> bytes:
        """The chunks that these events are."""
        frames = [_frame(chunk) for chunk in self.objects(parts)]
        is_over = self._error is None and any(name == "run.end" for name, _ in parts)
        return b"".join([*frames, *([b"data: [DONE]\n\n"] if is_over else [])])

    def on_run_start(self, data: JsonObject) -> list[JsonObject]:
        """The answer begins; another attempt of its run is no other answer."""
        self._lost.update(self._texts)
        if self._begun:
            return []
        self._begun = True
        return [self._delta({"role": "assistant", "content": ""})]

    def on_message_delta(self, data: JsonObject) -> list[JsonObject]:
        """A piece of the answer."""
        return self._said(data["message_id"], self._spoken.delta(data))

    def on_reasoning_delta(self, data: JsonObject) -> list[JsonObject]:
        """A piece of what the model thinks."""
        return [self._delta({"reasoning_content": data["delta"]})]

    def on_interrupt(self, data: JsonObject) -> list[JsonObject]:
        """What a graph asks is said: the next message answers it."""
        value = data["value"]
        text = value if isinstance(value, str) else dumps(value).decode()
        message_id = f"interrupt {data['id']}"
        self._whole.add(message_id)
        return self._said(message_id, text)

    def on_error(self, data: JsonObject) -> list[JsonObject]:
        """The run has failed."""
        self._error = error_json(data["message"], "run_failed", type_="server_error")
        return [self._error]

    def _said(self, message_id: str, text: str) -> list[JsonObject]:
        """A piece of a message; two of them are one answer."""
        if not text:
            return []
        between = SEPARATOR if self._last not in (None, message_id) else ""
        self._last = message_id
        self._texts[message_id] = self._texts.get(message_id, "") + text
        return [self._delta({"content": between + text})]

    def on_message_end(self, data: JsonObject) -> list[JsonObject]:
        """A message is whole."""
        rest = self._spoken.rest(data)
        if rest is None:
            return []
        self._usage.add(data)
        self._finish = _FINISHES.get(str(data.get("finish_reason")), "stop")
        message_id = str(data["message_id"])
        told = self._said(message_id, rest)
        self._whole.add(message_id)
        self._texts[message_id] = str(data["content"])
        return told

    def on_run_end(self, data: JsonObject) -> list[JsonObject]:
        """The answer is whole, or as whole as it gets."""
        if self._error is not None:
            return []
        if data["status"] != "success":
            self._finish = "length"
        elif any(self._texts.get(message_id) for message_id in self._whole):
            # What is not whole now never will be.
            self._lost.update(self._texts)
        chunks = [self._delta({}, finish_reason=self._finish)]
        if self._include_usage:
            chunks.append({**self._completion([]), "usage": self._usage_json()})
        return chunks

    def _delta(self, delta: JsonObject, finish_reason: str | None = None) -> JsonObject:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._completion([choice])

    def _completion(self, choices: list[JsonObject]) -> JsonObject:
        return {**self._about, "object": "chat.completion.chunk", "choices": choices}

    def _usage_json(self) -> JsonObject:
        asked, said = self._usage.input, self._usage.output
        return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}

    async def whole(self) -> JsonObject:
        """
        The completion, once the run has ended.

        Raises:
            RunFailedError: The run ended with an error.
        """
        async for _ in self.frames():
            pass
        if self._error is not None:
            raise RunFailedError(self._error["error"]["message"])
        message = {"role": "assistant", "content": self._content(), "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self._finish,
        }
        return {
            **self._about,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage_json() if self._usage.is_known else None,
        }

    def _content(self) -> str:
        """What is kept of the answer; a client that sends it back is understood."""
        kept = (i for i in self._texts if i in self._whole or i not in self._lost)
        return SEPARATOR.join(text for i in kept if (text := self._texts[i]))


def _frame(content: JsonObject) -> bytes:
    return b"data: %b\n\n" % dumps(content)
