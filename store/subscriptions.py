"""Webhooks that users register, and what was sent to each: delivered, waiting, or given up."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from store import outbox
from store.access import Access
from store.database import Database
from store.errors import ConflictError, NotFoundError
from store.json import dump_json
from store.models import JsonObject
from store.signals import JOB
from store.sql import load

SQL = load("subscriptions")

#: How many webhooks a user may have.
MAX_WEBHOOKS: Final = 50
#: How long what was sent, and what was given up, is kept.
KEEP_SECONDS: Final = 30 * 86_400.0
SWEPT_AT_ONCE: Final = 5_000

DeliveryStatus = Literal["pending", "delivered", "dead"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """Where a user wants to be told of changes; its secret is never read back."""

    webhook_id: str
    url: str
    #: Names, and ``session.*`` for all that begin so.
    events: list[str]
    description: str | None
    enabled: bool
    #: Why the server switched it off.
    disabled_reason: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A change on its way to a webhook."""

    delivery_id: str
    webhook_id: str
    seq: int
    name: str
    body: JsonObject
    status: DeliveryStatus
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ToSend:
    """What is to be sent where."""

    delivery_id: str
    body: JsonObject
    url: str
    secret: bytes
    #: Whether its webhook is on.
    enabled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What is to be changed of a webhook; None for what stays."""

    url: str | None = None
    events: list[str] | None = None
    describes: bool = False
    description: str | None = None
    secret: bytes | None = None
    enabled: bool | None = None


def not_found(webhook_id: str) -> NotFoundError:
    """The error for a webhook that is not there, or not the caller's."""
    return NotFoundError(f"Webhook {webhook_id} not found")


async def create(
    db: Database,
    webhook_id: str,
    *,
    identity: str,
    url: str,
    events: list[str],
    description: str | None,
    secret: bytes,
    enabled: bool,
    access: Access,
) -> Webhook:
    """
    Register a webhook.

    Args:
        identity: Whose it is.
        access: The threads whose changes it is told.

    Raises:
        ConflictError: The user has `MAX_WEBHOOKS` already.
    """
    params = {
        "webhook_id": webhook_id,
        "identity": identity,
        "visible": _visible(access),
        "url": url,
        "events": events,
        "description": description,
        "secret": secret,
        "enabled": enabled,
        "most": MAX_WEBHOOKS,
    }
    created = await db.one(Webhook, SQL["create"], params)
    if created is None:
        raise ConflictError(
            f"A user may have {MAX_WEBHOOKS} webhooks at the most", code="too_many_webhooks"
        )
    return created


async def get(db: Database, webhook_id: str, *, identity: str) -> Webhook:
    """
    Read a webhook.

    Raises:
        NotFoundError: There is none with this id that is the user's.
    """
    params = {"webhook_id": webhook_id, "identity": identity}
    found = await db.one(Webhook, SQL["get"], params)
    if found is None:
        raise not_found(webhook_id)
    return found


async def list_all(db: Database, *, identity: str) -> list[Webhook]:
    """The user's webhooks, the oldest first; `MAX_WEBHOOKS` at the most."""
    return await db.all(Webhook, SQL["list"], {"identity": identity})


async def update(
    db: Database, webhook_id: str, changes: Changes, *, identity: str, access: Access
) -> Webhook:
    """
    Change a webhook; from now on it is told of the threads that the user may see now.

    Raises:
        NotFoundError: There is none with this id that is the user's.
    """
    params = {
        "webhook_id": webhook_id,
        "identity": identity,
        "visible": _visible(access),
        "url": changes.url,
        "events": changes.events,
        "describes": changes.describes,
        "description": changes.description,
        "secret": changes.secret,
        "enabled": changes.enabled,
    }
    updated = await db.one(Webhook, SQL["update"], params)
    if updated is None:
        raise not_found(webhook_id)
    return updated


async def delete(db: Database, webhook_id: str, *, identity: str) -> None:
    """
    Delete a webhook and what was sent to it; what waits is not sent.

    Raises:
        NotFoundError: There is none with this id that is the user's.
    """
    params = {"webhook_id": webhook_id, "identity": identity}
    if not await db.execute(SQL["delete"], params):
        raise not_found(webhook_id)


async def deliveries(
    db: Database,
    webhook_id: str,
    *,
    status: DeliveryStatus | None,
    before: str | None,
    limit: int,
    identity: str,
) -> tuple[list[Delivery], bool]:
    """
    What was sent to a webhook, the newest change first, and whether there is more.

    Args:
        before: Only of changes before that of this delivery.

    Raises:
        NotFoundError: There is no such webhook that is the user's.
    """
    await get(db, webhook_id, identity=identity)
    params = {
        "webhook_id": webhook_id,
        "identity": identity,
        "status": status,
        "before": before,
        "limit": limit + 1,
    }
    rows = await db.all(Delivery, SQL["deliveries"], params)
    return rows[:limit], len(rows) > limit


async def replay(db: Database, webhook_id: str, delivery_id: str, *, identity: str) -> Delivery:
    """
    Send something again that was delivered or given up; under the same id, so that it is known.

    Raises:
        NotFoundError: There is no such delivery of a webhook of the user's.
        ConflictError: It is still waiting to be sent.
    """
    params = {
        "webhook_id": webhook_id,
        "delivery_id": delivery_id,
        "identity": identity,
        "kind": outbox.KIND,
        "signal": JOB,
    }
    again = await db.one(Delivery, SQL["replay"], params)
    if again is not None:
        return again
    if await db.one(Delivery, SQL["find_delivery"], params) is None:
        raise NotFoundError(f"Delivery {delivery_id} not found")
    raise ConflictError(
        f"Delivery {delivery_id} is still waiting to be sent", code="delivery_pending"
    )


async def to_send(db: Database, delivery_id: str) -> ToSend | None:
    """What a delivery is; None if it is not to be sent any more."""
    return await db.one(ToSend, SQL["to_send"], {"delivery_id": delivery_id})


async def tried(
    db: Database,
    delivery_id: str,
    *,
    status: DeliveryStatus,
    last_status: int | None = None,
    last_error: str | None = None,
) -> None:
    """Write down what came of a try."""
    params = {
        "delivery_id": delivery_id,
        "status": status,
        "last_status": last_status,
        "last_error": last_error,
    }
    await db.execute(SQL["tried"], params)


async def give_up(db: Database, delivery_id: str, *, reason: str) -> None:
    """Put a delivery among the dead; it can be replayed."""
    await db.execute(SQL["give_up"], {"delivery_id": delivery_id, "reason": reason})


async def sweep(db: Database) -> None:
    """Delete what was sent or given up long ago; some at a time."""
    await db.execute(SQL["sweep"], {"keep_seconds": KEEP_SECONDS, "limit": SWEPT_AT_ONCE})


def _visible(access: Access) -> str:
    return dump_json(list(access.visible)).decode()
