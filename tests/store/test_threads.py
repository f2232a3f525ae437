"""Threads: made, found, listed, changed, leased and deleted."""

import uuid
from typing import Any

import pytest

from store import endings, retention, runs, threads
from store.access import EVERYTHING, Access
from store.database import Database
from store.errors import AlreadyExistsError, NotFoundError, ThreadBusyError
from store.ordering import Order
from store.retention import Life
from store.threads import WINDOW_ROWS
from tests.store.queues import (
    a_thread,
    a_worker,
    begin,
    checkpoint,
    claim_all,
    end,
    in_flight,
    put,
    status,
    thread,
    together,
)


async def test_a_thread_is_made_once(db: Database) -> None:
    made = await threads.create(db, "t", metadata={"a": 1}, config={"b": 2}, access=EVERYTHING)

    assert (made.status, made.metadata, made.config) == ("idle", {"a": 1}, {"b": 2})
    with pytest.raises(AlreadyExistsError):
        await threads.create(db, "t", access=EVERYTHING)
    assert await threads.create(db, "t", if_exists="do_nothing", access=EVERYTHING) == made


async def test_of_many_makers_one_makes_and_all_find(db: Database) -> None:
    found = await together(
        *(
            threads.create(db, "t", metadata={"n": n}, if_exists="do_nothing", access=EVERYTHING)
            for n in range(8)
        )
    )

    assert len({each.created_at for each in found}) == 1


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_hold_every_thread_once_wherever_it_is_in_the_list(
    db: Database, order: Order
) -> None:
    """What is rare is found behind all that a search looks at first."""
    await db.execute(
        "INSERT INTO thread (thread_id, metadata, updated_at)"
        " SELECT lpad(i::text, 5, '0'), jsonb_build_object('rare', mod(i, 800) = 0),"
        "     date_trunc('hour', now()) + make_interval(hours => i / 900)"
        " FROM generate_series(1, %(rows)s) AS i",
        {"rows": 4 * WINDOW_ROWS},
    )
    seen: list[str] = []

    while page := await threads.search(
        db, metadata={"rare": True}, limit=2, offset=len(seen), order=order, access=EVERYTHING
    ):
        seen += [each.thread_id for each in page]

    expected = ["00800", "01600", "02400", "03200", "04000"]
    assert seen == (expected if order == "asc" else expected[::-1])


async def test_what_is_missing_is_not_found(db: Database) -> None:
    with pytest.raises(NotFoundError):
        await threads.get(db, "none", access=EVERYTHING)
    with pytest.raises(NotFoundError):
        await threads.update(db, "none", metadata={}, access=EVERYTHING)
    with pytest.raises(NotFoundError):
        await threads.delete(db, "none", access=EVERYTHING)
    with pytest.raises(NotFoundError):
        await threads.lease(db, "none", access=EVERYTHING)


async def test_threads_are_found_by_what_they_have(db: Database) -> None:
    for n in range(4):
        await threads.create(db, f"t{n}", metadata={"n": n, "even": n % 2 == 0}, access=EVERYTHING)
    await put(db, "t2")

    async def names(**query: Any) -> list[str]:
        options: dict[str, Any] = {"metadata": {}, "sort_by": "thread_id", **query}
        found = await threads.search(db, **options, access=EVERYTHING)
        return [each.thread_id for each in found]

    assert await names(metadata={"even": True}) == ["t2", "t0"]
    assert await names(status="busy") == ["t2"]
    assert await names(ids=["t1", "t3", "t9"], order="asc") == ["t1", "t3"]
    assert await names(order="asc", limit=2, offset=1) == ["t1", "t2"]
    assert await threads.count(db, metadata={"even": True}, status="idle", access=EVERYTHING) == 1


async def test_metadata_is_merged_key_by_key(db: Database) -> None:
    await threads.create(db, "t", metadata={"a": 1, "b": 1}, access=EVERYTHING)

    changed = await threads.update(db, "t", metadata={"b": 2}, access=EVERYTHING)

    assert changed.metadata == {"a": 1, "b": 2}


async def test_a_thread_goes_with_all_that_it_has(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    await checkpoint(db, claimed)
    queued = await put(db, thread_id)

    await threads.delete(db, thread_id, access=EVERYTHING)

    assert await runs.ended(db, [claimed.run.run_id, queued.run_id]) == [
        claimed.run.run_id,
        queued.run_id,
    ]
    for table in ("run", "checkpoints", "checkpoint_blobs", "checkpoint_writes", "message"):
        assert await db.tuples(f"SELECT 1 FROM {table}", {}) == []


async def test_a_thread_is_deleted_or_claimed_and_nothing_is_left_over(db: Database) -> None:
    worker_id = await a_worker(db)
    for _ in range(8):
        thread_id = await a_thread(db)
        await put(db, thread_id)

        await together(threads.delete(db, thread_id, access=EVERYTHING), claim_all(db, worker_id))

        assert await db.tuples("SELECT 1 FROM run", {}) == []


async def test_an_idle_thread_is_leased_until_a_run_takes_it(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    lease = await threads.lease(db, thread_id, access=EVERYTHING)
    await threads.settle(db, lease, status="interrupted", interrupts={"a": []})
    found = await thread(db, thread_id)
    assert (found.status, found.interrupts) == ("interrupted", {"a": []})

    claimed = await begin(db, thread_id, worker_id)

    assert claimed.lease.epoch == lease.epoch + 1
    with pytest.raises(ThreadBusyError):
        await threads.lease(db, thread_id, access=EVERYTHING)
    await end(db, claimed)
    before = await thread(db, thread_id)
    # Whoever took the thread has settled it.
    await threads.settle(db, lease, status="interrupted", interrupts={})
    assert await thread(db, thread_id) == before


async def test_a_run_that_is_queued_beside_a_change_of_state_keeps_what_that_one_left(
    db: Database,
) -> None:
    thread_id = await a_thread(db)
    lease = await threads.lease(db, thread_id, access=EVERYTHING)
    await put(db, thread_id)

    await threads.settle(db, lease, status="interrupted", interrupts={})

    assert (await thread(db, thread_id)).status == "busy"
    await endings.cancel(db, thread_id, None, action="interrupt", access=EVERYTHING)
    assert (await thread(db, thread_id)).status == "interrupted"


async def test_a_lease_and_a_start_never_share_an_epoch(db: Database) -> None:
    worker_id = await a_worker(db)
    for _ in range(8):
        thread_id = await a_thread(db)

        leased, claimed = await together(_lease(db, thread_id), begin(db, thread_id, worker_id))

        assert leased is None or leased < claimed.lease.epoch


async def _lease(db: Database, thread_id: str) -> int | None:
    try:
        return (await threads.lease(db, thread_id, access=EVERYTHING)).epoch
    except ThreadBusyError:
        return None


async def test_a_cancelled_queue_leaves_the_status_that_a_change_of_state_set(
    db: Database,
) -> None:
    thread_id = await a_thread(db)
    lease = await threads.lease(db, thread_id, access=EVERYTHING)
    # Something is next, and nothing is asked.
    await threads.settle(db, lease, status="interrupted", interrupts={})
    await put(db, thread_id)

    await endings.cancel(db, thread_id, None, action="interrupt", access=EVERYTHING)

    assert (await thread(db, thread_id)).status == "interrupted"


async def test_runs_are_read_by_thread_status_and_page(db: Database) -> None:
    thread_id, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, thread_id, worker_id)
    queued = [await put(db, thread_id) for _ in range(3)]

    async def page(**query: Any) -> list[str]:
        options: dict[str, Any] = {"status": None, "limit": 10, "offset": 0, **query}
        found = await runs.list_of_thread(db, thread_id, **options, access=EVERYTHING)
        return [run.run_id for run in found]

    newest_first = [run.run_id for run in reversed(queued)]
    assert await page() == [*newest_first, claimed.run.run_id]
    assert await page(status="running") == [claimed.run.run_id]
    assert await page(limit=1, offset=1) == [queued[1].run_id]
    assert [row[0] for row in await in_flight(db, ["pending"], access=EVERYTHING)] == newest_first[
        ::-1
    ]
    with pytest.raises(NotFoundError):
        await runs.get(db, queued[0].run_id, thread_id="other", access=EVERYTHING)
    assert await runs.find(db, str(uuid.uuid4()), access=EVERYTHING) is None
    assert (
        await runs.setting(
            db,
            assistant_id=str(uuid.uuid4()),
            thread_id=thread_id,
            access=EVERYTHING,
            assistant_access=EVERYTHING,
        )
        is None
    )


async def test_a_copy_is_as_its_source_was(db: Database) -> None:
    source, worker_id, target = await a_thread(db), await a_worker(db), str(uuid.uuid4())
    await threads.update(db, source, metadata={"owner": "anna", "a": 1}, access=EVERYTHING)
    await retention.set_life(db, source, Life(ttl_minutes=5))
    claimed = await begin(db, source, worker_id, thread_config={"tags": ["a"]})
    await checkpoint(db, claimed, "1")
    await end(db, claimed, thread_status="interrupted", interrupts={"task": [{"id": "i"}]})

    await threads.copy(db, source, target, metadata={"a": 2}, access=EVERYTHING)

    copied, original = await thread(db, target), await thread(db, source)
    assert (copied.status, copied.interrupts, copied.config) == (
        "interrupted", original.interrupts, {"tags": ["a"]},
    )  # fmt: skip
    assert copied.metadata == {**original.metadata, "a": 2}
    life = await retention.lifetime(db, target)
    assert life is not None
    assert life.ttl_minutes == 5
    lease = await threads.lease(db, target, access=EVERYTHING)
    assert lease.epoch > claimed.lease.epoch
    assert (lease.head_checkpoint_id, lease.head_is_newest) == ("1", True)
    assert await runs.list_of_thread(
        db, target, status=None, limit=9, offset=0, access=EVERYTHING
    ) == []  # fmt: skip


async def test_a_copy_of_a_deleted_session_is_there(db: Database) -> None:
    source = await a_thread(db)
    for was, kept in (("archived", {"status": "archived"}), ("deleted", {})):
        target, changes = str(uuid.uuid4()), {"status": was}
        await threads.update(db, source, metadata=changes, access=EVERYTHING, keep_seconds=60)

        await threads.copy(db, source, target, metadata={}, access=EVERYTHING)

        assert (await thread(db, target)).metadata == kept


async def test_a_copy_of_a_running_thread_is_one_that_was_stopped(db: Database) -> None:
    source, worker_id = await a_thread(db), await a_worker(db)
    claimed = await begin(db, source, worker_id)
    ids = [str(uuid.uuid4()) for _ in range(2)]

    await threads.copy(db, source, ids[0], metadata={}, access=EVERYTHING)
    await checkpoint(db, claimed, "1")
    await threads.copy(db, source, ids[1], metadata={}, access=EVERYTHING)

    assert [(await thread(db, each)).status for each in ids] == ["idle", "interrupted"]
    assert await status(db, claimed.run.run_id) == "running"


async def test_a_thread_that_a_stranger_copies_or_measures_is_not_there(db: Database) -> None:
    source, stranger = await a_thread(db), Access(({"owner": "bert"},))

    with pytest.raises(NotFoundError):
        await threads.copy(db, source, "t", metadata={"owner": "bert"}, access=stranger)
    with pytest.raises(NotFoundError):
        await threads.storage(db, source, access=stranger)
    with pytest.raises(AlreadyExistsError):
        await threads.copy(db, source, source, metadata={}, access=EVERYTHING)
    assert await threads.find(db, "t", access=EVERYTHING) is None
