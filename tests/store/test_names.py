"""Lists by a part of a name: what the index of names finds is what a look at each name would."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, LiteralString

import pytest
from hypothesis import example, given, settings, strategies as st

from api.processes.embedded import Servers
from store import sessions, threads
from store.access import EVERYTHING, Access
from store.cipher import KeyRing
from store.database import Database, open_database
from store.sessions import Filter, Place
from tests.conftest import cloned

#: More threads than a list is looked through for before the index is asked; all later than the others.
LATEST = threads.WINDOW_ROWS + 10
FEW = [f"old-{number}" for number in range(6)]
#: Also what means something to LIKE and to a tsquery, changes with its case, or is in the name of no name.
LETTERS = "aAbB1 %_\\'\"&|!*():<éÉßΣσςİIı新对话🙂\u200d\ud7ff"  # noqa: RUF001
NAMES = st.one_of(
    st.text(LETTERS, max_size=14),
    st.sampled_from(
        [
            None,
            5,
            {"a": ["b"]},
            "x" * 499 + "aB1",
            "tw1:0123abcd:Zm9v",
            "tw1:",
            "any part",
            "新对话",
        ]
    ),
)
#: Who sees all, few, and many but not all.
ACCESSES = [EVERYTHING, Access(({"user_id": "u"},)), Access(({"user_id": "u"}, {"user_id": "v"}))]
PARTS = st.one_of(st.text(LETTERS, min_size=1, max_size=5), st.sampled_from(["xaB", "tw1:", "Y P"]))


class Listed:
    """A database of many sessions, and what is found there."""

    def __init__(self, runner: asyncio.Runner, db: Database) -> None:
        self._runner, self._db = runner, db

    def name(self, names: dict[str, Any]) -> None:
        """As whoever writes metadata does, in one statement for all."""
        renamed = """
            UPDATE thread SET metadata = metadata || jsonb_build_object('name', n.name)
            FROM jsonb_each(%(names)s::jsonb) AS n (id, name)
            WHERE thread_id = n.id
        """
        assert self._runner.run(self._db.execute(renamed, {"names": json.dumps(names)})) == len(
            names
        )

    def plainly(self, which: Filter, access: Access) -> list[str]:
        """Those that a look at each name finds, in the order of the list."""
        looked_at = """
            SELECT thread_id
            FROM thread
            WHERE (session_name(metadata) ILIKE %(pattern)s OR thread_id = ANY(%(ids)s))
                AND coalesce(metadata ->> 'status', 'active') = %(status)s
                AND metadata @> %(attributes)s::jsonb AND metadata @> ANY(%(visible)s::jsonb[])
            ORDER BY metadata @> '{"pinned": true}' DESC, updated_at DESC, thread_id DESC
        """
        params = {
            "pattern": f"%{sessions._literally(which.title or '')}%",
            "ids": list(which.ids),
            "status": which.status,
            "attributes": json.dumps(which.attributes),
            "visible": access.array,
        }
        return [id_ for (id_,) in self._runner.run(self._db.tuples(looked_at, params))]

    def paged(self, which: Filter, access: Access) -> list[str]:
        """Those that are listed, page by page."""
        return self._runner.run(_paged(self._db, which, access))


async def _paged(db: Database, which: Filter, access: Access) -> list[str]:
    found: list[str] = []
    after: Place | None = None
    is_more = True
    while is_more:
        page, is_more = await sessions.list_page(
            db, which, pinned_first=True, after=after, limit=400, access=access
        )
        found += [one.id for one in page]
        if page:
            last = page[-1]
            after = Place(last.metadata.get("pinned") is True, last.update_time, last.id)
    return found


@pytest.fixture(scope="module")
def listed(servers: Servers, template: str) -> Iterator[Listed]:
    fill: LiteralString = """
        INSERT INTO thread (thread_id, metadata, updated_at)
        SELECT 'new-' || i, jsonb_build_object('user_id', 'v', 'name', 'Late ' || i),
            now() + make_interval(secs => i)
        FROM generate_series(1, %(latest)s) AS i
        UNION ALL
        SELECT id, CASE id
                WHEN 'old-1' THEN '{"user_id": "u", "pinned": true}'
                WHEN 'old-2' THEN '{"user_id": "u", "status": "archived"}'
                WHEN 'old-3' THEN '{"user_id": "u", "status": "deleted"}'
                ELSE '{"user_id": "u"}'
            END::jsonb, now() - interval '1 day'
        FROM unnest(%(few)s::text[]) AS id
    """
    with cloned(servers, template) as url, asyncio.Runner() as runner:
        opening = open_database(url)
        db = runner.run(opening.__aenter__())
        runner.run(db.execute(fill, {"latest": LATEST, "few": FEW}))
        # It is expected how many somebody sees.
        runner.run(db.execute("ANALYZE thread", {}))
        yield Listed(runner, db)
        runner.run(opening.__aexit__(None, None, None))


@settings(max_examples=40, deadline=None)
@example(dict.fromkeys(FEW), "对话", "active", {}, [], EVERYTHING)
@example(
    dict.fromkeys(FEW, "Some Name"),
    "e n",
    "active",
    {"user_id": "u"},
    ["old-0", "new-7"],
    ACCESSES[2],
)
@example(dict.fromkeys(FEW, "x" * 600), "xxxx", "archived", {}, [], EVERYTHING)
@given(
    st.fixed_dictionaries(dict.fromkeys(FEW, NAMES)),
    st.one_of(
        PARTS,
        st.tuples(st.sampled_from(FEW), st.integers(0, 12), st.integers(1, 9), st.booleans()),
    ),
    st.sampled_from(["active", "archived", "deleted"]),
    st.sampled_from([{}, {"user_id": "u"}]),
    st.lists(st.sampled_from(["old-0", "old-1", "new-7", "none"]), max_size=2),
    st.sampled_from(ACCESSES),
)
def test_a_list_by_a_part_of_a_name_has_just_those_that_a_look_at_each_name_finds(
    listed: Listed,
    names: dict[str, Any],
    asked: str | tuple[str, int, int, bool],
    status: str,
    attributes: dict[str, str],
    ids: list[str],
    access: Access,
) -> None:
    """Of names that were just given, changed and taken away."""
    if isinstance(asked, tuple):
        of, start, length, is_upper = asked
        part = str(names[of])[start : start + length] or "a"
        asked = part.upper() if is_upper else part
    which = Filter(title=asked, status=status, attributes=attributes, ids=ids)

    listed.name(names)

    assert listed.paged(which, access) == listed.plainly(which, access)


async def test_of_a_sealed_name_no_part_is_kept_and_its_session_is_found_by_its_id(
    database_url: str,
) -> None:
    async with open_database(database_url) as db:
        await sessions.create(db, "clear", metadata={"name": "Secret"}, access=EVERYTHING)
    async with open_database(database_url, cipher=KeyRing([b"k" * 32])) as db:
        for id_ in ("sealed", "other"):
            await sessions.create(db, id_, metadata={"name": "Secret"}, access=EVERYTHING)
        await sessions.update(db, "clear", changes={"name": "Hidden"}, access=EVERYTHING)

        found = await _paged(db, Filter(title="ecre", ids=["sealed"]), EVERYTHING)

        parts = await db.tuples("SELECT DISTINCT parts::text FROM thread_name", {})
    assert found == ["sealed"]
    assert parts == [("'any part'",)]


async def test_parts_of_a_name_go_with_the_name_and_with_the_session(db: Database) -> None:
    async def kept() -> list[tuple[str, str]]:
        return await db.tuples("SELECT thread_id, parts::text FROM thread_name ORDER BY 1", {})

    for id_ in ("a", "b"):
        await sessions.create(db, id_, metadata={"name": "Abcd"}, access=EVERYTHING)
    await sessions.create(db, "none", metadata={}, access=EVERYTHING)
    assert await kept() == [("a", "'abc' 'bcd' 'cd' 'd'"), ("b", "'abc' 'bcd' 'cd' 'd'")]

    await sessions.update(db, "a", removed=["name"], access=EVERYTHING)
    await sessions.set_title(db, "none", "X")
    assert await kept() == [("b", "'abc' 'bcd' 'cd' 'd'"), ("none", "'x'")]

    await sessions.purge(db, "b", access=EVERYTHING)
    assert await kept() == [("none", "'x'")]
