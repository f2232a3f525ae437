"""Crons: runs that begin by the clock, on a thread or each on one of its own."""

from dataclasses import replace
from datetime import datetime

from fastapi import APIRouter, Request, Response
from uuid_utils.compat import uuid7

from api.deps import CallerDep, ServicesDep, ThreadId
from api.http.bodies import JsonRoute
from api.http.responses import json_response, page_headers, selected
from api.identity.auth import Caller
from api.schemas.crons import (
    CronCount,
    CronCreate,
    CronId,
    CronSearch,
    CronUpdate,
    request_of,
    time_of,
)
from api.submissions import Allowed, allow
from graph.crons import following
from graph.requests import RunRequest, mirrored
from store import crons
from store.crons import Cron, NewCron
from store.errors import BadRequestError, InvalidInputError, NotFoundError
from store.models import JsonObject

router = APIRouter(tags=["crons"], route_class=JsonRoute)

#: What of a cron decides when it is due next.
_WHEN = frozenset({"schedule", "timezone", "end_time", "enabled"})
#: What handlers of the authentication may change of a run.
_MUTABLE = ("input", "config", "context", "metadata")


def cron_json(cron: Cron) -> JsonObject:
    """A cron as the SDK's `Cron`; with ``error`` if its last run was refused."""
    shown: JsonObject = {
        "cron_id": cron.cron_id,
        "assistant_id": cron.assistant_id,
        "thread_id": cron.thread_id,
        "user_id": cron.user_id,
        "end_time": cron.end_time,
        "schedule": cron.schedule,
        "timezone": cron.timezone,
        "payload": cron.payload,
        "next_run_date": cron.next_run_at,
        "metadata": cron.metadata,
        "on_run_completed": cron.on_run_completed,
        "enabled": cron.enabled,
        "created_at": cron.created_at,
        "updated_at": cron.updated_at,
    }
    return shown if cron.error is None else {**shown, "error": cron.error}


@router.post("/runs/crons")
async def create(services: ServicesDep, caller: CallerDep, body: CronCreate) -> Response:
    """Have a graph run by the clock, each time on a thread of its own."""
    return await _create(services, caller, body, None)


@router.post("/threads/{thread_id}/runs/crons")
async def create_on_thread(
    services: ServicesDep, caller: CallerDep, thread_id: ThreadId, body: CronCreate
) -> Response:
    """Have a graph run on a thread by the clock."""
    return await _create(services, caller, body, thread_id)


async def _create(
    services: ServicesDep, caller: Caller, body: CronCreate, thread_id: str | None
) -> Response:
    cron_id = str(uuid7())
    payload = body.payload
    value: JsonObject = {
        "cron_id": cron_id,
        "thread_id": thread_id,
        "schedule": body.schedule,
        "payload": payload,
        "metadata": body.metadata or {},
    }
    await caller.may("crons", "create", value)
    await services.quotas.require_cron(caller)
    on_run_completed = None if thread_id else body.on_run_completed or "delete"
    request = request_of(
        payload,
        assistant_id=_assistant_id(services, body.assistant_id),
        is_on_thread=thread_id is not None,
        on_run_completed=on_run_completed,
    )
    allowed = await allow(services, caller, request, thread_id=thread_id)
    await _check(services, allowed, thread_id)
    assistant_id = allowed.request.assistant_id
    new = NewCron(
        cron_id=cron_id,
        assistant_id=assistant_id,
        thread_id=thread_id,
        user_id=caller.injected["langgraph_auth_user_id"],
        schedule=body.schedule,
        timezone=body.timezone,
        end_time=time_of(body.end_time) if body.end_time else None,
        enabled=body.enabled is not False,
        on_run_completed=on_run_completed,
        payload=_payload(payload, _left(payload, allowed.request), cron_id)
        | {"assistant_id": assistant_id},
        metadata=value.get("metadata") or {},
        injected=caller.injected,
        visible_threads=list(allowed.access.visible),
        visible_assistants=list(allowed.assistant_access.visible),
        next_run_at=None,
    )
    new = replace(new, next_run_at=following(new, await services.crons.now()))
    created = await crons.create(services.db, new)
    services.crons.wake()
    return json_response(cron_json(created))


def _assistant_id(services: ServicesDep, name: str) -> str:
    try:
        return services.runs.assistant_id(name)
    except InvalidInputError:
        raise NotFoundError(f"Assistant '{name}' not found") from None


async def _check(services: ServicesDep, allowed: Allowed, thread_id: str | None) -> None:
    """Refuse a cron of which no run could be taken in now."""
    if allowed.request.webhook:
        await services.webhooks.check(allowed.request.webhook)
    await services.runs.prepare(
        allowed.request,
        thread_id=thread_id,
        access=allowed.access,
        assistant_access=allowed.assistant_access,
    )


def _payload(payload: JsonObject, allowed: JsonObject, cron_id: str) -> JsonObject:
    """What was asked for, as the handlers of the authentication left it, with the cron's id."""
    kept = {**payload, **allowed}
    config = kept.get("config") or {}
    configurable = {**(config.get("configurable") or {}), "cron_id": cron_id}
    return {**kept, "config": {**config, "configurable": configurable}}


def _left(payload: JsonObject, request: RunRequest) -> JsonObject:
    """What handlers of the authentication left of what was sent, or put beside it."""
    left = {name: getattr(request, name) for name in _MUTABLE}
    return {name: value for name, value in left.items() if name in payload or value}


@router.post("/runs/crons/search")
async def search(services: ServicesDep, caller: CallerDep, body: CronSearch) -> Response:
    """List the crons whose metadata contains what is given."""
    value = body.model_dump(exclude={"select", "sort_by", "sort_order"})
    access = await caller.may("crons", "search", value)
    found = await crons.search(
        services.db,
        metadata=value.get("metadata") or {},
        assistant_id=body.assistant_id,
        thread_id=body.thread_id,
        enabled=body.enabled,
        limit=body.limit + 1,
        offset=body.offset,
        sort_by=body.column,
        order=body.sort_order or "desc",
        access=access,
    )
    page = [selected(cron_json(cron), body.select or None) for cron in found[: body.limit]]
    return json_response(page, headers=page_headers(found, limit=body.limit, offset=body.offset))


@router.post("/runs/crons/count")
async def count(services: ServicesDep, caller: CallerDep, body: CronCount) -> Response:
    """Count the crons whose metadata contains what is given."""
    value = body.model_dump()
    access = await caller.may("crons", "search", value)
    found = await crons.count(
        services.db,
        metadata=value.get("metadata") or {},
        assistant_id=body.assistant_id,
        thread_id=body.thread_id,
        enabled=body.enabled,
        access=access,
    )
    return json_response(found)


@router.get("/runs/crons/{cron_id}")
async def get(services: ServicesDep, caller: CallerDep, cron_id: CronId) -> Response:
    """Read a cron."""
    access = await caller.may("crons", "read", {"cron_id": cron_id})
    return json_response(cron_json(await crons.get(services.db, cron_id, access=access)))


@router.patch("/runs/crons/{cron_id}")
async def update(
    services: ServicesDep, caller: CallerDep, request: Request, cron_id: CronId, body: CronUpdate
) -> Response:
    """Change a cron; its runs are still made as the user who created it."""
    payload = body.payload
    if not await request.json():
        raise BadRequestError("Request body cannot be empty")
    value: JsonObject = {"cron_id": cron_id, "payload": payload, "metadata": body.metadata}
    access = await caller.may("crons", "update", value)
    before = await crons.get(services.db, cron_id, access=access)
    allowed = await _allowed_change(services, caller, before, payload)
    now = await services.crons.now()

    def change(cron: Cron) -> Cron:
        changed = replace(
            cron,
            schedule=payload.get("schedule", cron.schedule),
            timezone=payload.get("timezone", cron.timezone),
            end_time=_end_time(payload, cron),
            enabled=payload.get("enabled", cron.enabled),
            on_run_completed=payload.get("on_run_completed", cron.on_run_completed),
            payload=_payload({**cron.payload, **payload}, allowed, cron_id),
            metadata={**cron.metadata, **(value.get("metadata") or {})},
        )
        if not _WHEN & payload.keys():
            return changed
        return replace(changed, next_run_at=following(changed, now))

    changed = await crons.update(services.db, cron_id, change, actor=caller.actor, access=access)
    services.crons.wake()
    return json_response(cron_json(changed))


async def _allowed_change(
    services: ServicesDep, caller: Caller, cron: Cron, payload: JsonObject
) -> JsonObject:
    """What was sent, as the handlers of the authentication left it, if the caller may ask for it."""
    request = request_of(
        {**cron.payload, **payload},
        assistant_id=cron.assistant_id,
        is_on_thread=cron.thread_id is not None,
        on_run_completed=cron.on_run_completed,
    )
    if request.webhook and "webhook" in payload:
        await services.webhooks.check(request.webhook)
    allowed = (await allow(services, caller, request, thread_id=cron.thread_id)).request
    # What none of its runs could be made of.
    mirrored(allowed.config, allowed.context)
    return {name: getattr(allowed, name) for name in _MUTABLE if name in payload}


def _end_time(payload: JsonObject, cron: Cron) -> datetime | None:
    if "end_time" not in payload:
        return cron.end_time
    return time_of(payload["end_time"]) if payload["end_time"] else None


@router.delete("/runs/crons/{cron_id}", status_code=204)
async def delete(services: ServicesDep, caller: CallerDep, cron_id: CronId) -> Response:
    """Delete a cron; the runs that it made stay."""
    access = await caller.may("crons", "delete", {"cron_id": cron_id})
    await crons.delete(services.db, cron_id, access=access)
    return Response(status_code=204)
