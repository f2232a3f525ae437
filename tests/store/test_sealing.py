"""Nothing that was said lies in the clear, what is moved does not open, and keys can be changed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from store import (
    endings,
    messages,
    new_runs,
    queue,
    resealing,
    sealing,
    search,
    sessions,
    terms,
    threads,
)
from store.access import EVERYTHING
from store.checkpoints import Saver, open_saver
from store.cipher import CLEAR, Cipher, KeyRing
from store.database import Database, open_database
from store.errors import InvalidInputError, UnreadableError
from store.sessions import Filter
from tests.store.graphs import config, create_thread, take_lease, talk
from tests.store.queues import a_thread, a_worker, new_run

MARKER = "Mnemosyne"
OLD, NEW = b"o" * 32, b"n" * 32

Opened = Callable[[Cipher], AbstractAsyncContextManager[tuple[Database, Saver]]]


@pytest.fixture
def opened(database_url: str) -> Opened:
    @asynccontextmanager
    async def with_cipher(cipher: Cipher) -> AsyncIterator[tuple[Database, Saver]]:
        async with open_database(database_url, cipher=cipher) as db, open_saver(db) as saver:
            yield db, saver

    return with_cipher


async def _say(db: Database, saver: Saver, thread_id: str, text: str = MARKER) -> None:
    lease = await take_lease(db, thread_id)
    graph = talk(leased_saver(saver, lease))
    await graph.ainvoke({"messages": [("user", text)]}, config(thread_id, topic=MARKER))


def leased_saver(saver: Saver, lease: Any) -> Saver:
    return saver.leased(lease, run_id=None, alive=lambda: True)


async def _work(db: Database, saver: Saver) -> None:
    """Something in every column that is sealed."""
    await threads.create(
        db, "a", metadata={"name": MARKER, "tags": [MARKER], "graph_id": "agent", "n": 1},
        config={"configurable": {"status": MARKER}}, access=EVERYTHING,
    )  # fmt: skip
    await _say(db, saver, "a")
    lease = await take_lease(db, "a")
    await threads.settle(db, lease, status="interrupted", interrupts={"t": [{"value": MARKER}]})
    worker_id = await a_worker(db)
    thread_id = await a_thread(db)
    run = new_run(thread_id, kwargs={"input": MARKER, "webhook": MARKER}, metadata={"x": MARKER})
    started = await new_runs.start(db, run, worker_id=worker_id)
    assert isinstance(started, queue.Claim)
    error = {"error": "ValueError", "message": MARKER}
    ending = endings.Ending(
        claimed=started, status="error", thread_status="error", interrupts={}, error=error,
        thread_error=error,
    )  # fmt: skip
    await endings.finish(db, [ending])
    await queue.retire(db, worker_id)


async def _dumped(db: Database) -> str:
    """All that the tables have which this module's columns are in."""
    found: list[str] = []
    for table in sealing.TABLES:
        rows = await db.tuples(f"SELECT t::text, t FROM {table.name} AS t", {})
        found.extend(str(row[0]) for row in rows)
        for name, column in table.columns.items():
            if column.form == "bytes":
                blobs = await db.tuples(f"SELECT {name} FROM {table.name}", {})
                found.extend(repr(blob[0]) for blob in blobs)
    return "\n".join(found)


async def _read(db: Database, saver: Saver) -> list[Any]:
    thread = await threads.get(db, "a", access=EVERYTHING)
    page, _ = await messages.list_page(db, "a", limit=10)
    state = await saver.aget_tuple(config("a"))
    assert state is not None
    return [
        thread.metadata, thread.config, thread.interrupts,
        [(m.role, m.content, m.meta_data) for m in page],
        [m.content for m in state.checkpoint["channel_values"]["messages"]],
    ]  # fmt: skip


async def test_nothing_that_was_said_lies_in_the_clear_and_all_of_it_is_read(
    opened: Opened,
) -> None:
    async with opened(CLEAR) as (db, saver):
        await _work(db, saver)
        assert MARKER in await _dumped(db)
        before = await _read(db, saver)
        await db.execute(
            "TRUNCATE thread, run, checkpoints, checkpoint_blobs, checkpoint_writes CASCADE", {}
        )
    async with opened(KeyRing([NEW])) as (db, saver):
        await _work(db, saver)
        assert MARKER not in await _dumped(db)
        assert await _read(db, saver) == before
        assert (await sessions.get(db, "a", access=EVERYTHING)).name == MARKER


async def test_a_row_that_was_moved_to_another_thread_does_not_open(opened: Opened) -> None:
    async with opened(KeyRing([NEW])) as (db, saver):
        for thread_id in ("a", "b"):
            await create_thread(db, thread_id)
            await _say(db, saver, thread_id, thread_id)
        await db.execute(
            "UPDATE message AS m SET content = o.content FROM message AS o"
            " WHERE m.conversation_id = 'a' AND o.conversation_id = 'b' AND m.seq = o.seq", {},
        )  # fmt: skip
        with pytest.raises(UnreadableError):
            await messages.list_page(db, "a", limit=10)
        await db.execute("UPDATE checkpoint_blobs SET thread_id = 'c' WHERE thread_id = 'a'", {})
        await db.execute("UPDATE checkpoints SET thread_id = 'c' WHERE thread_id = 'a'", {})
        with pytest.raises(UnreadableError):
            await saver.aget_tuple(config("c"))
        # Its type is bound too: what is read as something else is not read.
        await db.execute("UPDATE checkpoint_blobs SET type = 'json' WHERE thread_id = 'b'", {})
        with pytest.raises(UnreadableError):
            await saver.aget_tuple(config("b"))


async def test_a_copy_opens_as_itself(opened: Opened) -> None:
    async with opened(KeyRing([NEW])) as (db, saver):
        await _work(db, saver)
        await threads.copy(db, "a", "copy", metadata={"more": MARKER}, access=EVERYTHING)
        await create_thread(db, "other")
        await saver.acopy_thread("a", "other")
        await threads.delete(db, "a", access=EVERYTHING)
        for thread_id in ("copy", "other"):
            page, _ = await messages.list_page(db, thread_id, limit=10)
            state = await saver.aget_tuple(config(thread_id))
            assert state is not None
            assert page[0].content == MARKER
            assert state.checkpoint["channel_values"]["messages"][0].content == MARKER
        copied = await threads.get(db, "copy", access=EVERYTHING)
        assert copied.interrupts == {"t": [{"value": MARKER}]}
        assert (copied.metadata["name"], copied.metadata["more"]) == (MARKER, MARKER)
        assert await messages.rebuild(db, saver, everything=True) == messages.Rebuilt(
            threads=3, messages=4
        )
        assert (await messages.list_page(db, "copy", limit=10))[0][0].content == MARKER
        assert MARKER not in await _dumped(db)


async def test_what_is_there_is_encrypted_while_it_is_used_and_its_key_changed(
    opened: Opened,
) -> None:
    async with opened(CLEAR) as (db, saver):
        await _work(db, saver)
        before = await _read(db, saver)
    told: list[str] = []
    async with opened(KeyRing([OLD])) as (db, _):
        with pytest.raises(InvalidInputError, match="threadwell encrypt"):
            await resealing.admit(db)
        await db.execute("INSERT INTO encryption (is_complete, key_ids) VALUES (false, '{}')", {})
    async with opened(KeyRing([OLD])) as (serving, saver):
        await resealing.admit(serving)
        assert await _read(serving, saver) == before
        assert await threads.count(serving, metadata={"name": MARKER}, access=EVERYTHING) == 1
        async with opened(KeyRing([OLD])) as (db, _):
            done = await resealing.encrypt(db, lambda table, _: told.append(table))
        assert done.rows > 5
        assert done.unreadable == 0
        assert told == [table.name for table in sealing.TABLES]
        assert MARKER not in await _dumped(serving)
        assert await _read(serving, saver) == before
    async with opened(KeyRing([NEW, OLD])) as (db, saver):
        await resealing.admit(db)
        assert await threads.count(db, metadata={"name": MARKER}, access=EVERYTHING) == 1
        assert (await resealing.encrypt(db, lambda *_: None)).rows == done.rows
        assert (await resealing.encrypt(db, lambda *_: None)).rows == 0
        acts = await db.tuples("SELECT act FROM audit ORDER BY audit_id", {})
        assert [act for (act,) in acts] == ["encryption.rotated"] * 3
    async with opened(KeyRing([NEW])) as (db, saver):
        await resealing.admit(db)
        assert await _read(db, saver) == before
        assert await threads.count(db, metadata={"name": MARKER}, access=EVERYTHING) == 1


async def test_a_process_does_not_start_without_the_keys_or_on_what_is_in_the_clear(
    opened: Opened,
) -> None:
    async with opened(KeyRing([NEW])) as (db, _):
        await resealing.admit(db)  # it is empty: from here on it is encrypted
    async with opened(CLEAR) as (db, saver):
        with pytest.raises(InvalidInputError, match="LANGGRAPH_AES_KEY"):
            await resealing.admit(db)
        with pytest.raises(InvalidInputError, match="nothing to encrypt with"):
            await resealing.encrypt(db, lambda *_: None)
        await create_thread(db, "a")
        await _say(db, saver, "a")
    async with opened(KeyRing([OLD])) as (db, _):
        with pytest.raises(InvalidInputError, match="neither LANGGRAPH_AES_KEY nor"):
            await resealing.admit(db)
    async with opened(KeyRing([NEW])) as (db, saver):
        with pytest.raises(InvalidInputError, match="threadwell encrypt"):
            await resealing.admit(db)
        with pytest.raises(UnreadableError, match="not encrypted"):
            await saver.aget_tuple(config("a"))
        with pytest.raises(UnreadableError, match="not encrypted"):
            await messages.list_page(db, "a", limit=10)


async def test_lists_look_for_whole_values_and_count_them(opened: Opened) -> None:
    async with opened(KeyRing([NEW])) as (db, saver):
        await _work(db, saver)
        for asked in ({"name": MARKER}, {"tags": [MARKER]}, {"n": 1}, {"graph_id": "agent"}):
            assert [
                t.thread_id for t in await threads.search(db, metadata=asked, access=EVERYTHING)
            ] == ["a"], asked
        assert await threads.search(db, metadata={"name": "M"}, access=EVERYTHING) == []
        counts = await sessions.counts(db, Filter(), access=EVERYTHING)
        assert counts.tags == {MARKER: 1}
        # A part of a name is not to be seen; by its words search knows the session.
        for ids, found in (((), []), (("a",), ["a"])):
            which = Filter(title=MARKER[:4], ids=ids)
            page, _ = await sessions.list_page(db, which, limit=5, access=EVERYTHING)
            assert [session.id for session in page] == found


async def test_a_title_that_the_model_made_is_found_and_no_title_finds_what_has_none(
    opened: Opened,
) -> None:
    async with opened(KeyRing([NEW])) as (db, _):
        await threads.create(db, "a", metadata={"generated_title": "Wombats"}, access=EVERYTHING)
        await threads.create(db, "b", metadata={"name": ""}, access=EVERYTHING)
        while await search.index_changed(db):
            continue
        hits = await search.sessions(db, terms.query("wombats"), access=EVERYTHING)
        assert [(hit.session_id, hit.content) for hit in hits] == [("a", "Wombats")]
        which = Filter(title="nothing", ids=())
        assert await sessions.list_page(db, which, limit=5, access=EVERYTHING) == ([], False)


async def test_of_two_that_begin_with_different_keys_one_is_refused(opened: Opened) -> None:
    async with opened(KeyRing([OLD])) as (one, _), opened(KeyRing([NEW])) as (other, _):
        admitted = await asyncio.gather(
            resealing.admit(one), resealing.admit(other), return_exceptions=True
        )
        refused = [error for error in admitted if error is not None]
        assert [type(error) for error in refused] == [InvalidInputError]


async def test_there_is_no_copy_of_what_cannot_be_read(opened: Opened) -> None:
    async with opened(KeyRing([NEW])) as (db, saver):
        await _work(db, saver)
        await db.execute("UPDATE message SET content = 'tw1:00000000:AAAA' WHERE seq = 0", {})
        with pytest.raises(UnreadableError, match="thread a"):
            await threads.copy(db, "a", "copy", metadata={}, access=EVERYTHING)
        assert await db.tuples("SELECT 1 FROM thread WHERE thread_id = 'copy'", {}) == []


async def test_what_is_written_by_an_old_key_behind_its_change_is_sealed_too(
    opened: Opened, database_url: str
) -> None:
    late = KeyRing([OLD]).seal_values({"name": MARKER})

    def write_late(table: str, _: resealing.Sealed) -> None:
        if table == sealing.TABLES[-1].name:
            with psycopg.connect(database_url, autocommit=True) as connection:
                insert = "INSERT INTO thread (thread_id, metadata) VALUES ('late', %s)"
                connection.execute(insert, [Jsonb(late)])

    async with opened(KeyRing([OLD])) as (db, _):
        await resealing.admit(db)
        await threads.create(db, "early", metadata={"name": MARKER}, access=EVERYTHING)
    async with opened(KeyRing([NEW, OLD])) as (db, _):
        assert await resealing.encrypt(db, write_late) == resealing.Sealed(rows=2, unreadable=0)
    async with opened(KeyRing([NEW])) as (db, _):
        await resealing.admit(db)
        assert (await sessions.get(db, "late", access=EVERYTHING)).name == MARKER
