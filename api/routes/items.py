"""Items: the long-term memory of agents, by namespace and key."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from api.bodies import JsonRoute
from api.deps import ServicesDep
from api.responses import json_response
from api.schemas import DottedNamespace, ItemDelete, ItemKey, ItemPut, ItemSearch, NamespaceSearch
from store.errors import UnsupportedError
from store.items import check_filter

router = APIRouter(prefix="/store", tags=["store"], route_class=JsonRoute)


@router.put("/items", status_code=204)
async def put(services: ServicesDep, body: ItemPut) -> None:
    """Keep an item, in place of the one that is there."""
    lifetime: dict[str, Any] = {} if body.ttl is None else {"ttl": body.ttl}
    if lifetime and not services.items.supports_ttl:
        raise UnsupportedError("ttl: the store that langgraph.json names does not have it")
    await services.items.aput(
        tuple(body.namespace), body.key, body.value, index=body.index, **lifetime
    )


@router.get("/items")
async def get(
    services: ServicesDep,
    key: ItemKey,
    namespace: Annotated[DottedNamespace, Query(description="Its labels, joined by dots.")],
    refresh_ttl: bool | None = None,
) -> Response:
    """Read an item; null if there is none."""
    item = await services.items.aget(tuple(namespace), key, refresh_ttl=refresh_ttl)
    return json_response(item.dict() if item else None)


@router.delete("/items", status_code=204)
async def delete(services: ServicesDep, body: ItemDelete) -> None:
    """Forget an item, if there is one."""
    await services.items.adelete(tuple(body.namespace), body.key)


@router.post("/items/search")
async def search(services: ServicesDep, body: ItemSearch) -> Response:
    """List the items below a namespace, by filter or likeness."""
    check_filter(body.filter or {})
    items = await services.items.asearch(
        tuple(body.namespace_prefix or ()),
        query=body.query,
        filter=body.filter,
        limit=body.limit,
        offset=body.offset,
        refresh_ttl=body.refresh_ttl,
    )
    return json_response({"items": [item.dict() for item in items]})


@router.post("/namespaces")
async def list_namespaces(services: ServicesDep, body: NamespaceSearch) -> Response:
    """List the namespaces that hold items."""
    namespaces = await services.items.alist_namespaces(
        prefix=tuple(body.prefix) if body.prefix else None,
        suffix=tuple(body.suffix) if body.suffix else None,
        max_depth=body.max_depth,
        limit=body.limit,
        offset=body.offset,
    )
    return json_response({"namespaces": namespaces})
