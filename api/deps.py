"""What routes ask for. Never a connection: one is borrowed for one function of `store`."""

from typing import Annotated, cast

from fastapi import Depends, Header, Request

from api.auth import Caller
from api.bootstrap import Services
from api.schemas import AssistantId, RunId, SessionId, ThreadId

__all__ = [
    "AssistantId",
    "CallerDep",
    "LastEventId",
    "RunId",
    "ServicesDep",
    "SessionId",
    "ThreadId",
]


async def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


async def _caller(request: Request) -> Caller:
    return Caller(request_id=request.state.request_id)


ServicesDep = Annotated[Services, Depends(_services)]
CallerDep = Annotated[Caller, Depends(_caller)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID")]
