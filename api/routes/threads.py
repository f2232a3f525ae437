"""Threads: the state lines that conversations are kept on."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from uuid_utils.compat import uuid7

from api.deps import CallerDep, LastEventId, ServicesDep, ThreadId
from api.http.bodies import JsonRoute
from api.http.responses import json_response, page_headers, selected
from api.schemas.threads import ThreadCount, ThreadCreate, ThreadSearch, ThreadsPrune, ThreadUpdate
from api.sse import EventStream, reads
from api.thread_stream import ThreadStream, modes_of
from graph.first_words import without_title
from graph.json_paths import at
from graph.value_search import Wanted
from store import retention, threads
from store.access import EVERYTHING
from store.errors import UnsupportedError
from store.events import parse_event_id
from store.models import JsonObject, Thread
from store.retention import Lifetime

router = APIRouter(prefix="/threads", tags=["threads"], route_class=JsonRoute)


@router.post("")
async def create(services: ServicesDep, caller: CallerDep, body: ThreadCreate) -> Response:
    """Create a thread; with `supersteps` it has states already."""
    value: JsonObject = {
        "thread_id": body.thread_id or str(uuid7()),
        "metadata": body.metadata,
        "if_exists": body.if_exists,
        "ttl": body.ttl.model_dump() if body.ttl else None,
    }
    thread_id = str(value["thread_id"])
    allowed = await services.new_sessions.allow(caller, value)
    about: JsonObject = {
        "metadata": allowed.metadata,
        "if_exists": body.if_exists,
        "life": body.ttl.life() if body.ttl else services.new_sessions.life,
        "access": allowed.access,
    }
    if not body.supersteps:
        created = await threads.create(services.db, thread_id, **about)
        if body.if_exists == "raise":
            return json_response(thread_json(created, None))
        return await _thread_response(services, created)
    steps = [[u.model_dump(exclude_unset=True) for u in s.updates] for s in body.supersteps]
    return await _thread_response(
        services, await services.threads.create(thread_id, steps, **about)
    )


@router.post("/search")
async def search(services: ServicesDep, caller: CallerDep, body: ThreadSearch) -> Response:
    """List the threads whose metadata and values contain what is given."""
    value = body.model_dump(include={"metadata", "values", "status", "limit", "offset"})
    access = await caller.may("threads", "search", value)
    about: JsonObject = {
        "metadata": value.get("metadata") or {},
        "status": body.status,
        "ids": body.ids,
        "access": access,
    }
    page: JsonObject = {
        "limit": body.limit + 1,
        "offset": body.offset,
        "sort_by": body.sort_by,
        "order": body.sort_order,
    }
    if body.values:
        matching = await services.value_search.search(Wanted(values=body.values, **about), **page)
        found = [thread for thread, _ in matching]
        values = {thread.thread_id: shown for thread, shown in matching}
    else:
        found = await threads.search(services.db, **about, **page)
        values = await _values(services, found[: body.limit], body)
    return json_response(
        [_found_json(row, values.get(row.thread_id), body) for row in found[: body.limit]],
        headers=page_headers(found, limit=body.limit, offset=body.offset),
    )


async def _values(services: ServicesDep, page: list[Thread], body: ThreadSearch) -> dict[str, Any]:
    """The values of a page of threads, if anything of them is shown."""
    paths = (body.extract or {}).values()
    if body.select is None or "values" in body.select or any(map(_is_of_values, paths)):
        return await services.states.values_of(page, as_json=True)
    return {}


def _is_of_values(path: str) -> bool:
    return path.startswith("values")


def _found_json(thread: Thread, values: Any, body: ThreadSearch) -> JsonObject:
    whole = thread_json(thread, values)
    shown = selected(whole, body.select)
    if not body.extract:
        return shown
    return {**shown, "extracted": {key: at(whole, path) for key, path in body.extract.items()}}


@router.post("/count")
async def count(services: ServicesDep, caller: CallerDep, body: ThreadCount) -> Response:
    """Count the threads whose metadata and values contain what is given."""
    value = body.model_dump(include={"metadata", "values", "status"})
    access = await caller.may("threads", "search", value)
    about: JsonObject = {
        "metadata": value.get("metadata") or {},
        "status": body.status,
        "access": access,
    }
    if body.values:
        return json_response(await services.value_search.count(Wanted(values=body.values, **about)))
    return json_response(await threads.count(services.db, **about))


@router.post("/prune")
async def prune(services: ServicesDep, caller: CallerDep, body: ThreadsPrune) -> Response:
    """Delete threads, or all of their checkpoints but the newest; tell how many there were."""
    value: JsonObject = {"thread_ids": body.thread_ids, "strategy": body.strategy}
    access = await caller.may("threads", "delete" if body.strategy == "delete" else "update", value)
    pruned = await services.threads.prune(
        body.thread_ids, strategy=body.strategy, actor=caller.actor, access=access
    )
    return json_response({"pruned_count": pruned})


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
        services.db,
        thread_id,
        metadata=value.get("metadata") or {},
        keep_seconds=services.settings.deleted_session_seconds,
        actor=caller.actor,
        access=access,
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
    await services.runs.delete_thread(thread_id, actor=caller.actor, access=access)


@router.post("/{thread_id}/copy")
async def copy(services: ServicesDep, caller: CallerDep, thread_id: ThreadId) -> Response:
    """Make a thread that is as another one is now, with all that it remembers."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    value: JsonObject = {"thread_id": str(uuid7()), "metadata": {}}
    copy_id = value["thread_id"]
    allowed = await services.new_sessions.allow(caller, value)
    await services.threads.copy(thread_id, copy_id, metadata=allowed.metadata, access=access)
    return await _thread_response(
        services, await threads.get(services.db, copy_id, access=EVERYTHING)
    )


@router.get("/{thread_id}/storage")
async def storage(services: ServicesDep, caller: CallerDep, thread_id: ThreadId) -> Response:
    """Tell how many bytes a thread's checkpoints take."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    if services.graphs.checkpointer is not None:
        raise UnsupportedError("Sizes: not of the checkpointer that langgraph.json names")
    found = await threads.storage(services.db, thread_id, access=access)
    channels = found.channels
    values = sum(size.bytes for size in channels.values())
    return json_response(
        {
            "thread_id": thread_id,
            "total_bytes": found.checkpoints.bytes + values + found.pending_writes.bytes,
            "checkpoints": asdict(found.checkpoints),
            "channel_values": {
                "count": sum(size.count for size in channels.values()),
                "bytes": values,
                "by_channel": {
                    name: {"versions": size.count, "bytes": size.bytes}
                    for name, size in channels.items()
                },
            },
            "pending_writes": asdict(found.pending_writes),
        }
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
    await threads.get(services.db, thread_id, access=access)
    tail = await services.follower.end_of_log(thread_id)
    after = parse_event_id(last_event_id) if last_event_id else tail
    location = f"/threads/{thread_id}/stream?stream_mode={','.join(sorted(modes))}"
    return EventStream(
        ThreadStream(services, thread_id, after=after, modes=modes, access=access).frames(),
        headers={"Location": location},
        settings=services.settings,
        caller=caller,
        look=reads(services, caller, thread_id),
    )


def thread_json(thread: Thread, values: Any) -> JsonObject:
    """A thread as the API shows it, with the values of its newest checkpoint."""
    return {
        "thread_id": thread.thread_id,
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
        "state_updated_at": thread.state_updated_at,
        "metadata": without_title(thread.metadata),
        "status": thread.status,
        "config": thread.config,
        "values": values,
        "error": thread.error,
        "interrupts": thread.interrupts,
    }


async def _thread_response(
    services: ServicesDep, thread: Thread, life: Lifetime | None = None
) -> Response:
    values = await services.states.values_of([thread], as_json=True)
    shown = thread_json(thread, values.get(thread.thread_id))
    return json_response(shown | {"ttl": asdict(life)} if life else shown)
