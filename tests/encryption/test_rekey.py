"""What lies beside runs and messages is encrypted, and its keys changed, with all the rest."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from store import (
    assistants,
    crons,
    exchanges,
    feedback,
    files,
    idempotency,
    jobs,
    outbox,
    queue,
    resealing,
    sealing,
    search,
    sessions,
    shares,
    subscriptions,
    terms,
    webhooks,
)
from store.access import EVERYTHING, Access
from store.checkpoints import open_saver
from store.cipher import CLEAR, Cipher, KeyRing
from store.crons import NewCron
from store.database import Database, open_database
from store.errors import InvalidInputError, UnreadableError
from store.items import open_items
from store.search import Filters
from store.sql import load
from tests.encryption.hunt import Hunt, in_tables
from tests.store.graphs import config, create_thread, take_lease, talk
from tests.store.queues import a_worker

WORD, DENSE = "Qzvorrekeying7718kw", "鸞鶴霰雹"
MARK = f"{WORD} {DENSE}"
OLD, NEW = b"o" * 32, b"n" * 32
IDS = [f"00000000-0000-7000-8000-00000000000{number}" for number in range(9)]
LATER = datetime.now(UTC) + timedelta(days=1)


@asynccontextmanager
async def opened(url: str, cipher: Cipher) -> AsyncIterator[Database]:
    async with open_database(url, cipher=cipher) as db:
        yield db


async def _keep(db: Database) -> None:
    """Something in every table that lies beside."""
    await assistants.create(
        db, IDS[0], graph_id="agent", name="a", description=MARK, config={"tags": [MARK]},
        context={"language": MARK}, metadata={"note": MARK}, access=EVERYTHING,
    )  # fmt: skip
    await create_thread(db, "a")
    async with open_saver(db) as saver:
        lease = await take_lease(db, "a")
        leased = saver.leased(lease, run_id=None, alive=lambda: True)
        await talk(leased).ainvoke({"messages": [("user", MARK)]}, config("a"))
    [message_id] = await _user_messages(db)
    await sessions.update(db, "a", changes={"name": MARK}, access=EVERYTHING)
    await feedback.put(
        db, "a", message_id, user_id="ada", score=1, reason=MARK, tags=[MARK], access=EVERYTHING
    )
    await open_items(db).aput(("n",), "k", {"text": MARK, "size": 5})
    upload = files.Upload(db)
    await upload.append(MARK.encode())
    await upload.finish(name=MARK, owner="ada", mime_type="text/plain")
    await subscriptions.create(
        db, IDS[1], identity="ada", actor="ada", url=f"https://example.org/{WORD}", events=["session.*"],
        description=MARK, secret=WORD.encode(), enabled=True, access=EVERYTHING,
    )  # fmt: skip
    await exchanges.begin(
        db, IDS[2], owner="ada", request={"name": MARK}, report={"titles": [MARK]}, size_bytes=3,
        parts=[MARK.encode()],
    )  # fmt: skip
    await shares.create(
        db, "a", share_id=IDS[3], token_hash=b"t" * 32, mode="snapshot", password_hash=None,
        expires_at=None, created_by="ada", actor="ada", access=EVERYTHING,
    )  # fmt: skip
    await crons.create(
        db,
        NewCron(
            cron_id=IDS[4], assistant_id=IDS[0], thread_id=None, user_id="ada",
            schedule="0 0 1 1 *", timezone=None, end_time=None, enabled=True,
            on_run_completed=None, payload={"input": MARK}, metadata={"note": MARK},
            injected={"user": MARK}, visible_threads=[{}], visible_assistants=[{}],
            next_run_at=LATER,
        ),
    )  # fmt: skip
    await idempotency.claim(
        db, "a", caller="ada", key="k", payload_hash=b"h" * 32, run_id=IDS[5], access=EVERYTHING
    )
    async with db.transaction() as tx:
        await jobs.enqueue(tx, webhooks.KIND, {"url": MARK})
        await tx.execute('UPDATE job SET payload = payload || \'{"run_started_at": "now"}\'', {})
    while await outbox.publish(db):
        continue
    while await search.index_changed(db):
        continue


async def _user_messages(db: Database) -> list[str]:
    rows = await db.tuples("SELECT id FROM message WHERE role = 'user'", {})
    return [id_ for (id_,) in rows]


async def _read(db: Database) -> dict[str, Any]:
    """What there is, as those see it whose it is."""
    while await search.index_changed(db):
        continue
    [message_id] = await _user_messages(db)
    item = await open_items(db).aget(("n",), "k")
    found = await open_items(db).asearch(("n",), filter={"text": MARK})
    [(file_id,)] = await db.tuples("SELECT file_id::text FROM file", {})
    file = await files.get(db, file_id, owner="ada", access=Access(()))
    shared = await shares.find(db, b"t" * 32)
    imported = await exchanges.get(db, IDS[2], owner="ada", everybody=False)
    deliveries, _ = await subscriptions.deliveries(
        db, IDS[1], status=None, before=None, limit=9, identity="ada"
    )
    told = [await subscriptions.to_send(db, one.delivery_id) for one in deliveries]
    changes = await outbox.read(db, after=0, access=EVERYTHING)
    payloads = await db.tuples("SELECT payload, kind FROM job WHERE kind = 'webhook'", {})
    known = await idempotency.claim(
        db, "a", caller="ada", key="k", payload_hash=b"h" * 32, run_id=IDS[6], access=EVERYTHING
    )
    hits: dict[str, Any] = {}
    for query in (WORD, DENSE, DENSE[0], f'"{MARK}"', f'"{DENSE} {WORD}"'):
        asked = terms.query(query)
        page, _ = await search.messages(db, asked, filters=Filters(), limit=9, access=EVERYTHING)
        named = await search.sessions(db, asked, access=EVERYTHING)
        hits[query] = [
            sorted((hit.content, hit.session_name) for hit in page), [h.content for h in named]
        ]  # fmt: skip
    return {
        "assistant": await assistants.get(db, IDS[0], access=EVERYTHING),
        "item": [item and item.value, [one.value for one in found]],
        "file": [file.name, file.sha256, [part async for part in files.read(db, file)]],
        "feedback": await feedback.of_messages(db, "a", [message_id], user_id="ada"),
        "webhook": await subscriptions.get(db, IDS[1], identity="ada"),
        "told": [replace(one, secret=bytes(one.secret)) for one in told if one is not None],
        "changes": [(change.name, change.data) for change in changes.changes],
        "import": [imported.request, imported.report, await exchanges.part(db, IDS[2], 0)],
        "share": [shared.name, (await shares.messages(db, shared, after_seq=-1, limit=9))[0]],
        "cron": await crons.get(db, IDS[4], access=EVERYTHING),
        "crons": await crons.count(db, metadata={"note": MARK}, access=EVERYTHING),
        "jobs": [sealing.open_job(db.cipher, p, jobs.place(kind)) for p, kind in payloads],
        "known": known,
        "hits": hits,
    }


async def test_what_lies_beside_is_encrypted_and_its_keys_changed(
    database_url: str,
) -> None:
    async with opened(database_url, CLEAR) as db:
        await _keep(db)
        before = await _read(db)
    hunt = Hunt(WORD, DENSE, DENSE[:2])
    assert len({leak.place for leak in in_tables(hunt, database_url)}) > 20
    assert all(hits == [] for hits in before["hits"][f'"{DENSE} {WORD}"'])
    assert all(hits for hits in before["hits"][f'"{MARK}"'])

    for ring in ([OLD], [NEW, OLD], [NEW]):
        async with opened(database_url, KeyRing(ring)) as db:
            done = await resealing.encrypt(db, lambda *_: None)
            assert done.unreadable == 0
            assert bool(done.rows) == (ring != [NEW])
            assert await _read(db) == before
        assert in_tables(hunt, database_url) == []

    async with opened(database_url, KeyRing([OLD])) as db:
        assert await jobs.claim(db, {webhooks.KIND: 5.0}, lease_seconds=5, slots=9) == []
        with pytest.raises(UnreadableError):
            await open_items(db).aget(("n",), "k")


async def _upload(db: Database, text: str) -> files.File:
    upload = files.Upload(db)
    await upload.append(text.encode())
    return await upload.finish(name=MARK, owner="ada", mime_type="text/plain")


async def test_a_file_that_is_uploaded_again_while_it_is_encrypted_holds_nothing_up(
    database_url: str,
) -> None:
    async with opened(database_url, CLEAR) as db:
        [one, other] = [await _upload(db, text) for text in ("one", "other")]
    async with opened(database_url, KeyRing([NEW], accepts_clear=True)) as serving:
        again = await _upload(serving, "one")
        assert again.content_id == one.content_id
        serving.cipher = KeyRing([NEW])  # as if it did not know of the plain one
        twice = await _upload(serving, "other")
        assert twice.content_id != other.content_id
    async with opened(database_url, KeyRing([NEW])) as db:
        for _ in range(2):
            assert (await resealing.encrypt(db, lambda *_: None)).unreadable == 0
        plain = "SELECT 1 FROM file_content WHERE sealed_sha256 IS NULL"
        assert await db.tuples(plain, {}) == []
        for file in (one, other, again, twice):
            found = await files.get(db, file.file_id, owner="ada", access=Access(()))
            assert found.sha256 == file.sha256
        assert (await _upload(db, "other")).content_id == twice.content_id


async def test_a_key_that_a_server_which_runs_seals_with_stays_one_that_is_needed(
    database_url: str,
) -> None:
    def without_it() -> AbstractAsyncContextManager[Database]:
        return opened(database_url, KeyRing([NEW]))

    async with (
        opened(database_url, KeyRing([OLD, NEW])) as serving,
        opened(database_url, KeyRing([NEW, OLD])) as db,
    ):
        await resealing.admit(serving)
        worker_id = await a_worker(serving)
        done = await resealing.encrypt(db, lambda *_: None)
        assert (done.rows, done.older_keys) == (0, 1)
        await _upload(serving, "late")
        async with without_it() as early:
            with pytest.raises(InvalidInputError, match="neither LANGGRAPH_AES_KEY nor"):
                await resealing.admit(early)

        # One of the version before does not say.
        await db.execute("UPDATE worker SET key_id = NULL", {})
        assert (await resealing.encrypt(db, lambda *_: None)).older_keys == 1
        await queue.retire(serving, worker_id)
        await a_worker(db)
        assert (await resealing.encrypt(db, lambda *_: None)).older_keys == 0
        async with without_it() as late:
            await resealing.admit(late)
        # And who was counted as dead meanwhile says so when it is there again.
        await a_worker(serving)
        async with without_it() as early:
            with pytest.raises(InvalidInputError, match="neither LANGGRAPH_AES_KEY nor"):
                await resealing.admit(early)


async def test_what_came_into_an_encrypted_database_in_the_clear_is_encrypted_when_told_to(
    database_url: str,
) -> None:
    async with opened(database_url, KeyRing([NEW])) as db:
        await resealing.admit(db)
        await resealing.encrypt(db, lambda *_: None)
    looks_so = {"$sealed": 5}
    async with opened(database_url, CLEAR) as db:
        await open_items(db).aput(("n",), "k", looks_so)
        await create_thread(db, "a")
        await sessions.update(db, "a", changes={"name": "tw1:"}, access=EVERYTHING)
    async with opened(database_url, KeyRing([NEW])) as db:
        with pytest.raises(InvalidInputError, match="threadwell encrypt --accept-clear"):
            await resealing.admit(db)
        assert (await resealing.encrypt(db, lambda *_: None)).unreadable == 2
        done = await resealing.encrypt(db, lambda *_: None, accept_clear=True)
        assert (done.unreadable, done.rows) == (0, 2)
        await resealing.admit(db)
        item = await open_items(db).aget(("n",), "k")
        assert item is not None
        assert item.value == looks_so
        assert (await sessions.get(db, "a", access=EVERYTHING)).name == "tw1:"


async def test_who_was_told_of_as_a_member_is_found_in_what_is_sealed(database_url: str) -> None:
    data = {"changed": ["members"], "members": {"bob": "viewer"}, "note": MARK}
    mine = {"user_id": "bob", "limit": 9}
    gone = ("changes", "deliveries")
    async with opened(database_url, CLEAR) as db:
        await _tell(db, data)
        before = await _bodies(db)
    async with opened(database_url, KeyRing([NEW])) as db:
        await resealing.encrypt(db, lambda *_: None)
        assert await _bodies(db) == before
        await _tell(db, data, again=True)
        assert [body["data"]["members"] for body in await _bodies(db)] == [{"bob": "viewer"}] * 2
        assert all(set(body) == set(before[0]) for body in await _bodies(db))
        assert MARK not in str(await db.tuples("SELECT data FROM change", {}))
        assert [await db.execute(load("erasure")[name], mine) for name in gone] == [2, 2]


async def _tell(db: Database, data: dict[str, Any], *, again: bool = False) -> None:
    if not again:
        await create_thread(db, "a")
        await subscriptions.create(
            db, IDS[1], identity="ada", actor="ada", url="https://example.org", events=["session.updated"],
            description="", secret=b"s", enabled=True, access=EVERYTHING,
        )  # fmt: skip
    async with db.transaction() as tx:
        await outbox.put(tx, "session.updated", "a", data=data)
    await outbox.publish(db)


async def _bodies(db: Database) -> list[dict[str, Any]]:
    rows = await db.tuples("SELECT body FROM webhook_delivery ORDER BY seq", {})
    return [outbox.opened_body(db.cipher, body) for (body,) in rows]
