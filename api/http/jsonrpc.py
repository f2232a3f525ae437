"""JSON-RPC 2.0, as MCP and A2A speak it over HTTP."""

from dataclasses import dataclass
from typing import Any, Final

from api.http import bodies
from store.errors import InvalidInputError
from store.models import JsonObject

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603


class RpcError(Exception):
    """What a call is answered with in place of a result."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Call:
    """A message that asks for something, or tells something: then it has no id."""

    id: str | int | float | None
    method: str | None
    params: JsonObject


def parse(raw: bytes) -> Call:
    """
    Read a message.

    Raises:
        RpcError: It is none, or a batch of them.
    """
    try:
        message = bodies.parse(raw)
    except InvalidInputError as exc:
        raise RpcError(PARSE_ERROR, exc.message) from exc
    if not isinstance(message, dict):
        raise RpcError(INVALID_REQUEST, "Invalid JSON-RPC message: expected one object")
    if message.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, "Invalid JSON-RPC message: `jsonrpc` must be '2.0'")
    call_id, method, params = message.get("id"), message.get("method"), message.get("params")
    if isinstance(call_id, bool) or not isinstance(call_id, str | int | float | None):
        raise RpcError(INVALID_REQUEST, "Invalid JSON-RPC message: `id` must be a string or number")
    if not isinstance(method, str | None) or not isinstance(params, dict | None):
        raise RpcError(INVALID_REQUEST, "Invalid JSON-RPC message: `method` or `params` is wrong")
    return Call(call_id, method, params or {})


def result(call_id: Any, content: Any) -> JsonObject:
    """The answer to a call."""
    return {"jsonrpc": "2.0", "id": call_id, "result": content}


def error(call_id: Any, failed: RpcError) -> JsonObject:
    """The answer to a call that failed."""
    return {
        "jsonrpc": "2.0",
        "id": call_id,
        "error": {"code": failed.code, "message": failed.message},
    }
