"""Items: the long-term memory of agents, by namespace and key."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from api.deps import CallerDep, ServicesDep
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.schemas.common import (
    DottedNamespace,
    ItemDelete,
    ItemKey,
    ItemPut,
    ItemSearch,
    NamespaceSearch,
)
from store.errors import UnsupportedError
from store.items import check_filter
from store.models import JsonObject

router = APIRouter(prefix="/store", tags=["store"], route_class=JsonRoute)


@router.put("/items", status_code=204)
async def put(services: ServicesDep, caller: CallerDep, body: ItemPut) -> None:
    """Keep an item, in place of the one that is there."""
    lifetime: dict[str, Any] = {} if body.ttl is None else {"ttl": body.ttl}
    asked = body.model_dump(include={"namespace", "key", "value", "index"})
    await caller.may("store", "put", asked)
    if lifetime and not services.items.supports_ttl:
        raise UnsupportedError("ttl: the store that langgraph.json names does not have it")
    await services.items.aput(
        _namespace(asked), asked["key"], asked["value"], index=asked["index"], **lifetime
    )


@router.get("/items")
async def get(
    services: ServicesDep,
    caller: CallerDep,
    key: ItemKey,
    namespace: Annotated[DottedNamespace, Query(description="Its labels, joined by dots.")],
    refresh_ttl: bool | None = None,
) -> Response:
    """Read an item; null if there is none."""
    asked: JsonObject = {"namespace": namespace, "key": key}
    await caller.may("store", "get", asked)
    item = await services.items.aget(_namespace(asked), asked["key"], refresh_ttl=refresh_ttl)
    return json_response(item.dict() if item else None)


@router.delete("/items", status_code=204)
async def delete(services: ServicesDep, caller: CallerDep, body: ItemDelete) -> None:
    """Forget an item, if there is one."""
    asked = body.model_dump(include={"namespace", "key"})
    await caller.may("store", "delete", asked)
    await services.items.adelete(_namespace(asked), asked["key"])


@router.post("/items/search")
async def search(services: ServicesDep, caller: CallerDep, body: ItemSearch) -> Response:
    """List the items below a namespace, by filter or likeness."""
    asked = body.model_dump(include={"query", "filter", "limit", "offset"})
    asked["namespace"] = body.namespace_prefix or []
    await caller.may("store", "search", asked)
    check_filter(asked["filter"] or {})
    items = await services.items.asearch(
        _namespace(asked),
        query=asked["query"],
        filter=asked["filter"],
        limit=asked["limit"],
        offset=asked["offset"],
        refresh_ttl=body.refresh_ttl,
    )
    return json_response({"items": [item.dict() for item in items]})


@router.post("/namespaces")
async def list_namespaces(
    services: ServicesDep, caller: CallerDep, body: NamespaceSearch
) -> Response:
    """List the namespaces that hold items."""
    asked = body.model_dump(include={"suffix", "max_depth", "limit", "offset"})
    asked["namespace"] = body.prefix
    await caller.may("store", "list_namespaces", asked)
    namespaces = await services.items.alist_namespaces(
        prefix=_namespace(asked) or None,
        suffix=tuple(body.suffix) if body.suffix else None,
        max_depth=body.max_depth,
        limit=body.limit,
        offset=body.offset,
    )
    return json_response({"namespaces": namespaces})


def _namespace(asked: JsonObject) -> tuple[str, ...]:
    """The namespace as the handler of an authorization left it."""
    return tuple(asked.get("namespace") or ())
