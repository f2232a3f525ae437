"""The plans of the queries that a busy server lives by, on tables of some size."""

import re
from collections.abc import Iterator
from typing import Any, LiteralString

from store.access import EVERYTHING, Access
from store.database import Database
from store.messages import PAGES
from store.ordering import Order, among, first, ordered
from store.sql import load
from store.threads import SortBy

ROWS = 20_000

FILL: tuple[LiteralString, ...] = (
    """
    INSERT INTO thread (thread_id, metadata, updated_at)
    SELECT i::text,
        jsonb_build_object('user_id', 'u' || CASE WHEN mod(i, 10) = 0 THEN 0 ELSE mod(i, 200) END,
            'project', CASE WHEN i > 19000 THEN 'old' ELSE 'new' END,
            'status', CASE WHEN mod(i, 100) = 1 THEN 'archived'
                WHEN mod(i, 100) = 2 THEN 'deleted' ELSE 'active' END,
            'pinned', mod(i, 50) = 3, 'name', 'A ' || i),
        now() - make_interval(secs => i)
    FROM generate_series(1, %(rows)s) AS i
    """,
    """
    INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata, kwargs,
        not_before, worker_id)
    SELECT gen_random_uuid(), i::text, gen_random_uuid(),
        CASE WHEN mod(i, 4) = 0 THEN 'pending' WHEN mod(i, 100) = 1 THEN 'running' ELSE 'success' END,
        'enqueue', '{}', '{}', now() - make_interval(secs => i - 100), gen_random_uuid()
    FROM generate_series(1, %(rows)s) AS i
    """,
    """
    INSERT INTO worker (worker_id, host, pid, version, slots)
    VALUES ('00000000-0000-0000-0000-000000000001', 'h', 1, '0', 1)
    """,
    "VACUUM ANALYZE",
)

#: What a user sees who has few threads, and one who has few in each of two ways.
MINE = Access(({"user_id": "u7"},)).array
OURS = Access(({"user_id": "u7"}, {"project": "old"})).array
WORKER = "00000000-0000-0000-0000-000000000001"
PAGE: dict[str, Any] = {
    "limit": 21, "offset": 0, "status": "active", "metadata": {}, "place_id": "9000",
    "user_id": None, "pinned": None, "title": None, "ids": [], "updated_after": None,
    "created_before": None, "created_after": None, "visible": EVERYTHING.array,
}  # fmt: skip
PINNED, USER_0 = {**PAGE, "pinned": True}, {**PAGE, "user_id": "u0"}
SEARCH: dict[str, Any] = {
    "metadata": {}, "status": None, "ids": None, "limit": 10, "offset": 0, "window": 1200,
    "visible": EVERYTHING.array,
}  # fmt: skip

VALUES: dict[str, Any] = {**SEARCH, "values": {"a": 1}, "limit": 10_001}

Plan = tuple[str, LiteralString, dict[str, Any]]

PLANS: list[Plan] = [
    ("run_", load("queue")["lost"], {}),
    ("run_in_flight", load("queue")["in_flight"], {"thread_id": "7"}),
    ("run_running_by_worker", load("queue")["owned"], {"worker_id": WORKER}),
    ("run_running_by_worker", load("queue")["to_stop"], {"worker_id": WORKER}),
    ("run_by_thread", load("runs")["list"], {"thread_id": "7", "status": None, "limit": 10, "offset": 0, "visible": MINE}),
    ("run_", load("runs")["in_flight"], {"statuses": ["running"], "visible": MINE, "after": 0, "limit": 10}),
]  # fmt: skip


def _sorted_by(column: SortBy) -> LiteralString:
    return ordered(load("threads")["every"], column, "desc", tie_break="thread_id")


def _sessions(column: str = "updated_at", direction: Order = "desc") -> LiteralString:
    return ordered(load("sessions")["list"], column, direction, tie_break="thread_id")


WINDOW = among(
    "thread",
    first(load("threads")["every"], "updated_at", "desc", tie_break="thread_id"),
    ordered(load("threads")["search"], "updated_at", "desc", tie_break="thread_id"),
)
CANDIDATES = ordered(load("threads")["candidates"], "updated_at", "desc", tie_break="thread_id")
NAMED = among(
    "thread",
    load("sessions")["by_name"],
    ordered(load("sessions")["session"], "updated_at", "desc", tie_break="thread_id"),
)
FILTERED = among("thread", load("threads")["search"], _sorted_by("updated_at"))

#: Never prepared, or their plans for parameters that are not known cost so much more that they are
#: never chosen.
CUSTOM_PLANS: list[Plan] = [
    ("run_due", load("queue")["claim"], {"worker_id": WORKER, "slots": 10}),
    ("thread_updated", _sessions(), PAGE),
    ("thread_updated", _sessions(), {**PAGE, "pinned": False}),
    ("thread_pinned", _sessions(), PINNED),
    ("thread_user_pinned", _sessions(), {**PINNED, "user_id": "u0"}),
    ("thread_archived", _sessions(), {**PAGE, "status": "archived"}),
    ("thread_deleted", _sessions(), {**PAGE, "status": "deleted"}),
    ("thread_metadata", _sessions(), {**PAGE, "metadata": {"chat_type": "rare"}}),
    ("thread_metadata", _sessions(), {**PAGE, "metadata": {"tags": ["rare"]}}),
    ("thread_created", _sessions("created_at"), PAGE),
    # in its order by either index, never all of a user's sorted
    ("Scan Backward using thread_u", _sessions(), USER_0),
    ("thread_user", _sessions(), {**PAGE, "user_id": "u7"}),
    ("thread_name_parts", NAMED, {**PAGE, "title": "%a 123%", "part": "a 123"}),
    ("thread_metadata", NAMED, {**PAGE, "title": "%a%", "part": "a", "visible": MINE}),
    ("thread_ends", load("sessions")["ended"], {"limit": 10}),
    ("thread_pkey", load("sessions")["get"], {"id": "7", "visible": MINE}),
    ("thread_pkey", _sorted_by("thread_id"), SEARCH),
    ("thread_status", _sorted_by("status"), SEARCH),
    ("thread_created", _sorted_by("created_at"), SEARCH),
    ("thread_updated", _sorted_by("updated_at"), SEARCH),
    ("thread_state_updated", _sorted_by("state_updated_at"), SEARCH),
    ("thread_updated", WINDOW, {**SEARCH, "metadata": {"project": "new"}}),
    ("thread_metadata", FILTERED, {**SEARCH, "metadata": {"project": "old"}}),
    ("thread_status", FILTERED, {**SEARCH, "status": "busy"}),
    ("thread_pkey", FILTERED, {**SEARCH, "ids": ["7", "8"]}),
    ("thread_metadata", CANDIDATES, {**VALUES, "metadata": {"project": "old"}}),
    ("thread_pkey", CANDIDATES, {**VALUES, "ids": ["7", "8"]}),
    ("thread_status", load("threads")["count"], {**SEARCH, "status": "busy"}),
    # what somebody may see is few of all, or of it few match
    ("thread_metadata", FILTERED, {**SEARCH, "visible": MINE}),
    ("thread_metadata", FILTERED, {**SEARCH, "visible": OURS}),
    ("thread_metadata", load("threads")["count"], {**SEARCH, "visible": MINE}),
    ("thread_updated", WINDOW, {**SEARCH, "visible": MINE}),
    ("thread_", _sessions(), {**PAGE, "visible": MINE}),
    ("thread_", _sessions(), {**USER_0, "visible": MINE}),
    ("thread_pkey", load("threads")["get"], {"thread_id": "7", "visible": MINE}),
    ("thread_pkey", load("threads")["update"], {"thread_id": "7", "metadata": {}, "visible": MINE}),
    ("thread_pkey", load("runs")["get"], {"run_id": WORKER, "thread_id": None, "visible": MINE}),
]


async def test_hot_queries_read_by_their_index(db: Database) -> None:
    """Also when PostgreSQL does not know the parameters: psycopg prepares what is repeated."""
    for fill in FILL:
        await db.execute(fill, {"rows": ROWS})
    rows = await db.tuples("SELECT updated_at FROM thread WHERE thread_id = '9000'", {})
    others = {"updated_before": rows[0][0], "keep_seconds": None}
    for index, query, params in (*PLANS, *CUSTOM_PLANS):
        known = await _plan(db, f"EXPLAIN {query}", {**params, **others})
        unknown = await _plan(db, f"EXPLAIN (GENERIC_PLAN) {_numbered(query)}", None)

        for plan in (known,) if (index, query, params) in CUSTOM_PLANS else (known, unknown):
            assert index in plan, plan
            assert "Seq Scan on thread" not in plan, plan
            assert "Seq Scan on run" not in plan, plan


def _numbered(query: str) -> str:
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", query)))
    return re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", query)


async def _plan(db: Database, query: str, params: dict[str, Any] | None) -> str:
    async with db.connection() as connection:
        cursor = await connection.execute(query.encode(), params, prepare=False)
        return "\n".join(row[0] for row in await cursor.fetchall())


async def test_a_page_of_a_long_conversation_reads_its_own_rows(db: Database) -> None:
    await db.execute("INSERT INTO thread (thread_id) SELECT generate_series(1, 10)::text", {})
    await db.execute(
        """
        INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq,
            position, checkpoint_id, last_checkpoint_id)
        SELECT t.thread_id || '-' || n, t.thread_id, 'user', 'text', now(), now(), n, n, 'c', 'c'
        FROM thread AS t, generate_series(0, 2999) AS n
        """,
        {},
    )
    await db.execute("ANALYZE message", {})
    bounds = {"after_seq": -1, "before_seq": 2**31 - 1, "every_branch": False, "limit": 51}
    assert set(PAGES) == {"asc", "desc"}
    for page in PAGES.values():
        async with db.connection() as connection:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {page}"
            cursor = await connection.execute(explain.encode(), {"conversation_id": "7", **bounds})
            [(plan,)] = await cursor.fetchall()

        assert max(_rows_read(plan[0]["Plan"])) <= 51


def _rows_read(node: dict[str, Any]) -> Iterator[float]:
    """How many rows each part of a plan gave in all."""
    yield node["Actual Rows"] * node["Actual Loops"]
    for part in node.get("Plans", ()):
        yield from _rows_read(part)
