"""The event-streaming protocol: commands on a thread, and its events over SSE and WebSocket."""

from typing import Any

from fastapi import APIRouter, Request, Response, WebSocket
from pydantic import TypeAdapter, ValidationError

from api.bootstrap import Services
from api.deps import CallerDep, ServicesDep, ThreadId
from api.http.bodies import bounded, described, parse
from api.http.responses import json_response
from api.identity.auth import Caller
from api.protocol.commands import Commands, envelope, failure
from api.protocol.socket import ProtocolSocket
from api.protocol.stream import Tape, frames
from api.sse import EventStream, reads
from graph.protocol_events import since_of, wanted
from store import threads
from store.access import EVERYTHING, Access
from store.errors import BadRequestError, InvalidInputError

router = APIRouter(prefix="/threads/{thread_id}", tags=["protocol"])

_THREAD_ID = TypeAdapter[str](ThreadId)

#: What only a connection that stays can do.
_SUBSCRIBING = "subscription."


async def _parsed(request: Request) -> Any:
    """
    Read a body, which the protocol wants to be right in form.

    Raises:
        BadRequestError: It is no JSON.
    """
    try:
        return parse(await bounded(request).body())
    except InvalidInputError as exc:
        raise BadRequestError(exc.message, code=exc.code) from None


@router.post("/commands", openapi_extra=described("id", "method", "params"))
async def command(
    thread_id: ThreadId, caller: CallerDep, services: ServicesDep, request: Request
) -> Response:
    """Do what a command of the protocol says; the answer is an envelope of the protocol."""
    number, method, params = envelope(await _parsed(request))
    if method.startswith(_SUBSCRIBING):
        message = "Subscribe over the WebSocket, or open a stream of events."
        return json_response(failure(number, "not_supported", message))
    return json_response(await Commands(services, caller, thread_id).answer(number, method, params))


@router.post(
    "/stream/events",
    response_class=EventStream,
    openapi_extra=described("channels", "namespaces", "depth", "since"),
)
async def stream_events(
    thread_id: ThreadId, caller: CallerDep, services: ServicesDep, request: Request
) -> Response:
    """
    Stream what happened on a thread, as far as it is kept, and then whatever comes; it never ends.

    The thread need not exist yet. ``since`` is the ``seq`` of the last event that the client has.
    """
    access = await _readable(services, caller, thread_id)
    body = await _parsed(request)
    asked = body if isinstance(body, dict) else {}
    try:
        seen = wanted(asked.get("channels"), asked.get("namespaces"), asked.get("depth"))
        since = since_of(asked.get("since"))
    except InvalidInputError as exc:
        raise BadRequestError(exc.message) from None
    tape = Tape(services, thread_id, access=access, channels=seen.channels, since=since)
    return EventStream(
        frames(tape, seen),
        headers={},
        settings=services.settings,
        caller=caller,
        look=reads(services, caller, thread_id),
    )


@router.websocket("/stream/events")
async def socket(websocket: WebSocket, caller: CallerDep, services: ServicesDep) -> None:
    """Commands and events of a thread over one connection."""
    try:
        thread_id = _THREAD_ID.validate_python(websocket.path_params["thread_id"])
    except ValidationError:
        raise InvalidInputError("Invalid thread ID: must be a UUID") from None
    access = await _readable(services, caller, thread_id)
    await websocket.accept()
    await ProtocolSocket(websocket, services, caller, thread_id, access=access).run()


async def _readable(services: Services, caller: Caller, thread_id: str) -> Access:
    """
    Which threads the caller may read; this one is among them, or not there for anybody yet.

    Raises:
        NotFoundError: It is not the caller's, or not there for one who may not see every thread.
    """
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    if access != EVERYTHING:
        await threads.get(services.db, thread_id, access=access)
    return access
