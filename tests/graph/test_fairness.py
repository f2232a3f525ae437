"""Fair shares: one caller's flood keeps nobody else waiting, and only so many runs may wait."""

from typing import Any

import pytest
from langgraph_sdk import Priority

from graph.runs import Submitted
from store.database import Database
from store.errors import Error, LimitedError, OverloadedError
from tests.graph.engines import Gate, Process, gated, process, soon, until, until_status

pytestmark = pytest.mark.filterwarnings("ignore:The Priority API is in beta")


def of(identity: str) -> dict[str, Any]:
    """What a caller adds to their runs."""
    return {"injected": {"langgraph_auth_user_id": identity}}


async def ask(one: Process, identity: str, thread_id: str | None = None, **more: Any) -> Submitted:
    """Have a run of a caller's, that somebody waits for."""
    return await one.submit(thread_id or await one.thread(), **{**of(identity), **more})


async def number(db: Database, status: str) -> int:
    rows = await db.tuples("SELECT count(*) FROM run WHERE status = %(status)s", {"status": status})
    return int(rows[0][0])


async def test_one_whose_runs_are_as_many_as_may_be_waits_and_others_begin_at_once(
    db: Database,
) -> None:
    gate = Gate()
    graphs = {"gated": gated(gate)}
    fair: dict[str, Any] = {"is_fair": True, "most_running": 2, "slots": 4}
    async with process(db, graphs, **fair) as one, process(db, graphs, **fair) as other:
        flood = [await ask(one, "flood", attached=n % 2 == 0) for n in range(10)]

        async def two_run() -> bool:
            return await number(db, "running") == 2

        await until(two_run)
        # In both processes there is room, for others: without a queue.
        small = [await ask(where, who) for where, who in ((one, "ada"), (other, "eve"))]
        assert [s.execution is not None for s in small] == [True, True]
        assert await number(db, "running") == 4
        assert (await ask(other, "flood")).execution is None
        # Those who wait for their own come one after the other, whoever has room for them.
        gate.opened.set()
        for submitted in (*small, *flood):
            await until_status(one, submitted, "success")


async def test_of_two_who_flood_each_gets_the_same(db: Database) -> None:
    gate = Gate()
    graphs = {"gated": gated(gate)}
    async with process(db, graphs, is_fair=True, slots=1) as one:
        first = await ask(one, "first")
        await soon(gate.entered)
        # On one thread, too: whose the run is counts, not whose the thread.
        asked = [await ask(one, who) for who in ["first"] * 8 + ["second"] * 4]
        gate.opened.set()
        for submitted in (first, *asked):
            await until_status(one, submitted, "success")

    rows = await db.tuples("SELECT run_id::text FROM run ORDER BY started_at, seq", {})
    order = [row[0] for row in rows]
    places = [order.index(submitted.run.run_id) for submitted in asked]
    assert max(places[8:]) < max(places[:8])
    assert sorted(places[8:])[-1] <= 9


async def test_a_run_that_is_resumed_elsewhere_is_still_its_callers(db: Database) -> None:
    gate = Gate()
    graphs = {"gated": gated(gate)}
    fair: dict[str, Any] = {"is_fair": True, "most_running": 1, "slots": 4}
    async with process(db, graphs, **fair) as one:
        first = await ask(one, "ada")
        await soon(gate.entered)
        assert first.execution is not None
        second = await ask(one, "ada")
        groups = await db.tuples("SELECT DISTINCT fairness_group, priority FROM run", {})
    assert len(groups) == 1
    assert groups[0][1] == 0
    # Handed back by the one that left; its thread keeps nothing.
    assert await number(db, "pending") == 2
    assert await db.tuples("SELECT fairness_group FROM thread WHERE priority IS NOT NULL", {}) == []
    gate.opened.set()
    async with process(db, graphs, **fair) as one:
        for submitted in (first, second):
            await until_status(one, submitted, "success")


async def test_groups_of_a_priority_are_bounded_too(db: Database) -> None:
    gate, priority = Gate(), Priority()

    @priority.assign
    async def decide(ctx: Any) -> Any:
        return {"fairness_group": ctx.run_metadata["group"]}

    shared: dict[str, Any] = {"priority": priority, "most_running": 1, "room": (0, 2)}
    async with process(db, {"gated": gated(gate)}, **shared) as one:
        ours: dict[str, Any] = {"metadata": {"group": "g"}}
        running = await ask(one, "ada", **ours)
        assert running.execution is not None
        waiting = [await ask(one, "eve", **ours) for _ in range(2)]
        assert [w.execution for w in waiting] == [None, None]
        with pytest.raises(LimitedError):
            await ask(one, "ida", **ours)
        gate.opened.set()
        for submitted in (running, *waiting):
            await until_status(one, submitted, "success")


async def refused(one: Process, identity: str, **more: Any) -> Error:
    with pytest.raises((LimitedError, OverloadedError)) as raised:
        await ask(one, identity, **more)
    return raised.value


async def test_so_many_of_ones_runs_may_wait_and_what_is_refused_leaves_nothing(
    db: Database,
) -> None:
    gate = Gate()
    fair: dict[str, Any] = {"is_fair": True, "most_running": 1, "room": (0, 3)}
    async with process(db, {"gated": gated(gate)}, **fair) as one:
        asked = [await ask(one, "ada") for _ in range(4)]
        before = await db.tuples("SELECT count(*) FROM thread", {})
        for more in ({}, {"attached": False}, {"after_seconds": 60, "attached": False}):
            error = await refused(one, "ada", **more)
            assert isinstance(error, LimitedError)
            assert (error.code, error.message) == ("queue_full", "3 runs may wait")
        with pytest.raises(LimitedError):
            await one.submit(None, **of("ada"))
        # But for the threads that the test made.
        [(threads,)] = await db.tuples("SELECT count(*) FROM thread", {})
        assert threads == before[0][0] + 3
        assert await number(db, "pending") == 3
        others = await ask(one, "eve")
        assert others.execution is not None
        gate.opened.set()
        for submitted in (*asked, others):
            await until_status(one, submitted, "success")
        assert (await ask(one, "ada")).execution is not None


async def test_where_the_queue_is_full_who_has_less_than_an_equal_part_is_let_in(
    db: Database,
) -> None:
    gate = Gate()
    fair: dict[str, Any] = {"is_fair": True, "room": (6, 0), "slots": 1}
    async with process(db, {"gated": gated(gate)}, **fair) as one:
        asked = [await ask(one, "flood") for _ in range(7)]
        error = await refused(one, "flood")
        assert isinstance(error, OverloadedError)
        assert error.code == "queue_full"
        asked += [await ask(one, "ada") for _ in range(3)]
        assert isinstance(await refused(one, "ada"), OverloadedError)
        asked += [await ask(one, "eve") for _ in range(2)]
        assert isinstance(await refused(one, "eve"), OverloadedError)
        gate.opened.set()
        # All that was taken in is done.
        for submitted in asked:
            await until_status(one, submitted, "success")
