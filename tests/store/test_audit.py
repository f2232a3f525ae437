"""The audit log: only added to, read by who may, and at an end of its time."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from api.console import commands
from api.settings import Settings
from store import audit, threads
from store.access import EVERYTHING
from store.audit import Entry, Filter
from store.database import Database, open_database

ALL = Filter()


async def entries(db: Database, which: Filter = ALL, *, seen_by: str | None = None) -> list[Entry]:
    found, _ = await audit.page(db, which, limit=100, seen_by=seen_by)
    return found


async def test_an_act_is_recorded_with_its_transaction_or_not_at_all(db: Database) -> None:
    async with db.transaction() as tx:
        await audit.record(
            tx, "key.created", actor="ada", owner="bob", subject="key:1", details={"scopes": 2}
        )

    async def fail() -> None:
        async with db.transaction() as tx:
            await audit.record(tx, "key.revoked", actor="ada", owner="bob", subject="key:1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    [entry] = await entries(db)

    assert (entry.act, entry.actor, entry.owner) == ("key.created", "ada", "bob")
    assert (entry.subject, entry.details) == ("key:1", {"scopes": 2})
    assert datetime.now(UTC) - entry.recorded_at < timedelta(minutes=1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'eve'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "SET session_replication_role = replica; DELETE FROM audit",
        "SET threadwell.trims_audit = 'on'; DELETE FROM audit",
        "SET threadwell.trims_audit = 'on'; UPDATE audit SET recorded_at = 'epoch'",
        "SET threadwell.trims_audit = 'on'; TRUNCATE audit",
    ],
)
async def test_what_is_recorded_stays_whatever_is_asked_of_the_table(
    db: Database, database_url: str, statement: LiteralString
) -> None:
    await audit.record(db, "login.refused", actor="", owner="", subject="address:192.0.2.1")

    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"),
    ):
        connection.execute(statement)

    assert [entry.act for entry in await entries(db)] == ["login.refused"]


async def test_whoever_is_no_auditor_sees_what_they_did_and_what_was_done_to_what_is_theirs(
    db: Database,
) -> None:
    for actor, owner in (("ada", "ada"), ("ada", "bob"), ("bob", "ada"), ("bob", "bob"), ("", "")):
        await audit.record(
            db, "share.created", actor=actor, owner=owner, subject=f"session:{actor}-{owner}"
        )
    await audit.record(db, "audit.trimmed", actor=None, owner="", subject="audit")

    seen = await entries(db, seen_by="ada")

    assert [entry.subject for entry in seen] == [
        "session:bob-ada", "session:ada-bob", "session:ada-ada"
    ]  # fmt: skip
    assert await entries(db, Filter(actor="bob", owner="bob"), seen_by="ada") == []
    assert len(await entries(db)) == 6
    assert [entry.actor for entry in await entries(db, Filter(act="audit.trimmed"))] == [None]


async def test_a_session_s_act_is_its_owner_s_and_outlives_the_session(db: Database) -> None:
    owners = {"a": {"owner": "ada", "user_id": "u"}, "b": {"user_id": "bob"}, "c": {}}
    for thread_id, metadata in owners.items():
        await threads.create(db, thread_id, metadata=dict(metadata), access=EVERYTHING)
        async with db.transaction() as tx:
            await audit.record_of_thread(tx, "session.purged", thread_id, actor=None)
        await threads.delete(db, thread_id, access=EVERYTHING)

    found = await entries(db)

    assert [(e.subject, e.owner) for e in found] == [
        ("session:c", ""), ("session:b", "bob"), ("session:a", "ada")
    ]  # fmt: skip


async def test_pages_follow_one_another_and_filters_hold(db: Database) -> None:
    for number in range(5):
        await audit.record(
            db, "member.added", actor="ada", owner="ada", subject=f"session:{number}"
        )
    first, more = await audit.page(db, ALL, limit=3, seen_by=None)
    rest, no_more = await audit.page(db, ALL, before=first[-1].audit_id, limit=3, seen_by=None)
    middle = first[-1]

    assert [entry.subject[-1] for entry in first + rest] == ["4", "3", "2", "1", "0"]
    assert (more, no_more) == (True, False)
    assert [e.subject for e in await entries(db, Filter(subject="session:2"))] == ["session:2"]
    since = await entries(db, Filter(since=middle.recorded_at))
    until = await entries(db, Filter(until=middle.recorded_at))
    assert (len(since), len(until)) == (3, 2)


def test_the_command_prints_entries_a_line_each_the_newest_first(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill() -> None:
        async with open_database(database_url) as db:
            for number in range(3):
                await audit.record(
                    db, "key.created", actor=None, owner="ada", subject=f"key:{number}"
                )
            await audit.record(db, "key.revoked", actor="ada", owner="ada", subject="key:0")

    asyncio.run(fill())
    nothing = dict.fromkeys(("actor", "owner", "subject", "since", "until"))
    parts = conninfo_to_dict(database_url)
    url = f"postgresql://{parts['user']}@/{parts['dbname']}?host={parts['host']}"
    settings = Settings(database_url=url)
    commands.audit(settings, limit=2, act="key.created", **nothing)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["subject"], line["actor"]) for line in lines] == [
        ("key:2", None), ("key:1", None)
    ]  # fmt: skip


async def test_texts_and_details_are_bounded_and_record_never_fails_for_them(db: Database) -> None:
    await audit.record(
        db,
        "login.refused",
        actor="a\x00b" * 1000,
        owner="o" * 1000,
        subject="s" * 1000,
        details={"much": "x" * 100_000},
    )
    [entry] = await entries(db)

    assert entry.actor is not None
    assert {len(entry.actor), len(entry.owner), len(entry.subject)} == {audit.TEXT_MAX}
    assert entry.details == {"left_out": True}


async def test_the_oldest_go_when_their_time_has_come_and_it_is_told(
    db: Database, database_url: str
) -> None:
    for days in (400, 366, 40, 1):
        async with db.connection() as connection:
            await connection.execute(
                "INSERT INTO audit (recorded_at, act, owner, subject)"
                " VALUES (now() - make_interval(days => %s), 'key.created', '', %s)",
                (days, f"key:{days}"),
            )

    gone = await asyncio.gather(
        *[audit.trim(db, keep_seconds=365 * 86400, limit=10) for _ in range(3)]
    )
    left = await entries(db)

    assert sum(gone) == 2
    assert [entry.subject for entry in left] == ["audit", "key:1", "key:40"]
    assert left[0].details == {"entries": 2}
    # However little is to be kept, nothing young goes.
    assert await audit.trim(db, keep_seconds=0, limit=10) == 1
    assert "key:1" in [entry.subject for entry in await entries(db)]
