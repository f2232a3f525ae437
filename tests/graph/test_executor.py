"""One leased run: how it is executed, stopped in every phase, resumed, and settled."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import orjson
import pytest
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from graph.executor import StopReason
from graph.runs import Submitted
from store import endings, lost_runs, new_runs, queue, runs, threads
from store.access import EVERYTHING
from store.database import Database
from store.endings import CANCELLED
from store.events import Event
from store.models import Run
from store.new_runs import NewRun
from store.queue import Claim
from store.writer import lease_lost
from tests.graph import sample_graphs
from tests.graph.engines import (
    DEADLINE_SECONDS,
    Gate,
    Process,
    Steps,
    gated,
    last_values,
    process,
    soon,
    until,
)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def one(db: Database, gate: Gate) -> AsyncIterator[Process]:
    """A process that executes what it is given and claims nothing by itself."""
    graphs = {"gated": gated(gate), "boom": sample_graphs.boom, "ask": sample_graphs.ask}
    async with process(db, graphs, working=False) as one:
        yield one


async def _ended(submitted: Submitted) -> None:
    assert submitted.execution is not None
    await soon(submitted.execution.ended)


async def _wait_in_the_middle(one: Process, gate: Gate, **more: Any) -> tuple[str, Submitted]:
    thread_id = await one.thread()
    submitted = await one.submit(thread_id, **more)
    await soon(gate.entered)
    return thread_id, submitted


def _stop(one: Process, submitted: Submitted, reason: StopReason) -> None:
    one.executor.stop(submitted.run.run_id, reason)


async def test_a_run_is_executed_and_its_end_is_told(one: Process, gate: Gate) -> None:
    gate.opened.set()
    thread_id = await one.thread()
    submitted = await one.submit(thread_id)

    names = await one.names(submitted)

    assert (names[0], names[-2:]) == ("metadata", ["values", "end"])
    assert gate.ran == ["first", "wait", "last"]
    assert await one.status(submitted) == "success"
    assert await one.thread_status(thread_id) == "idle"
    assert one.executor.free == one.executor.slots


async def test_an_interrupted_run_keeps_what_it_wrote(one: Process, gate: Gate) -> None:
    thread_id, submitted = await _wait_in_the_middle(one, gate)

    _stop(one, submitted, "interrupt")
    events = await one.heard(submitted)

    assert await one.status(submitted) == "interrupted"
    thread = await threads.get(one.db, thread_id, access=EVERYTHING)
    assert (thread.status, thread.error) == ("interrupted", CANCELLED)
    assert orjson.loads(events[-1].data)["status"] == "interrupted"
    assert "error" not in {event.name for event in events}
    assert one.executor.free == one.executor.slots


async def test_a_rolled_back_run_leaves_nothing(one: Process, gate: Gate) -> None:
    thread_id, submitted = await _wait_in_the_middle(one, gate)

    _stop(one, submitted, "rollback")

    assert (await one.names(submitted))[-1] == "end"
    assert await one.status(submitted) is None
    assert await one.thread_status(thread_id) == "idle"
    assert await one.db.tuples("SELECT 1 FROM checkpoints", {}) == []


async def test_a_drained_run_waits_for_another_process(one: Process, gate: Gate) -> None:
    thread_id, submitted = await _wait_in_the_middle(one, gate)

    _stop(one, submitted, "drain")
    await _ended(submitted)

    run = await runs.get(one.db, submitted.run.run_id, access=EVERYTHING)
    assert (run.status, run.attempt) == ("pending", 0)
    assert run.first_epoch == submitted.run.first_epoch
    assert await one.thread_status(thread_id) == "busy"


async def test_a_lost_run_is_left_as_it_is(one: Process, gate: Gate) -> None:
    _thread_id, submitted = await _wait_in_the_middle(one, gate)

    _stop(one, submitted, "lost")
    await _ended(submitted)

    assert await one.status(submitted) == "running"
    assert submitted.execution is not None
    assert submitted.execution.result is None
    assert one.executor.free == one.executor.slots


@pytest.mark.parametrize(
    ("reason", "status"),
    [("interrupt", "interrupted"), ("rollback", None), ("drain", "pending"), ("lost", "running")],
)
async def test_a_run_is_stopped_before_it_began(
    one: Process, gate: Gate, reason: StopReason, status: str | None
) -> None:
    submitted = await one.submit(await one.thread())

    _stop(one, submitted, reason)
    await _ended(submitted)

    assert gate.ran == []
    assert await one.status(submitted) == status
    assert one.executor.free == one.executor.slots


async def test_a_run_is_stopped_while_it_is_claimed(
    one: Process, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = new_runs.start

    async def start_and_stop(db: Database, new: NewRun, *, worker_id: str) -> Claim | Run | None:
        claim = await start(db, new, worker_id=worker_id)
        one.executor.stop(new.run_id, "interrupt")
        return claim

    monkeypatch.setattr(new_runs, "start", start_and_stop)
    submitted = await one.submit(await one.thread())
    await _ended(submitted)

    assert gate.ran == []
    assert await one.status(submitted) == "interrupted"


async def test_a_run_whose_process_was_frozen_since_it_was_claimed_begins_nothing(
    one: Process, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = await one.submit(await one.thread())
    for asked in (one.executor, submitted.execution):
        monkeypatch.setattr(asked, "_alive", lambda: False)

    await _ended(submitted)

    assert gate.ran == []
    assert await one.status(submitted) == "running"
    assert one.executor.free == one.executor.slots


async def _waits_for_a_lock(db: Database) -> bool:
    query = (
        "SELECT 1 FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(await db.tuples(query, {}))


@pytest.mark.parametrize("reason", ["interrupt", "drain"])
async def test_a_run_that_is_settling_ends_as_it_would(
    one: Process, gate: Gate, reason: StopReason
) -> None:
    _thread_id, submitted = await _wait_in_the_middle(one, gate, durability="exit")
    async with one.db.transaction() as tx:
        # The run's end waits for this lock.
        await tx.tuples("SELECT 1 FROM run FOR UPDATE", {})
        gate.opened.set()
        await until(lambda: _waits_for_a_lock(one.db))
        _stop(one, submitted, reason)

    await _ended(submitted)
    assert await one.status(submitted) == "success"


async def test_a_run_that_is_stopped_after_its_last_step_is_interrupted_and_keeps_it(
    db: Database, gate: Gate
) -> None:
    gate.opened.set()
    async with process(db, {"gated": gated(gate)}, working=False, keep=1) as one:
        thread_id = await one.thread()
        await _ended(await one.submit(thread_id))
        async with db.transaction() as tx:
            # The run deletes the thread's past last of all, and waits for this lock.
            await tx.tuples("SELECT 1 FROM checkpoints FOR UPDATE", {})
            submitted = await one.submit(thread_id)
            await until(lambda: _waits_for_a_lock(db))
            _stop(one, submitted, "interrupt")
            await _ended(submitted)

        assert await one.status(submitted) == "interrupted"
        assert await one.thread_status(thread_id) == "idle"
        third = await one.submit(thread_id)
        assert last_values(await one.heard(third))["log"] == ["first", "wait", "last"] * 3


async def test_a_run_that_is_to_be_rolled_back_before_its_end_is_written_leaves_nothing(
    one: Process, gate: Gate
) -> None:
    thread_id, submitted = await _wait_in_the_middle(one, gate, durability="exit")
    async with one.db.transaction() as tx:
        # The run's end waits for this lock, and the signal to stop does not come in time.
        await tx.tuples("SELECT 1 FROM run FOR UPDATE", {})
        gate.opened.set()
        await until(lambda: _waits_for_a_lock(one.db))
        await tx.execute("UPDATE run SET cancel_action = 'rollback'", {})

    assert (await one.names(submitted))[-1] == "end"
    assert await one.status(submitted) is None
    assert await one.thread_status(thread_id) == "idle"
    assert await one.db.tuples("SELECT 1 FROM checkpoints", {}) == []


@pytest.mark.parametrize(
    ("reasons", "status"),
    [
        (("interrupt", "rollback"), None),
        (("rollback", "interrupt"), None),
        (("drain", "interrupt"), "interrupted"),
        (("interrupt", "drain"), "interrupted"),
        (("interrupt", "interrupt"), "interrupted"),
        (("rollback", "lost"), "running"),
        (("lost", "drain"), "running"),
    ],
)
async def test_of_two_reasons_the_graver_counts(
    one: Process, gate: Gate, reasons: tuple[StopReason, ...], status: str | None
) -> None:
    _, submitted = await _wait_in_the_middle(one, gate)

    for reason in reasons:
        _stop(one, submitted, reason)
    await _ended(submitted)

    assert await one.status(submitted) == status
    assert one.executor.free == one.executor.slots


async def test_a_run_that_finished_before_its_rollback_is_rolled_back_all_the_same(
    one: Process, gate: Gate
) -> None:
    _thread_id, submitted = await _wait_in_the_middle(one, gate)
    gate.act = lambda: _stop(one, submitted, "rollback")
    gate.opened.set()

    await _ended(submitted)

    assert await one.status(submitted) is None
    assert await one.db.tuples("SELECT 1 FROM checkpoints", {}) == []


async def test_a_drained_run_that_somebody_wants_stopped_ends(one: Process, gate: Gate) -> None:
    thread_id, submitted = await _wait_in_the_middle(one, gate)
    # The signal has not reached the process.
    await endings.cancel(one.db, thread_id, None, action="interrupt", access=EVERYTHING)

    _stop(one, submitted, "drain")

    assert (await one.names(submitted))[-1] == "end"
    assert await one.status(submitted) == "interrupted"
    assert await one.thread_status(thread_id) == "interrupted"


async def test_a_run_that_takes_too_long_is_timed_out(db: Database, gate: Gate) -> None:
    graphs = {"gated": gated(gate)}
    async with process(db, graphs, working=False, run_timeout_seconds=0.2) as one:
        thread_id = await one.thread()
        submitted = await one.submit(thread_id)
        result = await one.runs.join(submitted)

        assert result.status == await one.status(submitted) == "timeout"
        assert result.error == {
            "error": "TimeoutError",
            "message": "The run took longer than 0.2 seconds",
        }
        thread = await threads.get(db, thread_id, access=EVERYTHING)
        assert (thread.status, thread.error) == ("error", result.error)


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TimeoutError("mine"), {"error": "TimeoutError", "message": "mine"}),
        (ValueError("a\x00b\ud800"), {"error": "ValueError", "message": "a\ufffdb?"}),
        (
            asyncio.CancelledError(),
            {"error": "NodeCancelledError", "message": "An internal error occurred"},
        ),
    ],
)
async def test_whatever_a_node_raises_ends_its_run_in_error(
    one: Process, gate: Gate, error: BaseException, told: dict[str, str]
) -> None:
    gate.act = lambda: _raise(error)
    gate.opened.set()
    thread_id = await one.thread()
    submitted = await one.submit(thread_id)

    names = await one.names(submitted)

    assert names[-2:] == ["error", "end"]
    run = await runs.get(one.db, submitted.run.run_id, access=EVERYTHING)
    thread = await threads.get(one.db, thread_id, access=EVERYTHING)
    assert (run.status, run.error, thread.status, thread.error) == ("error", told, "error", told)


async def test_a_graph_that_is_cancelled_by_itself_is_no_run_that_was_stopped(
    db: Database, gate: Gate
) -> None:
    graph = gated(gate)

    class Cancelled(type(graph)):  # type: ignore[misc]
        async def astream(self, *args: Any, **kwargs: Any) -> Any:
            raise asyncio.CancelledError
            yield

    graph.__class__ = Cancelled
    async with process(db, {"gated": graph}, working=False) as one:
        submitted = await one.submit(await one.thread())
        await _ended(submitted)

        assert await one.status(submitted) == "error"


async def test_a_node_that_answers_its_cancellation_with_an_error_is_interrupted(
    one: Process, gate: Gate
) -> None:
    gate.on_cancel = lambda: _raise(RuntimeError("while cleaning up"))
    _, submitted = await _wait_in_the_middle(one, gate)

    _stop(one, submitted, "interrupt")
    await _ended(submitted)

    assert await one.status(submitted) == "interrupted"


@pytest.mark.parametrize("thing", ["pydantic", "set", "surrogate", "message", "nul"])
async def test_a_node_may_ask_with_any_object(one: Process, gate: Gate, thing: str) -> None:
    gate.act = lambda: interrupt(sample_graphs.THINGS[thing])
    gate.opened.set()
    thread_id = await one.thread()
    submitted = await one.submit(thread_id)

    result = await one.runs.join(submitted)

    assert result.interrupted
    assert await one.status(submitted) == "success"
    thread = await threads.get(one.db, thread_id, access=EVERYTHING)
    assert thread.status == "interrupted"
    assert len(thread.interrupts) == 1


async def test_a_run_whose_state_cannot_be_read_at_its_end_fails(db: Database, gate: Gate) -> None:
    opened: list[int] = []
    graph = gated(gate)

    class Fails(type(graph)):  # type: ignore[misc]
        async def aget_state(self, *args: Any, **kwargs: Any) -> Any:
            opened.append(1)
            raise LookupError("a type that is gone")

    graph.__class__ = Fails
    async with process(db, {"gated": graph}, working=False) as one:
        thread_id, submitted = await _wait_in_the_middle(one, gate)
        _stop(one, submitted, "interrupt")

        assert (await one.names(submitted))[-2:] == ["error", "end"]
        assert opened
        assert await one.status(submitted) == "error"
        assert await one.thread_status(thread_id) == "error"
        assert one.executor.free == one.executor.slots


async def _take_over(one: Process) -> Submitted:
    """Claim the one run there is, as a worker would."""
    assert one.executor.reserve()
    claims: list[Claim] = []

    async def claimed() -> bool:
        # A claim passes by a thread to which a checkpoint is just being committed.
        claims.extend(await queue.claim(one.db, worker_id=one.heartbeat.worker_id, slots=1))
        return bool(claims)

    await until(claimed)
    return Submitted(claims[0].run, one.executor.start(claims[0]))


@pytest.mark.parametrize("reason", ["drain", "lost"])
async def test_no_completed_node_runs_twice_after_a_loss(
    db: Database, one: Process, gate: Gate, reason: StopReason
) -> None:
    _thread_id, submitted = await _wait_in_the_middle(one, gate)
    _stop(one, submitted, reason)
    await _ended(submitted)
    gate.opened.set()

    events, status = await _elsewhere(db, one, gated(gate))

    assert gate.ran == ["first", "wait", "wait", "last"]
    assert last_values(events)["log"] == ["first", "wait", "last"]
    attempt = 2 if reason == "lost" else 1
    assert orjson.loads(events[0].data)["attempt"] == attempt
    assert status == "success"


async def _elsewhere(db: Database, one: Process, graph: Any) -> tuple[list[Event], str | None]:
    """What another process that has the graph tells of the run of one that is gone, and its end."""
    async with process(db, {"gated": graph}, working=False) as other:
        await queue.retire(db, one.heartbeat.worker_id)
        await lost_runs.reap(
            db, worker_id=other.heartbeat.worker_id, lease_seconds=20, max_attempts=3
        )
        again = await _take_over(other)
        assert again.execution is not None
        events = await other.heard(again, (again.execution.claim.lease.epoch, 0))
        return events, await other.status(again)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_run_that_was_refused_once_leaves_no_half_of_a_step(
    db: Database, one: Process, gate: Gate, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Frozen for a moment: for longer than it may believe in its lease, and not for the lease."""
    believes = True

    def refuse_once(thread_id: str) -> Exception:
        nonlocal believes
        believes = True
        return lease_lost(thread_id)

    def freeze() -> None:
        nonlocal believes
        believes = False

    monkeypatch.setattr(one.executor, "_alive", lambda: believes)
    monkeypatch.setattr("store.checkpoints.lease_lost", refuse_once)
    gate.act = freeze
    gate.opened.set()
    submitted = await one.submit(await one.thread(), durability=durability)
    await _ended(submitted)
    assert believes
    assert await one.status(submitted) == "running"
    gate.act = lambda: None

    events, status = await _elsewhere(db, one, gated(gate))

    assert last_values(events)["log"] == ["first", "wait", "last"]
    assert status == "success"


def _routed(gate: Gate, *, is_async: bool) -> Any:
    """Two nodes; where it goes on after the first is decided once the gate is open."""
    opened = threading.Event()

    async def to_last(state: Steps) -> str:
        gate.entered.set()
        await gate.opened.wait()
        return "last"

    def to_last_in_a_thread(state: Steps) -> str:
        gate.entered.set()
        opened.wait(DEADLINE_SECONDS)
        return "last"

    gate.on_cancel = opened.set
    builder = StateGraph(Steps)
    for name in ("first", "last"):
        builder.add_node(name, _says(gate, name))
    builder.add_edge(START, "first")
    builder.add_conditional_edges("first", to_last if is_async else to_last_in_a_thread, ["last"])
    return builder.compile()


def _says(gate: Gate, name: str) -> Any:
    async def node(state: Steps) -> Steps:
        gate.ran.append(name)
        return {"log": [name]}

    return node


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_node_that_is_stopped_while_it_is_asked_where_to_go_on_runs_again(
    db: Database, gate: Gate, durability: str, is_async: bool
) -> None:
    async with process(db, {"gated": _routed(gate, is_async=is_async)}, working=False) as one:
        submitted = await one.submit(
            await one.thread(), durability=durability, stream_modes=["messages", "values"]
        )
        await soon(gate.entered)
        _stop(one, submitted, "drain")
        gate.on_cancel()
        await _ended(submitted)
        assert gate.ran == ["first"]
        gate.opened.set()

        events, status = await _elsewhere(db, one, _routed(gate, is_async=True))

    assert last_values(events)["log"] == ["first", "last"]
    assert gate.ran == ["first", "first", "last"]
    assert status == "success"


BREAKPOINTS = [
    {"interrupt_before": ["last"]}, {"interrupt_after": ["wait"]}, {"interrupt_before": "*"},
    {"interrupt_after": "*"},
]  # fmt: skip


async def _lost_at_breakpoint(one: Process, **more: Any) -> Submitted:
    submitted = await one.submit(await one.thread(), **more)
    await _ended(submitted)
    return submitted


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("breakpoints", BREAKPOINTS)
async def test_a_run_that_was_lost_at_a_breakpoint_stops_there(
    db: Database, gate: Gate, monkeypatch: pytest.MonkeyPatch, breakpoints: Any, durability: str
) -> None:
    gate.opened.set()
    async with process(db, {"gated": gated(gate)}, working=False, keep=1) as one:
        # It has stopped, and cannot write that down.
        monkeypatch.setattr(one.executor, "_insist", AsyncMock(return_value=False))
        submitted = await _lost_at_breakpoint(one, **breakpoints, durability=durability)
        ran = gate.ran[:]
        assert ran != ["first", "wait", "last"]

        events, status = await _elsewhere(db, one, gated(gate))

        assert gate.ran == ran
        assert status == "success"
        assert await one.thread_status(submitted.run.thread_id) == "interrupted"
        assert last_values(events).get("log", []) == ran


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("breakpoints", BREAKPOINTS[:2])
async def test_a_run_that_was_lost_at_a_breakpoint_of_a_graph_within_stops_there(
    db: Database, gate: Gate, monkeypatch: pytest.MonkeyPatch, breakpoints: Any, durability: str
) -> None:
    gate.opened.set()
    inner = gated(gate).builder.compile(**breakpoints)
    graph = StateGraph(Steps).add_node("inner", inner).add_edge(START, "inner").compile()
    async with process(db, {"gated": graph}, working=False) as one:
        monkeypatch.setattr(one.executor, "_insist", AsyncMock(return_value=False))
        submitted = await _lost_at_breakpoint(one, durability=durability)
        assert gate.ran == ["first", "wait"]

        _, status = await _elsewhere(db, one, graph)

        assert gate.ran == ["first", "wait"]
        assert status == "success"
        assert await one.thread_status(submitted.run.thread_id) == "interrupted"


async def test_a_run_from_an_earlier_checkpoint_goes_on_where_it_was_lost(
    one: Process, gate: Gate
) -> None:
    gate.opened.set()
    thread_id = await one.thread()
    await one.runs.join(await one.submit(thread_id))
    rows = await one.db.tuples("SELECT checkpoint_id FROM checkpoints ORDER BY 1", {})
    gate.reset()
    gate.ran.clear()
    fork = {"checkpoint_id": rows[1][0]}
    submitted = await one.submit(thread_id, input=None, checkpoint=fork)
    await soon(gate.entered)
    _stop(one, submitted, "drain")
    await _ended(submitted)
    assert gate.ran == ["first", "wait"]

    gate.opened.set()
    again = await _take_over(one)
    await one.runs.join(again)

    assert gate.ran == ["first", "wait", "wait", "last"]


async def test_a_run_that_was_lost_after_its_last_node_just_ends(one: Process, gate: Gate) -> None:
    _thread_id, submitted = await _wait_in_the_middle(one, gate, durability="sync")
    assert submitted.execution is not None
    execution = submitted.execution
    gate.act = lambda: setattr(execution, "stop_reason", "lost")
    gate.opened.set()
    await _ended(submitted)
    assert await one.status(submitted) == "running"
    (held,) = await queue.owned(one.db, one.heartbeat.worker_id)
    await lost_runs.reap(
        one.db,
        worker_id=one.heartbeat.worker_id,
        lease_seconds=20,
        max_attempts=3,
        strays=[held],
    )

    again = await _take_over(one)
    await _ended(again)

    assert gate.ran == ["first", "wait", "last"]
    assert await one.status(submitted) == "success"


async def test_a_run_that_is_taken_up_again_before_it_has_stopped_leaks_no_slot(
    one: Process, gate: Gate
) -> None:
    _thread_id, submitted = await _wait_in_the_middle(one, gate)
    (held,) = await queue.owned(one.db, one.heartbeat.worker_id)
    await lost_runs.reap(
        one.db,
        worker_id=one.heartbeat.worker_id,
        lease_seconds=20,
        max_attempts=3,
        strays=[held],
    )

    again = await _take_over(one)
    assert one.executor.free == one.executor.slots - 2
    assert one.executor.running[submitted.run.run_id] is again.execution
    assert submitted.execution is not None
    submitted.execution.stop("lost")
    await _ended(submitted)
    gate.opened.set()
    await _ended(again)

    assert await one.status(submitted) == "success"
    assert one.executor.free == one.executor.slots


async def test_nothing_is_lost_when_the_clock_of_the_process_before_was_ahead(
    db: Database, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.opened.set()
    clock = SimpleNamespace(time_ns=lambda: time.time_ns() + 10**10)
    monkeypatch.setattr(checkpoint_ids, "time", clock)
    thread_id, done = "", []
    for _ in range(3):
        async with process(db, {"gated": gated(gate)}, working=False) as one:
            thread_id = thread_id or await one.thread()
            done.append(last_values(await one.heard(await one.submit(thread_id)))["log"])
        # The next one is another process, with another clock.
        clock.time_ns = time.time_ns
        monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)

    assert done == [["first", "wait", "last"] * number for number in (1, 2, 3)]


async def test_a_temporary_run_deletes_its_thread(one: Process, gate: Gate) -> None:
    gate.opened.set()
    submitted = await one.submit(None, temporary=True)

    result = await one.runs.join(submitted)

    assert result.values["log"] == ["first", "wait", "last"]
    assert await one.db.tuples("SELECT 1 FROM thread", {}) == []
    assert await one.db.tuples("SELECT 1 FROM checkpoints", {}) == []


async def test_slots_are_counted(one: Process) -> None:
    assert one.executor.reserve(3)
    assert not one.executor.reserve()
    one.executor.release(2)
    assert one.executor.free == 2


async def test_draining_lets_runs_finish_within_the_grace(one: Process, gate: Gate) -> None:
    _, submitted = await _wait_in_the_middle(one, gate)
    draining = asyncio.create_task(one.executor.drain(grace_seconds=20))
    gate.opened.set()
    await draining

    assert await one.status(submitted) == "success"


async def test_a_run_that_starts_after_the_grace_is_handed_back(one: Process, gate: Gate) -> None:
    await one.executor.drain(grace_seconds=0)

    submitted = await one.submit(await one.thread())
    await _ended(submitted)

    assert gate.ran == []
    assert await one.status(submitted) == "pending"
