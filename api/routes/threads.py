"""Threads: the state lines that conversations are kept on."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from uuid_utils.compat import uuid7

from api.bodies import JsonRoute
from api.deps import CallerDep, LastEventId, ServicesDep, ThreadId
from api.responses import json_response, page_headers, selected
from api.schemas import (
    Checkpoint,
    HistorySearch,
    Limit,
    StateAtCheckpoint,
    StateUpdate,
    Text,
    ThreadCount,
    ThreadCreate,
    ThreadSearch,
    ThreadUpdate,
)
from api.sse import EventStream
from api.thread_stream import ThreadStream, modes_of
from store import retention, threads
from store.errors import UnsupportedError
from store.events import parse_event_id
from store.models import JsonObject, Thread
from store.retention import Lifetime

router = APIRouter(prefix="/threads", tags=["threads"], route_class=JsonRoute)


@router.post("")
async def create(services: ServicesDep, caller: CallerDep, body: ThreadCreate) -> Response:
    """Create a thread."""
    _refuse(supersteps=body.supersteps)
    value: JsonObject = {
        "thread_id": body.thread_id or str(uuid7()),
        "metadata": body.metadata,
        "if_exists": body.if_exists,
        "ttl": body.ttl.model_dump() if body.ttl else None,
    }
    thread_id = str(value["thread_id"])
    access = await caller.may("threads", "create", value)
    created = await threads.create(
        services.db,
        thread_id,
        metadata=value.get("metadata") or {},
        if_exists=body.if_exists,
        life=body.ttl.life() if body.ttl else services.graphs.ttl.life,
        access=access,
    )
    return json_response(thread_json(created, None))


@router.post("/search")
async def search(services: ServicesDep, caller: CallerDep, body: ThreadSearch) -> Response:
    """List the threads whose metadata contains what is given."""
    _refuse(values=body.values, extract=body.extract)
    value = body.model_dump(include={"metadata", "values", "status", "limit", "offset"})
    access = await caller.may("threads", "search", value)
    found = await threads.search(
        services.db,
        metadata=value.get("metadata") or {},
        status=body.status,
        ids=body.ids,
        limit=body.limit + 1,
        offset=body.offset,
        sort_by=body.sort_by,
        order=body.sort_order,
        access=access,
    )
    page = found[: body.limit]
    wanted = body.select is None or "values" in body.select
    values = await services.states.values_of(page) if wanted else {}
    return json_response(
        [selected(thread_json(row, values.get(row.thread_id)), body.select) for row in page],
        headers=page_headers(found, limit=body.limit, offset=body.offset),
    )


@router.post("/count")
async def count(services: ServicesDep, caller: CallerDep, body: ThreadCount) -> Response:
    """Count the threads whose metadata contains what is given."""
    _refuse(values=body.values)
    value = body.model_dump(include={"metadata", "values", "status"})
    access = await caller.may("threads", "search", value)
    found = await threads.count(
        services.db, metadata=value.get("metadata") or {}, status=body.status, access=access
    )
    return json_response(found)


@router.get("/{thread_id}")
async def get(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: ThreadId,
    include: Annotated[list[Literal["ttl"]] | None, Query()] = None,
) -> Response:
    """Read a thread; with `include=ttl` how long it lives too."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    thread = await threads.get(services.db, thread_id, access=access)
    life = await retention.lifetime(services.db, thread_id) if include else None
    return await _thread_response(services, thread, life)


@router.patch("/{thread_id}")
async def update(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: ThreadId,
    body: ThreadUpdate,
    prefer: Annotated[str, Header()] = "",
) -> Response:
    """Change a thread's metadata. With `Prefer: return=minimal` the answer is empty."""
    value: JsonObject = {"thread_id": thread_id, "metadata": body.metadata or {}}
    access = await caller.may("threads", "update", value)
    updated = await threads.update(
        services.db, thread_id, metadata=value.get("metadata") or {}, access=access
    )
    if body.ttl:
        await retention.set_life(services.db, thread_id, body.ttl.life())
    if "return=minimal" in prefer.lower().replace(" ", ""):
        return Response(status_code=204)
    return await _thread_response(services, updated)


@router.delete("/{thread_id}", status_code=204)
async def delete(services: ServicesDep, caller: CallerDep, thread_id: ThreadId) -> None:
    """Delete a thread with its runs, messages and checkpoints."""
    access = await caller.may("threads", "delete", {"thread_id": thread_id})
    await services.runs.delete_thread(thread_id, access=access)


@router.get("/{thread_id}/state")
async def get_state(
    services: ServicesDep, caller: CallerDep, thread_id: ThreadId, subgraphs: bool = False
) -> Response:
    """Read the state of a thread."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    return json_response(await services.states.get(thread_id, subgraphs=subgraphs, access=access))


@router.get("/{thread_id}/state/{checkpoint_id}")
async def get_state_at(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: ThreadId,
    checkpoint_id: Text,
    subgraphs: bool = False,
) -> Response:
    """Read the state of a thread at a checkpoint."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    checkpoint = {"checkpoint_id": checkpoint_id}
    return json_response(
        await services.states.get(
            thread_id, checkpoint=checkpoint, subgraphs=subgraphs, access=access
        )
    )


@router.post("/{thread_id}/state/checkpoint")
async def get_state_at_checkpoint(
    services: ServicesDep, caller: CallerDep, thread_id: ThreadId, body: StateAtCheckpoint
) -> Response:
    """Read the state of a thread, or of one of its subgraphs, at a checkpoint."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    checkpoint = _configurable(body.checkpoint)
    return json_response(
        await services.states.get(
            thread_id, checkpoint=checkpoint, subgraphs=bool(body.subgraphs), access=access
        )
    )


@router.post("/{thread_id}/state")
async def update_state(
    services: ServicesDep, caller: CallerDep, thread_id: ThreadId, body: StateUpdate
) -> Response:
    """Change the state of an idle thread, or fork it at a checkpoint."""
    access = await caller.may("threads", "update", {"thread_id": thread_id})
    checkpoint = _configurable(body.checkpoint)
    if body.checkpoint_id is not None:
        checkpoint["checkpoint_id"] = body.checkpoint_id
    configurable = await services.states.update(
        thread_id, body.values, as_node=body.as_node, checkpoint=checkpoint, access=access
    )
    return json_response(
        {
            "checkpoint": configurable,
            "configurable": configurable,
            "checkpoint_id": configurable["checkpoint_id"],
        }
    )


@router.get("/{thread_id}/history")
async def get_history(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: ThreadId,
    limit: Annotated[Limit, Query()] = 10,
    before: Text | None = None,
) -> Response:
    """List the states of a thread, newest first."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    return json_response(
        await services.states.history(thread_id, limit=limit, before=before, access=access)
    )


@router.post("/{thread_id}/history")
async def search_history(
    services: ServicesDep, caller: CallerDep, thread_id: ThreadId, body: HistorySearch
) -> Response:
    """List the states of a thread, newest first."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    return json_response(
        await services.states.history(
            thread_id,
            limit=body.limit,
            before=body.before_id(),
            metadata=body.metadata,
            checkpoint=_configurable(body.checkpoint),
            access=access,
        )
    )


@router.get("/{thread_id}/stream", response_class=EventStream)
async def stream(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: ThreadId,
    stream_mode: Annotated[list[str] | None, Query()] = None,
    stream_modes: Annotated[list[str] | None, Query()] = None,
    last_event_id: LastEventId = None,
) -> Response:
    """
    Stream what happens on a thread from now on, or after ``Last-Event-ID``; it never ends.

    ``stream_mode`` is ``run_modes``, ``lifecycle`` or ``state_update``, repeated or with commas.
    """
    asked = [*(stream_mode or ()), *(stream_modes or ())] or ["run_modes"]
    modes = modes_of(asked)
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    tail = await services.runs.tail(thread_id, access=access)
    after = parse_event_id(last_event_id) if last_event_id else tail
    location = f"/threads/{thread_id}/stream?stream_mode={','.join(sorted(modes))}"
    return EventStream(
        ThreadStream(services, thread_id, after=after, modes=modes, access=access).frames(),
        headers={"Location": location},
        keep_alive_seconds=services.settings.sse_heartbeat_seconds,
    )


def thread_json(thread: Thread, values: Any) -> JsonObject:
    """A thread as the API shows it, with the values of its newest checkpoint."""
    return {
        "thread_id": thread.thread_id,
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
        "state_updated_at": thread.state_updated_at,
        "metadata": thread.metadata,
        "status": thread.status,
        "config": thread.config,
        "values": values,
        "error": thread.error,
        "interrupts": thread.interrupts,
    }


async def _thread_response(
    services: ServicesDep, thread: Thread, life: Lifetime | None = None
) -> Response:
    values = await services.states.values_of([thread])
    shown = thread_json(thread, values.get(thread.thread_id))
    return json_response(shown | {"ttl": asdict(life)} if life else shown)


def _configurable(checkpoint: Checkpoint | None) -> JsonObject:
    return checkpoint.model_dump(exclude_none=True) if checkpoint else {}


def _refuse(**given: Any) -> None:
    for name, value in given.items():
        if value:
            raise UnsupportedError(f"{name}: this server does not support it yet")
