"""What happens to a caller's sessions: as a stream, and to webhooks of their own."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Response
from uuid_utils.compat import uuid7

from api.bootstrap import Services
from api.deps import CallerDep, LastEventId, ServicesDep
from api.errors import BrokenOffError
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.identity.auth import Caller
from api.schemas.common import SessionId
from api.schemas.events import (
    WebhookCreate,
    WebhookId,
    WebhookUpdate,
    before,
    delivery_json,
    place,
    wanted,
    webhook_json,
)
from api.sse import GOES_ON, EventStream, frame
from graph.changes import Missed, Reached
from graph.deliveries import new_secret, secret_text
from graph.encode import dumps
from store import subscriptions
from store.access import Access
from store.errors import UnavailableError, UnsupportedError

router = APIRouter(prefix="/api", tags=["events"], route_class=JsonRoute)

EXAMPLE: dict[str, Any] = {
    "url": "https://example.com/hook",
    "events": ["session.*", "run.ended"],
    "description": "tells the billing of every run",
}


async def _seen(caller: Caller) -> Access:
    """The threads that a caller may see: those that a list would have."""
    return await caller.may("threads", "search", {"metadata": {}, "limit": 100, "offset": 0})


@router.get("/events", response_class=EventStream)
async def stream_events(
    caller: CallerDep,
    services: ServicesDep,
    types: str | None = None,
    session_id: SessionId | None = None,
    since: str | None = None,
    last_event_id: LastEventId = None,
) -> Response:
    """
    Stream what happens to all sessions that the caller may see; it never ends.

    From now on, or after ``Last-Event-ID`` (or ``since``), -1 for all that is kept. ``types`` are names,
    separated by commas, ``session.*`` for all that begin so. Where changes are not kept any more, the
    stream says so by ``gap``.
    """
    after, names = place(last_event_id, since), wanted(types)
    access = await _seen(caller)
    head = await services.changes.head()
    after = head if after is None else after
    follow = services.changes.follow(access, after=after, names=names, thread_id=session_id)
    return EventStream(
        _frames(follow, after),
        headers={},
        settings=services.settings,
        caller=caller,
    )


async def _frames(follow: AsyncGenerator[Any, None], after: int) -> AsyncGenerator[bytes, None]:
    """
    What is told, as server-sent events; first of all, where to go on from.

    Raises:
        BrokenOffError: This process goes.
    """
    try:
        if after >= 0:
            yield b"id: %d\r\n\r\n" % after
        async with aclosing(follow):
            async for told in follow:
                if isinstance(told, Missed):
                    gap = {"since": told.since, "trimmed_through": told.trimmed_through}
                    yield frame("gap", dumps(gap), str(told.trimmed_through))
                elif isinstance(told, Reached):
                    # No event, but where to go on from.
                    yield b"id: %d\r\n\r\n" % told.seq
                else:
                    yield b"".join(frame(c.name, dumps(c.body), str(c.seq)) for c in told)
    except UnavailableError as exc:
        raise BrokenOffError(exc.message) from exc
    raise BrokenOffError(GOES_ON)


@router.post("/webhooks")
async def create_webhook(
    body: Annotated[WebhookCreate, Body(examples=[EXAMPLE])],
    caller: CallerDep,
    services: ServicesDep,
) -> Response:
    """
    Register a webhook for what happens to sessions that the caller may see.

    Its ``secret`` is in this answer and in no other. What is sent is signed as Standard Webhooks has it.
    """
    caller.require("webhooks:create")
    access = caller.lasting(await _seen(caller))
    await _check(services, body.url)
    # What happened before is not for this one.
    await services.changes.head()
    secret = body.secret_bytes or new_secret()
    created = await subscriptions.create(
        services.db,
        str(uuid7()),
        identity=caller.identity,
        actor=caller.actor,
        url=body.url,
        events=body.events,
        description=body.description,
        secret=secret,
        enabled=body.enabled,
        access=access,
    )
    services.changes.hurry()
    return json_response({**webhook_json(created), "secret": secret_text(secret)})


async def _check(services: Services, url: str) -> None:
    if services.event_webhooks.is_disabled:
        raise UnsupportedError("Webhooks are switched off in langgraph.json")
    await services.event_webhooks.check_elsewhere(url)


@router.get("/webhooks")
async def list_webhooks(caller: CallerDep, services: ServicesDep) -> Response:
    """The caller's webhooks, the oldest first."""
    caller.require("webhooks:read")
    await _seen(caller)
    found = await subscriptions.list_all(services.db, identity=caller.identity)
    data = [webhook_json(one) for one in found]
    return json_response({"data": data, "next_cursor": None, "has_more": False})


@router.get("/webhooks/{webhook_id}")
async def get_webhook(webhook_id: WebhookId, caller: CallerDep, services: ServicesDep) -> Response:
    """One of the caller's webhooks."""
    caller.require("webhooks:read")
    await _seen(caller)
    found = await subscriptions.get(services.db, webhook_id, identity=caller.identity)
    return json_response(webhook_json(found))


@router.patch("/webhooks/{webhook_id}")
async def update_webhook(
    webhook_id: WebhookId,
    body: Annotated[WebhookUpdate, Body(examples=[{"events": ["*"], "enabled": True}])],
    caller: CallerDep,
    services: ServicesDep,
) -> Response:
    """Change a webhook; from now on it is told of the sessions that the caller may see now."""
    caller.require("webhooks:update")
    access = caller.lasting(await _seen(caller))
    await subscriptions.get(services.db, webhook_id, identity=caller.identity)
    if body.url is not None:
        await _check(services, body.url)
    await services.changes.head()
    changed = await subscriptions.update(
        services.db,
        webhook_id,
        body.changes(),
        identity=caller.identity,
        actor=caller.actor,
        access=access,
    )
    services.changes.hurry()
    return json_response(webhook_json(changed))


@router.delete("/webhooks/{webhook_id}", status_code=204)
async def delete_webhook(
    webhook_id: WebhookId, caller: CallerDep, services: ServicesDep
) -> Response:
    """Delete a webhook with its deliveries; what is waiting is not sent."""
    caller.require("webhooks:delete")
    await _seen(caller)
    await subscriptions.delete(
        services.db, webhook_id, identity=caller.identity, actor=caller.actor
    )
    return Response(status_code=204)


@router.get("/webhooks/{webhook_id}/deliveries")
async def list_deliveries(
    webhook_id: WebhookId,
    caller: CallerDep,
    services: ServicesDep,
    status: Literal["pending", "delivered", "dead"] | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> Response:
    """What was sent to a webhook, the newest first; ``status=dead`` is what was given up."""
    caller.require("webhooks:read")
    await _seen(caller)
    page, more = await subscriptions.deliveries(
        services.db,
        webhook_id,
        status=status,
        before=before(cursor),
        limit=limit,
        identity=caller.identity,
    )
    following = page[-1].delivery_id if more else None
    data = [delivery_json(one) for one in page]
    return json_response({"data": data, "next_cursor": following, "has_more": more})


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/replay")
async def replay_delivery(
    webhook_id: WebhookId, delivery_id: WebhookId, caller: CallerDep, services: ServicesDep
) -> Response:
    """Send again what was delivered or given up, under the same ``webhook-id``."""
    caller.require("webhooks:update")
    await _seen(caller)
    again = await subscriptions.replay(
        services.db, webhook_id, delivery_id, identity=caller.identity
    )
    return json_response(delivery_json(again))
