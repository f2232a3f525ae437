"""OpenAI's chat completions: graphs as models, and conversations that are kept."""

import re
from collections.abc import Iterable
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.datastructures import Headers

from api.deps import CallerDep, ServicesDep
from api.doors.conversation import STATELESS, begin, owner
from api.doors.errors import OpenAIRoute
from api.doors.openai_chat import ChatAnswer, ChatCompletion
from api.http.responses import json_response
from api.sse import stream_of_run
from store.errors import NotFoundError
from store.models import JsonObject

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute)

#: By which headers front ends name what a request is of; the first that is there counts.
CHAT: Final = ("x-openwebui-chat-id", "x-chat-id", "x-conversation-id", "x-session-id")
MESSAGE: Final = ("x-openwebui-user-message-id", "x-user-message-id")
PARENT: Final = (
    "x-openwebui-user-message-parent-id", "x-user-message-parent-id", "x-parent-message-id",
)  # fmt: skip
REPLY: Final = ("x-openwebui-message-id", "x-message-id")
TASK: Final = ("x-openwebui-task", "x-task")
USER: Final = ("x-openwebui-user-id", "x-user-id")
#: Of a front end that knows of no such thing.
_PLACEHOLDER: Final = re.compile(r"\{\{.*\}\}")


@router.get("/models")
async def list_models(caller: CallerDep, services: ServicesDep) -> Response:
    """The graphs, each also as a model that keeps nothing."""
    found = [_model(name) for name in _models(services.registry.graph_ids)]
    return json_response({"object": "list", "data": found})


@router.get("/models/{model}")
async def get_model(model: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One of them."""
    if model not in _models(services.registry.graph_ids):
        raise NotFoundError("There is no such model", code="model_not_found")
    return json_response(_model(model))


def _models(graph_ids: Iterable[str]) -> list[str]:
    return [name for graph_id in graph_ids for name in (graph_id, f"{graph_id}{STATELESS}")]


def _model(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": 0, "owned_by": "threadwell"}


@router.post("/chat/completions")
async def create_chat_completion(
    body: ChatCompletion, request: Request, caller: CallerDep, services: ServicesDep
) -> Response:
    """
    Answer a conversation, whole or streamed.

    One that the body or a header names is kept: what is new of the messages is added to it, and
    where they differ from what is kept a branch begins.
    """
    sent = request.headers
    chat_id = None if _header(sent, TASK) else _header(sent, CHAT)
    asked = body.asked(
        chat_id=None if chat_id and chat_id.startswith("local:") else chat_id,
        parent_id=_header(sent, PARENT),
        reply_id=_header(sent, REPLY),
        message_id=_header(sent, MESSAGE),
        attributes=owner(caller, _header(sent, USER)),
        key=_header(sent, ("idempotency-key",)),
    )
    submitted = await begin(services, caller, asked)
    answer = ChatAnswer(
        services,
        submitted,
        model=body.model,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )
    if not body.stream:
        return json_response(await answer.whole())
    headers = {"Cache-Control": "no-cache"}
    return stream_of_run(services, caller, submitted, answer.frames(), headers=headers)


def _header(headers: Headers, names: Iterable[str]) -> str | None:
    """The first header of these that says something."""
    for name in names:
        value = headers.get(name, "").strip().replace("\0", "")
        if value and not _PLACEHOLDER.fullmatch(value):
            return value[:255]
    return None
