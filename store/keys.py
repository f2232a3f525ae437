"""
API keys: who may call as whom, until when. What opens is kept as a hash alone.

A key that is revoked stays, so that it can be told what it was, and whose.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from store.audit import Act, record
from store.database import Database, Transaction, repeated
from store.errors import NotFoundError
from store.models import JsonObject
from store.sql import load

SQL: Final = load("keys")

#: Keys that are listed at the most.
MAX_LISTED: Final = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One API key, without what opens."""

    key_id: str
    secret_hash: bytes = field(repr=False)
    owner: str
    name: str
    roles: list[str]
    permissions: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    #: By the database's clock, from when it was read; None for never.
    expires_in_seconds: float | None

    @property
    def is_expired(self) -> bool:
        """Whether its time had come when it was read."""
        return self.expires_in_seconds is not None and self.expires_in_seconds <= 0


async def create(
    db: Database,
    key_id: str,
    *,
    secret_hash: bytes,
    owner: str,
    name: str,
    roles: list[str],
    permissions: list[str],
    expires_seconds: float | None,
) -> Key:
    """
    Keep a new key.

    Args:
        secret_hash: SHA-256 of its secret, which must have been drawn from 256 random bits.
        expires_seconds: From now, by the database's clock; None for never.
    """
    params = {
        "key_id": key_id,
        "secret_hash": secret_hash,
        "owner": owner,
        "name": name,
        "roles": roles,
        "permissions": permissions,
        "expires_seconds": expires_seconds,
    }
    async with db.transaction() as tx:
        created = await tx.one(Key, SQL["create"], params)
        assert created is not None
        details: JsonObject = {"name": name, "roles": roles, "permissions": permissions}
        await _record(tx, "key.created", created, details)
    return created


async def _record(tx: Transaction, act: Act, key: Key, details: JsonObject) -> None:
    # Whoever can reach the database's keys from a shell is nobody that the server knows.
    subject = f"key:{key.key_id}"
    await record(tx, act, actor=None, owner=key.owner, subject=subject, details=details)


async def list_all(db: Database, *, owner: str | None = None) -> list[Key]:
    """The keys of an owner, or all, the oldest first; those too that open nothing any more."""
    return await db.all(Key, SQL["list"], {"owner": owner, "limit": MAX_LISTED})


async def find(db: Database, key_id: str) -> Key | None:
    """A key by its id, whether or not it opens anything; None if there is none."""
    return await repeated(lambda: db.one(Key, SQL["find"], {"key_id": key_id}))


async def note_use(db: Database, key_id: str) -> None:
    """Note that a key was used now, unless that was noted within the last minute."""
    await db.execute(SQL["note_use"], {"key_id": key_id})


async def revoke(db: Database, key_id: str) -> Key:
    """
    Let a key open nothing any more; one that was revoked before stays as it is.

    Raises:
        NotFoundError: There is no such key.
    """
    async with db.transaction() as tx:
        revoked = await tx.one(Key, SQL["revoke"], {"key_id": key_id})
        if revoked is None:
            raise NotFoundError(f"API key {key_id} not found")
        await _record(tx, "key.revoked", revoked, {})
    return revoked


async def any_made(db: Database) -> bool:
    """Whether there ever was a key, revoked or not."""
    return bool((await db.tuples(SQL["any_made"], {}))[0][0])
