"""OpenAI's responses: runs of sessions that are followed, taken up again and stopped."""

import asyncio
from contextlib import suppress
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from uuid_utils.compat import uuid7

from api.deps import CallerDep, RunId, ServicesDep
from api.doors.conversation import Asked, begin, owner, session_id_of
from api.doors.errors import OpenAIRoute
from api.doors.openai_responses import RESPONSE, ResponseAnswer, ResponseCreate, response_json
from api.http.responses import json_response
from api.sse import stream_of_run
from graph.following import ENDED
from graph.runs import Submitted
from store import messages, sessions
from store.access import EVERYTHING

router = APIRouter(prefix="/v1/responses", tags=["openai"], route_class=OpenAIRoute)

#: How long a response that was canceled may take to stop before it is told as it is.
CANCEL_SECONDS: Final = 10.0


@router.post("")
async def create_response(
    body: ResponseCreate, request: Request, caller: CallerDep, services: ServicesDep
) -> Response:
    """Give a response: whole, streamed, or in the background."""
    asked = await _asked(body, caller, services, request.headers.get("idempotency-key"))
    submitted = await begin(services, caller, asked)
    if body.stream:
        return _streamed(services, caller, submitted)
    if body.background:
        return json_response(response_json(submitted.run))
    return json_response(await ResponseAnswer(services, submitted).whole())


async def _asked(
    body: ResponseCreate, caller: CallerDep, services: ServicesDep, key: str | None
) -> Asked:
    session_id = _new_session_id(caller, key) if body.store is not False else None
    model, parent_id = body.model, None
    if body.named:
        session_id = body.named.lower()
        access = await caller.may("threads", "read", {"thread_id": session_id})
        await sessions.get(services.db, session_id, access=access)
    elif body.previous_response_id:
        before = await _attach(body.previous_response_id, caller, services)
        session_id = before.run.thread_id
        model = model or before.run.kwargs["config"]["configurable"]["graph_id"]
        rows = await messages.of_run(services.db, session_id, before.run.run_id)
        parent_id = rows[-1].id if rows else None
    return Asked(
        messages=body.messages(),
        model=model,
        session_id=session_id,
        about=body.about(),
        added=True,
        on_busy="reject",
        parent_id=parent_id,
        attributes=owner(caller),
        metadata={RESPONSE: body.echoed()},
        key=key,
    )


def _new_session_id(caller: CallerDep, key: str | None) -> str:
    """The id of a conversation that begins: with a key the same for every request that has it."""
    return session_id_of(f"response\n{key}", caller) if key else str(uuid7())


@router.get("/{response_id}")
async def get_response(
    response_id: RunId,
    caller: CallerDep,
    services: ServicesDep,
    stream: bool = False,
    starting_after: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
) -> Response:
    """A response as it stands, or its events from any of them on."""
    found = await _attach(response_id, caller, services)
    if stream:
        return _streamed(services, caller, found, after=starting_after)
    if found.run.status not in ENDED:
        return json_response(response_json(found.run))
    return json_response(await ResponseAnswer(services, found).whole())


@router.post("/{response_id}/cancel")
async def cancel_response(response_id: RunId, caller: CallerDep, services: ServicesDep) -> Response:
    """Stop a response; what was said of it is kept."""
    found = await _attach(response_id, caller, services)
    thread_id = found.run.thread_id
    value = {"thread_id": thread_id, "run_id": response_id, "action": "interrupt"}
    access = await caller.may("threads", "update", value)
    if await services.runs.cancel(thread_id, [response_id], action="interrupt", access=access):
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await services.runs.join(found)
    found = await services.runs.attach(response_id, access=EVERYTHING)
    if found.run.status not in ENDED:
        return json_response(response_json(found.run))
    return json_response(await ResponseAnswer(services, found).whole())


async def _attach(response_id: str, caller: CallerDep, services: ServicesDep) -> Submitted:
    access = await caller.may("threads", "read", {"thread_id": None, "run_id": response_id})
    found = await services.runs.attach(response_id, access=access)
    if not found.run.temporary:
        # Not of a session that is deleted or has expired.
        await sessions.get(services.db, found.run.thread_id, access=access)
    return found


def _streamed(
    services: ServicesDep, caller: CallerDep, submitted: Submitted, *, after: int = -1
) -> Response:
    frames = ResponseAnswer(services, submitted, after=after).frames()
    headers = {"Cache-Control": "no-cache"}
    return stream_of_run(services, caller, submitted, frames, headers=headers)
