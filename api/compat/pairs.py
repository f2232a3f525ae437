"""Turns as pairs, for `threadwell.repository`: what the old repositories' functions work on."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from api.compat.judgements import find, judge
from api.deps import CallerDep, ServicesDep, SessionId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.schemas.common import Payload, Text
from store import pairs, sessions

router = APIRouter(prefix="/api/pairs", tags=["pairs"], route_class=JsonRoute)

MessageId = Annotated[Text, Path(max_length=255)]


class Judgement(Payload):
    """What somebody thinks of an answer."""

    score: Annotated[int, Field(ge=0, le=100)] = Field(examples=[100])
    reason: Annotated[str, Field(max_length=255)] = ""


@router.get("")
async def list_pairs(
    conversation_id: SessionId,
    caller: CallerDep,
    services: ServicesDep,
    chat_type: Text | None = None,
    answered: bool = True,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> Response:
    """The newest turns of a conversation as pairs, newest first."""
    access = await caller.may("threads", "read", {"thread_id": conversation_id})
    await sessions.get(services.db, conversation_id, access=access)
    found = await pairs.list_newest(
        services.db,
        conversation_id,
        chat_type=chat_type,
        answered=answered,
        limit=limit,
        access=access,
    )
    return json_response({"data": found})


@router.get("/{message_id:path}")
async def get_pair(message_id: MessageId, caller: CallerDep, services: ServicesDep) -> Response:
    """The turn of a message as a pair."""
    return json_response(await find(services, caller, message_id))


@router.put("/{message_id:path}/feedback")
async def put_judgement(
    message_id: MessageId, body: Judgement, caller: CallerDep, services: ServicesDep
) -> Response:
    """Keep what somebody thinks of an answer."""
    await judge(services, caller, message_id, body.score, body.reason)
    return json_response(await find(services, caller, message_id))
