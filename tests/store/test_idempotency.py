"""Which run a key stands for."""

import asyncio
import uuid

import pytest

from store import idempotency
from store.access import EVERYTHING, Access
from store.database import Database
from store.errors import ConflictError, NotFoundError
from tests.store.graphs import create_thread


async def claim(
    db: Database,
    *,
    caller: str = "ada",
    key: str = "k",
    payload: bytes = b"one",
    access: Access = EVERYTHING,
) -> str:
    return await idempotency.claim(
        db,
        "t",
        caller=caller,
        key=key,
        payload_hash=payload,
        run_id=str(uuid.uuid4()),
        access=access,
    )


async def test_a_key_stands_for_one_run_of_its_caller_whoever_comes_first(db: Database) -> None:
    await create_thread(db, "t")

    same = await asyncio.gather(*(claim(db) for _ in range(10)))
    others = [await claim(db, caller="eve"), await claim(db, key="other")]

    assert len(set(same)) == 1
    assert len({same[0], *others}) == 3
    with pytest.raises(ConflictError) as caught:
        await claim(db, payload=b"two")
    assert caught.value.code == "idempotency_conflict"


async def test_what_is_not_visible_has_no_keys(db: Database) -> None:
    await create_thread(db, "t")

    with pytest.raises(NotFoundError):
        await claim(db, access=Access(({"owner": "ada"},)))

    assert await db.tuples("SELECT count(*) FROM idempotency_key", {}) == [(0,)]


async def test_a_key_that_has_expired_begins_anew_and_is_swept(db: Database) -> None:
    await create_thread(db, "t")
    first = await claim(db)
    await claim(db, key="lasts")
    await db.execute("UPDATE idempotency_key SET expires_at = now() WHERE key = 'k'", {})

    second = await claim(db, payload=b"two")
    await db.execute(
        "UPDATE idempotency_key SET expires_at = now() - interval '1 s' WHERE key = 'k'", {}
    )

    assert first != second
    assert await idempotency.delete_expired(db, limit=10) == 1
    assert await db.tuples("SELECT key FROM idempotency_key", {}) == [("lasts",)]
    await db.execute("DELETE FROM thread", {})
    assert await db.tuples("SELECT count(*) FROM idempotency_key", {}) == [(0,)]
