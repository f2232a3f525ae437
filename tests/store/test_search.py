"""Messages are found by their words, by whoever may see them."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, LiteralString

import pytest

from store import search, sessions, terms, threads
from store.access import EVERYTHING, Access
from store.database import Database
from store.search import Filters, Hit, Place

_SAY: LiteralString = """
WITH said AS (
    INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq,
        position, checkpoint_id, last_checkpoint_id)
    SELECT 'm' || n, %(thread_id)s, CASE WHEN mod(n, 2) = 1 THEN 'user' ELSE 'assistant' END,
        content, now() - make_interval(mins => (10 - n)::int), clock_timestamp(), n, n, 'c', 'c'
    FROM unnest(%(contents)s::text[]) WITH ORDINALITY AS u (content, n)
    ON CONFLICT (conversation_id, id) DO UPDATE SET
        content = EXCLUDED.content, update_time = EXCLUDED.update_time
)
UPDATE thread SET head_checkpoint_id = gen_random_uuid()::text, updated_at = clock_timestamp()
WHERE thread_id = %(thread_id)s
"""


async def said(db: Database, thread_id: str, *contents: str, **metadata: str) -> None:
    """Have messages in a thread, as a run leaves them."""
    if not await threads.exists(db, thread_id):
        await sessions.create(db, thread_id, metadata=metadata, access=EVERYTHING)
    await db.execute(_SAY, {"thread_id": thread_id, "contents": list(contents)})


async def found(
    db: Database, asked: str, *, access: Access = EVERYTHING, limit: int = 50, **filters: str
) -> list[str]:
    """The messages that are found, page by page."""
    place: Place | None = None
    hits: list[Hit] = []
    while True:
        page, place = await search.messages(
            db,
            terms.query(asked),
            filters=Filters(**filters),  # type: ignore[arg-type]
            place=place,
            limit=limit,
            access=access,
        )
        assert len(page) <= limit
        hits += page
        if place is None:
            return [f"{hit.session_id}/{hit.message_id}" for hit in hits]


async def counted(db: Database) -> Sequence[int]:
    """Rows of the index."""
    [(messages,)] = await db.tuples("SELECT count(*) FROM search_message", {})
    [(of_threads,)] = await db.tuples("SELECT count(*) FROM search_thread", {})
    return messages, of_threads


async def test_a_message_is_found_as_soon_as_it_is_there(db: Database) -> None:
    await said(db, "s", "What is a vector database?", "向量数据库是一种搜索引擎。")

    for asked in ("vectors", "databases", "搜索", "数据库", "向量 引擎", '"vector database"'):
        assert len(await found(db, asked)) == 1, asked
    for asked in ("vector 引擎", "数引", "the", '"database vector"'):
        assert await found(db, asked) == [], asked
    assert await found(db, "is a 向量") == ["s/m2"]


async def test_what_somebody_else_is_bringing_into_the_index_is_waited_for(db: Database) -> None:
    await said(db, "s", "a cat")
    waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1400 AND NOT granted"

    async with asyncio.timeout(20):
        async with db.transaction() as tx:
            assert await search._index(tx, ["s"])
            asked = asyncio.create_task(found(db, "cat"))
            while not await db.tuples(waits, {}) and not asked.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await asked == ["s/m1"]


async def test_what_is_deleted_while_it_is_being_indexed_leaves_nothing_in_the_index(
    db: Database,
) -> None:
    """Also if the process that indexes it is gone right after its commit."""
    await said(db, "s", "a cat", "a dog", name="Pets")
    waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    async with asyncio.timeout(20):
        async with db.transaction() as tx:
            assert await search._index(tx, ["s"])
            deleting = asyncio.create_task(threads.delete(db, "s", access=EVERYTHING))
            while not await db.tuples(waits, {}) and not deleting.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await deleting

    assert tuple(await counted(db)) == (0, 0)


async def test_the_best_comes_first_and_carries_what_it_was_found_by(db: Database) -> None:
    await said(db, "s", "cats " + "and other animals " * 20, "cats, cats and cats", name="Pets")

    hits, place = await search.messages(
        db, terms.query("cat"), filters=Filters(), limit=10, access=EVERYTHING
    )

    assert place is None
    assert [hit.message_id for hit in hits] == ["m2", "m1"]
    assert hits[0].rank > hits[1].rank
    assert (hits[0].session_name, hits[0].role) == ("Pets", "assistant")


async def test_filters_narrow_what_is_found(db: Database) -> None:
    await said(db, "a", "cat", "cat", "cat")
    await said(db, "b", "cat")

    assert await found(db, "cat", session_id="a", role="user") == ["a/m3", "a/m1"]
    assert await found(db, "cat", role="assistant") == ["a/m2"]
    [(at,)] = await db.tuples("SELECT create_time FROM message WHERE id = 'm2'", {})
    assert await found(db, "cat", session_id="a", from_time=at) == ["a/m3", "a/m2"]
    assert await found(db, "cat", session_id="a", to_time=at) == ["a/m1"]


@pytest.mark.parametrize("users", [1, 2])
async def test_pages_have_every_hit_once_whatever_segment_and_window_it_is_in(
    db: Database, users: int
) -> None:
    await db.execute("SELECT setval('search_number', %(n)s)", {"n": (1 << 15) - 300})
    contents = [f"cat {n}" for n in range(search.WINDOW + 100)]
    for user in range(users):
        await said(db, f"s{user}", *contents, user_id=f"u{user}")
    while await search.index_changed(db):
        pass

    everything = await found(db, "cat", limit=70)
    assert len(everything) == len(set(everything)) == users * len(contents)
    mine = await found(db, "cat", limit=100, access=Access(({"user_id": "u0"},)))
    assert sorted(mine) == sorted(hit for hit in everything if hit.startswith("s0/"))


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("asked", ["cat", '"cat naps"', "cat naps", "猫咪"])
async def test_hits_are_found_however_far_apart_their_segments_are(
    db: Database, monkeypatch: pytest.MonkeyPatch, asked: str, is_late: bool
) -> None:
    if is_late:
        monkeypatch.setattr(search, "_WALK_SECONDS", 0.0)
    segments = [0, 1, 2, 9, 10, 40, 120]
    for segment in segments:
        await db.execute("SELECT setval('search_number', %(n)s)", {"n": (segment << 15) + 5})
        # The last one is not one of the caller's, the first one the name of a session.
        await said(
            db, f"s{segment}", "a cat naps 猫咪", name="cat naps 猫咪", user=str(segment % 2)
        )
        await search.index_changed(db)

    mine = [f"s{segment}/m1" for segment in reversed(segments) if segment % 2 == 0]
    monkeypatch.setattr(search, "_NAMED_SESSIONS", 1)
    everything = await found(db, asked)
    assert everything == [f"s{segment}/m1" for segment in reversed(segments)]
    assert await found(db, asked, access=Access(({"user": "0"},))) == mine
    if not is_late:
        page, place = await search.messages(
            db, terms.query(asked), filters=Filters(), limit=50, access=EVERYTHING
        )
        assert (len(page), place) == (len(segments), None)
    of = await search.sessions(db, terms.query(asked), access=EVERYTHING)
    assert {hit.session_id for hit in of} == {f"s{segment}" for segment in segments}


async def test_a_step_that_may_be_all_of_others_is_narrow(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for segment in (0, 100):
        await db.execute("SELECT setval('search_number', %(n)s)", {"n": segment << 15 | 5})
        await said(db, f"s{segment}", "cat", user=str(segment))
        await search.index_changed(db)
    monkeypatch.setattr(search, "_NAMED_SESSIONS", 0)
    monkeypatch.setattr(search, "_WALK_SECONDS", 60.0)
    steps: list[int] = []
    tuples = Database.tuples

    async def heard(self: Database, query: LiteralString, *args: Any, **more: Any) -> Any:
        rows = await tuples(self, query, *args, **more)
        if query == search._SQL["in_segments"]:
            steps.extend(oldest for oldest, *_ in rows)
        return rows

    monkeypatch.setattr(Database, "tuples", heard)

    assert await found(db, "cat", access=Access(({"user": "0"},))) == ["s0/m1"]
    assert steps[-1] == 0
    assert max(above - below for above, below in pairwise(steps)) == 8


async def test_what_is_said_while_pages_are_read_is_in_none_of_them(db: Database) -> None:
    await said(db, "s", *["cat"] * 3)
    question, filters = terms.query("cat"), Filters()
    first, place = await search.messages(db, question, filters=filters, limit=2, access=EVERYTHING)
    await said(db, "t", *["cat"] * 3)
    await search.index_changed(db)

    rest, end = await search.messages(
        db, question, filters=filters, place=place, limit=10, access=EVERYTHING
    )
    assert [f"{hit.session_id}/{hit.message_id}" for hit in (*first, *rest)] == [
        "s/m3", "s/m2", "s/m1"
    ]  # fmt: skip
    assert end is None


async def test_only_what_one_may_see_is_found(db: Database) -> None:
    for user in ("ada", "eve"):
        await said(db, user, f"the cat of {user}", owner=user, name=f"{user} and cats")

    eve = Access(({"owner": "eve"},))
    assert await found(db, "cat", access=eve) == ["eve/m1"]
    assert await found(db, "cat", access=eve, session_id="ada") == []
    assert await found(db, "cat", access=Access(())) == []
    assert {
        hit.session_id for hit in await search.sessions(db, terms.query("cat"), access=eve)
    } == {"eve"}


async def test_what_is_deleted_is_not_found(db: Database) -> None:
    for session_id in ("a", "b", "c"):
        await said(db, session_id, "cat", "cat")
    assert len(await found(db, "cat")) == 6

    await sessions.delete(db, "a", keep_seconds=None, access=EVERYTHING)
    await db.execute("DELETE FROM message WHERE conversation_id = 'b' AND id = 'm2'", {})
    await threads.delete(db, "c", access=EVERYTHING)

    assert await found(db, "cat") == ["b/m1"]
    await db.execute(
        "INSERT INTO message_deletion (conversation_id, message_id) VALUES ('b', 'm1')", {}
    )
    assert await found(db, "cat") == []
    await db.execute("DELETE FROM message_deletion", {})
    await sessions.restore(db, "a", access=EVERYTHING)
    assert len(await found(db, "cat")) == 3
    assert await db.tuples(
        "SELECT 1 FROM search_message WHERE conversation_id = 'c' UNION ALL"
        " SELECT 1 FROM search_thread WHERE thread_id = 'c'", {}
    ) == []  # fmt: skip


async def test_a_message_that_changes_is_found_by_what_it_says_now(db: Database) -> None:
    await said(db, "s", "cat", "bird")
    assert await found(db, "cat") == ["s/m1"]
    await said(db, "s", "dog", "bird")

    assert await found(db, "dog") == ["s/m1"]
    assert await found(db, "cat") == []
    await db.execute("DELETE FROM message WHERE id = 'm2'", {})
    await db.execute(_SAY, {"thread_id": "s", "contents": ["cow"]})
    assert await found(db, "cow") == ["s/m1"]
    assert await found(db, "bird") == []
    assert await counted(db) == (1, 1)


async def test_the_index_is_brought_up_to_date_in_steps(db: Database) -> None:
    for number in range(120):
        await said(db, f"s{number:03}", "cat", "dog")
    steps = 0
    while await search.index_changed(db):
        steps += 1

    assert steps >= 2
    assert await counted(db) == (240, 120)
    [(caught_up,)] = await db.tuples("SELECT caught_up_at IS NOT NULL FROM search_progress", {})
    assert caught_up
    await said(db, "s000", "cat", "dog", "bird")
    await search.index_changed(db)
    assert await counted(db) == (241, 120)


async def test_two_processes_do_not_index_twice(db: Database) -> None:
    await said(db, "s", "cat")
    async with db.transaction() as tx:
        await tx.tuples("SELECT 1 FROM search_progress FOR UPDATE", {})
        assert await search.index_changed(db) is False
        assert await counted(db) == (0, 0)
    assert await search.index_changed(db) is False
    assert await counted(db) == (1, 1)


async def test_a_session_is_found_by_its_name_or_what_was_said(db: Database) -> None:
    await said(db, "a", "of dogs", "of cats", name="Pets")
    await said(db, "b", "nothing", name="我的猫咪和 cats")
    await said(db, "c", "nothing", name="Other")

    async def hits(asked: str) -> dict[str, str | None]:
        of = await search.sessions(db, terms.query(asked), access=EVERYTHING)
        return {hit.session_id: hit.message_id for hit in of}

    assert await hits("cat") == {"a": "m2", "b": None}
    assert await hits("猫咪") == {"b": None}
    assert await hits("") == {}
    await sessions.update(db, "b", changes={"name": "Dogs"}, access=EVERYTHING)
    assert await hits("dog") == {"a": "m1", "b": None}
    assert await hits("cat") == {"a": "m2"}
    assert await found(db, "pets") == []
