"""Sessions over a WebSocket."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from fastapi import APIRouter, WebSocket

from api import limits
from api.deps import ServicesDep
from api.errors import refuse, status_of
from api.http.bodies import parse
from api.identity.auth import Caller
from api.processes.sockets import allow_large_frames
from api.protocol.commands import envelope, failure
from api.protocol.sockets import received
from api.sessions.socket import SessionSocket
from graph.encode import dumps
from store.errors import AuthenticationError, Error, UnsupportedError

router = APIRouter(tags=["sessions"])

#: How long a client that was accepted may take to say who it is.
AUTH_SECONDS = 10.0
#: How long the frame may be that says it: it is read before anybody is known.
MAX_AUTH_BYTES = 32 * 1024
#: The subprotocol beside which a token may stand.
BEARER = "bearer"

#: Finds out who is calling, by a token or, without one, by the headers of the handshake.
Knock = Callable[[str | None], Awaitable[Caller]]


@router.websocket("/api/ws")
async def session_socket(websocket: WebSocket, services: ServicesDep) -> None:
    """Commands and events of many sessions over one connection."""
    if services.graphs.checkpointer is not None:
        message = "Messages of a session: not with the checkpointer that langgraph.json names"
        await refuse(websocket, UnsupportedError(message))
        return
    try:
        caller = await _caller(websocket)
        if caller is not None:
            await limits.enter(caller)
    except Error as exc:
        await refuse(websocket, exc)
        return
    if caller is not None:
        await SessionSocket(websocket, services, caller).run()


async def _caller(websocket: WebSocket) -> Caller | None:
    """
    Find out whose the socket is, and accept it; None if the client has left meanwhile.

    By the token beside the subprotocol ``bearer``; by the headers of the handshake, if they say so;
    else by the first frame, ``{"id": 1, "method": "auth", "params": {"token": "…"}}``.

    Raises:
        AuthenticationError: It is not said, or not known.
        Error: It is refused.
    """
    offered = [one.strip() for one in websocket.scope.get("subprotocols") or ()]
    protocol = BEARER if BEARER in offered else None
    token = next((one for one in offered if one != BEARER), None) if protocol else None
    state = websocket.scope["state"]
    known, knock = state.get("caller"), cast("Knock", state.get("knock"))
    try:
        caller: Caller = known or await knock(token)
    except Error as exc:
        await websocket.accept(protocol)
        if token is not None or status_of(exc) not in (400, 401):
            raise
        return await _by_first_frame(websocket, knock)
    # Before it is accepted: a client may send a long frame at once.
    allow_large_frames(websocket.scope)
    await websocket.accept(protocol)
    return caller


async def _by_first_frame(websocket: WebSocket, knock: Knock) -> Caller | None:
    try:
        async with asyncio.timeout(AUTH_SECONDS):
            raw = await received(websocket)
    except TimeoutError:
        raise AuthenticationError("Nobody said who is calling") from None
    if raw is None:
        return None
    if len(raw) > MAX_AUTH_BYTES:
        raise AuthenticationError("The first frame must be `auth` with a token")
    try:
        number, method, params = envelope(parse(raw))
    except Error as exc:
        raise AuthenticationError(exc.message) from None
    token = params.get("token")
    if method != "auth" or not isinstance(token, str) or not token.isprintable():
        raise AuthenticationError("The first frame must be `auth` with a token")
    try:
        caller = await knock(token)
    except Error as exc:
        answer = failure(number, exc.code, exc.message)
        await websocket.send_text(dumps(answer).decode())
        raise
    allow_large_frames(websocket.scope)
    result = {"identity": caller.identity}
    answer = {"type": "success", "id": number, "result": result}
    await websocket.send_text(dumps(answer).decode())
    return caller
