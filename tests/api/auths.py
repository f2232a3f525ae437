"""
An `Auth` that does what a token says; and one whose users see what is their own.

Imported by its path, as an author's file is: what is asked of it is in `SEEN`, and nowhere else.
"""

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import Any

from langgraph_sdk import Auth

SEEN: list[dict[str, Any]] = []

auth = Auth()


class WithIdentity:
    identity = "thing"
    display_name = "Thing"
    permissions = ("look",)
    extra = 5


@dataclass
class Row:
    identity: str
    team: dict[str, str]


USERS: dict[str, Any] = {
    "dict": {"identity": "dict", "permissions": ["x"], "extra": {"a": 1}, "display_name": "D"},
    "tuple": (["p"], "tuple"),
    "thing": WithIdentity(),
    "row": Row("row", {"name": "T"}),
    "watcher": {"identity": "watcher", "permissions": ["metrics:read"]},
    "none": None,
    "number": 5,
    "nameless": {"display_name": "x"},
}
HTTP = Auth.exceptions.HTTPException
FAILURES: dict[str, Exception] = {
    "401": HTTP(detail="Who is it?", headers={"WWW-Authenticate": "Bearer"}),
    "403": HTTP(status_code=403),
    "418": HTTP(status_code=418, detail="tea"),
    "200": HTTP(status_code=200, detail="fine?"),
    "value": ValueError("S3CRET"),
    "key": KeyError("S3CRET"),
    "assertion": AssertionError("because"),
}


@auth.authenticate
async def authenticate(
    request: Any,
    body: Any,
    user: Any,
    path: str,
    method: str,
    scopes: list[str],
    path_params: dict[str, str],
    query_params: Any,
    headers: dict[bytes, bytes],
    authorization: str | None,
    scope: Any,
) -> Any:
    token = (authorization or "").removeprefix("Bearer ")
    SEEN.append(
        {
            "request": type(request).__name__, "body": body, "user": user, "path": path,
            "method": method, "scopes": scopes, "path_params": path_params,
            "query_params": dict(query_params), "token": headers.get(b"x-token"),
            "authorization": authorization, "type": scope["type"],
        }
    )  # fmt: skip
    if token == "hang":
        await asyncio.Event().wait()
    if not token:
        raise FAILURES["401"]
    if token.startswith("fails:"):
        raise FAILURES[token.removeprefix("fails:")]
    return USERS.get(token, token)


@auth.on
async def anything(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> Any:
    """What the identity says, in JSON."""
    SEEN.append({"resource": ctx.resource, "action": ctx.action, "value": {**value}, "ctx": ctx})
    kind, _, told = ctx.user.identity.partition(":")
    if kind == "raises":
        raise FAILURES[told]
    if kind == "adds":
        value.setdefault("metadata", {}).update(json.loads(told))
    if kind == "only":
        return ctx.action == told
    if kind == "says" and ctx.action == "create_run":
        value["kwargs"]["input"]["messages"][-1]["content"] += told
    if kind == "but":
        return ctx.action != told
    if kind == "once" and ctx.action == "create_run":
        return sum(seen.get("action") == "create_run" for seen in SEEN) == 1
    return json.loads(told) if kind == "filter" else None


@auth.on.threads
async def threads(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> Any:
    return await anything(ctx, value)


@auth.on.threads.create  # type: ignore[arg-type]
async def create(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> Any:
    found = await anything(ctx, value)
    SEEN[-1]["handler"] = "threads.create"
    return found


owners = Auth()
#: What the sync `authenticate` waits for if it is to hang.
HELD = threading.Event()


@owners.authenticate  # type: ignore[type-var]
def of_owner(authorization: str | None) -> dict[str, Any]:
    """Sync, as many a library for tokens is."""
    if authorization == "Bearer hang":
        HELD.wait()
    if not authorization:
        raise HTTP(status_code=401, detail="Who is it?")
    name = authorization.removeprefix("Bearer ")
    of_admins = ["audit:read", "users:*"] if name.startswith("admin") else []
    return {"identity": name, "permissions": ["chat", *of_admins]}


@owners.on
async def own(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> dict[str, str]:
    """Everything is its maker's."""
    owner = {"owner": ctx.user.identity}
    if ctx.action in ("create", "create_run") or ctx.resource == "assistants":
        value.setdefault("metadata", {}).update(owner)
    return owner


@owners.on.store
async def own_items(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> None:
    value["namespace"] = (ctx.user.identity, *(value.get("namespace") or ()))


nobody = Auth()
not_an_auth = 5
