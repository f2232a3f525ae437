"""What routes ask for. Never a connection: one is borrowed for one function of `store`."""

from typing import Annotated, cast

from fastapi import Depends, Header
from fastapi.requests import HTTPConnection

from api.bootstrap import Services
from api.identity.auth import Caller
from api.schemas.common import AssistantId, RunId, SessionId, ThreadId
from store.errors import UnsupportedError

__all__ = [
    "HAS_MESSAGES",
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


async def _require_messages(services: ServicesDep) -> None:
    """A checkpointer of the user's own projects no messages, which are the session's history."""
    if services.graphs.checkpointer is not None:
        raise UnsupportedError(
            "Messages of a session: not with the checkpointer that langgraph.json names"
        )


#: For routes that read or write messages as rows.
HAS_MESSAGES = [Depends(_require_messages)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID")]
