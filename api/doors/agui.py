"""AG-UI's input of a run, and the session's events as its events."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import ConfigDict, Field

from api.bootstrap import Services
from api.doors.content import content_of, media_block, text_block
from api.doors.conversation import Asked, branch, is_same
from api.doors.spoken import Door
from api.schemas.common import Payload
from api.session_events import MODES, Part
from graph.encode import dumps
from graph.runs import Submitted
from store.errors import NotFoundError
from store.events import Event, Gap
from store.models import JsonObject, Message

_MEDIA: Final = frozenset({"image", "audio", "video", "document"})
#: What the graph finds of the input in its request.
_TOLD: Final = ("tools", "context", "forwardedProps")
Label = Annotated[str, Field(min_length=1, max_length=255)]


class AgentMessage(Payload):
    """A message as AG-UI keeps it; those that are no part of a conversation are left."""

    id: str | None = None
    role: str
    content: str | list[JsonObject] | None = None

    def given(self) -> JsonObject | None:
        """It as a graph takes it."""
        if self.role not in ("user", "assistant"):
            return None
        content = self.content if self.content is not None else ""
        if isinstance(content, list):
            content = content_of([block for part in content if (block := _block(part))])
        named = {"id": self.id} if self.id and self.role == "user" else {}
        return {"role": self.role, "content": content, **named} if content else None


def _block(part: JsonObject) -> JsonObject | None:
    if part.get("type") == "text" and isinstance(part.get("text"), str):
        return text_block(part["text"])
    source, family = part.get("source"), part.get("type")
    if not isinstance(family, str) or family not in _MEDIA or not isinstance(source, dict):
        return None
    value, kind = source.get("value"), source.get("mimeType")
    if not isinstance(value, str) or source.get("type") not in ("data", "url"):
        return None
    kind = kind if isinstance(kind, str) else None
    url = f"data:{kind or ''};base64,{value}" if source["type"] == "data" else value
    return media_block(url, kind or f"{family}/*")


class ResumeEntry(Payload):
    """The answer to an interrupt."""

    interrupt_id: Annotated[str, Field(alias="interruptId")]
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class RunAgentInput(Payload):
    """What an agent of AG-UI is asked."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "threadId": "019acbd0-7c5e-7a50-a4b4-6a5f8b7f0003",
                    "runId": "r1",
                    "state": {},
                    "messages": [{"id": "m1", "role": "user", "content": "hello"}],
                    "tools": [],
                    "context": [],
                    "forwardedProps": {},
                }
            ]
        }
    )

    thread_id: Annotated[Label, Field(alias="threadId")]
    run_id: Annotated[Label, Field(alias="runId")]
    messages: list[AgentMessage] = Field(max_length=10_000)
    state: Any = None
    tools: list[Any] | None = None
    context: list[Any] | None = None
    forwarded_props: Annotated[Any, Field(alias="forwardedProps")] = None
    resume: list[ResumeEntry] | None = None

    def asked(self, model: str | None, attributes: JsonObject) -> Asked:
        """What it asks for."""
        system = [
            m.content
            for m in self.messages
            if m.role in ("system", "developer") and isinstance(m.content, str)
        ]
        told = self.model_dump(by_alias=True, include={"tools", "context", "forwarded_props"})
        about = {key: told[key] for key in _TOLD if told.get(key)}
        fields = self.state if isinstance(self.state, dict) else {}
        return Asked(
            messages=[given for m in self.messages if (given := m.given())],
            model=model,
            session_id=self.thread_id,
            about={**about, **({"system": "\n\n".join(system)} if system else {})},
            answers={entry.interrupt_id: _answer(entry) for entry in self.resume or ()},
            fields={key: value for key, value in fields.items() if key != "messages"},
            attributes=attributes,
            # The state is told, too.
            modes=(*MODES, "values"),
        )


def _answer(entry: ResumeEntry) -> Any:
    return entry.payload if entry.status == "resolved" else {"cancelled": True}


class AgentEvents(Door):
    """
    The session's events as those of AG-UI, and the state that they lead to.

    The state is told whole first, and then what of it has changed. Where events were lost, both it and
    the conversation are told whole at the end.

    Args:
        asked: Its ids are the client's.
    """

    def __init__(self, services: Services, submitted: Submitted, asked: RunAgentInput) -> None:
        super().__init__(services, submitted)
        self._run = {"threadId": asked.thread_id, "runId": asked.run_id}
        self._begun = self._failed = False
        self._texts: set[str] = set()
        self._thoughts: set[str] = set()
        self._interrupts: list[JsonObject] = []
        self._state: JsonObject | None = None
        self._has_gap = False
        #: What is told last, once what was lost is made up for.
        self._finish: list[JsonObject] = []

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Everything up to the run's end; what was lost is made up for before that is told."""
        async with aclosing(super().frames()) as frames:
            async for chunk in frames:
                yield chunk
        if self._finish:
            yield _frames([*await self._made_up(), *self._finish])

    def encoded(self, parts: Sequence[Part], event_id: str) -> bytes:
        """The events that these are."""
        return _frames(self.objects(parts))

    def _frame(self, event: Event) -> bytes:
        if event.name == "values":
            return _frames(self._changed(orjson.loads(event.data)))
        return super()._frame(event)

    async def _missed(self, gap: Gap | None) -> bytes:
        self._has_gap, self._state = True, None
        return await super()._missed(gap)

    def _changed(self, values: Any) -> list[JsonObject]:
        """What is new of the state; of the messages other events tell."""
        if not isinstance(values, dict):
            return []
        graph_id = self._submitted.run.kwargs["config"]["configurable"]["graph_id"]
        channel = self._services.registry.messages_channel(graph_id)
        state = {k: v for k, v in values.items() if k != channel and not k.startswith("__")}
        before, self._state = self._state, state
        if before is None:
            return [*self._start(), {"type": "STATE_SNAPSHOT", "snapshot": state}]
        delta = _delta(before, state)
        return [*self._start(), {"type": "STATE_DELTA", "delta": delta}] if delta else []

    async def _made_up(self) -> list[JsonObject]:
        """The state and the conversation as the run has left them."""
        services, run = self._services, self._submitted.run
        told: list[JsonObject] = []
        with suppress(NotFoundError):  # it is gone
            values = await services.follower.patiently(lambda: services.states.values_of_run(run))
            told = self._changed(orjson.loads(dumps(values)))
            rows = await services.follower.patiently(lambda: branch(services, run.thread_id))
            shown = [message for row in rows if (message := _message(row))]
            told.append({"type": "MESSAGES_SNAPSHOT", "messages": shown})
        return told

    def on_run_start(self, data: JsonObject) -> list[JsonObject]:
        """The run begins."""
        return self._start()

    def on_message_delta(self, data: JsonObject) -> list[JsonObject]:
        """A piece of an answer."""
        return self._text(data["message_id"], self._spoken.delta(data))

    def on_interrupt(self, data: JsonObject) -> list[JsonObject]:
        """What the graph asks is told in the end."""
        self._interrupts.append(_interrupt(data))
        return []

    def on_error(self, data: JsonObject) -> list[JsonObject]:
        """The run has failed."""
        self._failed = True
        error = {"message": data["message"], "code": data["code"]}
        return [*self._start(), *self._close_all(), {"type": "RUN_ERROR", **error}]

    def _start(self) -> list[JsonObject]:
        if self._begun:
            return []
        self._begun = True
        return [{"type": "RUN_STARTED", **self._run}]

    def _text(self, message_id: str, text: str) -> list[JsonObject]:
        if not text:
            return []
        about = {"messageId": message_id}
        # Who speaks has thought.
        begun = self._conclude(*self._texts & {message_id})
        if message_id not in self._texts:
            self._texts.add(message_id)
            begun.append({"type": "TEXT_MESSAGE_START", **about, "role": "assistant"})
        return [*begun, {"type": "TEXT_MESSAGE_CONTENT", **about, "delta": text}]

    def on_message_end(self, data: JsonObject) -> list[JsonObject]:
        """An answer is whole."""
        rest = self._spoken.rest(data)
        if rest is None:
            return []
        self._usage.add(data)
        message_id = data["message_id"]
        told = [*self._text(message_id, rest), *self._conclude(message_id)]
        return [*told, *self._close(message_id)]

    def _close_all(self) -> list[JsonObject]:
        """The ends of all that is open."""
        return [*self._conclude(), *self._close(*self._texts)]

    def _close(self, *message_ids: str) -> list[JsonObject]:
        """The ends of those of the messages that are open."""
        ending = self._texts & set(message_ids)
        self._texts -= ending
        return [{"type": "TEXT_MESSAGE_END", "messageId": id_} for id_ in sorted(ending)]

    def on_reasoning_delta(self, data: JsonObject) -> list[JsonObject]:
        """A piece of what the model thinks."""
        message_id = data["message_id"]
        about = {"messageId": f"{message_id}-reasoning"}
        begun: list[JsonObject] = []
        if message_id not in self._thoughts:
            self._thoughts.add(message_id)
            begun = [
                {"type": "REASONING_START", **about},
                {"type": "REASONING_MESSAGE_START", **about, "role": "reasoning"},
            ]
        return [*begun, {"type": "REASONING_MESSAGE_CONTENT", **about, "delta": data["delta"]}]

    def _conclude(self, *message_ids: str) -> list[JsonObject]:
        """The ends of what is thought ahead of messages, of all unless they are named."""
        ending = self._thoughts & set(message_ids) if message_ids else set(self._thoughts)
        self._thoughts -= ending
        return [
            {"type": kind, "messageId": f"{id_}-reasoning"}
            for id_ in sorted(ending)
            for kind in ("REASONING_MESSAGE_END", "REASONING_END")
        ]

    def on_tool_start(self, data: JsonObject) -> list[JsonObject]:
        """A call of a tool, by the graph."""
        about = {"toolCallId": data["call_id"]}
        named = {"toolCallName": data["name"], "parentMessageId": data["message_id"]}
        args = dumps(data["args"] or {}).decode()
        return [
            *self._conclude(),
            {"type": "TOOL_CALL_START", **about, **named},
            {"type": "TOOL_CALL_ARGS", **about, "delta": args},
            {"type": "TOOL_CALL_END", **about},
        ]

    def on_tool_end(self, data: JsonObject) -> list[JsonObject]:
        """What the tool gave."""
        output = data["output"]
        told = {
            "type": "TOOL_CALL_RESULT",
            "messageId": data["message_id"],
            "toolCallId": data["call_id"],
            "content": output if isinstance(output, str) else dumps(output).decode(),
            "role": "tool",
        }
        return [told]

    def on_source(self, data: JsonObject) -> list[JsonObject]:
        """What the graph says that it goes by."""
        return [{"type": "CUSTOM", "name": "source", "value": data}]

    def on_session_updated(self, data: JsonObject) -> list[JsonObject]:
        """The session has a name now."""
        return [{"type": "CUSTOM", "name": "session.updated", "value": data}]

    def on_run_end(self, data: JsonObject) -> list[JsonObject]:
        """The run is over."""
        if self._failed:
            return []
        outcome: JsonObject = {"type": "success"}
        if data["status"] != "success":
            outcome = {"type": "cancelled"}
        elif self._interrupts:
            outcome = {"type": "interrupt", "interrupts": self._interrupts}
        end: JsonObject = {"type": "RUN_FINISHED", **self._run, "outcome": outcome}
        if self._usage.is_known:
            asked, said = self._usage.input, self._usage.output
            counted = {"inputTokens": asked, "outputTokens": said, "totalTokens": asked + said}
            end["usage"] = [counted]
        told = [*self._start(), *self._close_all()]
        if not self._has_gap:
            return [*told, end]
        self._finish = [end]
        return told


def _interrupt(data: JsonObject) -> JsonObject:
    value = data["value"]
    said = {"message": value} if isinstance(value, str) else {}
    return {"id": data["id"], "reason": "interrupt", **said, "metadata": {"value": value}}


def _frames(events: Iterable[JsonObject]) -> bytes:
    return b"".join(b"data: %b\n\n" % dumps(event) for event in events)


def _delta(before: JsonObject, after: JsonObject) -> list[JsonObject]:
    """What changes one state into the other, as a JSON patch of its keys."""
    removed = [{"op": "remove", "path": _pointer(key)} for key in before if key not in after]
    return [
        *removed,
        *(
            {"op": "replace" if key in before else "add", "path": _pointer(key), "value": value}
            for key, value in after.items()
            if key not in before or not is_same(before[key], value)
        ),
    ]


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _message(row: Message) -> JsonObject | None:
    """A message as AG-UI keeps it; None of what it has no role for."""
    told = {"id": row.id, "role": row.role, "content": row.content}
    if row.role == "tool":
        return {**told, "toolCallId": row.meta_data.get("tool_call_id") or row.id}
    if row.role == "assistant" and (calls := row.meta_data.get("tool_calls")):
        return {**told, "toolCalls": [_kept_call(call) for call in calls]}
    return told if row.role in ("user", "assistant", "system") else None


def _kept_call(call: JsonObject) -> JsonObject:
    function = {"name": call.get("name"), "arguments": dumps(call.get("args") or {}).decode()}
    return {"id": call.get("id"), "type": "function", "function": function}
