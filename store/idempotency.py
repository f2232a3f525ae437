"""Keys by which a caller says that two requests are one: which run each stands for."""

import hmac
from typing import Final

from store.access import Access
from store.cipher import at
from store.database import Database, repeated
from store.errors import ConflictError, NotFoundError
from store.sql import load

_SQL: Final = load("idempotency")

#: How long a key stands for its run.
LIFE_SECONDS: Final = 24 * 3600.0


async def claim(
    db: Database,
    session_id: str,
    *,
    caller: str,
    key: str,
    payload_hash: bytes,
    run_id: str,
    access: Access,
) -> str:
    """
    Say which run a key stands for; of two who come at once both get the same.

    The run may not be there yet: whoever comes makes it, under this id, and one of them does.

    Args:
        caller: Whose key it is; the same key of another one is another.
        payload_hash: Of what is asked for.
        run_id: What the key stands for from now on, if it is new or has expired.

    Raises:
        NotFoundError: There is no such session that is visible.
        ConflictError: The key came with another payload before: ``idempotency_conflict``.
    """
    # A plain hash would tell whether somebody asked what one guesses.
    place = at("idempotency_key.payload_hash", session_id, caller, key)
    params = {
        "session_id": session_id,
        "caller": caller,
        "key": key,
        "payload_hash": db.cipher.seal(payload_hash, place),
        "run_id": run_id,
        "life_seconds": LIFE_SECONDS,
        "visible": access.array,
    }
    rows = await repeated(lambda: db.tuples(_SQL["claim"], params))
    if not rows:
        raise NotFoundError(f"Session {session_id} not found")
    known_id, known_hash = rows[0]
    if not hmac.compare_digest(db.cipher.open(bytes(known_hash), place), payload_hash):
        raise ConflictError(
            "This Idempotency-Key came with another request before", code="idempotency_conflict"
        )
    return str(known_id)


async def delete_expired(db: Database, *, limit: int) -> int:
    """
    Delete keys whose life has ended; they stand for nothing any more before that.

    Returns:
        How many were deleted, `limit` at the most.
    """
    return await db.execute(_SQL["delete_expired"], {"limit": limit})
