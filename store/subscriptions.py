"""Webhooks that users register, and what was sent to each: delivered, waiting, or given up."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from store import audit, outbox
from store.access import Access
from store.cipher import Cipher, at
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
    webhook_id: str
    body: JsonObject
    url: str
    secret: bytes
    #: Whether its webhook is on.
    enabled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookPatch:
    """What is to be changed of a webhook; None for what stays."""

    url: str | None = None
    events: list[str] | None = None
    describes: bool = False
    description: str | None = None
    secret: bytes | None = None
    enabled: bool | None = None

    def fields(self) -> list[str]:
        """The names of what is to be changed."""
        named = ("url", "events", "secret", "enabled")
        changed = [name for name in named if getattr(self, name) is not None]
        return [*changed, "description"] if self.describes else changed


def not_found(webhook_id: str) -> NotFoundError:
    """The error for a webhook that is not there, or not the caller's."""
    return NotFoundError(f"Webhook {webhook_id} not found")


async def create(
    db: Database,
    webhook_id: str,
    *,
    identity: str,
    actor: str,
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
        actor: Who asks for it, for the audit log.
        access: The threads whose changes it is told.

    Raises:
        ConflictError: The user has `MAX_WEBHOOKS` already.
    """
    params = {
        "webhook_id": webhook_id,
        "identity": identity,
        "visible": _visible(access),
        **_sealed(db.cipher, webhook_id, url, description, secret),
        "events": events,
        "enabled": enabled,
        "most": MAX_WEBHOOKS,
    }
    async with db.transaction() as tx:
        created = await tx.one(Webhook, SQL["create"], params)
        if created is None:
            raise ConflictError(
                f"A user may have {MAX_WEBHOOKS} webhooks at the most", code="too_many_webhooks"
            )
        # Not where it leads: that may be a secret.
        await audit.record(
            tx,
            "webhook.created",
            actor=actor,
            owner=identity,
            subject=f"webhook:{webhook_id}",
            details={"events": events},
        )
    return _opened(db.cipher, created)


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
    return _opened(db.cipher, found)


async def list_all(db: Database, *, identity: str) -> list[Webhook]:
    """The user's webhooks, the oldest first; `MAX_WEBHOOKS` at the most."""
    rows = await db.all(Webhook, SQL["list"], {"identity": identity})
    return [_opened(db.cipher, row) for row in rows]


async def update(
    db: Database,
    webhook_id: str,
    changes: WebhookPatch,
    *,
    identity: str,
    actor: str,
    access: Access,
) -> Webhook:
    """
    Change a webhook; from now on it is told of the threads that the user may see now.

    Args:
        identity: Whose it must be.
        actor: Who asks for it, for the audit log.

    Raises:
        NotFoundError: There is none with this id that is the user's.
    """
    params = {
        "webhook_id": webhook_id,
        "identity": identity,
        "visible": _visible(access),
        **_sealed(db.cipher, webhook_id, changes.url, changes.description, changes.secret),
        "events": changes.events,
        "describes": changes.describes,
        "enabled": changes.enabled,
    }
    async with db.transaction() as tx:
        updated = await tx.one(Webhook, SQL["update"], params)
        if updated is None:
            raise not_found(webhook_id)
        await audit.record(
            tx,
            "webhook.updated",
            actor=actor,
            owner=identity,
            subject=f"webhook:{webhook_id}",
            details={"fields": changes.fields()},
        )
    return _opened(db.cipher, updated)


async def delete(db: Database, webhook_id: str, *, identity: str, actor: str) -> None:
    """
    Delete a webhook and what was sent to it; what waits is not sent.

    Args:
        identity: Whose it must be.
        actor: Who asks for it, for the audit log.

    Raises:
        NotFoundError: There is none with this id that is the user's.
    """
    params = {"webhook_id": webhook_id, "identity": identity}
    async with db.transaction() as tx:
        if not await tx.execute(SQL["delete"], params):
            raise not_found(webhook_id)
        await audit.record(
            tx, "webhook.deleted", actor=actor, owner=identity, subject=f"webhook:{webhook_id}"
        )


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
    return [_opened_delivery(db.cipher, row) for row in rows[:limit]], len(rows) > limit


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
        return _opened_delivery(db.cipher, again)
    if await db.one(Delivery, SQL["find_delivery"], params) is None:
        raise NotFoundError(f"Delivery {delivery_id} not found")
    raise ConflictError(
        f"Delivery {delivery_id} is still waiting to be sent", code="delivery_pending"
    )


async def to_send(db: Database, delivery_id: str) -> ToSend | None:
    """What a delivery is; None if it is not to be sent any more."""
    found = await db.one(ToSend, SQL["to_send"], {"delivery_id": delivery_id})
    cipher = db.cipher
    if found is None or not cipher.is_on:
        return found
    return replace(
        found,
        body=outbox.opened_body(cipher, found.body),
        url=cipher.open_text(found.url, _at("url", found.webhook_id)),
        secret=cipher.open(bytes(found.secret), _at("secret", found.webhook_id)),
    )


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
        "last_error": _sealed_error(db.cipher, delivery_id, last_error),
    }
    await db.execute(SQL["tried"], params)


async def give_up(db: Database, delivery_id: str, *, reason: str) -> None:
    """Put a delivery among the dead; it can be replayed."""
    sealed = _sealed_error(db.cipher, delivery_id, reason)
    await db.execute(SQL["give_up"], {"delivery_id": delivery_id, "reason": sealed})


async def sweep(db: Database) -> None:
    """Delete what was sent or given up long ago; some at a time."""
    await db.execute(SQL["sweep"], {"keep_seconds": KEEP_SECONDS, "limit": SWEPT_AT_ONCE})


def _at(column: str, webhook_id: str) -> bytes:
    # As it is read: who asks may write it otherwise.
    return at(f"webhook.{column}", str(UUID(webhook_id)))


def _sealed(
    cipher: Cipher,
    webhook_id: str,
    url: str | None,
    description: str | None,
    secret: bytes | None,
) -> JsonObject:
    return {
        "url": url and cipher.seal_text(url, _at("url", webhook_id)),
        "description": description
        and cipher.seal_text(description, _at("description", webhook_id)),
        "secret": secret and cipher.seal(secret, _at("secret", webhook_id)),
    }


def _opened(cipher: Cipher, webhook: Webhook) -> Webhook:
    if not cipher.is_on:
        return webhook
    id_ = webhook.webhook_id
    return replace(
        webhook,
        url=cipher.open_text(webhook.url, _at("url", id_)),
        description=webhook.description
        and cipher.open_text(webhook.description, _at("description", id_)),
    )


def _sealed_error(cipher: Cipher, delivery_id: str, error: str | None) -> str | None:
    """It names the receiver."""
    return error and cipher.seal_text(error, at("webhook_delivery.last_error", delivery_id))


def _opened_delivery(cipher: Cipher, delivery: Delivery) -> Delivery:
    if not cipher.is_on:
        return delivery
    place = at("webhook_delivery.last_error", delivery.delivery_id)
    return replace(
        delivery,
        body=outbox.opened_body(cipher, delivery.body),
        last_error=delivery.last_error and cipher.open_text(delivery.last_error, place),
    )


def _visible(access: Access) -> str:
    return dump_json(list(access.visible)).decode()
