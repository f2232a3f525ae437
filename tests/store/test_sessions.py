"""Sessions: threads, as people who think in conversations list and name them."""

from datetime import UTC, datetime, timedelta

import pytest

from store import sessions, threads
from store.access import EVERYTHING
from store.database import Database
from store.errors import AlreadyExistsError, NotFoundError
from store.sessions import Filter, Place


async def test_a_session_is_a_thread_with_a_name(db: Database) -> None:
    made = await sessions.create(
        db, "会话-1", metadata={"user_id": "u", "extra": 1}, access=EVERYTHING
    )

    assert (made.name, made.status, made.user_id) == ("新对话", "active", "u")
    assert made == await sessions.get(db, "会话-1", access=EVERYTHING)
    assert (await threads.get(db, "会话-1", access=EVERYTHING)).metadata == {
        "user_id": "u",
        "extra": 1,
    }
    with pytest.raises(AlreadyExistsError):
        await sessions.create(db, "会话-1", metadata={}, access=EVERYTHING)


async def test_a_session_that_is_to_end_is_made_so_in_one_step(db: Database) -> None:
    end = datetime.now(UTC) + timedelta(days=1)

    made = await sessions.create(db, "s", metadata={}, expires_at=end, access=EVERYTHING)

    assert made.expires_at == end
    assert await db.tuples("SELECT name FROM outbox", {}) == [("session.created",)]


async def test_what_is_missing_is_not_found(db: Database) -> None:
    with pytest.raises(NotFoundError):
        await sessions.get(db, "none", access=EVERYTHING)
    with pytest.raises(NotFoundError):
        await sessions.update(db, "none", changes={}, access=EVERYTHING)


async def test_a_session_is_renamed_and_archived(db: Database) -> None:
    await sessions.create(db, "s", metadata={"name": "old", "chat_type": "c"}, access=EVERYTHING)

    changed = await sessions.update(
        db, "s", changes={"name": "new", "status": "archived"}, access=EVERYTHING
    )

    assert (changed.name, changed.status, changed.chat_type) == ("new", "archived", "c")
    assert await sessions.list_page(db, Filter(), limit=5, access=EVERYTHING) == ([], False)
    assert (await sessions.list_page(db, Filter(status=None), limit=5, access=EVERYTHING))[0] == [
        changed
    ]


async def test_sessions_are_listed_by_their_kind(db: Database) -> None:
    for chat_type in ("a", "b", None):
        metadata = {"user_id": "u"} if chat_type is None else {"chat_type": chat_type}
        await sessions.create(db, f"s-{chat_type}", metadata=metadata, access=EVERYTHING)

    async def listed(chat_type: str | None) -> set[str]:
        attributes = {"chat_type": chat_type} if chat_type else {}
        which = Filter(attributes=attributes)
        page, _ = await sessions.list_page(db, which, limit=5, access=EVERYTHING)
        return {each.id for each in page}

    assert await listed("a") == {"s-a"}
    assert await listed(None) == {"s-a", "s-b", "s-None"}


@pytest.mark.parametrize("user_id", [None, "u"])
async def test_pages_hold_every_session_once_also_of_one_moment(
    db: Database, user_id: str | None
) -> None:
    for n in range(7):
        await sessions.create(
            db, f"s{n}", metadata={"user_id": "u", "chat_type": "c"}, access=EVERYTHING
        )
    await sessions.create(
        db, "archived", metadata={"user_id": "u", "status": "archived"}, access=EVERYTHING
    )
    await sessions.create(
        db, "other", metadata={"user_id": "v", "chat_type": "d"}, access=EVERYTHING
    )
    await db.execute("UPDATE thread SET updated_at = date_trunc('hour', now())", {})
    which = Filter(user_id=user_id, attributes={"chat_type": "c"})
    after: Place | None = None
    seen: list[str] = []
    more = True

    while more:
        page, more = await sessions.list_page(db, which, after=after, limit=3, access=EVERYTHING)
        seen += [each.id for each in page]
        after = Place(False, page[-1].update_time, page[-1].id)

    assert seen == [f"s{n}" for n in reversed(range(7))]


async def test_the_session_touched_last_comes_first(db: Database) -> None:
    for name in "abc":
        await sessions.create(db, name, metadata={}, access=EVERYTHING)
    await sessions.update(db, "a", changes={"name": "x"}, access=EVERYTHING)

    page, more = await sessions.list_page(db, Filter(), limit=2, access=EVERYTHING)

    assert ([each.id for each in page], more) == (["a", "c"], True)


async def test_of_very_many_sessions_folders_and_tags_of_the_latest_are_counted(
    db: Database,
) -> None:
    await db.execute(
        "INSERT INTO thread (thread_id, metadata, updated_at)"
        " SELECT i::text, jsonb_build_object('folder', CASE WHEN i > 3 THEN 'new' ELSE 'old' END,"
        " 'tags', '[\"a\", \"b\"]'::jsonb), now() + make_interval(secs => i)"
        " FROM generate_series(1, 10003) AS i",
        {},
    )

    found = await sessions.counts(db, Filter(), access=EVERYTHING)

    assert (found.statuses, found.of_latest) == ({"active": 10_003}, 10_000)
    assert (found.folders, found.tags) == ({"new": 10_000}, {"a": 10_000, "b": 10_000})
    await db.execute("DELETE FROM thread WHERE thread_id IN ('1', '2', '3')", {})
    assert (await sessions.counts(db, Filter(), access=EVERYTHING)).of_latest is None
