"""What happened is told once, in one order, to who may see it, however transactions commit."""

import asyncio
import random
import uuid
from contextlib import suppress
from typing import Any

import pytest

from store import endings, new_runs, outbox, queue, rollback, threads
from store.access import EVERYTHING, Access
from store.database import Database
from store.outbox import Change
from tests.store.queues import a_thread, a_worker, begin, end, new_run, together


async def told(db: Database, *, after: int = 0, **more: Any) -> list[Change]:
    """What is published once all that has committed is."""
    while await outbox.publish(db):
        pass
    options: dict[str, Any] = {"access": EVERYTHING, **more}
    return (await outbox.read(db, after=after, **options)).changes


def names(changes: list[Change]) -> list[str]:
    return [change.name for change in changes]


async def test_a_change_is_told_if_its_transaction_has_committed(db: Database) -> None:
    thread_id = await a_thread(db)
    with suppress(ZeroDivisionError):
        async with db.transaction() as tx:
            await outbox.put(tx, "session.shared", thread_id)
            raise ZeroDivisionError
    assert names(await told(db)) == ["session.created"]

    async with db.transaction() as tx:
        await outbox.put(tx, "session.shared", thread_id, data={"role": "viewer"})

    [_, shared] = await told(db)
    assert (shared.name, shared.data) == (
        "session.shared",
        {"session_id": thread_id, "role": "viewer"},
    )


async def _write(db: Database, thread_id: str) -> None:
    chance = random.Random(thread_id)
    for number in range(15):
        async with db.transaction() as tx:
            await queue.lock(tx, thread_id)
            await outbox.put(tx, "session.updated", thread_id, data={"number": number})
            # Its number of the outbox is taken; it commits whenever.
            await asyncio.sleep(chance.choice((0, 0, 0.02)))


async def _publish(db: Database, done: asyncio.Event) -> None:
    while not done.is_set() or (await outbox.look(db)).is_waiting:
        await outbox.publish(db)


async def _read(db: Database, place: int, done: asyncio.Event, seen: list[Change]) -> None:
    """Read on until nothing comes any more."""
    while True:
        is_last = done.is_set() and not (await outbox.look(db)).is_waiting
        page = await outbox.read(db, after=place, limit=7, access=EVERYTHING)
        seen.extend(page.changes)
        place = page.through
        if is_last and place == page.head:
            return


async def test_changes_that_commit_out_of_order_reach_a_reader_once_and_in_the_order_of_their_thread(
    db: Database,
) -> None:
    thread_ids = [await a_thread(db) for _ in range(6)]
    await told(db)
    start = (await outbox.look(db)).head
    done = asyncio.Event()
    seen: list[Change] = []

    async def write_all() -> None:
        await together(*[_write(db, thread_id) for thread_id in thread_ids])
        done.set()

    await together(
        write_all(), _publish(db, done), _publish(db, done), _read(db, start, done, seen)
    )

    assert [change.seq for change in seen] == list(range(start + 1, start + 1 + 6 * 15))
    for thread_id in thread_ids:
        numbers = [c.data["number"] for c in seen if c.thread_id == thread_id]
        assert numbers == list(range(15))


async def test_a_run_is_told_as_it_starts_and_as_it_ends_whatever_ends_it(db: Database) -> None:
    worker_id = await a_worker(db)
    thread_id = await a_thread(db)
    await end(db, await begin(db, thread_id, worker_id))
    claimed = await begin(db, thread_id, worker_id)
    await new_runs.enqueue(db, new_run(thread_id))
    await endings.cancel(db, thread_id, None, action="interrupt", access=EVERYTHING)
    await end(db, claimed, status="interrupted")
    taken_back = await begin(db, thread_id, worker_id)
    await rollback.undo(db, taken_back.held)
    await rollback.discard(db, taken_back.held)

    found = (await told(db))[1:]

    assert [(c.name, c.data["status"]) for c in found] == [
        ("run.started", "running"),
        ("run.ended", "success"),
        ("run.started", "running"),
        ("run.ended", "interrupted"),
        ("run.ended", "interrupted"),
        ("run.started", "running"),
        ("run.ended", "interrupted"),
    ]
    assert found[-1].data["rolled_back"] is True
    assert found[0].data == {
        "session_id": thread_id, "run_id": found[1].data["run_id"], "attempt": 1,
        "status": "running",
    }  # fmt: skip


async def _say(db: Database, thread_id: str, text: str, run_id: str | None = None) -> None:
    """What the commit of a checkpoint leaves of a message."""
    await db.execute(
        """
        WITH t AS (
            UPDATE thread
            SET message_count = message_count + 1,
                head_checkpoint_id = lpad((message_count + 1)::text, 9, '0')
            WHERE thread_id = %(thread_id)s
            RETURNING message_count, head_checkpoint_id
        )
        INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq,
            position, run_id, checkpoint_id, last_checkpoint_id)
        SELECT %(text)s, %(thread_id)s, 'user', 'text', now(), now(), message_count - 1,
            message_count - 1, %(run_id)s::uuid, head_checkpoint_id, head_checkpoint_id
        FROM t
        """,
        {"thread_id": thread_id, "text": text, "run_id": run_id},
    )


async def _correct(db: Database, thread_id: str, text: str) -> None:
    await db.execute(
        """
        WITH t AS (
            UPDATE thread
            SET head_checkpoint_id = head_checkpoint_id || 'x'
            WHERE thread_id = %(thread_id)s
            RETURNING head_checkpoint_id
        )
        UPDATE message SET last_checkpoint_id = head_checkpoint_id
        FROM t
        WHERE conversation_id = %(thread_id)s AND id = %(text)s
        """,
        {"thread_id": thread_id, "text": text},
    )


async def _change_state(db: Database, thread_id: str) -> None:
    async with db.transaction() as tx:
        await queue.lock(tx, thread_id)
        await outbox.put(tx, "session.updated", thread_id, data={"changed": ["state"]})


def _order(changes: list[Change]) -> list[str]:
    """What is told, each message by its id."""
    return [c.data.get("message_id", c.name) for c in changes if c.name != "session.created"]


@pytest.mark.parametrize("batch", [500, 1])
async def test_a_publisher_that_lags_tells_no_message_before_its_run(
    db: Database, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(outbox, "BATCH", batch)
    worker_id, thread_id = await a_worker(db), await a_thread(db)
    await _say(db, thread_id, "by hand")
    await _change_state(db, thread_id)
    first = await begin(db, thread_id, worker_id)
    await _say(db, thread_id, "asked", first.run.run_id)
    await _correct(db, thread_id, "by hand")

    # The state has changed before, and the run goes on.
    early = await told(db)
    await _say(db, thread_id, "answered", first.run.run_id)
    await end(db, first)
    second = await begin(db, thread_id, worker_id)
    await _say(db, thread_id, "asked again", second.run.run_id)
    # One has ended, and the next goes on.
    amid = await told(db, after=early[-1].seq)
    await end(db, second)
    await _say(db, thread_id, "by hand again")
    await _change_state(db, thread_id)
    late = await told(db, after=amid[-1].seq)

    assert _order(early) == ["by hand", "session.updated", "run.started"]
    assert _order(amid) == ["by hand", "asked", "answered", "run.ended", "run.started"]
    assert amid[0].name == "message.updated"
    after_the_end = ["by hand again", "session.updated"]
    if batch == 1:
        assert _order(late) == ["asked again", "by hand again", "run.ended", "session.updated"]
    else:
        assert _order(late) == ["asked again", "run.ended", *after_the_end]
    assert await told(db, after=late[-1].seq) == []


async def test_an_end_that_waits_for_the_next_batch_has_its_messages(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BATCH", 1)
    worker_id, thread_id = await a_worker(db), await a_thread(db)
    await _say(db, thread_id, "by hand")
    await _change_state(db, thread_id)
    for name in ("one", "two"):
        claimed = await begin(db, thread_id, worker_id)
        await _say(db, thread_id, name, claimed.run.run_id)
        await end(db, claimed)

    assert _order(await told(db)) == [
        "by hand", "session.updated", "run.started", "one", "run.ended", "run.started", "two",
        "run.ended",
    ]  # fmt: skip


@pytest.mark.parametrize(("each", "are_told"), [(2, True), (201, False)])
async def test_no_message_of_a_backlog_is_left_untold(
    db: Database, each: int, are_told: bool
) -> None:
    worker_id, thread_id, turns = await a_worker(db), await a_thread(db), 240 // each + 1
    for turn in range(turns):
        claimed = await begin(db, thread_id, worker_id)
        params = {
            "thread_id": thread_id, "run_id": claimed.run.run_id, "each": each, "turn": turn,
        }  # fmt: skip
        await db.execute(
            """
            INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq,
                position, run_id, checkpoint_id, last_checkpoint_id)
            SELECT n::text, %(thread_id)s, 'user', 'text', now(), now(), n, n, %(run_id)s::uuid,
                %(turn)s::text, %(turn)s::text
            FROM generate_series(%(turn)s * %(each)s, (%(turn)s + 1) * %(each)s - 1) AS n
            """,
            params,
        )
        await db.execute(
            "UPDATE thread SET message_count = %(each)s * (%(turn)s + 1)"
            " WHERE thread_id = %(thread_id)s",
            params,
        )
        await end(db, claimed)

    found = await told(db, limit=2000)

    ids = [c.data["message_id"] for c in found if c.name == "message.created"]
    assert ids == ([str(n) for n in range(turns * each)] if are_told else [])
    summed_up = [c.data["changed"] for c in found if c.name == "session.updated"]
    assert summed_up == ([] if are_told else [["messages"]])


async def test_a_change_of_a_session_is_named_by_what_it_does(db: Database) -> None:
    thread_id = await a_thread(db)

    async def set_to(**metadata: Any) -> None:
        await threads.update(db, thread_id, metadata=metadata, access=EVERYTHING)

    await set_to(name="a", pinned=True)
    await set_to(name="a")
    await set_to(status="deleted")
    await set_to(status="active")

    found = (await told(db))[1:]

    assert names(found) == ["session.updated", "session.deleted", "session.restored"]
    assert found[0].data["changed"] == ["name", "pinned"]
    assert found[0].data["name"] == "a"


async def test_a_thread_that_goes_takes_with_it_what_was_told_of_it(db: Database) -> None:
    ada = Access(({"owner": "ada"},))
    thread_id = str(uuid.uuid4())
    metadata = {"owner": "ada", "name": "of the heart"}
    await threads.create(db, thread_id, metadata=metadata, access=EVERYTHING)
    await threads.update(db, thread_id, metadata={"name": "broken"}, access=EVERYTHING)
    assert len(await told(db, access=ada)) == 2
    # Not published yet when the thread goes.
    await threads.update(db, thread_id, metadata={"name": "mended"}, access=EVERYTHING)

    await threads.delete(db, thread_id, access=EVERYTHING)

    assert await db.tuples("SELECT seq FROM change", {}) == []
    [gone] = await told(db, access=ada)
    assert (gone.name, gone.data) == ("session.purged", {"session_id": thread_id})
    assert await told(db, access=Access(({"owner": "eve"},))) == []
    rows = await db.tuples("SELECT to_jsonb(change) FROM change", {})
    assert "mended" not in str(rows)


async def test_who_may_see_something_is_decided_when_it_is_read(db: Database) -> None:
    thread_id = str(uuid.uuid4())
    await threads.create(db, thread_id, metadata={"owner": "ada"}, access=EVERYTHING)
    eve = Access(({"owner": "eve"}, {"members": {"eve": "viewer"}}))
    assert await told(db, access=eve) == []
    await threads.update(db, thread_id, metadata={"members": {"eve": "viewer"}}, access=EVERYTHING)
    assert names(await told(db, access=eve)) == ["session.created", "session.updated"]

    waiting = [Access(({"owner": "x"},)), eve, EVERYTHING]
    assert await outbox.concerned(db, waiting, after=1, through=2) == {1, 2}


@pytest.mark.parametrize(("count", "hours"), [(3, 1.0), (100, 0.0)])
async def test_what_is_too_old_or_too_much_is_not_kept_and_known_to_be_gone(
    db: Database, count: int, hours: float
) -> None:
    for _ in range(5):
        await a_thread(db)
    await told(db)

    await outbox.trim(db, keep_count=count, keep_seconds=3600 * hours)

    page = await outbox.read(db, after=0, access=EVERYTHING)
    gone = 2 if hours else 5
    assert (page.trimmed_through, page.head) == (gone, 5)
    assert [change.seq for change in page.changes] == list(range(gone + 1, 6))
