"""
The chat routes of Langchain-Chatchat, of 0.2 and of 0.3.

A conversation is made by its id when something is first said in it, as there. Without an id the
client's own history is what counts, and nothing is kept.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Response
from pydantic import Field
from uuid_utils.compat import uuid4

from api.bootstrap import Services
from api.compat.asking import ask_in_session, ask_without_session, history_messages
from api.compat.judgements import judge
from api.compat.streams import Encoder, Heard, Plain, one_frame, respond, said_by
from api.deps import CallerDep, ServicesDep, SessionId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.identity.auth import Caller
from api.schemas.common import Payload
from api.schemas.sessions import Label
from graph.runs import Submitted
from store.errors import InvalidInputError, RunFailedError
from store.models import JsonObject

router = APIRouter(prefix="/chat", tags=["chatchat"], route_class=JsonRoute)

ConversationId = Annotated[SessionId | None, Field(examples=["5f0c8f7e8f2b4c0f9a59d35b1f6f0c2b"])]
#: Of `finish_reason`, what says that an answer is not whole.
_CUT: Final = frozenset({"length", "incomplete"})
#: Its `AgentStatus`.
TOKEN, TOOL_START, TOOL_END, APPROVAL, FAILED, CHAIN_END = 2, 7, 8, 6, -1, -999


class Chat(Payload):
    """A question of 0.2; what else its front end sends is the graph's own affair."""

    query: Annotated[str, Field(min_length=1)] = Field(examples=["你好"])
    #: Empty for none.
    conversation_id: str | None = ""
    #: Used without a conversation only: what was said in one is known here.
    history: Any = None
    stream: bool = False
    model_name: Label | None = None
    model: Label | None = None


class Completions(Payload):
    """A question of 0.3: OpenAI's request, and a conversation."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)] = Field(
        examples=[[{"role": "user", "content": "你好"}]]
    )
    conversation_id: str | None = ""
    model: Label | None = None
    stream: bool | None = None


class Feedback(Payload):
    """What somebody thinks of an answer."""

    message_id: Annotated[str, Field(max_length=255)] = ""
    score: Annotated[int, Field(ge=0, le=100)] = 100
    reason: Annotated[str, Field(max_length=255)] = ""


class _Conversation(Payload):
    id: SessionId


async def _ask(services: Services, caller: Caller, body: Chat, chat_type: str) -> Submitted:
    model = body.model_name or body.model
    if body.conversation_id:
        id_ = _conversation(body.conversation_id)
        return await ask_in_session(
            services, caller, id_, body.query, chat_type=chat_type, model=model, create=True
        )
    said = [*history_messages(body.history), {"role": "user", "content": body.query}]
    return await ask_without_session(services, caller, said, model=model)


def _conversation(text: str) -> str:
    """
    The id of a conversation.

    Raises:
        InvalidInputError: It is no UUID.
    """
    try:
        return _Conversation(id=text).id
    except ValueError as exc:
        raise InvalidInputError("conversation_id must be a UUID, with dashes or without") from exc


@router.post("/chat")
async def chat(body: Chat, caller: CallerDep, services: ServicesDep) -> Response:
    """Answer with `{"text", "message_id"}`: piece by piece, or in one event without `stream`."""
    submitted = await _ask(services, caller, body, "llm_chat")
    return await _plain(services, caller, submitted, Plain(), body.stream)


@router.post("/knowledge_base_chat")
async def knowledge_base_chat(body: Chat, caller: CallerDep, services: ServicesDep) -> Response:
    """Answer with `{"answer"}`, and with `{"docs"}` at the end."""
    submitted = await _ask(services, caller, body, "knowledge_base_chat")
    return await _plain(services, caller, submitted, _answer("docs"), body.stream)


@router.post("/search_engine_chat")
async def search_engine_chat(body: Chat, caller: CallerDep, services: ServicesDep) -> Response:
    """Answer with `{"answer"}`, and with `{"docs"}` at the end."""
    submitted = await _ask(services, caller, body, "search_engine_chat")
    return await _plain(services, caller, submitted, _answer("docs"), body.stream)


@router.post("/file_chat")
async def file_chat(body: Chat, caller: CallerDep, services: ServicesDep) -> Response:
    """Answer with `{"answer"}`, and with `{"docs"}` at the end."""
    submitted = await _ask(services, caller, body, "file_chat")
    return await _plain(services, caller, submitted, _answer("docs"), body.stream)


@router.post("/agent_chat")
async def agent_chat(body: Chat, caller: CallerDep, services: ServicesDep) -> Response:
    """Answer with `{"answer"}`, `{"tools"}` and, once more as a whole, `{"final_answer"}`."""
    submitted = await _ask(services, caller, body, "agent_chat")
    encoder = Plain(key="answer", has_id=False, is_agent=True)
    return await _plain(services, caller, submitted, encoder, body.stream)


@router.post("/kb_chat")
async def kb_chat(body: Chat, caller: CallerDep, services: ServicesDep) -> Response:
    """Answer with a history that the client keeps, in 0.3's chunks."""
    submitted = await _ask(services, caller, body, "kb_chat")
    return await respond(
        services,
        caller,
        submitted,
        Chunks(body.model or "", body.conversation_id or ""),
        stream=body.stream,
    )


@router.post("/chat/completions")
async def completions(body: Completions, caller: CallerDep, services: ServicesDep) -> Response:
    """Answer as OpenAI does, with the keys of 0.3 beside; in a conversation if it is named."""
    if body.conversation_id:
        id_ = _conversation(body.conversation_id)
        submitted = await ask_in_session(
            services, caller, id_, _last_question(body.messages), chat_type="llm_chat",
            model=body.model, create=True,
        )  # fmt: skip
    else:
        said = history_messages(body.messages)
        if not said:
            raise InvalidInputError("`messages` has none of a role and a text")
        submitted = await ask_without_session(services, caller, said, model=body.model)
    encoder = Chunks(body.model or "", body.conversation_id or "")
    return await respond(services, caller, submitted, encoder, stream=bool(body.stream))


@router.post("/feedback")
async def chat_feedback(body: Feedback, caller: CallerDep, services: ServicesDep) -> Response:
    """Keep what somebody thinks of an answer."""
    await judge(services, caller, body.message_id, body.score, body.reason)
    return json_response({"code": 200, "msg": f"已反馈聊天记录 {body.message_id}", "data": None})


async def _plain(
    services: Services, caller: Caller, submitted: Submitted, encoder: Encoder, stream: bool
) -> Response:
    return await respond(
        services, caller, submitted, encoder, stream=stream, whole=one_frame(services)
    )


def _answer(*sources: str) -> Plain:
    return Plain(key="answer", has_id=False, sources=sources)


def _last_question(messages: list[dict[str, Any]]) -> str:
    said = history_messages(messages)
    if not said or said[-1]["role"] != "user" or not said[-1]["content"]:
        raise InvalidInputError("The last of `messages` must be the user's, and a text")
    return str(said[-1]["content"])


@dataclass
class Chunks:
    """OpenAI's chunks as 0.3 sends them: with `status`, and `role` beside `delta`."""

    model: str
    conversation_id: str
    id: str = field(default_factory=lambda: f"chat{uuid4()}")
    created: int = field(default_factory=lambda: int(time.time()))
    heard: Heard = field(default_factory=Heard)
    docs: list[str] = field(default_factory=list)
    calls: dict[str, JsonObject] = field(default_factory=dict)

    def objects(self, name: str, data: JsonObject) -> Iterator[JsonObject]:
        """What one event is to it."""
        message_id, text = self.heard.news(name, data)
        if text:
            yield self._chunk(TOKEN, content=text, message_id=message_id)
        elif name == "tool.start":
            self.calls[str(data["call_id"])] = self._call(data)
            yield self._chunk(TOOL_START, calls=[self.calls[str(data["call_id"])]])
        elif name == "tool.end":
            yield self._found(data)
        elif name == "source" and (docs := said_by(data)):
            self.docs += docs
            yield self._chunk(TOKEN, docs=docs)
        elif name == "interrupt":
            yield self._chunk(APPROVAL, content=orjson.dumps(data["value"], default=str).decode())
        elif name == "error":
            yield self._chunk(FAILED, content=str(self.heard.error), error=self.heard.error)
        elif name == "run.end" and self.heard.error is None:
            yield self._chunk(CHAIN_END)

    def whole(self) -> JsonObject:
        """OpenAI's answer in one piece."""
        if self.heard.error is not None:
            raise RunFailedError(self.heard.error)
        message_id, text = self.heard.answer
        message = {
            "role": "assistant",
            "content": text,
            "finish_reason": "length" if self.heard.finish_reason in _CUT else "stop",
            "tool_calls": list(self.calls.values()),
        }
        return {
            **self._about("chat.completion", CHAIN_END, message_id),
            "docs": self.docs,
            "choices": [{"message": message}],
        }

    def _call(self, data: JsonObject) -> JsonObject:
        arguments = orjson.dumps(data["args"] or {}, default=str).decode()
        return {
            "index": 0,
            "id": data["call_id"],
            "type": "function",
            "function": {"name": data["name"], "arguments": arguments},
            "tool_output": None,
            "is_error": False,
        }

    def _found(self, data: JsonObject) -> JsonObject:
        call = self.calls.setdefault(str(data["call_id"]), self._call({**data, "args": {}}))
        output = data["output"]
        text = output if isinstance(output, str) else orjson.dumps(output, default=str).decode()
        call |= {"tool_output": text, "is_error": bool(data["is_error"])}
        self.docs.append(text)
        return self._chunk(TOOL_END, calls=[call], docs=[text])

    def _chunk(
        self,
        status: int,
        *,
        content: str = "",
        message_id: str = "",
        calls: list[JsonObject] | None = None,
        **more: Any,
    ) -> JsonObject:
        delta = {"content": content, "tool_calls": calls or []}
        return {
            **self._about("chat.completion.chunk", status, message_id),
            **more,
            "choices": [{"delta": delta, "role": "assistant"}],
        }

    def _about(self, kind: str, status: int, message_id: str) -> JsonObject:
        return {
            "id": self.id,
            "object": kind,
            "model": self.model,
            "created": self.created,
            "status": status,
            "message_type": 1,
            "message_id": message_id or self.heard.answer[0] or None,
            "is_ref": False,
            "conversation_id": self.conversation_id,
        }
