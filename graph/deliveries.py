"""
Tells the webhooks that users registered of changes, signed as Standard Webhooks has it.

Each request has the id of its delivery, the time of the try, and an HMAC-SHA256 of both and of its
body, with the secret that the user was shown once. A try that fails is made again, as jobs are; in the
end the delivery is dead, until somebody replays it.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from typing import Final

import structlog

from graph.encode import dumps
from graph.jobs import SLOTS, JobFailedError, Kind
from graph.webhooks import CONNECT_SECONDS, OURS, REQUEST_SECONDS, Webhooks
from store import subscriptions
from store.database import Database
from store.jobs import Job

log = structlog.get_logger(__name__)

#: What a secret begins with, and how long one of ours is.
PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
#: How many a process sends at once: in all, of one user, and to one webhook. Receivers may be slow.
AT_ONCE, OF_USER_AT_ONCE, TO_WEBHOOK_AT_ONCE = SLOTS // 2, SLOTS // 4, 2


def new_secret() -> bytes:
    """A secret."""
    return secrets.token_bytes(SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """A secret as its user gets it."""
    return PREFIX + base64.b64encode(secret).decode()


def signature(secret: bytes, *, message_id: str, timestamp: int, body: bytes) -> str:
    """What a receiver checks: that who knows the secret has sent this, and when."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


class Deliveries:
    """Sends what `store.outbox` has fanned out."""

    def __init__(self, db: Database, webhooks: Webhooks) -> None:
        self._db = db
        self._webhooks = webhooks

    def kind(self, pauses_seconds: Sequence[float]) -> Kind:
        """How its jobs are done."""
        return Kind(
            work=self.deliver,
            timeout_seconds=REQUEST_SECONDS + CONNECT_SECONDS,
            pauses_seconds=pauses_seconds,
            give_up=self.give_up,
            most=AT_ONCE,
            most_alike={
                "webhook_id": TO_WEBHOOK_AT_ONCE,
                "webhook_owner": OF_USER_AT_ONCE,
            },
            is_apart=True,
        )

    async def deliver(self, job: Job) -> None:
        """
        Send a delivery, and write down what came of it.

        Raises:
            JobFailedError: The receiver is not there, does not take it, or must not be sent to.
        """
        delivery_id = job.payload["delivery_id"]
        found = await subscriptions.to_send(self._db, delivery_id)
        if found is None:
            return
        if self._webhooks.is_disabled:
            raise JobFailedError("langgraph.json has no webhook told", for_good=True)
        if not found.enabled:
            raise JobFailedError("the webhook is switched off", for_good=True)
        body, now, message_id = dumps(found.body), int(time.time()), f"msg_{delivery_id}"
        signed = signature(found.secret, message_id=message_id, timestamp=now, body=body)
        # What langgraph.json has sent beside is for those whom runs name.
        headers = {
            **OURS,
            "webhook-id": message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": signed,
        }
        try:
            await self._webhooks.send(
                found.url, body, about=f"delivery {delivery_id}", headers=headers
            )
        except JobFailedError as exc:
            await subscriptions.tried(
                self._db, delivery_id, status="pending", last_status=exc.status,
                last_error=exc.message,
            )  # fmt: skip
            raise
        await subscriptions.tried(self._db, delivery_id, status="delivered", last_status=200)
        log.info("event webhook told", delivery_id=delivery_id, attempt=job.attempt)

    async def give_up(self, job: Job, reason: str) -> None:
        """Put a delivery among the dead."""
        await subscriptions.give_up(self._db, job.payload["delivery_id"], reason=reason)
