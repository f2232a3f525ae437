"""`Check` finds what does not hold, one thing at a time, and what it repairs holds afterwards."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, LiteralString

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from redis.asyncio import Redis

from api.processes.embedded import Servers
from store import search, sessions
from store.check import _KINDS, Check, Finding
from store.checkpoints import Saver, open_saver
from store.cipher import KeyRing
from store.database import Database, open_database
from store.events import open_event_log
from store.files import Upload
from store.folds import fold_of
from store.streams import Streams, open_streams
from tests.store.event_logs import emit, names
from tests.store.graphs import ask, config, create_thread, leased, talk
from tests.store.test_heads import Delta, graph, opened, says

_CHANNEL: Any = graph(Delta, InMemorySaver()).channels["messages"]
FOLDS = {"delta": fold_of(_CHANNEL)}
_MENDED: LiteralString = """
UPDATE thread SET head_checkpoint_id = projected_checkpoint_id WHERE thread_id = 'talk'
"""
_OF_DELTA: LiteralString = """
UPDATE thread SET metadata = '{"graph_id": "delta"}' WHERE thread_id = 'delta'
"""
#: What is done to a sound database, by what is found then.
REPAIRED: dict[str, LiteralString] = {
    "thread_busy": "UPDATE thread SET status = 'busy' WHERE thread_id = 'talk'",
    "thread_not_busy": """
        INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata, kwargs)
        VALUES (gen_random_uuid(), 'talk', gen_random_uuid(), 'pending', 'enqueue', '{}', '{}')
    """,
    "lease_lost": """
        WITH held AS (
            INSERT INTO worker (worker_id, host, pid, version, slots)
            VALUES (gen_random_uuid(), 'here', 1, '1', 1)
            RETURNING worker_id
        ), taken AS (
            UPDATE thread SET status = 'busy' WHERE thread_id = 'talk'
        )
        INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata, kwargs,
            worker_id, epoch, first_epoch, started_at)
        SELECT gen_random_uuid(), 'talk', gen_random_uuid(), 'running', 'enqueue', '{}', '{}',
            worker_id, 7, 7, now()
        FROM held
    """,
    "head_moved": "UPDATE thread SET head_checkpoint_id = NULL WHERE thread_id = 'talk'",
    "messages_behind": "UPDATE thread SET projected_checkpoint_id = NULL WHERE thread_id = 'talk'",
    "messages_misplaced": "UPDATE message SET seq = 0 WHERE conversation_id = 'talk' AND seq = 1",
    "messages_differ": """
        UPDATE message SET content = 'never said' WHERE seq = 1 AND conversation_id = 'talk'
    """,
    "leftover_blobs": """
        INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
        VALUES ('talk', '', 'messages', 'nine', 'empty', '')
    """,
    "rows_of_nobody": "INSERT INTO search_thread (thread_id) VALUES ('zzz')",
    "search_behind": "DELETE FROM search_message WHERE conversation_id = 'talk' AND seq = 1",
    "name_not_indexed": "DELETE FROM thread_name WHERE thread_id = 'talk'",
}
REPORTED: dict[str, LiteralString] = {
    "checkpoints_of_nobody": """
        INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
        VALUES ('nobody', '', 'messages', '1', 'empty', '')
    """,
    "run_malformed": """
        INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata, kwargs)
        VALUES (gen_random_uuid(), 'talk', gen_random_uuid(), 'success', 'enqueue', '{}', '{}')
    """,
    "file_damaged": "UPDATE file_chunk SET data = 'other'",
}


@pytest.fixture
async def sound(db: Database, saver: Saver) -> Database:
    return await made_sound(db, saver)


async def made_sound(db: Database, saver: Saver) -> Database:
    """A database in which all holds: talks, a question, a DeltaChannel, an attachment, an index."""
    for thread_id in ("talk", "edited", "asked", "delta"):
        await create_thread(db, thread_id)
    for text in ("one", "two"):
        talking = talk(await leased(db, saver, "talk", run_id=str(uuid.uuid4())))
        await talking.ainvoke({"messages": [HumanMessage(text)]}, config("talk"))
    edited = talk(await leased(db, saver, "edited"))
    await edited.ainvoke({"messages": [HumanMessage("said", id="said")]}, config("edited"))
    await edited.aupdate_state(
        config("edited"), {"messages": [HumanMessage("corrected", id="said")]}, as_node="answer"
    )
    asking = ask(await leased(db, saver, "asked"))
    await asking.ainvoke({"messages": []}, config("asked"))
    await asking.ainvoke(Command(resume="well"), config("asked"))
    for text in ("one", "two"):
        await (await opened(db, saver, Delta, "delta")).ainvoke(says(text), config("delta"))
    await db.execute(_OF_DELTA, {})
    await sessions.set_title(db, "talk", "A talk")
    upload = Upload(db)
    await upload.append(b"what it holds")
    await upload.finish(name="a.txt", owner="", mime_type="text/plain")
    # As `finish` of a run leaves it, some time ago.
    await db.execute("UPDATE thread SET updated_at = now() - interval '1 hour'", {})
    await search.index_changed(db)
    await db.execute("UPDATE search_progress SET touched_at = now()", {})
    return db


def checking(db: Database, saver: Saver, **more: Any) -> Check:
    options: dict[str, Any] = {"settle_seconds": 0.01, **more}
    return Check(db, saver, fold_of=lambda graph_id: FOLDS.get(graph_id or ""), **options)


async def found_by(check: Check, *, repair: bool = False) -> list[Finding]:
    return [found async for found in check.findings(repair=repair)]


async def test_nothing_is_found_where_all_holds(sound: Database, saver: Saver) -> None:
    check = checking(sound, saver)

    assert await found_by(check) == []
    assert (check.threads, check.unknown) == (4, 0)


async def test_what_is_sealed_is_opened_and_what_does_not_open_is_told(database_url: str) -> None:
    async with (
        open_database(database_url, cipher=KeyRing([b"k" * 32])) as db,
        open_saver(db) as saver,
    ):
        await made_sound(db, saver)
        assert await found_by(checking(db, saver)) == []
        assert await db.execute(REPORTED["file_damaged"], {}) == 1
        await db.execute(REPAIRED["messages_differ"], {})

        found = await found_by(checking(db, saver), repair=True)

    assert [(one.kind, one.is_repaired) for one in found] == [
        ("head_unreadable", False),
        ("file_damaged", False),
    ]


async def test_what_does_not_hold_is_found_and_put_right(sound: Database, saver: Saver) -> None:
    said = await _said(sound)
    for kind, damage in REPAIRED.items():
        assert await sound.execute(damage, {}) == 1, kind

        seen = await found_by(checking(sound, saver))
        repaired = await found_by(checking(sound, saver), repair=True)

        assert [found.kind for found in seen] == [kind]
        assert [(found.kind, found.is_repaired) for found in repaired] == [(kind, True)]
        await _as_workers_do(sound)
        assert await found_by(checking(sound, saver)) == [], kind
        assert await _said(sound) == said, kind


async def test_what_a_busy_thread_hides_is_put_right_with_it_and_that_is_in_the_audit_log(
    sound: Database, saver: Saver
) -> None:
    for kind in ("thread_busy", "leftover_blobs"):
        await sound.execute(REPAIRED[kind], {})

    repaired = await found_by(checking(sound, saver), repair=True)

    assert [(found.kind, found.is_repaired) for found in repaired] == [
        ("thread_busy", True), ("leftover_blobs", True),
    ]  # fmt: skip
    assert await found_by(checking(sound, saver), repair=True) == []
    told = await sound.tuples("SELECT act, details FROM audit", {})
    assert told == [("invariants.repaired", {"thread_busy": 1, "leftover_blobs": 1})]


async def test_a_name_that_was_taken_away_leaves_the_index_of_names(
    sound: Database, saver: Saver
) -> None:
    await sound.execute("INSERT INTO thread_name VALUES ('edited', name_parts('secret'))", {})

    repaired = await found_by(checking(sound, saver), repair=True)

    assert [(found.kind, found.is_repaired) for found in repaired] == [("name_not_indexed", True)]
    assert await sound.tuples("SELECT thread_id FROM thread_name", {}) == [("talk",)]


async def _said(db: Database) -> Any:
    return await db.tuples(
        "SELECT conversation_id, id, content, seq, position FROM message ORDER BY 1, 4", {}
    )


async def _as_workers_do(db: Database) -> None:
    """Index what is to be indexed, and end what runs, as somebody does before long."""
    await search.index_changed(db)
    await db.execute("UPDATE run SET status = 'interrupted', ended_at = now()", {})
    await db.execute("UPDATE thread SET status = settled_status", {})


async def test_what_cannot_be_put_right_is_left_as_it_is_and_told(
    sound: Database, saver: Saver
) -> None:
    said = await _said(sound)
    for damage in REPORTED.values():
        assert await sound.execute(damage, {}) == 1

    for _ in range(2):
        found = await found_by(checking(sound, saver), repair=True)
        assert {one.kind for one in found} == REPORTED.keys()
        assert not any(one.is_repaired for one in found)
    assert await _said(sound) == said


async def test_messages_that_only_the_table_has_are_not_given_up_for_a_damaged_head(
    sound: Database, saver: Saver
) -> None:
    said = await _said(sound)
    blobs: LiteralString = "UPDATE checkpoint_blobs SET {} WHERE thread_id = 'talk'"
    damages = {
        "head_unreadable": blobs.format("type = 'msgpack', blob = '\\xc1'"),
        "head_lacks_messages": blobs.format("type = 'empty', blob = ''"),
    }
    for kind, damage in damages.items():
        await sound.execute(damage, {})

        [found] = await found_by(checking(sound, saver), repair=True)
        assert (found.kind, found.is_repaired) == (kind, False)
        await sound.execute(REPAIRED["head_moved"], {})
        assert not any(
            one.is_repaired for one in await found_by(checking(sound, saver), repair=True)
        )
        assert await _said(sound) == said
        await sound.execute(_MENDED, {})


async def test_messages_of_graphs_that_are_not_served_are_not_compared(
    sound: Database, saver: Saver
) -> None:
    await sound.execute(REPAIRED["messages_differ"], {})
    check = Check(sound, saver, channel_of=lambda _: None, settle_seconds=0.01)

    assert await found_by(check) == []
    assert check.unknown == 4


async def test_what_passes_by_itself_is_no_finding(sound: Database, saver: Saver) -> None:
    """As a run that is between two of its transactions, could it be seen there."""
    await sound.execute(REPAIRED["thread_busy"], {})
    looked = asyncio.Event()

    async def once(page: Any, only: list[str] | None) -> list[Finding]:
        found = await Check._of_threads(check, page, only)
        looked.set()
        return found

    check = checking(sound, saver, settle_seconds=1.0)
    check._of_threads = once  # type: ignore[method-assign]
    looking = asyncio.create_task(found_by(check))
    async with asyncio.timeout(20):
        await looked.wait()
    await sound.execute("UPDATE thread SET status = settled_status", {})

    assert await looking == []


@pytest.fixture
async def streams(servers: Servers, db: Database) -> AsyncIterator[Streams]:
    """The logs of two threads, one of which is gone."""
    prefix = names()
    await create_thread(db, "there")
    async with open_event_log(servers.redis_url, prefix=prefix) as log:
        for thread_id in ("there", "gone"):
            writer = log.writer(thread_id, 7, str(uuid.uuid4()))
            emit(writer, 3)
            writer.close()
    async with open_streams(servers.redis_url, prefix, 100) as opened_streams:
        yield opened_streams


async def test_a_log_that_is_ahead_of_its_thread_would_refuse_every_event_and_is_forgotten(
    streams: Streams, db: Database, saver: Saver
) -> None:
    assert await found_by(checking(db, saver, streams=streams)) == []
    await db.execute("UPDATE thread SET epoch = 6", {})

    [found] = await found_by(checking(db, saver, streams=streams), repair=True)

    assert (found.kind, found.subject, found.is_repaired) == ("log_ahead", "there", True)
    assert await found_by(checking(db, saver, streams=streams)) == []


async def test_a_log_that_would_be_kept_for_ever_gets_an_end_whether_its_thread_is_there_or_not(
    servers: Servers, streams: Streams, db: Database, saver: Saver
) -> None:
    check = checking(db, saver, streams=streams, log_ttl_seconds=600.0)
    async with Redis.from_url(servers.redis_url) as redis:
        keys = [streams.key(thread_id) for thread_id in ("there", "gone")]
        assert [await redis.persist(key) for key in keys] == [True, True]

        found = await found_by(check, repair=True)

        assert {(one.kind, one.subject, one.is_repaired) for one in found} == {
            ("log_unending", "there", True), ("log_unending", "gone", True),
        }  # fmt: skip
        assert await found_by(check) == []
        assert all([0 < await redis.ttl(key) <= 600 for key in keys])


async def test_pages_are_looked_at_one_after_the_other(
    db: Database, saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.check.PAGE", 2)
    for number in range(5):
        await create_thread(db, f"t{number}")
    await db.execute("UPDATE thread SET status = 'busy' WHERE thread_id IN ('t1', 't4')", {})

    assert [found.subject for found in await found_by(checking(db, saver))] == ["t1", "t4"]


def test_every_kind_of_finding_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/check.md").read_text("utf-8")
    known = {*_KINDS, *REPAIRED, *REPORTED, "head_unreadable", "log_ahead", "log_unending"}

    assert set(re.findall(r"`(\w+_\w+)`", page)) - {"is_repaired"} == {
        *known,
        "head_lacks_messages",
    }
