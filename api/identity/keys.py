"""
API keys as callers send them: ``tw_``, an id that may be shown, and a secret with a checksum.

The secret is 256 random bits: its SHA-256 need not be slow. The checksum keeps what is no key at all
from the database, and lets scanners of repositories find keys that were put there.
"""

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass
from typing import Final

from api.identity.permissions import granted
from graph.user import User
from store import keys
from store.database import Database
from store.errors import AuthenticationError
from store.keys import Key

PREFIX: Final = "tw_"
_KEY: Final = re.compile(r"tw_([a-z2-7]{16})_([A-Za-z0-9_-]{43})([0-9a-f]{8})")
#: How long a key is believed without asking: so long may it work after it was revoked.
KNOWN_SECONDS: Final = 5.0
#: What the secret of a key that is not there is compared with.
_NO_HASH: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key: its id, the whole of it, to be shown once, and what is kept of it."""

    key_id: str
    text: str
    secret_hash: bytes


def issue() -> Issued:
    """Draw a new key."""
    key_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    secret = secrets.token_urlsafe(32)
    return Issued(key_id, f"{PREFIX}{key_id}_{secret}{_checksum(key_id, secret)}", _hashed(secret))


def _checksum(key_id: str, secret: str) -> str:
    return f"{zlib.crc32(f'{key_id}{secret}'.encode()):08x}"


def _hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


@dataclass(frozen=True, slots=True)
class Found:
    """Whom a credential stands for, and for how many seconds that may be believed without asking."""

    user: User
    seconds: float


class Keys:
    """Finds out whose an API key is."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def authenticate(self, text: str) -> Found:
        """
        Whose a key is.

        Raises:
            AuthenticationError: Nobody's, or not any more.
            UnavailableError: PostgreSQL did not answer.
        """
        key_id, secret = _read(text)
        key = await keys.find(self._db, key_id)
        is_right = hmac.compare_digest(_hashed(secret), key.secret_hash if key else _NO_HASH)
        if key is None or not is_right:
            raise AuthenticationError("The API key is not valid")
        # Said to nobody but who has the key.
        if key.revoked_at is not None:
            raise AuthenticationError("The API key was revoked")
        if key.is_expired:
            raise AuthenticationError("The API key has expired")
        await keys.note_use(self._db, key_id)
        left = KNOWN_SECONDS if key.expires_in_seconds is None else key.expires_in_seconds
        return Found(_user(key), min(left, KNOWN_SECONDS))


def _read(text: str) -> tuple[str, str]:
    found = _KEY.fullmatch(text)
    if found is None or not hmac.compare_digest(found[3], _checksum(found[1], found[2])):
        raise AuthenticationError("The API key is not valid")
    return found[1], found[2]


def _user(key: Key) -> User:
    permissions = granted(key.roles, key.permissions)
    return User(
        {
            "identity": key.owner,
            "display_name": key.owner,
            "is_authenticated": True,
            "permissions": permissions,
            "roles": key.roles,
        },
        Credential(f"key:{key.key_id}", tuple(permissions)),
    )


@dataclass(frozen=True, slots=True)
class Credential:
    """
    By what somebody was known; it does not go with their runs.

    Args:
        credential: May be logged: it opens nothing.
        sender_permissions: What it may, also while it acts for a user who may less.
    """

    credential: str
    sender_permissions: tuple[str, ...]
