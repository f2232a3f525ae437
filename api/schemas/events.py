"""What `/api/events` and `/api/webhooks` take and give."""

import base64
import binascii
import uuid
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from api.schemas.common import UUID_FORM, UUID_SCHEMA, Payload
from graph.deliveries import PREFIX
from graph.listeners import matches
from store.errors import BadRequestError
from store.models import JsonObject
from store.outbox import NAMES
from store.subscriptions import Delivery, Webhook, WebhookPatch

#: How many names a filter has, and how long a secret is.
MAX_NAMES = 32
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64


def _id(value: str) -> str:
    if not UUID_FORM.fullmatch(value.lower()):
        raise PydanticCustomError(SENTENCE, "Invalid ID: must be a UUID")
    return str(uuid.UUID(value))


def _known(names: list[str]) -> list[str]:
    for name in names:
        if not matches(name):
            raise PydanticCustomError(SENTENCE, _unknown(name))
    return list(dict.fromkeys(names))


def _unknown(name: str) -> Any:
    return f"Nothing is told as '{name[:64]}'; there are {', '.join(NAMES)}, session.* and the like"


def _secret(text: str) -> str:
    try:
        size = len(base64.b64decode(text.removeprefix(PREFIX), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not MIN_SECRET_BYTES <= size <= MAX_SECRET_BYTES:
        raise PydanticCustomError(
            SENTENCE, "secret must be whsec_ and the base64 of 24 to 64 bytes"
        )
    return text


WebhookId = Annotated[str, AfterValidator(_id), UUID_SCHEMA]
Names = Annotated[list[str], Field(min_length=1, max_length=MAX_NAMES), AfterValidator(_known)]
Secret = Annotated[str, Field(max_length=200), AfterValidator(_secret)]
Url = Annotated[str, Field(min_length=1, max_length=2048)]
Description = Annotated[str, Field(max_length=1000)]


class WebhookCreate(Payload):
    """A webhook: where to, and of what."""

    url: Url
    #: Names of events; ``session.*`` for all that begin so, ``*`` for everything.
    events: Names = Field(default=["*"])
    description: Description | None = None
    enabled: bool = True
    #: ``whsec_`` and base64; one is made unless given.
    secret: Secret | None = None

    @property
    def secret_bytes(self) -> bytes | None:
        """The secret, if one was given."""
        return secret_bytes(self.secret)


class WebhookUpdate(Payload):
    """What can be changed of a webhook."""

    url: Url | None = None
    events: Names | None = None
    description: Description | None = None
    enabled: bool | None = None
    secret: Secret | None = None

    def changes(self) -> WebhookPatch:
        """What changes."""
        return WebhookPatch(
            url=self.url,
            events=self.events,
            describes="description" in self.model_fields_set,
            description=self.description,
            secret=secret_bytes(self.secret),
            enabled=self.enabled,
        )


def secret_bytes(text: str | None) -> bytes | None:
    """A secret as it signs."""
    return None if text is None else base64.b64decode(text.removeprefix(PREFIX))


def webhook_json(webhook: Webhook) -> JsonObject:
    """A webhook; nobody is shown its secret again."""
    return {
        "id": webhook.webhook_id,
        "url": webhook.url,
        "events": webhook.events,
        "description": webhook.description,
        "enabled": webhook.enabled,
        "disabled_reason": webhook.disabled_reason,
        "created_at": webhook.created_at,
        "updated_at": webhook.updated_at,
    }


def delivery_json(delivery: Delivery) -> JsonObject:
    """A delivery."""
    return {
        "id": delivery.delivery_id,
        "webhook_id": delivery.webhook_id,
        "event": delivery.body,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "created_at": delivery.created_at,
        "updated_at": delivery.updated_at,
    }


def wanted(types: str | None) -> list[str] | None:
    """
    Read which names a client wants to be told.

    Raises:
        BadRequestError: Nothing is told as one of them.
    """
    if types is None:
        return None
    names = [name.strip() for name in types.split(",") if name.strip()]
    for name in names:
        if not matches(name):
            raise BadRequestError(_unknown(name))
    if not names or len(names) > MAX_NAMES:
        raise BadRequestError(f"types must be 1 to {MAX_NAMES} names, separated by commas")
    return names


def before(cursor: str | None) -> str | None:
    """
    The delivery that a cursor of a list of them stands for.

    Raises:
        BadRequestError: It is not one of ours.
    """
    if cursor is None:
        return None
    if not UUID_FORM.fullmatch(cursor):
        raise BadRequestError("The cursor is not valid", code="bad_cursor")
    return cursor


def place(last_event_id: str | None, since: str | None) -> int | None:
    """
    Read where a client wants to go on from.

    Raises:
        BadRequestError: It is no number.
    """
    text = since if last_event_id is None else last_event_id
    if text is None or not text.strip():
        return None
    digits = text.strip()
    if digits == "-1":
        return -1
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise BadRequestError("Last-Event-ID must be the number of an event, or -1")
    return int(digits)
