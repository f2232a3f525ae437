"""What routes ask for. Never a connection: one is borrowed for one function of `store`."""

from typing import Annotated, cast

from fastapi import Depends, Header
from fastapi.requests import HTTPConnection

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


async def _services(connection: HTTPConnection) -> Services:
    return cast("Services", connection.app.state.services)


async def _caller(connection: HTTPConnection) -> Caller:
    # Whoever was not let in by `Authentication` has none, and gets nothing.
    return cast("Caller", connection.state.caller)


ServicesDep = Annotated[Services, Depends(_services)]
CallerDep = Annotated[Caller, Depends(_caller)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID")]
