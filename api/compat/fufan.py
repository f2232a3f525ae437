"""The chat routes of fufan-chat-api: a question, and bare `data:` lines."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field

from api.compat.asking import ask_in_session
from api.compat.streams import Plain, respond
from api.deps import CallerDep, ServicesDep, SessionId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.schemas.common import Payload
from api.schemas.sessions import Label

router = APIRouter(prefix="/api", tags=["fufan"], route_class=JsonRoute)

#: By route: the mode it is, where `prompt_name` says none, and what its front end reads.
CHATS: dict[str, tuple[str, Callable[[], Plain]]] = {
    "/chat": ("general_chat", Plain),
    "/chat/knowledge_base_chat": ("knowledge_base_chat", lambda: Plain(sources=("docs",))),
    "/chat/search_engine_chat": (
        "real_time_search",
        lambda: Plain(has_id=False, sources=("docs", "search")),
    ),
    "/chat/recommend_chat": (
        "recommend_base_chat",
        lambda: Plain(key="answer", has_id=False, sources=("recommend course",)),
    ),
    "/chat/agent_chat": (
        "agent_chat",
        lambda: Plain(key="answer", has_id=False, is_agent=True),
    ),
}


class Chat(Payload):
    """A question in a conversation; what else its front end sends is the graph's own affair."""

    query: Annotated[str, Field(min_length=1)] = Field(examples=["你好"])
    conversation_id: SessionId = Field(examples=["0197f2a4-7c1e-7d53-9f0a-3c1f6f0c2b11"])
    model_name: Label | None = None
    prompt_name: Label | None = None
    stream: Any = True


def _chat(path: str, mode: str, encoder: Callable[[], Plain]) -> None:
    @router.post(path, name=path.rpartition("/")[2])
    async def chat(body: Chat, caller: CallerDep, services: ServicesDep) -> Response:
        """Answer within a conversation; what is said is kept in it."""
        submitted = await ask_in_session(
            services,
            caller,
            body.conversation_id,
            body.query,
            chat_type=body.prompt_name or mode,
            model=body.model_name or None,
        )
        return await respond(services, caller, submitted, encoder())


for _path, (_mode, _encoder) in CHATS.items():
    _chat(_path, _mode, _encoder)


@router.get("/llm_model/list_running_models")
async def list_running_models(caller: CallerDep, services: ServicesDep) -> Response:
    """What may answer: the graphs."""
    models = services.registry.graph_ids
    return json_response({"status": 200, "msg": "success", "data": {"models": models}})
