"""Assistants: the graphs of this server, each with a configuration."""

import uuid
from dataclasses import asdict

from fastapi import APIRouter, Response

from api.bodies import JsonRoute
from api.deps import CallerDep, ServicesDep
from api.responses import json_response, page_headers, selected
from api.schemas import AssistantCount, AssistantId, AssistantSearch, Xray
from store import assistants
from store.errors import InvalidInputError

router = APIRouter(prefix="/assistants", tags=["assistants"], route_class=JsonRoute)


@router.post("/search")
async def search(services: ServicesDep, caller: CallerDep, body: AssistantSearch) -> Response:
    """List the assistants whose metadata contains what is given."""
    value = body.model_dump(include={"graph_id", "metadata", "limit", "offset"})
    access = await caller.may("assistants", "search", value)
    found = await assistants.search(
        services.db,
        metadata=value.get("metadata") or {},
        graph_id=body.graph_id,
        name=body.name,
        limit=body.limit + 1,
        offset=body.offset,
        sort_by=body.sort_by,
        order=body.sort_order,
        access=access,
    )
    page = [selected(asdict(assistant), body.select) for assistant in found[: body.limit]]
    return json_response(page, headers=page_headers(found, limit=body.limit, offset=body.offset))


@router.post("/count")
async def count(services: ServicesDep, caller: CallerDep, body: AssistantCount) -> Response:
    """Count the assistants whose metadata contains what is given."""
    value = body.model_dump(include={"graph_id", "metadata"})
    access = await caller.may("assistants", "search", value)
    found = await assistants.count(
        services.db,
        metadata=value.get("metadata") or {},
        graph_id=body.graph_id,
        name=body.name,
        access=access,
    )
    return json_response(found)


@router.get("/{assistant_id}")
async def get(services: ServicesDep, caller: CallerDep, assistant_id: AssistantId) -> Response:
    """Read an assistant."""
    access = await caller.may("assistants", "read", {"assistant_id": assistant_id})
    return json_response(await assistants.get(services.db, assistant_id, access=access))


@router.get("/{assistant_id}/schemas")
async def schemas(services: ServicesDep, caller: CallerDep, assistant_id: str) -> Response:
    """Show the JSON schemas of an assistant's graph; one that it has not is null."""
    graph_id = await _graph_id(services, caller, assistant_id)
    found = await services.place.run(
        lambda backing: services.registry.schemas(graph_id, store=backing.items)
    )
    return json_response({"graph_id": graph_id, **found})


@router.get("/{assistant_id}/graph")
async def graph(
    services: ServicesDep, caller: CallerDep, assistant_id: str, xray: Xray = False
) -> Response:
    """Show the nodes and edges of an assistant's graph; `xray` opens subgraphs."""
    graph_id = await _graph_id(services, caller, assistant_id)
    found = await services.place.run(
        lambda backing: services.registry.drawable(graph_id, xray=xray, store=backing.items)
    )
    return json_response(found)


@router.get("/{assistant_id}/subgraphs")
@router.get("/{assistant_id}/subgraphs/{namespace}")
async def subgraphs(
    services: ServicesDep,
    caller: CallerDep,
    assistant_id: str,
    namespace: str | None = None,
    recurse: bool = False,
) -> Response:
    """Show the JSON schemas of the subgraphs of an assistant's graph, by namespace."""
    graph_id = await _graph_id(services, caller, assistant_id)
    found = await services.place.run(
        lambda backing: services.registry.subgraphs(
            graph_id, namespace, recurse=recurse, store=backing.items
        )
    )
    return json_response(found)


async def _graph_id(services: ServicesDep, caller: CallerDep, name: str) -> str:
    """The graph of an assistant, which may be named by the graph itself."""
    access = await caller.may("assistants", "read", {"assistant_id": name})
    if name in services.registry.graph_ids:
        return name
    try:
        assistant_id = str(uuid.UUID(name))
    except ValueError as exc:
        raise InvalidInputError("Invalid assistant ID: must be a UUID") from exc
    return (await assistants.get(services.db, assistant_id, access=access)).graph_id
