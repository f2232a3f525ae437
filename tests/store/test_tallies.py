"""What was counted in advance is what would be counted now, whatever happened since."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from zoneinfo import ZoneInfo

import pytest

from store import assistants, imports, rollback, stats, tallies
from store.access import EVERYTHING, Access
from store.checkpoints import Saver
from store.database import Database
from store.stats import GroupBy, Range
from tests.graph.engines import until

START = datetime(2026, 3, 1, tzinfo=UTC)
ASSISTANT = "00000000-0000-0000-0000-00000000000a"

_SAY: LiteralString = """
WITH asked AS (
    INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq,
        checkpoint_id, last_checkpoint_id, run_id, meta_data)
    SELECT 'm' || seq, %(thread_id)s, role, 'x', at + make_interval(mins => place::int), now(), seq, 'c',
        'c', %(run_id)s::uuid, CASE WHEN role = 'assistant' THEN %(meta_data)s::jsonb ELSE '{}' END
    FROM (
        SELECT t.message_count + n - 1 AS seq, n AS place, r AS role, %(at)s::timestamptz AS at
        FROM thread AS t, unnest(%(roles)s::text[]) WITH ORDINALITY AS u (r, n)
        WHERE t.thread_id = %(thread_id)s
    ) AS said
), ran AS (
    INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata, kwargs,
        created_at, started_at, ended_at, first_token_ms)
    SELECT %(run_id)s::uuid, %(thread_id)s, %(assistant_id)s::uuid, %(status)s, 'enqueue', '{}', '{}',
        %(at)s::timestamptz, %(at)s::timestamptz,
        %(at)s::timestamptz + make_interval(secs => %(seconds)s), %(first_token_ms)s
)
UPDATE thread SET updated_at = clock_timestamp(), message_count = message_count + %(count)s
WHERE thread_id = %(thread_id)s
"""
_READ: LiteralString = "UPDATE tally_progress SET touched_at = 'epoch'"
_FORGET: LiteralString = "TRUNCATE tally_thread, tally"
_ROWS: LiteralString = (
    "SELECT thread_id, quarter, model, messages, runs, total_ms FROM tally ORDER BY 1, 2, 3"
)


class Talk:
    """Threads of three users in which all sorts of things are said."""

    def __init__(self, db: Database, *, threads: int = 6) -> None:
        self._db = db
        self._rng = random.Random(3)
        self._runs = 0
        self.thread_ids = [f"t{n}" for n in range(threads)]

    async def begin(self) -> None:
        for number, thread_id in enumerate(self.thread_ids):
            metadata = {"user_id": f"u{number % 3}", "chat_type": ("a", "b")[number % 2]}
            if number == 5:
                metadata = {}
            await self._db.execute(
                "INSERT INTO thread (thread_id, metadata) VALUES (%(id)s, %(metadata)s)",
                {"id": thread_id, "metadata": metadata},
            )

    async def say(
        self,
        thread_id: str | None = None,
        *,
        model: str | None = None,
        roles: list[str] | None = None,
    ) -> str:
        """A run, and what was said in it."""
        rng, self._runs = self._rng, self._runs + 1
        said = rng.choice(
            (["user", "assistant"], ["user"], [], ["user", "assistant", "tool", "assistant"])
        )
        roles = said if roles is None else roles
        model = model or rng.choice(("m1", "m2", None, ""))
        usage = {"input_tokens": rng.randrange(500), "output_tokens": rng.randrange(90)}
        run_id = f"00000000-0000-0000-0000-{self._runs:012}"
        params = {
            "thread_id": thread_id or rng.choice(self.thread_ids),
            "run_id": run_id,
            "assistant_id": ASSISTANT,
            "at": START + timedelta(minutes=rng.randrange(4 * 1440)),
            "roles": roles,
            "count": len(roles),
            "meta_data": {"usage_metadata": usage, "response_metadata": {"model_name": model}},
            "status": rng.choice(("success", "success", "error", "timeout")),
            "seconds": rng.random() * 30,
            "first_token_ms": rng.choice((None, rng.randrange(4000))),
        }
        await self._db.execute(_SAY, params)
        return run_id


@pytest.fixture
async def talk(db: Database) -> Talk:
    begun = Talk(db)
    await begun.begin()
    return begun


async def count_all(db: Database) -> None:
    while await tallies.count_settled(db, settle_seconds=0):
        pass


def ranges() -> list[Range]:
    """By everything there is to group by, from and to times that are whole and that are not."""
    whole = (START, START + timedelta(days=4))
    odd = (START + timedelta(hours=5, minutes=7, seconds=1), START + timedelta(days=2, minutes=44))
    short = (START + timedelta(minutes=16), START + timedelta(minutes=29))
    zone = ZoneInfo("Asia/Kathmandu")
    days = [datetime(2026, 3, day, tzinfo=zone) for day in range(1, 6)]
    groups: tuple[GroupBy, ...] = ("day", "user", "model", "chat_type")
    seen = (
        EVERYTHING,
        Access(({"user_id": "u1"},)),
        Access(({"chat_type": "a"}, {"user_id": "u2"})),
    )
    return [
        Range(since=since, until=until, days=days, group_by=group_by, user_id=user, access=access)
        for since, until in (whole, odd, short)
        for group_by in groups
        for access in seen
        for user in ((None, "u0") if access is EVERYTHING else (None,))
    ]


async def answers(db: Database) -> Sequence[Mapping[str, Any]]:
    """What is answered to all questions, in an order that says nothing."""
    found = []
    for of in ranges():
        counted = await stats.count(db, of)
        found.append(
            {
                "said": sorted(counted.said, key=repr),
                "ran": sorted(counted.ran, key=repr),
                "thought": counted.thought,
            }
        )
    return found


async def read(db: Database) -> Sequence[Mapping[str, Any]]:
    """The same of a database in which nothing was counted."""
    await db.execute(_FORGET, {})
    await db.execute(_READ, {})
    return await answers(db)


async def test_what_was_counted_is_what_is_read(db: Database, talk: Talk) -> None:
    for _ in range(60):
        await talk.say()
    before = await read(db)
    assert before[0]["said"]
    assert before[0]["ran"][0].total_ms

    await count_all(db)

    assert await tallies.count_settled(db, settle_seconds=0) is False
    assert await db.tuples("SELECT FROM tally", {})
    assert await answers(db) == before
    # Of what is said now only that is read.
    for _ in range(10):
        await talk.say()
    mixed = await answers(db)
    assert mixed != before
    await count_all(db)
    assert await answers(db) == mixed
    assert await read(db) == mixed


async def test_a_thread_is_counted_when_it_has_settled(db: Database, talk: Talk) -> None:
    await talk.say("t0")
    assert await tallies.count_settled(db, settle_seconds=60) is False
    assert not await db.tuples("SELECT FROM tally_thread", {})

    await db.execute("UPDATE thread SET status = 'busy' WHERE thread_id = 't0'", {})
    await count_all(db)

    rows = await db.tuples("SELECT thread_id FROM tally_thread ORDER BY 1", {})
    assert [id_ for (id_,) in rows] == talk.thread_ids[1:]
    async with db.transaction() as tx:
        assert await tallies.uncounted(tx, limit=10) == ["t0"]
        assert await tallies.uncounted(tx, limit=0) is None


async def test_only_what_differs_is_written(db: Database, talk: Talk) -> None:
    for _ in range(30):
        await talk.say("t0")
    await count_all(db)
    [(before,)] = await db.tuples(
        "SELECT array_agg(xmin::text ORDER BY quarter, model) FROM tally", {}
    )

    await db.execute("UPDATE thread SET updated_at = clock_timestamp()", {})
    await count_all(db)

    [(after,)] = await db.tuples(
        "SELECT array_agg(xmin::text ORDER BY quarter, model) FROM tally", {}
    )
    assert after == before


async def test_whatever_changes_otherwise_is_counted_again(
    db: Database, talk: Talk, saver: Saver
) -> None:
    runs = [await talk.say(f"t{number % 5}") for number in range(40)]
    await count_all(db)

    # A run that is deleted, an assistant with all of its runs, times that an import gives, a purge.
    await rollback.delete(db, "t0", runs[0])
    assert await is_right(db)
    await imports.stamp(
        db, "t1", {"m0": "2026-03-02T00:00:00+00:00"}, created_at=None, updated_at=START
    )
    assert await is_right(db)
    await saver.adelete_thread("t2")
    assert await is_right(db)
    await db.execute("DELETE FROM thread WHERE thread_id = 't3'", {})
    assert await is_right(db)
    await db.execute(
        "INSERT INTO assistant (assistant_id, graph_id, name) VALUES (%(id)s, 'g', 'n')",
        {"id": ASSISTANT},
    )
    await assistants.delete(db, ASSISTANT, access=EVERYTHING)
    assert await is_right(db)
    assert await db.tuples("SELECT FROM tally", {})


async def is_right(db: Database) -> bool:
    """Whether it is before it is counted, and when it has been; it is afterwards."""
    now = await answers(db)
    await count_all(db)
    counted, rows = await answers(db), await db.tuples(_ROWS, {})
    assert await read(db) == now == counted
    await count_all(db)
    return rows == await db.tuples(_ROWS, {})


async def test_what_changed_without_a_touch_is_found(db: Database, talk: Talk) -> None:
    await talk.say("t0")
    await count_all(db)
    assert await tallies.find_changed(db) == 0

    await db.execute("UPDATE thread SET head_checkpoint_id = 'h' WHERE thread_id = 't0'", {})

    assert await tallies.find_changed(db) == 1
    assert await tallies.find_changed(db) == 0
    async with db.transaction() as tx:
        assert await tallies.uncounted(tx, limit=10) == ["t0"]
    await count_all(db)
    assert await tallies.find_changed(db) == 0


async def test_a_thread_that_somebody_deletes_is_passed_by_and_not_forgotten(
    db: Database, talk: Talk
) -> None:
    async with db.transaction() as tx:
        await tx.tuples("SELECT FROM thread WHERE thread_id = 't0' FOR UPDATE", {})
        assert await tallies.count_settled(db, settle_seconds=0) is False

    async with db.transaction() as tx:
        assert await tallies.uncounted(tx, limit=10) == ["t0"]
    await count_all(db)
    async with db.transaction() as tx:
        assert await tallies.uncounted(tx, limit=10) == []


async def test_a_second_process_leaves_counting_to_the_first(db: Database, talk: Talk) -> None:
    async with db.transaction() as tx:
        await tx.tuples("SELECT FROM tally_progress FOR UPDATE", {})

        assert await tallies.count_settled(db, settle_seconds=0) is False

    assert not await db.tuples("SELECT FROM tally_thread", {})


_NAMES: LiteralString = "SELECT DISTINCT model FROM tally WHERE thread_id = %(thread_id)s"


def noise(length: int) -> str:
    """What PostgreSQL cannot make shorter."""
    rng = random.Random(5)
    return "".join(chr(rng.randrange(33, 0x2000)) for _ in range(length))


async def test_a_model_may_be_called_as_somebody_likes(db: Database, talk: Talk) -> None:
    name = noise(4000)
    await talk.say("t0", model=name, roles=["user", "assistant"])
    await talk.say("t0", model=name[:256] + "!", roles=["assistant"])
    await talk.say("t1", model="m1", roles=["user", "assistant"])

    assert await is_right(db)

    await count_all(db)
    assert await db.tuples(_NAMES, {"thread_id": "t0"}) == [(name[:256],)]


async def test_a_thread_that_cannot_be_counted_is_read_and_holds_up_no_other(db: Database) -> None:
    # Its id and the model together are too long for the index of tallies.
    bad = "x" + "".join(
        random.Random(7).choices("0123456789abcdefghijklmnopqrstuvwxyzABCDEF", k=2200)
    )
    talk = Talk(db, threads=8)
    talk.thread_ids[3] = bad
    await talk.begin()
    for thread_id in talk.thread_ids:
        await talk.say(thread_id, model=noise(256), roles=["user", "assistant"])
    now = await answers(db)

    async def uncounted() -> list[str] | None:
        async with db.transaction() as tx:
            return await tallies.uncounted(tx, limit=10)

    await count_all(db)

    assert await uncounted() == [bad]
    assert await answers(db) == now
    # It is not looked at again, also if it changes, until it is time to.
    await talk.say(bad, model="m1", roles=["assistant"])
    assert await tallies.find_changed(db) == 0
    assert await tallies.count_settled(db, settle_seconds=0) is False
    await db.execute("UPDATE tally_thread SET retry_at = now()", {})
    await count_all(db)
    assert await uncounted() == [bad]
    await db.execute("UPDATE message SET meta_data = '{}'", {})
    await db.execute("UPDATE tally_thread SET retry_at = now() WHERE is_stale", {})
    await count_all(db)
    assert await uncounted() == []


async def test_of_runs_too_only_so_many_are_counted_at_once(
    db: Database, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tallies, "_ROWS", 5)
    for thread_id in talk.thread_ids[:3] * 4:
        await talk.say(thread_id, roles=[])
    await db.execute("DELETE FROM thread WHERE thread_id > 't2'", {})

    for counted in (1, 2, 3):
        assert await tallies.count_settled(db, settle_seconds=0) is (counted < 3)
        [(threads,)] = await db.tuples("SELECT count(*) FROM tally_thread", {})
        assert threads == counted


async def test_a_run_is_of_the_model_of_its_own_thread(db: Database, talk: Talk) -> None:
    run_id = await talk.say("t0", model="m1", roles=["assistant"])
    # As a copy has it, whose next answer is of another model.
    await talk.say("t1", model="m2", roles=["user", "assistant"])
    await db.execute(
        "UPDATE message SET run_id = %(run_id)s::uuid, seq = seq + 5 WHERE conversation_id = 't1'",
        {"run_id": run_id},
    )
    await db.execute("UPDATE thread SET message_count = 9 WHERE thread_id = 't1'", {})

    assert await is_right(db)

    await count_all(db)
    assert await db.tuples(_NAMES, {"thread_id": "t0"}) == [("m1",)]


async def test_an_assistant_that_is_deleted_while_its_runs_are_counted_is_counted_again(
    db: Database, talk: Talk
) -> None:
    await talk.say("t0", model="m1", roles=["user", "assistant"])
    await db.execute(
        "INSERT INTO assistant (assistant_id, graph_id, name) VALUES (%(id)s, 'g', 'n')",
        {"id": ASSISTANT},
    )
    async with db.transaction() as tx:
        await tallies._count(tx, ["t0"])
        deleting = asyncio.create_task(assistants.delete(db, ASSISTANT, access=EVERYTHING))

        async def is_there() -> bool:
            waiting = (
                "SELECT FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return deleting.done() or bool(await db.tuples(waiting, {}))

        await until(is_there)
    await deleting

    assert await is_right(db)
    assert not await db.tuples("SELECT FROM run", {})
