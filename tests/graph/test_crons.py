"""Crons on a clock of the test's: each time once, missed ones as one, and never a loop."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from graph.crons import following
from graph.requests import system_assistant_id
from store import crons, threads
from store.access import EVERYTHING
from store.crons import Cron, NewCron
from store.database import Database
from tests.graph import sample_graphs
from tests.graph.engines import Gate, Process, gated, process, soon, until
from tests.store.queues import a_thread

#: A second before the first time of ``* * * * *``.
START = datetime(2026, 11, 26, 11, 59, 59, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Clock:
    """It stands until a test puts it on."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def graphs(gate: Gate) -> dict[str, Any]:
    return {"gated": gated(gate), "ask": sample_graphs.ask, "boom": sample_graphs.boom}


@pytest.fixture
async def one(db: Database, graphs: dict[str, Any], clock: Clock) -> AsyncIterator[Process]:
    """A process that looks for crons when it is told to."""
    async with process(db, graphs, clock=clock, working=False) as one:
        yield one


async def a_cron(db: Database, graph: str = "gated", **more: Any) -> Cron:
    new = NewCron(
        **{
            "cron_id": str(uuid.uuid4()),
            "assistant_id": system_assistant_id(graph),
            "thread_id": None,
            "user_id": "ada",
            "schedule": "* * * * *",
            "timezone": None,
            "end_time": None,
            "enabled": True,
            "on_run_completed": "keep",
            "payload": {"input": {"text": "x"}},
            "metadata": {},
            "injected": {"langgraph_auth_user_id": "ada", "langgraph_auth_user": {"a": 1}},
            "visible_threads": [{}],
            "visible_assistants": [{}],
            "next_run_at": None,
            **more,
        }
    )
    return await crons.create(db, replace(new, next_run_at=following(new, START)))


async def runs_of(db: Database, cron: Cron) -> list[datetime]:
    rows = await db.tuples(
        "SELECT scheduled_for FROM run WHERE cron_id = %(id)s::uuid ORDER BY scheduled_for",
        {"id": cron.cron_id},
    )
    return [row[0] for row in rows]


async def read(db: Database, cron: Cron) -> Cron:
    return await crons.get(db, cron.cron_id, access=EVERYTHING)


async def next_run(db: Database, cron: Cron) -> datetime:
    next_at = (await read(db, cron)).next_run_at
    assert next_at is not None
    return next_at


async def refusal(db: Database, cron: Cron) -> str:
    error = (await read(db, cron)).error
    assert error is not None
    return str(error["message"])


async def test_a_cron_fires_when_it_is_due_and_not_before(one: Process, clock: Clock) -> None:
    cron = await a_cron(one.db)

    assert await one.crons.tick() == 1.0
    assert await runs_of(one.db, cron) == []
    clock.now += timedelta(seconds=1)
    await one.crons.tick()

    assert await runs_of(one.db, cron) == [cron.next_run_at]
    assert (await read(one.db, cron)).next_run_at == clock.now + MINUTE


async def test_a_cron_whose_runs_do_not_begin_makes_no_more_than_may_wait(
    one: Process, clock: Clock
) -> None:
    cron = await a_cron(one.db)
    clock.now += timedelta(seconds=1)
    for _ in range(crons.MAX_WAITING + 2):
        await one.crons.tick()
        clock.now += MINUTE

    assert len(await runs_of(one.db, cron)) == crons.MAX_WAITING
    assert "waiting already" in await refusal(one.db, cron)
    assert await next_run(one.db, cron) == clock.now
    # As soon as one has begun there is room again.
    await one.db.execute("UPDATE run SET status = 'success'", {})
    await one.crons.tick()
    assert len(await runs_of(one.db, cron)) == crons.MAX_WAITING + 1
    assert (await read(one.db, cron)).error is None


async def test_times_that_were_missed_are_made_up_for_once(one: Process, clock: Clock) -> None:
    cron = await a_cron(one.db)

    clock.now += timedelta(hours=8)
    await one.crons.tick()
    await one.crons.tick()

    assert await runs_of(one.db, cron) == [cron.next_run_at]
    assert (await read(one.db, cron)).next_run_at == START + timedelta(hours=8, seconds=1)


async def test_of_many_processes_one_fires_each_time(
    db: Database, graphs: dict[str, Any], clock: Clock
) -> None:
    async with (
        process(db, graphs, clock=clock, working=False) as one,
        process(db, graphs, clock=clock, working=False) as other,
    ):
        made = [await a_cron(db) for _ in range(4)]
        for _ in range(5):
            clock.now += MINUTE
            await asyncio.gather(*(each.crons.tick() for each in (one, other) for _ in range(3)))

    for cron in made:
        fired = await runs_of(db, cron)
        assert len(fired) == len(set(fired)) == 5
    threads_made = await db.tuples("SELECT count(*) FROM thread", {})
    assert threads_made == [(20,)]


async def test_a_cron_stops_at_its_end(one: Process, clock: Clock) -> None:
    cron = await a_cron(one.db, end_time=START + timedelta(seconds=90))

    for _ in range(4):
        clock.now += MINUTE
        await one.crons.tick()

    assert len(await runs_of(one.db, cron)) == 2
    assert (await read(one.db, cron)).next_run_at is None


async def test_a_cron_that_is_off_does_not_fire(one: Process, clock: Clock) -> None:
    cron = await a_cron(one.db, enabled=False)

    clock.now += MINUTE
    await one.crons.tick()

    assert await runs_of(one.db, cron) == []


async def test_a_run_of_a_cron_is_made_as_its_user_asked_for_it(one: Process, clock: Clock) -> None:
    payload = {
        "input": {"text": "x"},
        "context": {"k": 1},
        "config": {"tags": ["t"], "configurable": {"cron_id": "?"}},
        "metadata": {"b": 2},
        "durability": "sync",
        "stream_mode": ["values"],
    }
    cron = await a_cron(one.db, payload=payload, metadata={"a": 1})
    clock.now += MINUTE
    await one.crons.tick()

    [(metadata, kwargs, temporary)] = await one.db.tuples(
        "SELECT metadata, kwargs, temporary FROM run", {}
    )

    configurable = kwargs["config"]["configurable"]
    assert (metadata["a"], metadata["b"], metadata["cron_id"]) == (1, 2, cron.cron_id)
    assert configurable["langgraph_auth_user"] == {"a": 1}
    assert (configurable["cron_id"], configurable["k"]) == (cron.cron_id, 1)
    assert (kwargs["durability"], kwargs["config"]["tags"], temporary) == ("sync", ["t"], False)


async def test_threads_of_their_own_are_deleted_unless_they_are_to_be_kept(
    db: Database, graphs: dict[str, Any], gate: Gate, clock: Clock
) -> None:
    gate.opened.set()
    async with process(db, graphs, clock=clock) as one:
        await a_cron(db, on_run_completed="delete")
        kept = await a_cron(db, on_run_completed="keep")
        clock.now += timedelta(seconds=1)
        one.crons.wake()

        async def both_ended() -> bool:
            rows = await db.tuples("SELECT cron_id, status FROM run", {})
            return rows == [(kept.cron_id, "success")] and gate.ran.count("last") == 2

        await until(both_ended)

    assert await db.tuples("SELECT count(*) FROM thread", {}) == [(1,)]


async def test_a_run_on_a_thread_waits_its_turn_or_is_refused(one: Process, clock: Clock) -> None:
    thread_id = await a_thread(one.db)
    waits = await a_cron(one.db, thread_id=thread_id)
    refused = await a_cron(one.db, thread_id=thread_id, payload={"multitask_strategy": "reject"})
    await one.submit(thread_id)

    clock.now += MINUTE
    await one.crons.tick()

    assert len(await runs_of(one.db, waits)) == 1
    assert await runs_of(one.db, refused) == []
    assert "already running" in await refusal(one.db, refused)
    assert (await read(one.db, refused)).next_run_at == clock.now + timedelta(seconds=1)


async def test_a_cron_whose_owner_may_not_see_its_thread_any_more_says_so(
    one: Process, clock: Clock
) -> None:
    thread_id = await a_thread(one.db)
    await threads.update(one.db, thread_id, metadata={"owner": "ada"}, access=EVERYTHING)
    cron = await a_cron(one.db, thread_id=thread_id, visible_threads=[{"owner": "ada"}])
    clock.now += MINUTE
    await one.crons.tick()
    assert len(await runs_of(one.db, cron)) == 1

    await threads.update(one.db, thread_id, metadata={"owner": "bob"}, access=EVERYTHING)
    clock.now += MINUTE
    await one.crons.tick()
    await one.crons.tick()

    assert len(await runs_of(one.db, cron)) == 1
    assert "not found" in await refusal(one.db, cron)
    assert await next_run(one.db, cron) > clock.now
    # As soon as it may again, it does.
    await threads.update(one.db, thread_id, metadata={"owner": "ada"}, access=EVERYTHING)
    clock.now += MINUTE
    await one.crons.tick()
    assert (await read(one.db, cron)).error is None


async def test_a_cron_of_an_assistant_that_its_owner_may_not_see_says_so(
    one: Process, clock: Clock
) -> None:
    await one.db.execute("UPDATE assistant SET is_system = false", {})
    cron = await a_cron(one.db, visible_assistants=[{"owner": "ada"}])

    clock.now += MINUTE
    await one.crons.tick()

    assert await refusal(one.db, cron) == "Thread or assistant not found."


async def test_a_cron_that_asks_for_nonsense_keeps_no_other_from_firing(
    one: Process, clock: Clock
) -> None:
    broken = [
        await a_cron(one.db, payload={"stream_mode": ["nope"]}),
        await a_cron(one.db, payload={"input": 1, "interrupt_before": 5}),
        await a_cron(one.db, payload={"context": {"a": 1}, "config": {"configurable": {"b": 1}}}),
    ]
    well = await a_cron(one.db)

    clock.now += MINUTE
    await one.crons.tick()

    assert len(await runs_of(one.db, well)) == 1
    for cron in broken:
        assert await runs_of(one.db, cron) == []
        assert await refusal(one.db, cron)
        assert await next_run(one.db, cron) > clock.now


async def test_a_cron_that_is_changed_while_it_is_being_fired_is_fired_as_changed(
    one: Process, clock: Clock
) -> None:
    cron = await a_cron(one.db)
    clock.now += MINUTE

    def change(before: Cron) -> Cron:
        return replace(before, payload={"input": {"text": "changed"}})

    await crons.update(one.db, cron.cron_id, change, access=EVERYTHING)

    assert not await one.crons.fire(cron, now=clock.now)
    await one.crons.tick()
    [(kwargs,)] = await one.db.tuples("SELECT kwargs FROM run", {})
    assert kwargs["input"] == {"text": "changed"}


async def test_a_clock_that_goes_back_makes_no_second_run_and_no_loop(
    one: Process, clock: Clock
) -> None:
    cron = await a_cron(one.db)
    clock.now += MINUTE
    await one.crons.tick()
    await one.db.execute("UPDATE cron SET next_run_at = %(at)s", {"at": cron.next_run_at})

    await one.crons.tick()
    await one.crons.tick()

    assert len(await runs_of(one.db, cron)) == 1
    assert await next_run(one.db, cron) > clock.now


async def test_crons_go_with_their_thread_and_their_assistant(one: Process) -> None:
    thread_id = await a_thread(one.db)
    of_thread = await a_cron(one.db, thread_id=thread_id)
    other = await a_cron(one.db, graph="ask")

    await one.runs.delete_thread(thread_id, access=EVERYTHING)
    assert await crons.count(one.db, metadata={}, access=EVERYTHING) == 1
    await one.db.execute(
        "DELETE FROM assistant WHERE assistant_id = %(id)s", {"id": other.assistant_id}
    )

    assert await crons.count(one.db, metadata={}, access=EVERYTHING) == 0
    assert of_thread.thread_id == thread_id


async def test_a_thread_can_be_deleted_while_its_crons_fire(one: Process, clock: Clock) -> None:
    thread_ids = [await a_thread(one.db) for _ in range(8)]
    for thread_id in thread_ids:
        await a_cron(one.db, thread_id=thread_id)
    clock.now += MINUTE

    await asyncio.gather(
        one.crons.tick(),
        *(one.runs.delete_thread(thread_id, access=EVERYTHING) for thread_id in thread_ids),
    )

    assert await one.db.tuples("SELECT FROM cron UNION ALL SELECT FROM run", {}) == []


async def test_a_server_that_was_started_wakes_for_what_is_due_by_the_databases_clock(
    db: Database, graphs: dict[str, Any], gate: Gate
) -> None:
    gate.opened.set()
    async with process(db, graphs) as one:
        now = await one.crons.now()
        new = await a_cron(db, schedule="* * * * * *")
        await crons.update(
            db,
            new.cron_id,
            lambda cron: replace(cron, next_run_at=following(cron, now)),
            access=EVERYTHING,
        )
        one.crons.wake()
        await soon(gate.entered)

    assert (await read(db, new)).error is None
