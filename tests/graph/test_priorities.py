"""`priority` of langgraph.json in processes: asked once for a thread, and heeded by all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import Priority, PriorityContext
from structlog.testing import capture_logs

from graph.priorities import load
from store import priorities
from store.database import Database
from store.errors import InvalidInputError
from store.priorities import Urgency
from tests.graph.engines import Gate, gated, process, soon, until, until_status

pytestmark = pytest.mark.filterwarnings("ignore:The Priority API is in beta")

Assign = Callable[[PriorityContext], Any]


def deciding(assign: Assign) -> tuple[Priority, list[PriorityContext]]:
    """A priority that answers so, and what it was asked."""
    priority, asked = Priority(), []

    @priority.assign
    async def decide(ctx: PriorityContext) -> Any:
        asked.append(ctx)
        return assign(ctx)

    return priority, asked


async def test_a_function_is_asked_once_for_a_thread_and_told_all_that_it_is_about(
    db: Database,
) -> None:
    gate = Gate()
    gate.opened.set()
    priority, asked = deciding(lambda ctx: {"priority": -3, "fairness_group": ctx.user["org_id"]})
    injected = {
        "langgraph_auth_user": {"identity": "ada", "org_id": "o1", "permissions": ["premium"]}
    }
    async with process(db, {"gated": gated(gate)}, priority=priority) as one:
        thread_id = await one.thread()
        first = await one.submit(thread_id, metadata={"a": 1}, injected=injected, cron_id="c1")
        await one.runs.join(first)
        await one.runs.join(await one.submit(thread_id, attached=False, injected=injected))
        made = await one.submit(None, injected=injected, metadata={"b": 2})
        await one.runs.join(made)

    assert len(asked) == 2
    ctx = asked[0]
    assert (ctx.user.identity, ctx.permissions) == ("ada", ["premium"])
    assert (ctx.thread_id, ctx.graph_id, ctx.cron_id) == (thread_id, "gated", "c1")
    assert (ctx.run_metadata["a"], ctx.thread_metadata) == (1, {})
    assert ctx.assistant_metadata["created_by"] == "system"
    assert (asked[1].thread_id, asked[1].thread_metadata) == (None, {"b": 2})
    assert await priorities.find(db, thread_id) == Urgency(-3, "o1")
    assert await priorities.find(db, made.run.thread_id) == Urgency(-3, "o1")


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_group_is_served_though_another_floods_the_queue(
    db: Database, processes: int
) -> None:
    gate = Gate()
    priority, _ = deciding(lambda ctx: {"fairness_group": ctx.run_metadata["group"]})
    graphs = {"gated": gated(gate)}
    async with (
        process(db, graphs, priority=priority, slots=1, working=False) as door,
        process(db, graphs, priority=priority, slots=1) as one,
        process(db, graphs, priority=priority, slots=1, working=processes == 2) as other,
    ):
        flood = [
            await door.submit(await door.thread(), attached=False, metadata={"group": "flood"})
            for _ in range(12)
        ]

        async def busy() -> bool:
            return len(one.executor.running) + len(other.executor.running) == processes

        await until(busy)
        # Nor may one that is waited for jump the queue where there is room: that is for whoever claims.
        small = [
            await door.submit(
                await door.thread(), attached=number == 0, metadata={"group": "small"}
            )
            for number in range(2)
        ]
        assert small[0].execution is None
        gate.opened.set()
        for submitted in (*small, *flood):
            await until_status(one, submitted, "success")

    rows = await db.tuples("SELECT run_id::text FROM run ORDER BY started_at, seq", {})
    order = [row[0] for row in rows]
    # In turn, after those that were under way.
    places = [order.index(submitted.run.run_id) for submitted in small]
    assert max(places) <= 4 * processes


async def test_an_urgent_run_overtakes_those_that_wait(db: Database) -> None:
    gate = Gate()
    priority, _ = deciding(lambda ctx: {"priority": ctx.run_metadata.get("n")})
    async with process(db, {"gated": gated(gate)}, priority=priority, slots=1) as one:
        await one.submit(await one.thread())
        await soon(gate.entered)
        plain = await one.submit(await one.thread(), attached=False)
        urgent = await one.submit(await one.thread(), attached=False, metadata={"n": -5})
        order: list[str] = []
        gate.act = lambda: order.extend(one.executor.running)
        gate.opened.set()
        await until_status(one, plain, "success")

    assert order[1:] == [urgent.run.run_id, plain.run.run_id]


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": 6}, {"priority": -6}, {"priority": True, "x": 1}, {"priority": "1"},
        {"fairness_group": "g" * 257}, {"fairness_group": 3}, 7,
    ],
)  # fmt: skip
async def test_a_function_that_is_wrong_keeps_nobody_from_a_run(db: Database, wrong: Any) -> None:
    gate = Gate()
    gate.opened.set()
    priority, asked = deciding(lambda ctx: wrong)
    async with process(db, {"gated": gated(gate)}, priority=priority) as one:
        thread_id = await one.thread()
        with capture_logs() as logs:
            submitted = await one.submit(thread_id, attached=False)
            assert (await one.runs.join(submitted)).status == "success"
            await one.runs.join(await one.submit(thread_id))

    assert len(asked) == 2
    assert any("was not decided" in line["event"] for line in logs)
    assert await priorities.find(db, thread_id) is None


async def test_an_empty_group_and_no_answer_are_the_defaults(db: Database) -> None:
    gate = Gate()
    gate.opened.set()
    answers: list[Any] = [None, {"fairness_group": "", "priority": None}]
    priority, _ = deciding(lambda ctx: answers.pop(0))
    async with process(db, {"gated": gated(gate)}, priority=priority) as one:
        for _ in range(2):
            submitted = await one.submit(await one.thread())
            await one.runs.join(submitted)
            assert await priorities.find(db, submitted.run.thread_id) == Urgency(0, "default")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no variable 'p'"),
        ("p = 3", "gives a int, not a Priority"),
        ("from langgraph_sdk import Priority\np = Priority()", "has no function"),
        ("1/0", "ZeroDivisionError"),
    ],
)
async def test_what_is_no_priority_stops_the_start(
    db: Database, tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "priorities_of_mine.py").write_text(text)

    with pytest.raises(InvalidInputError, match=complaint):
        load("./priorities_of_mine.py:p", tmp_path, db)
