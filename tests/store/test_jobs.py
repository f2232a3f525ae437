"""Durable jobs: there if their transaction is, done by one at a time, never lost."""

from contextlib import suppress

from store import jobs
from store.database import Database
from store.jobs import Job
from tests.store.queues import together

LONGEST = {"a": 600.0}


async def put(db: Database, kind: str = "a", **more: float) -> None:
    async with db.transaction() as tx:
        await jobs.enqueue(tx, kind, {"x": 1}, **more)


async def take(db: Database, slots: int = 9) -> list[Job]:
    return await jobs.claim(db, LONGEST, lease_seconds=60, slots=slots)


async def left(db: Database) -> int:
    return int((await db.tuples("SELECT count(*) FROM job", {}))[0][0])


async def test_a_job_is_there_if_its_transaction_has_committed(db: Database) -> None:
    with suppress(ZeroDivisionError):
        async with db.transaction() as tx:
            await jobs.enqueue(tx, "a", {})
            raise ZeroDivisionError
    assert await take(db) == []

    await put(db)

    [job] = await take(db)
    assert (job.kind, job.payload, job.attempt) == ("a", {"x": 1}, 1)


async def test_a_job_is_taken_by_one_of_many_at_once(db: Database) -> None:
    for _ in range(10):
        await put(db)

    taken = await together(*(take(db, slots=3) for _ in range(4)))

    ids = [job.job_id for some in taken for job in some]
    assert len(ids) == len(set(ids)) == 10


async def test_only_known_kinds_that_are_due_are_taken_the_oldest_first(db: Database) -> None:
    await put(db, "unknown")
    await put(db, delay_seconds=60)
    for _ in range(3):
        await put(db)

    taken = await take(db, slots=2)

    assert [job.job_id for job in taken] == [3, 4]


async def test_a_job_that_is_done_is_gone(db: Database) -> None:
    await put(db)
    [job] = await take(db)

    await jobs.done(db, job)

    assert await left(db) == 0


async def test_a_job_that_failed_comes_back_after_its_pause(db: Database) -> None:
    await put(db)
    [job] = await take(db)

    await jobs.again(db, job, delay_seconds=60)
    assert await take(db) == []
    await jobs.again(db, job, delay_seconds=0)

    [again] = await take(db)
    assert (again.job_id, again.attempt) == (job.job_id, 2)
    assert again.created_at == job.created_at


async def test_a_job_of_a_lost_process_comes_back_and_is_that_process_no_more(db: Database) -> None:
    await put(db)
    [lost] = await jobs.claim(db, {"a": 0.0}, lease_seconds=0, slots=1)
    [job] = await take(db)

    await jobs.done(db, lost)
    await jobs.again(db, lost, delay_seconds=0)
    await jobs.hand_back(db, lost)
    assert await jobs.renew(db, [lost, job], LONGEST, lease_seconds=60) == {job.job_id}
    assert await jobs.renew(db, [lost], LONGEST, lease_seconds=60) == set()

    assert await left(db) == 1
    assert await take(db) == []
    assert job.attempt == 2


async def test_a_job_that_is_handed_back_is_taken_at_once_and_counts_as_untried(
    db: Database,
) -> None:
    await put(db)
    [job] = await take(db)

    await jobs.hand_back(db, job)

    assert [again.attempt for again in await take(db)] == [1]


async def test_a_lease_is_twice_as_long_with_each_attempt_up_to_the_longest_of_its_kind(
    db: Database,
) -> None:
    """So that a job that kills its process does not kill one after the other."""
    await put(db)
    leases = []
    for _ in range(6):
        [job] = await take(db)
        leases.append(await ends_in(db))
        await db.execute("UPDATE job SET due_at = now()", {})
        assert await jobs.renew(db, [job], LONGEST, lease_seconds=60) == {job.job_id}
        leases.append(await ends_in(db))
        await db.execute("UPDATE job SET due_at = now()", {})
    assert leases == [60, 60, 120, 120, 240, 240, 480, 480, 600, 600, 600, 600]

    # As one gets that cannot be read.
    await db.execute("UPDATE job SET attempt = 5000", {})
    [job] = await take(db)
    assert await jobs.renew(db, [job], LONGEST, lease_seconds=60) == {job.job_id}


async def ends_in(db: Database) -> int:
    """When the lease ends, in seconds that began lately."""
    query = "SELECT round(extract(epoch FROM due_at - now()) / 60) * 60 FROM job"
    return int((await db.tuples(query, {}))[0][0])


async def test_leases_are_renewed_past_a_job_that_somebody_has_locked(db: Database) -> None:
    """Whoever locks several may wait for one of these."""
    for _ in range(2):
        await put(db)
    held = await take(db)
    async with db.transaction() as tx:
        await tx.execute("SELECT FROM job WHERE job_id = 1 FOR UPDATE", {})

        assert await jobs.renew(db, held, LONGEST, lease_seconds=60) == {2}
