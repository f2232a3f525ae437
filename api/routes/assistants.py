"""Assistants: the graphs of this server, each with a configuration."""

import uuid
from dataclasses import asdict

from fastapi import APIRouter, Response

from api.deps import CallerDep, ServicesDep
from api.http.bodies import JsonRoute
from api.http.responses import json_response, page_headers, selected
from api.schemas.assistants import (
    AssistantCount,
    AssistantCreate,
    AssistantLatest,
    AssistantSearch,
    AssistantUpdate,
    AssistantVersions,
    Xray,
)
from api.schemas.common import AssistantId
from graph.requests import mirrored
from store import assistants
from store.errors import InvalidInputError
from store.models import JsonObject

router = APIRouter(prefix="/assistants", tags=["assistants"], route_class=JsonRoute)

#: The name of one that was given none.
UNTITLED = "Untitled"


@router.post("")
async def create(services: ServicesDep, caller: CallerDep, body: AssistantCreate) -> Response:
    """Create an assistant: a graph with a configuration of its own."""
    assistant_id = body.assistant_id or str(uuid.uuid4())
    value = _fields(body) | {"assistant_id": assistant_id}
    access = await caller.may("assistants", "create", value)
    services.registry.entry(body.graph_id)
    config, context = mirrored(value.get("config"), value.get("context"))
    created = await assistants.create(
        services.db,
        assistant_id,
        graph_id=body.graph_id,
        name=value.get("name") or UNTITLED,
        description=value.get("description"),
        config=config,
        context=context,
        metadata=value.get("metadata") or {},
        if_exists=body.if_exists or "raise",
        access=access,
    )
    return json_response(created)


@router.post("/search")
async def search(services: ServicesDep, caller: CallerDep, body: AssistantSearch) -> Response:
    """List the assistants whose metadata contains what is given."""
    value = body.model_dump(include={"graph_id", "metadata", "limit", "offset"})
    access = await caller.may("assistants", "search", value)
    if body.graph_id is not None:
        services.registry.entry(body.graph_id)
    found = await assistants.search(
        services.db,
        metadata=value.get("metadata") or {},
        graph_id=body.graph_id,
        name=body.name,
        limit=body.limit + 1,
        offset=body.offset,
        sort_by=body.sort_by,
        order=body.sort_order,
        lenient=True,
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


@router.patch("/{assistant_id}")
async def update(
    services: ServicesDep, caller: CallerDep, assistant_id: AssistantId, body: AssistantUpdate
) -> Response:
    """Change an assistant, which makes a new version of it; runs use that from now on."""
    value = _fields(body) | {"assistant_id": assistant_id}
    access = await caller.may("assistants", "update", value)
    if body.graph_id is not None:
        services.registry.entry(body.graph_id)
    config, context = mirrored(value.get("config"), value.get("context"))
    updated = await assistants.update(
        services.db,
        assistant_id,
        graph_id=body.graph_id,
        name=value.get("name"),
        description=value.get("description"),
        config=config or None,
        context=context or None,
        metadata=value.get("metadata"),
        actor=caller.actor,
        access=access,
    )
    return json_response(updated)


@router.delete("/{assistant_id}", status_code=204)
async def delete(
    services: ServicesDep,
    caller: CallerDep,
    assistant_id: AssistantId,
    delete_threads: bool = False,
) -> None:
    """Delete an assistant with its versions and runs; with `delete_threads` its threads too."""
    access = await caller.may("assistants", "delete", {"assistant_id": assistant_id})
    of_threads = (
        await caller.may("threads", "delete", {"assistant_id": assistant_id})
        if delete_threads
        else None
    )
    await services.threads.delete_assistant(
        assistant_id, actor=caller.actor, access=access, thread_access=of_threads
    )


@router.post("/{assistant_id}/versions")
async def list_versions(
    services: ServicesDep, caller: CallerDep, assistant_id: AssistantId, body: AssistantVersions
) -> Response:
    """List the versions of an assistant, newest first."""
    value: JsonObject = {"assistant_id": assistant_id, "metadata": body.metadata}
    access = await caller.may("assistants", "read", value)
    found = await assistants.versions(
        services.db,
        assistant_id,
        metadata=body.metadata or {},
        limit=body.limit,
        offset=body.offset,
        access=access,
    )
    return json_response(found)


@router.post("/{assistant_id}/latest")
async def set_latest(
    services: ServicesDep, caller: CallerDep, assistant_id: AssistantId, body: AssistantLatest
) -> Response:
    """Make an assistant what it was in a version."""
    value: JsonObject = {"assistant_id": assistant_id, "version": body.version}
    access = await caller.may("assistants", "update", value)
    latest = await assistants.set_latest(
        services.db, assistant_id, body.version, actor=caller.actor, access=access
    )
    return json_response(latest)


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


def _fields(body: AssistantCreate | AssistantUpdate) -> JsonObject:
    """What a handler of an authorization sees, and may change."""
    fields = body.model_dump(exclude={"config", "if_exists"})
    return fields | {"config": body.config and body.config.model_dump(exclude_unset=True)}


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
