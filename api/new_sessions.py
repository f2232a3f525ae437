"""
How a caller gets one session more: permission, quota, row. Every route, door and import goes through here.

A run that makes its own thread is the exception: for that the permission is ``create_run``, see `api.submissions`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from api.identity.auth import Caller
from api.quotas import Quotas
from store import sessions, threads
from store.access import Access
from store.database import Database
from store.models import JsonObject, Session
from store.retention import Life


@dataclass(frozen=True, slots=True)
class Allowed:
    """A thread that a caller may create: the metadata that handlers leave it, and which they see."""

    metadata: JsonObject
    access: Access


@dataclass(frozen=True, slots=True)
class NewSessions:
    """
    Makes sessions for callers; one for each process.

    Args:
        life: How long they live unused; None for ever.
    """

    db: Database
    quotas: Quotas
    life: Life | None

    async def allow(self, caller: Caller, value: JsonObject, *, counts: bool = True) -> Allowed:
        """
        See that a caller may have one session more, ahead of whatever makes it.

        Args:
            value: What handlers of ``threads.create`` are told, and may change.
            counts: Whether it has to be one of those that they may have.

        Raises:
            PermissionDeniedError: They may not create threads, or not this one.
            QuotaError: They have as many sessions as they may.
        """
        access = await caller.may("threads", "create", value)
        if counts:
            await self.quotas.require_session(caller)
        return Allowed(metadata=value.get("metadata") or {}, access=access)

    async def make(
        self,
        caller: Caller,
        session_id: str,
        attributes: JsonObject,
        *,
        marks: JsonObject | None = None,
        expires_at: datetime | None = None,
        seen_by: Iterable[Access] = (),
    ) -> Session:
        """
        Make a session for a caller.

        Args:
            attributes: Its metadata, which handlers may change.
            marks: What is beside that in its metadata, of ours.
            expires_at: When it ends; None for never.
            seen_by: What is to be done in it next, each of which is to find it.

        Raises:
            AlreadyExistsError: The id is taken.
            NotFoundError: What is to be done in it would not find it.
            Error: Others as `allow`.
        """
        allowed = await self.allow(caller, new_value(session_id, attributes))
        metadata = {**allowed.metadata, **(marks or {})}
        for access in seen_by:
            await threads.require_visible(self.db, session_id, metadata=metadata, access=access)
        return await sessions.create(
            self.db,
            session_id,
            metadata=metadata,
            expires_at=expires_at,
            life=self.life,
            access=allowed.access,
        )


def new_value(session_id: str, attributes: JsonObject) -> JsonObject:
    """What handlers of ``threads.create`` are told of a session."""
    return {"thread_id": session_id, "metadata": attributes, "if_exists": "raise"}
