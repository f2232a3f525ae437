"""
What the API's description says of answers: routes write their own bodies, and FastAPI knows none of them.

A status that is not here is a fault: `tests/security/test_generated_requests.py` looks.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from http import HTTPStatus

from api.identity.auth import is_open_path
from store.models import JsonObject

_METHODS = frozenset({"get", "put", "post", "patch", "delete", "head"})
JSON, EVENTS = "application/json", "text/event-stream"

_KINDS: dict[str, JsonObject] = {
    "any": {},
    "id": {"type": "string", "format": "uuid"},
    "int": {"type": "integer"},
    "list": {"type": "array"},
    "object": {"type": "object"},
    "text": {"type": "string"},
    "time": {"type": "string", "format": "date-time"},
    "truth": {"type": "boolean"},
}
#: What is answered: each field and its kind; ``?`` may be null, and after ``|`` what may be missing.
_RECORDS = {
    "Assistant": "assistant_id:id graph_id:text name:text description:text? config:object "
    "context:object metadata:object version:int created_at:time updated_at:time",
    "Thread": "thread_id:text created_at:time updated_at:time state_updated_at:time? "
    "metadata:object status:text config:object values:any error:any interrupts:object | ttl:object?",
    "Run": "run_id:id thread_id:text assistant_id:id created_at:time updated_at:time status:text "
    "metadata:object kwargs:object multitask_strategy:text langsmith_session_name:text?",
    "Cron": "cron_id:id assistant_id:id thread_id:text? user_id:text? end_time:time? schedule:text "
    "timezone:text? payload:object next_run_date:time? metadata:object enabled:truth "
    "on_run_completed:text? created_at:time updated_at:time | error:object",
    "Session": "id:text name:text title_source:text? user_id:text? chat_type:text? status:text "
    "pinned:truth tags:list folder:text? thread_status:text message_count:int metadata:object "
    "expires_at:time? create_time:time update_time:time | snippet:text state:object",
    "SessionMessage": "id:text conversation_id:text role:text content:text message_type:text "
    "meta_data:object run_id:text? parent_id:text? sibling_ids:list on_branch:truth "
    "in_context:truth feedback:object? create_time:time update_time:time edited_at:time? "
    "deleted_at:time?",
    "Share": "id:text url:text? audience:text mode:text | role:text has_password:truth users:object "
    "checkpoint_id:text? created_at:time expires_at:time?",
    "Webhook": "id:id url:text events:list description:text? enabled:truth disabled_reason:text? "
    "created_at:time updated_at:time | secret:text",
    "Delivery": "id:id webhook_id:id event:object status:text attempts:int last_status:int? "
    "last_error:text? created_at:time updated_at:time",
    "File": "id:id name:text mime:text type:text size:int sha256:text create_time:time",
    "Import": "id:id status:text dry_run:truth size_bytes:int position:int created_at:time "
    "updated_at:time | errors:list failed:int created:int skipped:int updated:int sessions:list",
    "Error": "detail:text code:text",
}
#: Which routes answer with one of them, and with a page of them.
_ONE = {
    "Assistant": (
        "POST /assistants", "GET /assistants/{assistant_id}", "PATCH /assistants/{assistant_id}",
        "POST /assistants/{assistant_id}/latest",
    ),
    "Thread": (
        "POST /threads", "GET /threads/{thread_id}", "PATCH /threads/{thread_id}",
        "POST /threads/{thread_id}/copy",
    ),
    "Run": ("POST /runs", "POST /threads/{thread_id}/runs", "GET /threads/{thread_id}/runs/{run_id}"),
    "Cron": ("GET /runs/crons/{cron_id}", "PATCH /runs/crons/{cron_id}"),
    "Session": (
        "POST /api/sessions", "GET /api/sessions/{session_id}", "PATCH /api/sessions/{session_id}",
        "POST /api/sessions/{session_id}/restore",
    ),
    "Share": ("POST /api/sessions/{session_id}/shares",),
    "Webhook": (
        "POST /api/webhooks", "GET /api/webhooks/{webhook_id}", "PATCH /api/webhooks/{webhook_id}",
    ),
    "File": ("POST /api/files",),
    "Import": ("GET /api/imports/{import_id}",),
}  # fmt: skip
_PAGES = {
    "Session": ("GET /api/sessions",),
    "SessionMessage": ("GET /api/sessions/{session_id}/messages",),
    "Delivery": ("GET /api/webhooks/{webhook_id}/deliveries",),
}
#: What else a 200 may be than JSON.
_CONTENT = {
    JSON: ("GET /api/sessions/*export", "* /a2a/*", "* /mcp"),
    EVENTS: (
        "* /v1/chat/completions", "POST /v1/responses", "GET /v1/responses/{response_id}",
        "POST /api/sessions/{session_id}/messages", "POST /agui", "* /api/ai/*",
        "POST /api/sessions/{session_id}/messages/{message_id}/regenerate",
        "POST /a2a/{assistant_id}", "POST /threads/{thread_id}/stream/events", "POST /mcp",
        "POST /chat/*", "POST /api/chat*", "GET /api/sessions/{session_id}/stream",
    ),
    "text/csv": ("GET /api/stats",),
    "text/plain": ("GET /metrics",),
    "text/markdown": ("GET /api/sessions/*export",),
    "application/x-ndjson": ("GET /api/sessions/*export",),
    "application/octet-stream": ("GET /api/files/{file_id}",),
}  # fmt: skip
#: What else may come of a request of a route, beside what may of every one.
_STATUSES: dict[HTTPStatus, tuple[str, ...]] = {
    HTTPStatus.ACCEPTED: ("POST /mcp", "POST /api/sessions/import", "POST /*/cancel"),
    HTTPStatus.NO_CONTENT: ("PATCH /threads/{thread_id}", "GET /api/ai/chat/{chat_id}/stream"),
    HTTPStatus.TEMPORARY_REDIRECT: ("* /mcp",),
    HTTPStatus.BAD_REQUEST: (
        "* /threads*", "* /runs*", "* /assistants*", "* /a2a/*", "GET /.well-known/*", "* /mcp",
        "* /v1/*", "* /agui", "* /api/ai/*", "* /api/*", "POST /chat/*", "* /store/*",
    ),
    HTTPStatus.NOT_FOUND: (
        "POST /assistants*", "POST /runs*", "POST /threads*", "* /v1/*", "* /agui", "* /api/ai/*",
        "POST /chat/*", "* /api/*", "* /mcp", "* /a2a/*", "GET /.well-known/*",
    ),
    HTTPStatus.METHOD_NOT_ALLOWED: ("GET /mcp",),
    HTTPStatus.CONFLICT: (
        "* /assistants*", "* /threads*", "* /runs*", "* /v1/*", "* /agui", "* /api/*", "POST /chat/*",
    ),
    HTTPStatus.GONE: ("* /api/sessions/*", "* /api/shares/*", "* /api/files/*", "* /threads/*"),
    HTTPStatus.PRECONDITION_FAILED: ("PATCH /api/sessions/{session_id}",),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("POST /api/*", "POST /v1/*", "POST /agui"),
    HTTPStatus.FAILED_DEPENDENCY: (
        "* /assistants*", "* /threads*", "* /runs*", "* /api/*", "* /v1/*", "* /agui", "* /a2a/*",
        "* /mcp", "POST /chat/*", "GET /.well-known/*",
    ),
    HTTPStatus.NOT_IMPLEMENTED: ("* /threads*", "* /runs*", "* /api/*", "* /v1/*", "* /agui"),
    HTTPStatus.BAD_GATEWAY: (
        "POST /api/*", "POST /v1/*", "POST /chat/*", "* /store/items*", "POST /agui",
    ),
    HTTPStatus.GATEWAY_TIMEOUT: (
        "POST /api/sessions/{session_id}/messages",
        "POST /api/sessions/{session_id}/messages/{message_id}/regenerate",
    ),
}  # fmt: skip
#: What a route makes, and where its answer names it: by that name it is used, changed and deleted elsewhere.
_MADE: dict[str, dict[str, str]] = {
    "POST /assistants": {"assistant_id": "assistant_id"},
    "POST /threads": {"thread_id": "thread_id"},
    "POST /threads/{thread_id}/copy": {"thread_id": "thread_id"},
    "POST /threads/{thread_id}/runs": {"run_id": "run_id"},
    "POST /runs/crons": {"cron_id": "cron_id"},
    "POST /threads/{thread_id}/runs/crons": {"cron_id": "cron_id"},
    "POST /api/sessions": {"session_id": "id"},
    "POST /api/sessions/{session_id}/fork": {"session_id": "id"},
    "POST /api/shares/{token}/clone": {"session_id": "id"},
    "POST /api/sessions/{session_id}/messages": {"message_id": "id"},
    "POST /api/sessions/{session_id}/shares": {"share_id": "id"},
    "POST /api/sessions/import": {"import_id": "id"},
    "POST /api/webhooks": {"webhook_id": "id"},
    "POST /api/files": {"file_id": "id"},
    "DELETE /api/users/{user_id}/data": {"job_id": "id"},
    "POST /api/users/{user_id}/export": {"job_id": "id"},
    "POST /v1/conversations": {"conversation_id": "id"},
    "POST /v1/responses": {"response_id": "id"},
}
#: Where one goes on with it by what is said there, the path alone being not enough. A body takes the place of all
#: that a fuzzer would say; None where a path names what the answer tells beside (`_TOLD`).
_SAID: dict[str, dict[str, JsonObject | None]] = {
    "POST /api/sessions": {
        "POST /api/sessions/{session_id}/messages": {"query": "hello"},
        "POST /api/sessions/{session_id}/shares": {"audience": "link"},
        "POST /api/users/{user_id}/export": None,
    },
    "POST /api/sessions/{session_id}/fork": {
        "POST /api/sessions/{session_id}/messages": {"query": "hello"},
    },
    "POST /api/shares/{token}/clone": {
        "POST /api/sessions/{session_id}/messages": {"query": "hello"},
    },
    "POST /api/sessions/{session_id}/messages": {
        "POST /api/sessions/{session_id}/fork": {"message_id": "$response.body#/id"},
    },
    "POST /v1/conversations": {
        "POST /v1/responses": {"input": "hello", "conversation": "$response.body#/id"},
    },
}
_TOLD = {"POST /api/sessions": {"user_id": "user_id"}}
#: Where nothing is of what was only just made: no deletion to take back, and no opinion.
_TAKES_BACK = ("POST */restore", "DELETE */feedback")
_OF_EVERY_ROUTE = (
    HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE,
)  # fmt: skip


_PARAMETER = re.compile(r"\{(\w+)\}")


def describe(schema: JsonObject) -> None:
    """
    Add to FastAPI's description what each route may answer, in place of what FastAPI supposes.

    Args:
        schema: Changed in place.
    """
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= {name: _record(fields) for name, fields in _RECORDS.items()}
    schemas["OpenAIError"] = _named("error", {"type": "object"})
    for route, operation in _operations(schema):
        operation["responses"] = _responses(route, operation)
        method, path = route.split(" ", 1)
        if is_open_path(method, path):
            operation["security"] = []
    _link(dict(_operations(schema)))


def _operations(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if method in _METHODS:
                yield f"{method.upper()} {path}", operation


def _link(operations: dict[str, JsonObject]) -> None:
    """Say of what is made where it is used: at every path that names it, and nothing that is not known."""
    for route, made in _MADE.items():
        if route not in operations:
            continue
        said = _SAID.get(route, {})
        values = {name: f"$request.path.{name}" for name in _names(route)}
        told = made | _TOLD.get(route, {})
        values |= {name: f"$response.body#/{field}" for name, field in told.items()}
        links = {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {f"path.{name}": values[name] for name in _names(to)},
                **_body(said.get(to)),
            }
            for to, operation in operations.items()
            if (made.keys() <= _names(to) or to in said)
            and _names(to) <= values.keys()
            and not _is(to, _TAKES_BACK)
        }
        answers = operations[route]["responses"]
        answers[min(answers)]["links"] = links


def _body(said: JsonObject | None) -> JsonObject:
    return {} if said is None else {"requestBody": said, "x-schemathesis": {"merge_body": False}}


def _names(route: str) -> set[str]:
    return set(_PARAMETER.findall(route))


def _responses(route: str, operation: JsonObject) -> JsonObject:
    known = {status: answer for status, answer in operation["responses"].items() if status < "400"}
    if "200" in known:
        known["200"] = {**known["200"], "content": _content(route, known["200"])}
    for status in sorted(_statuses(route, operation)):
        known.setdefault(str(status.value), _refusal(route, status))
    return known


def _content(route: str, answer: JsonObject) -> JsonObject:
    named = {*answer.get("content", {}), *(kind for kind in _CONTENT if _is(route, _CONTENT[kind]))}
    # Of what is no JSON a schema says nothing.
    return {kind: {"schema": _shape(route) if kind == JSON else {}} for kind in sorted(named)}


def _shape(route: str) -> JsonObject:
    for name, routes in _ONE.items():
        if route in routes:
            return _ref(name)
    for name, routes in _PAGES.items():
        if route in routes:
            return _named("data", {"type": "array", "items": _ref(name)})
    return {}


def _statuses(route: str, operation: JsonObject) -> set[HTTPStatus]:
    found = {status for status, patterns in _STATUSES.items() if _is(route, patterns)}
    if "{" in route:
        found.add(HTTPStatus.NOT_FOUND)
    if operation.get("parameters") or "requestBody" in operation:
        found.add(HTTPStatus.UNPROCESSABLE_ENTITY)
    return found.union(_OF_EVERY_ROUTE)


def _refusal(route: str, status: HTTPStatus) -> JsonObject:
    if status < HTTPStatus.BAD_REQUEST:
        return {"description": status.phrase}
    of_openai = " /v1/" in route
    shape = {"anyOf": [_ref("OpenAIError"), _ref("Error")]} if of_openai else _ref("Error")
    return {"description": status.phrase, "content": {JSON: {"schema": shape}}}


def _is(route: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(route, pattern) for pattern in patterns)


def _ref(name: str) -> JsonObject:
    return {"$ref": f"#/components/schemas/{name}"}


def _named(name: str, schema: JsonObject) -> JsonObject:
    return {"type": "object", "properties": {name: schema}, "required": [name]}


def _record(fields: str) -> JsonObject:
    required, _, optional = fields.partition("|")
    named = [field.split(":") for field in f"{required} {optional}".split()]
    return {
        "type": "object",
        "properties": {name: _kind(kind) for name, kind in named},
        "required": [field.split(":")[0] for field in required.split()],
    }


def _kind(kind: str) -> JsonObject:
    schema = _KINDS[kind.rstrip("?")]
    return {"anyOf": [schema, {"type": "null"}]} if kind.endswith("?") else schema
