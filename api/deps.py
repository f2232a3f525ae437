"""What routes ask for. Never a connection: one is borrowed for one function of `store`."""

from typing import Annotated, cast

from fastapi import Depends, Header, Request

from api.bootstrap import Services
from api.schemas import AssistantId, RunId, SessionId, ThreadId
from store.models import JsonObject

__all__ = [
    "AssistantId",
    "InjectedDep",
    "LastEventId",
    "RunId",
    "ServicesDep",
    "SessionId",
    "ThreadId",
]


async def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


async def _injected(request: Request) -> JsonObject:
    """What the server adds to a run's configurable: who is calling, and the request's id."""
    return {
        "langgraph_auth_user": None,
        "langgraph_auth_user_id": "",
        "langgraph_auth_permissions": [],
        "langgraph_request_id": request.state.request_id,
    }


ServicesDep = Annotated[Services, Depends(_services)]
InjectedDep = Annotated[JsonObject, Depends(_injected)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID")]
