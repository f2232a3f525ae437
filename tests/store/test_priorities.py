"""Which run is claimed first where langgraph.json has `priority`: urgency, groups, and no starving."""

from collections.abc import Sequence
from typing import Any

from store import new_runs, priorities, queue
from store.database import Database
from store.priorities import Urgency
from store.queue import AGING_SECONDS, SQL, Claim
from tests.store.queues import a_thread, a_worker, end, new_run, put, together


async def waiting(db: Database, priority: int = 0, group: str = "default", **more: Any) -> str:
    """A run on a thread of its own that was decided on."""
    run = await put(db, await a_thread(db), priority=Urgency(priority, group), **more)
    return run.run_id


async def claim(
    db: Database, worker_id: str, slots: int = 1, served: Sequence[str] = ()
) -> list[Claim]:
    return await queue.claim(db, worker_id=worker_id, slots=slots, served=served)


async def claimed(db: Database, worker_id: str, slots: int = 1) -> list[str]:
    return [each.run.run_id for each in await claim(db, worker_id, slots)]


async def test_the_most_urgent_run_is_claimed_first_and_of_equals_the_oldest(db: Database) -> None:
    worker_id = await a_worker(db)
    least, plain, first, later = [await waiting(db, n) for n in (5, 0, -5, 0)]
    await waiting(db, -5, after_seconds=60)

    found = await claimed(db, worker_id, 10)

    assert found == [first, plain, later, least]


async def test_a_flood_of_one_group_does_not_keep_another_waiting(db: Database) -> None:
    worker_id = await a_worker(db)
    for _ in range(50):
        await waiting(db, group="flood")
    small = [await waiting(db, group="small") for _ in range(3)]

    places = {run_id: place for place, run_id in enumerate(await claimed(db, worker_id, 8))}

    assert [places.get(run_id) for run_id in small] == [1, 3, 5]


async def test_the_runs_of_a_group_that_are_under_way_count(db: Database) -> None:
    worker_id = await a_worker(db)
    flood = [await waiting(db, group="flood") for _ in range(6)]
    first = await claim(db, worker_id, 3)
    small = [await waiting(db, group="small") for _ in range(3)]

    assert await claimed(db, worker_id, 3) == small
    assert await end(db, first[0])
    assert await claimed(db, worker_id, 1) == flood[3:4]


async def test_groups_with_as_many_running_take_turns(db: Database) -> None:
    worker_id = await a_worker(db)
    for _ in range(3):
        await waiting(db, group="flood")
    small = await waiting(db, group="small")
    [first] = await claim(db, worker_id)
    assert first.fairness_group == "flood"
    assert await end(db, first)

    [second] = await claim(db, worker_id, served=["other", "flood"])

    assert second.run.run_id == small


async def test_urgency_comes_before_fairness(db: Database) -> None:
    worker_id = await a_worker(db)
    urgent = [await waiting(db, -1, "flood") for _ in range(3)]
    await waiting(db, 0, "small")

    assert await claimed(db, worker_id, 3) == urgent


async def test_who_waits_for_long_enough_overtakes_a_stream_of_urgent_runs(db: Database) -> None:
    worker_id = await a_worker(db)
    patient = await waiting(db, 5)
    await db.execute(
        "UPDATE run SET not_before = not_before - make_interval(secs => %(seconds)s)",
        {"seconds": 9 * AGING_SECONDS},
    )
    urgent = await waiting(db, -5)
    assert await claimed(db, worker_id) == [urgent]
    await db.execute(
        "UPDATE run SET not_before = not_before - make_interval(secs => %(seconds)s)"
        " WHERE status = 'pending'",
        {"seconds": AGING_SECONDS},
    )
    await waiting(db, -5)

    assert await claimed(db, worker_id) == [patient]


async def test_the_runs_of_a_thread_keep_their_order(db: Database) -> None:
    worker_id, thread_id = await a_worker(db), await a_thread(db)
    first = await put(db, thread_id, priority=Urgency(5))
    await put(db, thread_id, priority=Urgency(-5))

    assert await claimed(db, worker_id, 5) == [first.run_id]


async def test_what_was_decided_first_counts_for_all_runs_of_a_thread(db: Database) -> None:
    thread_id = await a_thread(db)
    await put(db, thread_id, priority=Urgency(2, "a"))
    await put(db, thread_id, priority=Urgency(-2, "b"))
    await priorities.keep(db, thread_id, Urgency(-4, "c"))

    assert await priorities.find(db, thread_id) == Urgency(2, "a")
    rows = await db.tuples("SELECT priority, fairness_group FROM run", {})
    assert rows == [(2, "a"), (2, "a")]


async def test_a_batch_has_the_priorities_of_each(db: Database) -> None:
    worker_id = await a_worker(db)
    asked = [
        new_run(f"batch-{number}", priority=Urgency(priority))
        for number, priority in enumerate((3, -3))
    ]

    queued = await new_runs.enqueue_new(db, asked, life=None)

    assert await claimed(db, worker_id, 5) == [queued[1].run_id, queued[0].run_id]


async def test_a_run_that_came_without_a_priority_is_adopted_with_its_threads(db: Database) -> None:
    worker_id, thread_id = await a_worker(db), await a_thread(db)
    await priorities.keep(db, thread_id, Urgency(-1, "a"))
    plain = [await put(db, await a_thread(db)), await put(db, thread_id)]
    delayed = await put(db, await a_thread(db), after_seconds=60)
    assert await claimed(db, worker_id, 5) == []

    assert await priorities.adopt(db) == 2

    assert await claimed(db, worker_id, 5) == [plain[1].run_id, plain[0].run_id]
    assert delayed.status == "pending"


async def test_two_claimers_never_get_the_same_run_and_leave_none(db: Database) -> None:
    workers = [await a_worker(db) for _ in range(4)]
    ids = {await waiting(db, number % 3, f"g{number % 5}") for number in range(40)}
    found: list[str] = []
    for _ in range(20):
        rounds = await together(*(claimed(db, worker_id, 3) for worker_id in workers))
        found += [run_id for got in rounds for run_id in got]

    assert len(found) == len(set(found))
    assert set(found) == ids


async def test_a_claim_leaps_over_what_waits_behind_others(db: Database) -> None:
    worker_id = await a_worker(db)
    await db.execute(
        "INSERT INTO thread (thread_id) SELECT 't' || n FROM generate_series(1, 20000) AS n", {}
    )
    await db.execute(
        "INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata,"
        " kwargs, priority, fairness_group)"
        " SELECT gen_random_uuid(), 't' || n, gen_random_uuid(), 'pending', 'enqueue', '{}', '{}',"
        " n %% 3, 'g' || n %% 20 FROM generate_series(1, 20000) AS n",
        {"x": 1},
    )
    await db.execute("ANALYZE run, thread", {})
    query = SQL["claim_by_priority"]
    params = {
        "worker_id": worker_id, "slots": 8, "aging_seconds": AGING_SECONDS, "served": [],
        "most_running": 100,
    }  # fmt: skip
    plan = await db.tuples(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", params)

    assert _most_rows(plan[0][0][0]["Plan"]) < 5_000


def _most_rows(node: Any) -> float:
    own = node["Actual Rows"] * node["Actual Loops"]
    return max([own, *(_most_rows(inner) for inner in node.get("Plans", []))], default=0)


async def test_what_is_one_runs_own_is_written_with_it_and_not_after_it(db: Database) -> None:
    worker_id = await a_worker(db)
    own = Urgency(0, "ada", is_of_run=True)
    begun, queued = await a_thread(db), await a_thread(db)

    assert await new_runs.start(db, new_run(begun, priority=own), worker_id=worker_id)
    await new_runs.enqueue(db, new_run(queued, priority=own))

    rows = await db.tuples(
        "SELECT thread_id, priority, fairness_group, ctid::text FROM run ORDER BY seq", {}
    )
    # A row that is changed leaves its first place.
    assert rows == [(begun, 0, "ada", "(0,1)"), (queued, 0, "ada", "(0,2)")]
    threads = await db.tuples("SELECT count(*) FROM thread WHERE fairness_group = 'ada'", {})
    assert threads == [(0,)]
