"""
MCP: every assistant is a tool, and a call of it a stateless run.

Streamable HTTP in its plainest form: no session, no stream, a JSON answer to each message.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request, Response

from api import __version__
from api.bootstrap import Services
from api.deps import CallerDep, ServicesDep
from api.errors import error_response
from api.http.bodies import bounded, described
from api.http.jsonrpc import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Call,
    RpcError,
    error,
    parse,
    result,
)
from api.http.responses import json_response
from api.identity.auth import Caller
from api.sse import long_json, output_of
from api.submissions import submit
from graph.encode import dumps
from graph.factory import InvalidGraphError
from graph.requests import RunRequest
from graph.runs import Submitted
from store import assistants
from store.errors import (
    BadRequestError,
    InvalidInputError,
    NotFoundError,
)
from store.models import Assistant, JsonObject

router = APIRouter(tags=["mcp"])

VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
#: Assistants beyond the oldest so many are no tools.
MAX_TOOLS: Final = 1000
PAGE: Final = 100
#: What models' providers take as the name of a tool.
NAME_MAX_CHARACTERS: Final = 64

_JSON: Final = re.compile(r"\*/\*|application/(json|\*)|text/event-stream", re.IGNORECASE)
_HINTS: Final = {
    "readOnlyHint": False,
    "destructiveHint": False,
    "idempotentHint": False,
    "openWorldHint": True,
}


@router.post("/mcp", openapi_extra=described("jsonrpc", "id", "method", "params"))
async def call(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Answer a message of the Model Context Protocol."""
    if not _JSON.search(accept):
        raise BadRequestError("Accept must include application/json or text/event-stream")
    try:
        asked = parse(await bounded(request).body())
    except RpcError as exc:
        raise BadRequestError(exc.message) from exc
    if asked.id is None or asked.method is None:
        # A notification, or the answer to a question that was never asked.
        return Response(status_code=202)
    try:
        if asked.method == "tools/call":
            return await _call_tool(services, caller, asked)
        return json_response(result(asked.id, await _answer(services, caller, asked)))
    except RpcError as exc:
        return json_response(error(asked.id, exc))


@router.get("/mcp", response_class=Response)
async def listen() -> Response:
    """Refuse: nothing is told that was not asked for."""
    return error_response(
        405, "Method Not Allowed", "method_not_allowed", headers={"Allow": "POST"}
    )


@router.delete("/mcp", response_class=Response)
async def end() -> Response:
    """Refuse: there are no sessions."""
    return error_response(404, "There are no sessions", "not_found")


async def _answer(services: Services, caller: Caller, asked: Call) -> JsonObject:
    match asked.method:
        case "initialize":
            version = asked.params.get("protocolVersion")
            return {
                "protocolVersion": version if version in VERSIONS else VERSIONS[-1],
                "capabilities": {"tools": {"listChanged": False}},
                "serverInfo": {"name": "Threadwell", "version": __version__},
            }
        case "ping":
            return {}
        case "tools/list":
            return await _list_tools(services, caller, asked.params.get("cursor"))
    raise RpcError(METHOD_NOT_FOUND, f"Method not found: {asked.method}")


async def _list_tools(services: Services, caller: Caller, cursor: Any) -> JsonObject:
    if cursor is not None and not (isinstance(cursor, str) and re.fullmatch("[0-9]{1,4}", cursor)):
        raise RpcError(INVALID_PARAMS, "Invalid cursor")
    begin = int(cursor or 0)
    named = list((await _tools(services, caller)).items())
    page = named[begin : begin + PAGE]
    listed: JsonObject = {
        "tools": [await _tool(services, name, assistant) for name, assistant in page]
    }
    if len(named) > begin + PAGE:
        listed["nextCursor"] = str(begin + PAGE)
    return listed


async def _tools(services: Services, caller: Caller) -> dict[str, Assistant]:
    value: JsonObject = {"metadata": {}, "limit": MAX_TOOLS, "offset": 0}
    access = await caller.may("assistants", "search", value)
    found = await assistants.search(
        services.db,
        metadata=value.get("metadata") or {},
        limit=MAX_TOOLS,
        sort_by="created_at",
        order="asc",
        lenient=True,
        access=access,
    )
    return named(found)


def named(found: Iterable[Assistant]) -> dict[str, Assistant]:
    """Assistants by the names of their tools; of two of a name the later one's has its id, too."""
    tools: dict[str, Assistant] = {}
    for assistant in found:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", assistant.name).strip("_") or assistant.graph_id
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:NAME_MAX_CHARACTERS]
        if name in tools:
            # 128 bits: no two have the same.
            mark = "_" + assistant.assistant_id.replace("-", "")
            name = name[: NAME_MAX_CHARACTERS - len(mark)] + mark
        tools[name] = assistant
    return tools


async def _tool(services: Services, name: str, assistant: Assistant) -> JsonObject:
    return {
        "name": name,
        "title": assistant.name,
        "description": assistant.description or f"Tool based on the {assistant.name} assistant",
        "inputSchema": (await _input_schema(services, assistant.graph_id))[0],
        "annotations": _HINTS,
    }


async def _input_schema(services: Services, graph_id: str) -> tuple[JsonObject, bool]:
    """What a graph takes, as an object, and whether that is wrapped for it: `input` is all of it."""
    try:
        found = await services.place.run(
            lambda backing: services.registry.schemas(graph_id, store=backing.items)
        )
    except (InvalidGraphError, NotFoundError):
        return {"type": "object"}, False
    schema = found["input_schema"] or {"type": "object"}
    if schema.get("type") != "object":
        whole = {"type": "object", "properties": {"input": schema}, "required": ["input"]}
        return whole, True
    return _simple(schema), False


def _simple(schema: JsonObject) -> JsonObject:
    """The schema with messages as a model can write them: what the user says."""
    if "messages" not in schema.get("properties", {}):
        return schema
    properties = {
        **schema["properties"],
        "messages": {
            "type": "string",
            "title": "Messages",
            "description": "The user message to send to the agent.",
        },
    }
    simple = {**schema, "properties": properties}
    definitions = simple.pop("$defs", None)
    if definitions and b'"$ref"' in dumps(simple):
        simple["$defs"] = definitions
    return simple


async def _call_tool(services: Services, caller: Caller, asked: Call) -> Response:
    name, arguments = asked.params.get("name"), asked.params.get("arguments")
    assistant = (await _tools(services, caller)).get(name) if isinstance(name, str) else None
    if assistant is None:
        raise RpcError(INVALID_PARAMS, f"Unknown tool: {name}")
    if not isinstance(arguments, dict | None):
        raise RpcError(INVALID_PARAMS, "`arguments` must be an object")
    context = asked.params.get("context")
    if not isinstance(context, dict | None):
        raise RpcError(INVALID_PARAMS, "`context` must be an object")
    _, is_wrapped = await _input_schema(services, assistant.graph_id)
    given: JsonObject = arguments or {}
    request = RunRequest(
        assistant_id=assistant.assistant_id,
        input=given.get("input") if is_wrapped else given,
        context=context,
        temporary=True,
    )
    try:
        submitted = await submit(services, caller, request, attached=True)
    except InvalidInputError as exc:
        raise RpcError(INVALID_PARAMS, exc.message) from exc
    return long_json(
        lambda: _outcome(services, submitted, asked),
        headers={},
        keep_alive_seconds=services.settings.sse_heartbeat_seconds,
    )


async def _outcome(services: Services, submitted: Submitted, asked: Call) -> bytes:
    ended = await services.runs.join(submitted)
    if ended.error is not None:
        text, failed = f"{ended.error['error']}: {ended.error['message']}", True
    elif ended.status != "success":
        text, failed = f"The run ended as {ended.status}", True
    else:
        text, failed = dumps(await output_of(services, submitted, ended)).decode(), False
    content = [{"type": "text", "text": text}]
    return dumps(result(asked.id, {"content": content, "isError": failed}))
