"""The AI SDK's UI messages, and the session's events as its UI message stream."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field

from api.bootstrap import Services
from api.doors.content import content_of, media_block, text_block
from api.doors.conversation import REPLY, Asked
from api.doors.spoken import Door
from api.schemas.common import Payload
from api.session_events import Part
from graph.encode import dumps
from graph.runs import Submitted
from store.models import JsonObject

HEADERS: Final = {
    "Cache-Control": "no-cache",
    "x-vercel-ai-ui-message-stream": "v1",
    "x-accel-buffering": "no",
}
#: The name of the tool that stands for what a graph asks.
INTERRUPT: Final = "interrupt"
_FINISHES: Final = {"length": "length", "content_filter": "content-filter", "incomplete": "length"}
Label = Annotated[str, Field(min_length=1, max_length=255)]


class UIMessage(Payload):
    """A message as the AI SDK keeps it."""

    id: str | None = None
    role: Annotated[str, Field(pattern="^(system|user|assistant)$")]
    parts: list[JsonObject] = Field(default_factory=list)

    def text(self) -> str:
        """What it says."""
        texts = (part.get("text") for part in self.parts if part.get("type") == "text")
        return "".join(text for text in texts if isinstance(text, str))

    def given(self) -> JsonObject:
        """It as a graph takes it."""
        named = {"id": self.id} if self.id and self.role == "user" else {}
        blocks = [block for part in self.parts if (block := _block(part))]
        return {"role": self.role, "content": content_of(blocks), **named}

    def answers(self) -> JsonObject:
        """What it answers to interrupts, by their ids."""
        found: JsonObject = {}
        for part in self.parts:
            approval = part.get("approval")
            if part.get("state") == "approval-responded" and isinstance(approval, dict):
                found[str(approval.get("id"))] = _decision(part.get("input"), approval)
            elif part.get("state") == "output-available" and part.get("toolName") == INTERRUPT:
                found[str(part.get("toolCallId"))] = part.get("output")
        return found


def _block(part: JsonObject) -> JsonObject | None:
    if part.get("type") == "text" and isinstance(part.get("text"), str):
        return text_block(part["text"])
    if part.get("type") == "file" and isinstance(part.get("url"), str):
        kind = part.get("mediaType")
        return media_block(
            part["url"], kind if isinstance(kind, str) else None, part.get("filename")
        )
    return None


def _decision(asked: Any, approval: JsonObject) -> JsonObject:
    """What a node that asked is answered; LangChain's human in the loop in its own words."""
    is_approved, reason = approval.get("approved") is True, approval.get("reason")
    actions = asked.get("action_requests") if isinstance(asked, dict) else None
    if isinstance(actions, list):
        decision: JsonObject = {"type": "approve"}
        if not is_approved:
            decision = {"type": "reject", **({"message": reason} if reason else {})}
        return {"decisions": [decision for _ in actions]}
    return {"approved": is_approved, "reason": reason}


class UIChat(Payload):
    """What a chat of the AI SDK sends: all of its messages."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "019acbd0-7c5e-7a50-a4b4-6a5f8b7f0002",
                    "trigger": "submit-message",
                    "messages": [
                        {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}
                    ],
                }
            ]
        }
    )

    id: Label
    messages: list[UIMessage] = Field(min_length=1, max_length=10_000)
    trigger: str | None = None
    message_id: str | None = Field(None, alias="messageId")
    #: The graph or assistant that answers, of the body that an application adds.
    model: Label | None = None

    def asked(self, attributes: JsonObject) -> Asked:
        """What it asks for."""
        last = self.messages[-1]
        system = [message.text() for message in self.messages if message.role == "system"]
        answers = last.answers() if last.role == "assistant" else {}
        return Asked(
            messages=[m.given() for m in self.messages if m.role != "system"],
            model=self.model,
            session_id=self.id,
            about={"system": "\n\n".join(system)} if system else {},
            answers=answers,
            # The answer goes on in the message that has the questions.
            reply_id=last.id if answers else None,
            attributes=attributes,
        )


class UIMessageStream(Door):
    """
    The session's events as a UI message stream.

    Args:
        continues: The client has the message that this is the rest of.
    """

    def __init__(
        self, services: Services, submitted: Submitted, *, continues: bool = False
    ) -> None:
        super().__init__(services, submitted)
        self._continues = continues
        self._begun = self._failed = False
        self._in_step = self._may_step = False
        #: Of the parts that are open: text or reasoning.
        self._open: dict[str, str] = {}
        self._calls: set[str] = set()
        self._finish = "stop"

    def encoded(self, parts: Sequence[Part], event_id: str) -> bytes:
        """The chunks that these events are."""
        frames = [b"data: %b\n\n" % dumps(chunk) for chunk in self.objects(parts)]
        return b"".join([*frames, *[b"data: [DONE]\n\n" for name, _ in parts if name == "run.end"]])

    def on_run_start(self, data: JsonObject) -> list[JsonObject]:
        """The answer begins."""
        return self._start()

    def on_message_delta(self, data: JsonObject) -> list[JsonObject]:
        """A piece of an answer."""
        return self._text(data["message_id"], self._spoken.delta(data))

    def on_tool_start(self, data: JsonObject) -> list[JsonObject]:
        """A call of a tool, by the graph."""
        return self._call(data["call_id"], data["name"], data["args"])

    def on_error(self, data: JsonObject) -> list[JsonObject]:
        """The run has failed."""
        self._failed = True
        return [*self._start(), {"type": "error", "errorText": data["message"]}]

    def _start(self) -> list[JsonObject]:
        if self._begun:
            return []
        self._begun = True
        run = self._submitted.run
        start = {"type": "start", "messageId": run.metadata.get(REPLY) or run.run_id}
        resume = (run.kwargs.get("command") or {}).get("resume")
        answers = resume.items() if isinstance(resume, dict) else ()
        return [start, *(chunk for answer in answers for chunk in self._answered(*answer))]

    def _answered(self, interrupt_id: str, answer: Any) -> list[JsonObject]:
        """What became of a question of before."""
        asked: list[JsonObject] = []
        if not self._continues:
            asked = self._call(interrupt_id, INTERRUPT, None)
        denied = isinstance(answer, dict) and answer.get("approved") is False
        about = {"toolCallId": interrupt_id}
        if denied and self._continues:
            return [{"type": "tool-output-denied", **about}]
        return [*asked, {"type": "tool-output-available", **about, "output": answer}]

    def _step(self) -> list[JsonObject]:
        """Begin a step, if what comes is not of the one that is open."""
        if self._in_step and not self._may_step:
            return []
        # With its step a client forgets what was open in it.
        ended = [*self._close(*self._open), {"type": "finish-step"}] if self._in_step else []
        self._in_step, self._may_step = True, False
        return [*ended, {"type": "start-step"}]

    def _text(self, message_id: str, text: str) -> list[JsonObject]:
        if not text:
            return []
        # Who speaks has thought.
        thoughts = [_thought(message_id)] if message_id in self._open else self._thoughts()
        return [*self._close(*thoughts), *self._piece("text", message_id, text)]

    def _thoughts(self) -> list[str]:
        return [part_id for part_id, kind in self._open.items() if kind == "reasoning"]

    def _piece(self, kind: str, part_id: str, delta: str) -> list[JsonObject]:
        """A piece of a part, which begins with its first one."""
        begun: list[JsonObject] = []
        if part_id not in self._open:
            begun = [*self._step(), {"type": f"{kind}-start", "id": part_id}]
            self._open[part_id] = kind
        return [*begun, {"type": f"{kind}-delta", "id": part_id, "delta": delta}]

    def _close(self, *part_ids: str) -> list[JsonObject]:
        """The ends of those of the parts that are open."""
        ending = [part_id for part_id in part_ids if part_id in self._open]
        return [{"type": f"{self._open.pop(part_id)}-end", "id": part_id} for part_id in ending]

    def on_message_end(self, data: JsonObject) -> list[JsonObject]:
        """A message is whole."""
        rest = self._spoken.rest(data)
        if rest is None:
            return []
        self._finish = _FINISHES.get(str(data.get("finish_reason")), "stop")
        message_id = data["message_id"]
        chunks = [*self._text(message_id, rest), *self._close(_thought(message_id), message_id)]
        self._may_step = True
        return chunks

    def on_reasoning_delta(self, data: JsonObject) -> list[JsonObject]:
        """A piece of what the model thinks."""
        return self._piece("reasoning", _thought(data["message_id"]), data["delta"])

    def _call(self, call_id: str, name: str, args: Any) -> list[JsonObject]:
        begun = [] if self._in_step else self._step()
        self._calls.add(call_id)
        return [
            *self._close(*self._thoughts()),
            *begun,
            {
                "type": "tool-input-available",
                "toolCallId": call_id,
                "toolName": name,
                "input": args,
                "dynamic": True,
                **({"providerExecuted": True} if name != INTERRUPT else {}),
            },
        ]

    def on_tool_end(self, data: JsonObject) -> list[JsonObject]:
        """What the tool gave."""
        call_id = data["call_id"]
        missing = call_id not in self._calls and not self._continues
        asked = self._call(call_id, data["name"] or "tool", None) if missing else []
        about = {"toolCallId": call_id, "dynamic": True, "providerExecuted": True}
        if data["is_error"]:
            error = {"type": "tool-output-error", **about, "errorText": str(data["output"])}
            return [*asked, error]
        return [*asked, {"type": "tool-output-available", **about, "output": data["output"]}]

    def on_source(self, data: JsonObject) -> list[JsonObject]:
        """What the graph says that it goes by."""
        begun = [] if self._in_step else self._step()
        return [*begun, *(_source(document) for document in data["documents"])]

    def on_session_updated(self, data: JsonObject) -> list[JsonObject]:
        """The session has a name now; that is no part of the message."""
        named = {"name": data["name"], "title_source": data["title_source"]}
        return [*self._start(), {"type": "data-session", "data": named, "transient": True}]

    def on_interrupt(self, data: JsonObject) -> list[JsonObject]:
        """The graph asks: to approve, or to give the output of a tool that stands for the question."""
        asked = {"approvalId": data["id"], "toolCallId": data["id"]}
        return [
            *self._call(data["id"], INTERRUPT, data["value"]),
            {"type": "tool-approval-request", **asked},
        ]

    def on_run_end(self, data: JsonObject) -> list[JsonObject]:
        """The run is over."""
        steps: list[JsonObject] = [{"type": "finish-step"}] if self._in_step else []
        finish = self._finish if data["status"] == "success" else "other"
        return [
            *self._start(),
            *self._close(*self._open),
            *steps,
            {"type": "finish", "finishReason": "error" if self._failed else finish},
        ]


def _thought(message_id: str) -> str:
    """The id of the part that is what was thought ahead of a message."""
    return f"{message_id}-reasoning"


def _source(document: JsonObject) -> JsonObject:
    title = {"title": document["title"]} if document["title"] else {}
    if document["url"]:
        about = {"sourceId": document["id"], "url": document["url"]}
        return {"type": "source-url", **about, **title}
    about = {"sourceId": document["id"], "mediaType": "text/plain"}
    return {"type": "source-document", **about, "title": document["title"] or document["id"]}
