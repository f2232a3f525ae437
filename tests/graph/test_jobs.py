"""How a process does jobs: with a bound on everything, and never in silence."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest
import structlog

from graph.jobs import JobFailedError, Jobs, Kind
from graph.webhook_config import WebhookConfig
from graph.webhooks import open_webhooks
from store import jobs, webhooks
from store.database import Database, open_database
from store.errors import UnavailableError
from store.jobs import Job
from tests.graph.engines import DEADLINE_SECONDS, until

Work = Callable[[Job], Awaitable[None]]
LEASES = {"lease_seconds": 60.0, "renew_seconds": 20.0}


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not taken up at first is not taken up."""
    monkeypatch.setattr("graph.jobs.POLL_SECONDS", 3600.0)


@asynccontextmanager
async def working(db: Database, work: Work, **more: Any) -> AsyncIterator[Jobs]:
    options = {"timeout_seconds": 60.0, "pauses_seconds": (0.01, 0.01), **more}
    leases = {name: options.pop(name, seconds) for name, seconds in LEASES.items()}
    process = Jobs(db=db, kinds={"a": Kind(work=work, **options)}, **leases)
    tasks = [
        asyncio.create_task(side_task())
        for side_task in (process.work_forever, process.renew_forever)
    ]
    try:
        yield process
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def put(db: Database, payload: dict[str, Any] | None = None) -> None:
    async with db.transaction() as tx:
        await jobs.enqueue(tx, "a", payload or {})


def idle(process: Jobs) -> Callable[[], Awaitable[bool]]:
    async def is_idle() -> bool:
        return process.active_count == 0

    return is_idle


async def all_done(db: Database) -> None:
    async def gone() -> bool:
        return await db.tuples("SELECT FROM job", {}) == []

    await until(gone)


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (JobFailedError("no"), 3),
        (ValueError("odd"), 3),
        (JobFailedError("never", for_good=True), 1),
    ],
)
async def test_a_job_that_fails_is_tried_a_bounded_number_of_times(
    db: Database, failure: Exception, tries: int
) -> None:
    tried: list[int] = []

    async def fail(job: Job) -> None:
        tried.append(job.attempt)
        raise failure

    await put(db)
    with structlog.testing.capture_logs() as logs:
        async with working(db, fail):
            await all_done(db)

    assert tried == list(range(1, tries + 1))
    assert [line["event"] for line in logs if line["log_level"] == "error"][-1] == "job given up"


async def test_a_job_that_takes_too_long_is_cut_off_and_tried_again(db: Database) -> None:
    tried: list[int] = []

    async def hang(job: Job) -> None:
        tried.append(job.attempt)
        if job.attempt == 1:
            await asyncio.Event().wait()

    await put(db)
    async with working(db, hang, timeout_seconds=0.05):
        await all_done(db)

    assert tried == [1, 2]


async def test_a_process_does_no_more_jobs_at_once_than_it_has_slots(db: Database) -> None:
    busy, most, opened = 0, 0, asyncio.Event()

    async def count(job: Job) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        if busy == 16:
            opened.set()
        await opened.wait()
        await asyncio.sleep(0)
        busy -= 1

    for _ in range(40):
        await put(db)
    async with working(db, count):
        await all_done(db)

    assert most == 16


async def test_a_receiver_that_never_answers_keeps_nobody_elses_job_waiting(
    db: Database, no_polls: None
) -> None:
    """Whatever waits for it: its user has no more slots than a few, and its kind not all."""
    hanging, others, came = Counter[str](), set[str](), asyncio.Event()

    async def send(job: Job) -> None:
        if job.payload["webhook_owner"] == "eve":
            hanging[job.payload["webhook_id"]] += 1
            await asyncio.Event().wait()
        await told(job)

    async def told(job: Job) -> None:
        others.add(job.payload.get("webhook_owner") or job.kind)
        if len(others) == 3:
            came.set()

    async def due(kind: str, payload: dict[str, Any]) -> None:
        async with db.transaction() as tx:
            await jobs.enqueue(tx, kind, payload)

    for number in range(40):
        await due("send", {"webhook_id": f"w{number % 4}", "webhook_owner": "eve"})
    for owner in ("ada", "bob"):
        await due("send", {"webhook_id": owner, "webhook_owner": owner})
    await due("a", {})
    options: dict[str, Any] = {"timeout_seconds": 60.0, "pauses_seconds": ()}
    bounds: dict[str, Any] = {
        "most": 8, "most_alike": {"webhook_owner": 4, "webhook_id": 2}, "is_apart": True,
    }  # fmt: skip
    process = Jobs(
        db=db,
        kinds={"send": Kind(work=send, **options, **bounds), "a": Kind(work=told, **options)},
        **LEASES,
    )
    task = asyncio.create_task(process.work_forever())
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await came.wait()
        assert sum(hanging.values()) == 4
        assert max(hanging.values()) <= 2
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_of_one_user_some_webhooks_of_runs_are_told_at_once_and_never_all(
    db: Database, no_polls: None
) -> None:
    hanging, others, came = 0, list[str](), asyncio.Event()

    async def send(job: Job) -> None:
        nonlocal hanging
        if job.payload.get("webhook_owner") == "eve":
            hanging += 1
            await asyncio.Event().wait()
        others.append(job.payload.get("webhook_owner", "nobody"))
        if len(others) == 5:
            came.set()

    of_run = dict.fromkeys(
        ("run_id", "thread_id", "assistant_id", "metadata", "multitask_strategy", "created_at")
    )
    async with db.transaction() as tx:
        for who in (*["eve"] * 40, "ada", *[""] * 4):
            configurable = {"langgraph_auth_user_id": who}
            kwargs = {"webhook": "https://a.example", "config": {"configurable": configurable}}
            run = {**of_run, "kwargs": kwargs}
            told = webhooks.delivery(run, status="success", error=None, values={"a": 1})
            await jobs.enqueue(tx, webhooks.KIND, told)
    async with open_webhooks(WebhookConfig(), environment={}) as hooks:
        kind = replace(hooks.kind(()), work=send, timeout_seconds=60.0)
    process = Jobs(db=db, kinds={webhooks.KIND: kind}, **LEASES)
    task = asyncio.create_task(process.work_forever())
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await came.wait()
        assert hanging == 3
        # Those of nobody are not one user's.
        assert sorted(others) == ["ada", *["nobody"] * 4]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_job_under_way_when_its_process_goes_is_another_ones_at_once(db: Database) -> None:
    begun, tried = asyncio.Event(), []

    async def hang(job: Job) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def do(job: Job) -> None:
        tried.append(job.attempt)

    await put(db)
    async with working(db, hang):
        await begun.wait()
    async with working(db, do):
        await all_done(db)

    assert tried == [1]


async def test_a_job_whose_processes_were_all_lost_is_given_up(db: Database) -> None:
    async def do(job: Job) -> None:
        raise AssertionError

    await put(db)
    await db.execute("UPDATE job SET attempt = 3", {})
    with structlog.testing.capture_logs() as logs:
        async with working(db, do):
            await all_done(db)

    assert [line["reason"] for line in logs] == ["the processes that tried were lost"]


async def test_a_job_is_not_lost_with_the_database(db: Database, database_url: str) -> None:
    """What is done is written down late, or the job is done again."""
    async with open_database(database_url) as away:
        pass
    kind = Kind(work=lambda job: asyncio.sleep(0), timeout_seconds=60, pauses_seconds=())
    process = Jobs(db=away, kinds={"a": kind}, **LEASES)
    await put(db)
    [job] = await jobs.claim(db, {"a": 60.0}, lease_seconds=60, slots=1)

    await process._do(job, asyncio.get_running_loop().time() + 60)

    assert len(await db.tuples("SELECT FROM job", {})) == 1


async def test_a_job_that_takes_longer_than_a_lease_is_kept_by_its_process(db: Database) -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def hang(job: Job) -> None:
        begun.set()
        await over.wait()

    async def is_renewed() -> bool:
        query = "SELECT due_at < now() + interval '1 minute' FROM job"
        return await db.tuples(query, {}) == [(True,)] and fence.when() != fence_at

    await put(db)
    async with working(db, hang, renew_seconds=0.01) as process:
        await begun.wait()
        [fence] = process._trying.values()
        fence_at = fence.when()
        await db.execute("UPDATE job SET due_at = now() + interval '1 hour'", {})

        await until(is_renewed)
        over.set()
        await all_done(db)

    assert process.outcomes == {("a", "done"): 1}


async def test_a_lease_that_is_being_renewed_as_a_try_fails_does_not_put_off_the_next_one(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, fails, goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tried: list[int] = []
    renew = jobs.renew

    async def renew_late(*args: Any, **more: Any) -> set[int]:
        under_way.set()
        await goes_on.wait()
        return await renew(*args, **more)

    async def fail_once(job: Job) -> None:
        tried.append(job.attempt)
        if job.attempt == 1:
            await under_way.wait()
            fails.set()
            raise JobFailedError("no")

    monkeypatch.setattr(jobs, "renew", renew_late)
    await put(db)
    async with working(db, fail_once, renew_seconds=0.01) as process:
        await fails.wait()

        async def is_over() -> bool:
            return not process._trying

        await until(is_over)
        # What came of it would be written down by now, if it did not wait.
        for _ in range(20):
            await db.ping()
        goes_on.set()
        await all_done(db)

    assert tried == [1, 2]


@pytest.mark.parametrize("failure", [None, JobFailedError("never", for_good=True)])
async def test_a_process_whose_job_another_has_taken_up_writes_nothing_of_it(
    db: Database, failure: Exception | None
) -> None:
    """As one would do that was frozen."""
    begun, over = asyncio.Event(), asyncio.Event()
    given_up: list[str] = []

    async def hang(job: Job) -> None:
        begun.set()
        await over.wait()
        if failure:
            raise failure

    async def give_up(job: Job, why: str) -> None:
        given_up.append(why)

    await put(db)
    async with working(db, hang, give_up=give_up) as process:
        await begun.wait()
        taken_up = "UPDATE job SET attempt = 2, due_at = now() + interval '1 hour'"
        await db.execute(taken_up, {})
        await process._renew()
        over.set()
        await until(idle(process))

    found = await db.tuples("SELECT attempt, due_at > now() + interval '30 minutes' FROM job", {})
    assert (found, given_up) == ([(2, True)], [])


async def test_a_renewal_that_failed_is_tried_again_at_once_and_a_later_attempt_has_longer(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hang(job: Job) -> None:
        begun.set()
        await asyncio.Event().wait()

    await put(db)
    await db.execute("UPDATE job SET attempt = 2", {})
    async with working(db, hang, timeout_seconds=1000.0, renew_seconds=3600.0) as process:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await begun.wait()
        [fence] = process._trying.values()
        ends_at = fence.when()
        failing = AsyncMock(side_effect=UnavailableError("it is away"))
        monkeypatch.setattr(jobs, "renew", failing)
        with pytest.raises(UnavailableError):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await process.renew_forever()

    # The third attempt's lease is four times the first one's minute; of it, 15 seconds are to spare.
    assert ends_at is not None
    assert ends_at - asyncio.get_running_loop().time() > 3 * 60


async def test_a_process_that_cannot_renew_a_lease_stops_before_another_may_begin(
    db: Database,
) -> None:
    stopped = asyncio.Event()

    async def hang(job: Job) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    await put(db)
    with structlog.testing.capture_logs() as logs:
        async with working(db, hang, lease_seconds=15.2, renew_seconds=15.0) as process:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await stopped.wait()
            await until(idle(process))

    # It is not handed back: it counts as an attempt.
    found = await db.tuples("SELECT attempt, due_at > now() FROM job", {})
    assert (found, process.outcomes) == ([(1, True)], {})
    assert [line["event"] for line in logs] == ["job lost its lease"]
