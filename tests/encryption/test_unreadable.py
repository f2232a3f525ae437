"""A row that cannot be decrypted is one row: what stands beside it goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

import pytest

from store import crons, outbox, runs, search, sessions, terms, threads
from store.access import EVERYTHING
from store.cipher import KeyRing
from store.database import Database, open_database
from store.errors import UnreadableError
from store.signals import notify_ready
from tests.graph.engines import Gate, gated, process, until
from tests.graph.test_crons import MINUTE, START, a_cron
from tests.store.queues import a_thread, a_worker, begin, lose, put, reap, thread

#: What no key opens.
BROKEN = "tw1:00000000:AAAA"


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url, cipher=KeyRing([b"n" * 32])) as opened:
        yield opened


async def _break(db: Database, run_id: str) -> None:
    await db.execute(
        "UPDATE run SET kwargs = kwargs || jsonb_build_object('$sealed', %(broken)s::text)"
        " WHERE run_id = %(run_id)s::uuid",
        {"run_id": run_id, "broken": BROKEN},
    )


async def _ended(db: Database, run_id: str) -> tuple[str, str]:
    """How a run ended whose row cannot be read, and of which kind its error is."""
    rows = await db.tuples(
        "SELECT status, error ->> 'error' FROM run WHERE run_id = %(run_id)s::uuid",
        {"run_id": run_id},
    )
    return rows[0][0], rows[0][1]


async def test_a_run_that_cannot_be_read_ends_and_those_claimed_with_it_run(db: Database) -> None:
    gate = Gate()
    gate.opened.set()
    async with process(db, {"gated": gated(gate)}, poll_seconds=0.05) as one:
        bad_thread = await one.thread()
        bad = await one.submit(bad_thread, after_seconds=3600)
        good = await one.submit(await one.thread(), after_seconds=3600)
        await _break(db, bad.run.run_id)
        async with db.transaction() as tx:
            await tx.execute("UPDATE run SET not_before = now()", {})
            await notify_ready(tx)

        assert (await one.runs.join(good)).status == "success"

        async def has_ended() -> bool:
            return (await _ended(db, bad.run.run_id))[0] == "error"

        await until(has_ended)
        told: list[str] = []
        async with asyncio.timeout(20), aclosing(one.events.follow(bad_thread, (0, 0))) as batches:
            while told[-1:] != ["end"]:
                batch = await anext(batches)
                assert isinstance(batch, list)
                told += [event.name for event in batch]
        assert told == ["error", "end"]
        assert await _ended(db, bad.run.run_id) == ("error", "UnreadableError")
        assert (await runs.get(db, good.run.run_id, access=EVERYTHING)).attempt == 1
        assert await one.thread_status(bad_thread) == "error"
        temporary = await one.submit(None, temporary=True, attached=False, after_seconds=3600)
        assert temporary.run.temporary
        await _break(db, temporary.run.run_id)
        await db.execute("UPDATE run SET not_before = now() WHERE status = 'pending'", {})

        async def is_gone() -> bool:
            params = {"run_id": temporary.run.run_id}
            return not await db.tuples("SELECT 1 FROM run WHERE run_id = %(run_id)s::uuid", params)

        await until(is_gone)


async def test_a_lost_run_that_cannot_be_read_keeps_no_other_from_being_reaped(
    db: Database,
) -> None:
    dead, alive = await a_worker(db), await a_worker(db)
    bad = await begin(db, await a_thread(db), dead, kwargs={"webhook": "https://example.org"})
    good = await begin(db, await a_thread(db), dead)
    await _break(db, bad.run.run_id)
    await lose(db, dead)

    reaped = await reap(db, alive, max_attempts=1)

    ended = {bad.run.run_id, good.run.run_id}
    assert {(run.run_id, run.status) for run in reaped} == {(id_, "error") for id_ in ended}
    for claimed in (bad, good):
        assert await _ended(db, claimed.run.run_id) == ("error", "WorkerLost")
        assert (await thread(db, claimed.run.thread_id)).status == "error"
    assert await db.tuples("SELECT 1 FROM job WHERE kind = 'webhook'", {}) == []


async def test_a_name_or_a_change_that_cannot_be_read_holds_up_no_others(db: Database) -> None:
    for id_ in ("bad", "good"):
        await threads.create(
            db, id_, metadata={"name": "Wombats", "owner": "ada"}, access=EVERYTHING
        )
    await db.execute(
        "UPDATE thread SET metadata = metadata || jsonb_build_object('name', %(broken)s::text)"
        " WHERE thread_id = 'bad'",
        {"broken": BROKEN},
    )

    while await search.index_changed(db):
        continue
    found = await search.sessions(db, terms.query("wombats"), access=EVERYTHING)
    assert [hit.session_id for hit in found] == ["good"]
    assert await outbox.publish(db) == 2
    page = await outbox.read(db, after=0, access=EVERYTHING)
    assert [(c.thread_id, c.data["name"]) for c in page.changes] == [
        ("bad", ""),
        ("good", "Wombats"),
    ]

    await db.execute(
        "UPDATE change SET data = jsonb_build_object('$sealed', %(broken)s::text) WHERE seq = 1",
        {"broken": BROKEN},
    )
    for limit in (1, 2):
        page = await outbox.read(db, after=0, limit=limit, access=EVERYTHING)
        assert ([c.seq for c in page.changes], page.through) == ([2][: limit - 1], limit)


async def test_a_page_tells_what_there_is_of_a_row_that_cannot_be_read_and_those_beside_it(
    db: Database,
) -> None:
    for id_ in ("bad", "clear", "good"):
        metadata = {"name": f"name of {id_}", "note": {"by": ["Ada", "Eve"]}, "owner": "ada"}
        await threads.create(db, id_, metadata=metadata, access=EVERYTHING)
    breaking = (
        "UPDATE thread SET interrupts = jsonb_build_object('$sealed', %(value)s::text),"
        " metadata = jsonb_set(metadata || jsonb_build_object('name', %(value)s::text),"
        " '{note,by,1}', to_jsonb(%(value)s::text)) WHERE thread_id = %(id)s"
    )
    # Of a key that is gone; and in the clear, as only somebody else writes it.
    await db.execute(breaking, {"id": "bad", "value": BROKEN})
    await db.execute(breaking, {"id": "clear", "value": "forged"})
    run = await put(db, "good")
    await _break(db, run.run_id)

    found = {t.thread_id: t for t in await threads.search(db, metadata={}, access=EVERYTHING)}
    page, _ = await sessions.list_page(db, sessions.Filter(), limit=10, access=EVERYTHING)
    listed = await runs.list_of_thread(
        db, "good", status=None, limit=10, offset=0, access=EVERYTHING
    )

    for id_ in ("bad", "clear"):
        told = {"name": "", "note": {"by": ["Ada", ""]}, "owner": "ada"}
        assert (found[id_].metadata, found[id_].interrupts) == (told, {})
        with pytest.raises(UnreadableError):
            await threads.get(db, id_, access=EVERYTHING)
    assert found["good"].metadata["note"] == {"by": ["Ada", "Eve"]}
    assert {one.id: one.name for one in page} == {"bad": "", "clear": "", "good": "name of good"}
    assert [(one.run_id, one.kwargs) for one in listed] == [(run.run_id, {})]
    with pytest.raises(UnreadableError):
        await runs.get(db, run.run_id, access=EVERYTHING)


async def test_a_cron_that_cannot_be_read_is_refused_and_the_others_fire(db: Database) -> None:
    now = START + MINUTE
    async with process(db, {"gated": gated(Gate())}, clock=lambda: now, working=False) as one:
        bad, good = await a_cron(db), await a_cron(db)
        await db.execute(
            "UPDATE cron SET payload = jsonb_build_object('$sealed', %(broken)s::text)"
            " WHERE cron_id = %(id)s::uuid",
            {"broken": BROKEN, "id": bad.cron_id},
        )

        await one.crons.tick()

        fired = await crons.get(db, good.cron_id, access=EVERYTHING)
        assert (fired.error, fired.next_run_at) == (None, START + MINUTE + timedelta(seconds=1))
        rows = await db.tuples(
            "SELECT error IS NOT NULL, next_run_at > %(now)s FROM cron WHERE cron_id = %(id)s::uuid",
            {"id": bad.cron_id, "now": now},
        )
        assert rows == [(True, True)]
