"""Two users, each of whom sees what is their own; and one who has shared something, and is not there."""

from typing import Any

from langgraph_sdk import Auth

USERS = ("ada", "eve")
#: Who makes no requests but those of the beginning.
AWAY = "joe"

auth = Auth()


@auth.authenticate
async def authenticate(authorization: str | None) -> str:
    """By the name as a bearer's token."""
    name = (authorization or "").removeprefix("Bearer ")
    if name not in (*USERS, AWAY):
        raise Auth.exceptions.HTTPException(status_code=401, detail="Who is it?")
    return name


@auth.on
async def own(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> dict[str, str]:
    """Everything is its maker's."""
    owner = {"owner": ctx.user.identity}
    if ctx.action in ("create", "create_run"):
        value.setdefault("metadata", {}).update(owner)
    return owner


@auth.on.store
async def own_items(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> None:
    """Each in a namespace of their own."""
    value["namespace"] = (ctx.user.identity, *(value.get("namespace") or ()))
