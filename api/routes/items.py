"""Items: the long-term memory of agents, by namespace and key."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.bodies import JsonRoute
from api.deps import ServicesDep
from api.responses import json_response
from api.schemas import DottedNamespace, ItemDelete, ItemKey, ItemPut, ItemSearch, NamespaceSearch
from store.errors import BadRequestError, UnsupportedError
from store.models import JsonObject

router = APIRouter(prefix="/store", tags=["store"], route_class=JsonRoute)


OPERATORS = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"})


@router.put("/items", status_code=204)
async def put(services: ServicesDep, body: ItemPut) -> None:
    """Keep an item, in place of the one that is there."""
    if body.ttl is not None:
        raise UnsupportedError("ttl: this server does not support it yet")
    await services.items.aput(tuple(body.namespace), body.key, body.value, index=body.index)


@router.get("/items")
async def get(
    services: ServicesDep,
    key: ItemKey,
    namespace: Annotated[DottedNamespace, Query(description="Its labels, joined by dots.")],
) -> Response:
    """Read an item; null if there is none."""
    item = await services.items.aget(tuple(namespace), key)
    return json_response(item.dict() if item else None)


@router.delete("/items", status_code=204)
async def delete(services: ServicesDep, body: ItemDelete) -> None:
    """Forget an item, if there is one."""
    await services.items.adelete(tuple(body.namespace), body.key)


@router.post("/items/search")
async def search(services: ServicesDep, body: ItemSearch) -> Response:
    """List the items below a namespace, by filter or likeness."""
    _check_filter(body.filter or {})
    items = await services.items.asearch(
        tuple(body.namespace_prefix),
        query=body.query,
        filter=body.filter,
        limit=body.limit,
        offset=body.offset,
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


def _check_filter(conditions: JsonObject) -> None:
    # LangGraph's store refuses it too, but with it every request of the same moment.
    for condition in conditions.values():
        for operator in condition if isinstance(condition, dict) else ():
            if operator not in OPERATORS:
                raise BadRequestError(f"Unsupported operator: {operator}")
