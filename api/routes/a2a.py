"""
A2A: every assistant whose graph takes messages is an agent, over JSON-RPC.

Both generations of the protocol are spoken, told apart by the names of the methods.
"""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from api.a2a import forms
from api.a2a.agent import find
from api.a2a.cards import HISTORY_SCOPE
from api.a2a.methods import dispatch
from api.deps import CallerDep, ServicesDep
from api.http.bodies import bounded, described
from api.http.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    RpcError,
    error,
    parse,
)
from api.http.responses import json_response
from store.errors import (
    AlreadyExistsError,
    BadRequestError,
    Error,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)

router = APIRouter(tags=["a2a"])

Scope = Annotated[str, Header(alias=HISTORY_SCOPE)]


@router.post(
    "/a2a/{assistant_id}",
    response_class=Response,
    openapi_extra=described("jsonrpc", "id", "method", "params"),
)
async def call(
    request: Request,
    assistant_id: str,
    services: ServicesDep,
    caller: CallerDep,
    scope: Scope = "context",
) -> Response:
    """Answer a call of the Agent2Agent protocol; errors too are answers of 200."""
    try:
        asked = parse(await bounded(request).body())
    except RpcError as exc:
        return json_response(error(None, exc))
    if asked.id is None or asked.method is None:
        wrong = RpcError(INVALID_REQUEST, "Invalid JSON-RPC message: a call has an id and a method")
        return json_response(error(asked.id, wrong))
    try:
        base_url = str(request.base_url)
        agent = await find(services, caller, assistant_id, base_url=base_url, scope=scope)
        return await dispatch(agent, asked.method, asked)
    except RpcError as exc:
        return json_response(error(asked.id, exc))
    except (PermissionDeniedError, UnavailableError):
        raise
    except Error as exc:
        return json_response(error(asked.id, _rpc_error(exc)))


@router.get("/a2a/{assistant_id}")
@router.get("/a2a/{assistant_id}/.well-known/agent-card.json")
@router.get("/a2a/{assistant_id}/.well-known/agent.json")
async def card(
    request: Request, assistant_id: str, services: ServicesDep, caller: CallerDep
) -> Response:
    """Show an agent's card."""
    try:
        agent = await find(services, caller, assistant_id, base_url=str(request.base_url))
    except RpcError as exc:
        raise BadRequestError(exc.message) from exc
    return json_response(await agent.card())


@router.get("/.well-known/agent-card.json")
async def default_card(
    request: Request, services: ServicesDep, caller: CallerDep, assistant_id: str = ""
) -> Response:
    """Show the card of an agent, or of the one that `DEFAULT_A2A_ASSISTANT_ID` names."""
    found = assistant_id or services.settings.default_a2a_assistant_id
    if not found:
        raise BadRequestError("Missing required query parameter: assistant_id")
    return await card(request, found, services, caller)


def _rpc_error(exc: Error) -> RpcError:
    if isinstance(exc, NotFoundError):
        # Its words have an id in them.
        return RpcError(forms.TASK_NOT_FOUND, "Not found")
    if isinstance(exc, AlreadyExistsError):
        # A thread that the caller does not see.
        return RpcError(INVALID_PARAMS, "Invalid context ID")
    if isinstance(exc, InvalidInputError):
        return RpcError(INVALID_PARAMS, exc.message)
    return RpcError(INTERNAL_ERROR, exc.message)
