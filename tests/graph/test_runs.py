"""Commands on runs: submitted, followed, joined, cancelled, from this process and from others."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from uuid_utils.compat import uuid7

from api.processes.embedded import Servers
from graph.runs import Submitted
from store import messages, queue, threads
from store.access import EVERYTHING
from store.database import Database, open_database
from store.errors import (
    BadRequestError,
    InvalidInputError,
    NotFoundError,
    ThreadBusyError,
    UnavailableError,
)
from store.events import START, Gap
from tests.faults.stores import lose_answer, network_to, through
from tests.graph import sample_graphs
from tests.graph.engines import (
    DEADLINE_SECONDS,
    Gate,
    Process,
    Steps,
    gated,
    process,
    soon,
    until,
)
from tests.store.queues import in_flight


def side_by_side(gate: Gate) -> Any:
    """One of two nodes asks at once; the other one waits for the gate, does what it says, and ends."""

    async def ask(state: Steps) -> Steps:
        interrupt("first?")
        return {}

    async def wait(state: Steps) -> Steps:
        await gate.opened.wait()
        gate.act()
        return {"log": ["waited"]}

    builder = StateGraph(Steps)
    builder.add_node("ask", ask)
    builder.add_node("wait", wait)
    builder.set_entry_point("ask")
    builder.set_entry_point("wait")
    return builder.compile()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def graphs(gate: Gate) -> dict[str, Any]:
    return {
        "gated": gated(gate),
        "ask": sample_graphs.ask,
        "boom": sample_graphs.boom,
        "side by side": side_by_side(gate),
    }


@pytest.fixture
async def one(db: Database, graphs: dict[str, Any]) -> AsyncIterator[Process]:
    async with process(db, graphs, poll_seconds=30) as one:
        yield one


@pytest.fixture
async def here(db: Database, servers: Servers, graphs: dict[str, Any]) -> AsyncIterator[Process]:
    """A process that serves and never runs anything."""
    async with process(db, graphs, redis_url=servers.redis_url, slots=0) as here:
        yield here


@pytest.fixture
async def there(db: Database, servers: Servers, graphs: dict[str, Any]) -> AsyncIterator[Process]:
    """A process that runs what others queue."""
    async with process(db, graphs, redis_url=servers.redis_url) as there:
        yield there


async def _following(one: Process, submitted: Submitted) -> asyncio.Task[list[str]]:
    """A follower that is known to wait."""
    following = asyncio.create_task(one.names(submitted))
    await until(lambda: _watched(one, submitted))
    return following


async def _watched(one: Process, submitted: Submitted) -> bool:
    return submitted.run.run_id in one.endings._waiting


# ---------------------------------------------------------------- submitting


async def test_a_run_with_somebody_waiting_starts_here_and_at_once(
    one: Process, gate: Gate
) -> None:
    submitted = await one.submit(await one.thread())

    assert submitted.execution is not None
    assert submitted.run.status == "running"
    assert list(one.executor.running) == [submitted.run.run_id]


async def test_a_run_is_queued_when_nobody_waits_or_the_thread_is_busy_or_it_is_delayed(
    one: Process, gate: Gate
) -> None:
    thread_id = await one.thread()
    await one.submit(thread_id)

    for submitted in (
        await one.submit(thread_id),
        await one.submit(await one.thread(), attached=False),
        await one.submit(await one.thread(), after_seconds=60),
    ):
        assert (submitted.execution, submitted.run.status) == (None, "pending")


async def test_a_queued_run_is_claimed_without_waiting_for_the_poll(
    one: Process, gate: Gate
) -> None:
    gate.opened.set()
    submitted = await one.submit(await one.thread(), attached=False)

    assert (await one.names(submitted))[-1] == "end"


async def test_a_run_is_queued_when_no_slot_is_free(one: Process, gate: Gate) -> None:
    for _ in range(one.executor.slots):
        await one.submit(await one.thread())
    waiting = await one.submit(await one.thread())

    assert waiting.execution is None
    gate.opened.set()
    assert (await one.names(waiting))[-1] == "end"


async def test_what_is_wrong_with_a_request_is_said(one: Process) -> None:
    thread_id = await one.thread()
    with pytest.raises(InvalidInputError, match="Invalid assistant: 'none'"):
        await one.submit(thread_id, graph="none")
    with pytest.raises(NotFoundError):
        await one.submit(thread_id, graph=str(uuid.uuid4()))
    with pytest.raises(NotFoundError):
        await one.submit("none")
    assert await in_flight(one.db, ["pending", "running"], access=EVERYTHING) == []


async def test_a_refused_request_leaves_no_thread_behind(one: Process) -> None:
    with pytest.raises(BadRequestError):
        await one.submit(None, config={"configurable": {"a": 1}}, context={"a": 1})

    assert await threads.count(one.db, metadata={}, access=EVERYTHING) == 0


async def test_a_busy_thread_is_told(one: Process, gate: Gate) -> None:
    thread_id = await one.thread()
    await one.submit(thread_id)

    with pytest.raises(ThreadBusyError):
        await one.submit(thread_id, multitask_strategy="reject")


async def test_interrupting_lets_the_next_run_begin(one: Process, gate: Gate) -> None:
    thread_id = await one.thread()
    stopped = await one.submit(thread_id)
    await soon(gate.entered)
    gate.opened.set()

    following = await one.submit(thread_id, multitask_strategy="interrupt")

    assert (await one.names(following))[-1] == "end"
    assert await one.status(following) == "success"
    assert await one.status(stopped) in ("interrupted", "success")


async def test_many_submitters_of_a_thread_all_get_their_turn(one: Process, gate: Gate) -> None:
    gate.opened.set()
    thread_id = await one.thread()

    async with asyncio.timeout(DEADLINE_SECONDS):
        submitted = await asyncio.gather(*(one.submit(thread_id) for _ in range(6)))
        results = await asyncio.gather(*(one.runs.join(each) for each in submitted))

    assert {result.status for result in results} == {"success"}
    assert gate.ran == ["first", "wait", "last"] * 6
    await until(lambda: _is_idle(one))


async def test_a_run_that_was_started_unheard_and_taken_over_is_followed_there(
    db: Database, database_url: str, servers: Servers, graphs: dict[str, Any], gate: Gate
) -> None:
    run_id, url = str(uuid7()), servers.redis_url
    with network_to(database_url) as network:
        async with (
            open_database(through(network, database_url), cipher=db.cipher) as cut_off,
            process(cut_off, graphs, redis_url=url) as here,
            process(db, graphs, redis_url=url, lease_seconds=1.0) as there,
        ):
            thread_id = await there.thread()
            lose_answer(network, run_id, refuse=True)
            submitting = asyncio.create_task(here.submit(thread_id, run_id=run_id))
            # It is nobody's until the lease of the one that is cut off has run out.
            await soon(gate.entered)
            network.refuses = False
            submitted = await submitting
            gate.opened.set()
            result = await here.runs.join(submitted)

    assert (submitted.run.run_id, submitted.execution) == (run_id, None)
    assert here.executor.free == here.executor.slots
    assert result.status == "success"
    assert gate.ran == ["first", "wait", "last"]


# ----------------------------------------------------------------- following


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_followers_of_a_queued_run_that_is_cancelled_are_let_go(
    one: Process, gate: Gate, action: str
) -> None:
    thread_id = await one.thread()
    await one.submit(thread_id)
    queued = await one.submit(thread_id)
    following = await _following(one, queued)

    await one.runs.cancel(thread_id, [queued.run.run_id], action=action, access=EVERYTHING)  # type: ignore[arg-type]

    assert await following == []


async def test_followers_that_come_after_the_cancellation_are_let_go(
    one: Process, gate: Gate
) -> None:
    thread_id = await one.thread()
    await one.submit(thread_id)
    queued = await one.submit(thread_id)
    await one.runs.cancel(thread_id, [queued.run.run_id], action="interrupt", access=EVERYTHING)

    assert await one.names(queued) == []
    assert (await one.runs.join(queued)).status == "interrupted"


async def test_followers_are_let_go_when_the_thread_is_deleted(one: Process, gate: Gate) -> None:
    thread_id = await one.thread()
    running, queued = await one.submit(thread_id), await one.submit(thread_id)
    following = [await _following(one, running), await _following(one, queued)]

    await one.runs.delete_thread(thread_id, access=EVERYTHING)

    assert [(await each)[-1:] for each in following][1] == []
    assert "end" not in await following[0]
    assert running.execution is not None
    await soon(running.execution.ended)
    await until(lambda: _is_idle(one))


async def test_a_thread_that_is_made_again_under_its_name_runs(
    here: Process, there: Process, gate: Gate
) -> None:
    gate.opened.set()
    thread_id = await here.thread()
    for _ in range(3):
        await here.runs.join(await here.submit(thread_id))
    await here.runs.delete_thread(thread_id, access=EVERYTHING)
    await threads.create(here.db, thread_id, access=EVERYTHING)

    submitted = await here.submit(thread_id)

    assert (await here.runs.join(submitted)).status == "success"


async def test_followers_are_let_go_when_the_process_goes(one: Process, gate: Gate) -> None:
    thread_id = await one.thread()
    await one.submit(thread_id)
    queued = await one.submit(thread_id)
    following = await _following(one, queued)

    await one.worker.drain()

    assert await following == []
    with pytest.raises(UnavailableError):
        await one.runs.join(queued)


async def test_a_slow_follower_reads_to_the_end(here: Process, there: Process, gate: Gate) -> None:
    gate.opened.set()
    submitted = await here.submit(await here.thread())
    ended = asyncio.Event()
    names: list[str] = []
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        aclosing(here.runs.follower.follow(submitted.run)) as batches,
    ):
        async for batch in batches:
            assert not isinstance(batch, Gap)
            names += [event.name for event in batch]
            if not ended.is_set():
                # Long enough for it to be stopped.
                with here.endings.watch(submitted.run.run_id) as stop:
                    await stop.wait()
                ended.set()

    assert names[-1] == "end"


async def test_a_run_that_ended_long_ago_is_followed_from_its_log(one: Process, gate: Gate) -> None:
    gate.opened.set()
    submitted = await one.submit(await one.thread())
    names = await one.names(submitted)

    again = await one.runs.attach(submitted.run.run_id, access=EVERYTHING)

    assert await one.names(again) == names
    with pytest.raises(NotFoundError):
        await one.runs.attach(submitted.run.run_id, thread_id="other", access=EVERYTHING)


async def test_following_ends_although_the_log_is_lost(
    here: Process, there: Process, gate: Gate
) -> None:
    gate.opened.set()
    submitted = await here.submit(await here.thread())
    await here.runs.join(submitted)
    await there.events.delete(submitted.run.thread_id)
    await here.events.delete(submitted.run.thread_id)

    again = await here.runs.attach(submitted.run.run_id, access=EVERYTHING)

    assert await here.names(again) == []
    assert (await here.runs.join(again)).status == "success"


async def test_who_follows_a_thread_is_told_of_an_end_that_the_log_has_lost(
    one: Process, gate: Gate
) -> None:
    gate.opened.set()
    thread_id = await one.thread()
    first = await one.submit(thread_id)
    await one.runs.join(first)
    await one.events.delete(thread_id)
    for number, run_id in enumerate((first.run.run_id, str(uuid7())), 1):
        writer = one.events.writer(thread_id, first.run.log_epoch + 10 * number, run_id)
        writer.emit("metadata", b"{}")
        writer.close()
    told: list[str] = []
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        aclosing(one.runs.follower.follow_thread(thread_id, after=START)) as batches,
    ):
        async for batch in batches:
            told += ["gap"] if isinstance(batch, Gap) else [event.name for event in batch]
            if told.count("metadata") == 2:
                break

    assert told == ["metadata", "gap", "end", "metadata"]


# ------------------------------------------------------------------- joining


async def test_a_run_elsewhere_is_joined_with_its_output(
    here: Process, there: Process, gate: Gate
) -> None:
    gate.opened.set()
    submitted = await here.submit(await here.thread())

    result = await here.runs.join(submitted)

    assert submitted.execution is None
    assert (result.status, result.interrupted) == ("success", False)
    assert result.values["log"] == ["first", "wait", "last"]


async def test_a_temporary_run_elsewhere_is_joined_with_its_output(
    here: Process, there: Process, gate: Gate
) -> None:
    gate.opened.set()

    result = await here.runs.join(await here.submit(None, temporary=True))

    assert result.values["log"] == ["first", "wait", "last"]


@pytest.mark.parametrize("modes", [["values"], ["updates"], ["custom"]])
async def test_what_a_run_elsewhere_asks_is_known(
    here: Process, there: Process, modes: list[str]
) -> None:
    submitted = await here.submit(await here.thread(), graph="ask", stream_modes=modes)

    result = await here.runs.join(submitted)

    assert result.interrupted
    assert [found.value for found in result.interrupts] == [{"question": "Go on?"}]


async def test_a_run_is_told_to_ask_what_it_left_open_and_not_what_others_ask(
    one: Process, gate: Gate
) -> None:
    gate.opened.set()
    thread_id = await one.thread()
    # No log has what these ask.
    plain = await one.submit(thread_id, stream_modes=["custom"])
    await one.runs.join(plain)
    asking = await one.submit(thread_id, graph="ask", stream_modes=["custom"])
    await one.runs.join(asking)
    # The thread is busy by it, and what is asked stays open.
    await one.submit(thread_id, after_seconds=60)

    found = [
        await one.runs.join(await one.runs.attach(submitted.run.run_id, access=EVERYTHING))
        for submitted in (plain, asking)
    ]

    assert [(result.status, result.interrupted) for result in found] == [
        ("success", False),
        ("success", True),
    ]
    assert [[asked.value for asked in result.interrupts] for result in found] == [
        [],
        [{"question": "Go on?"}],
    ]


@pytest.mark.parametrize("modes", [["values"], ["updates"]])
@pytest.mark.parametrize("second", [None, "second?"])
async def test_all_that_a_run_elsewhere_asks_is_known_whatever_its_other_nodes_do_then(
    here: Process, there: Process, gate: Gate, modes: list[str], second: str | None
) -> None:
    gate.act = lambda: second and interrupt(second)
    submitted = await here.submit(await here.thread(), graph="side by side", stream_modes=modes)
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        aclosing(here.runs.follower.follow(submitted.run)) as batches,
    ):
        async for batch in batches:
            assert not isinstance(batch, Gap)
            if any(b"__interrupt__" in event.data for event in batch):
                break
    gate.opened.set()

    result = await here.runs.join(submitted)

    assert (result.status, result.interrupted) == ("success", True)
    asked = ["first?"] if second is None else ["first?", second]
    assert [found.value for found in result.interrupts] == asked
    if modes == ["values"]:
        assert result.values["text"] == "x"


async def test_what_an_attempt_asked_that_was_lost_is_not_asked_any_more(here: Process) -> None:
    submitted = await here.submit(await here.thread())
    run = submitted.run
    asked = b'{"__interrupt__":[{"id":"i","value":"?"}]}'
    for epoch, name, data in (
        (run.log_epoch, "updates", asked),
        (run.log_epoch + 1, "end", b'{"status":"success"}'),
    ):
        writer = here.events.writer(run.thread_id, epoch, run.run_id)
        writer.emit("metadata", b"{}")
        writer.emit(name, data)
        writer.close()

    result = await here.runs.join(submitted)

    assert (result.status, result.interrupted, result.interrupts) == ("success", False, ())


async def test_how_a_run_elsewhere_failed_is_known(here: Process, there: Process) -> None:
    result = await here.runs.join(await here.submit(await here.thread(), graph="boom"))

    assert (result.status, result.error) == ("error", {"error": "ValueError", "message": "boom!"})


# ---------------------------------------------------------------- cancelling


async def test_a_run_elsewhere_is_cancelled(here: Process, there: Process, gate: Gate) -> None:
    thread_id = await here.thread()
    submitted = await here.submit(thread_id)
    await soon(gate.entered)

    await here.runs.cancel(thread_id, None, action="interrupt", access=EVERYTHING)

    assert (await here.runs.join(submitted)).status == "interrupted"
    assert await here.runs.cancel(thread_id, None, action="interrupt", access=EVERYTHING) == []


async def test_a_client_that_leaves_has_its_run_cancelled(one: Process, gate: Gate) -> None:
    submitted = await one.submit(await one.thread())
    await soon(gate.entered)

    one.runs.abandon(submitted.run)

    assert (await one.runs.join(submitted)).status == "interrupted"


async def test_abandoning_a_run_that_is_gone_does_nothing(one: Process, gate: Gate) -> None:
    thread_id = await one.thread()
    submitted = await one.submit(thread_id, attached=False, after_seconds=60)
    await one.runs.delete_thread(thread_id, access=EVERYTHING)

    one.runs.abandon(submitted.run)
    (task,) = one.runs._abandoning
    await task

    with pytest.raises(NotFoundError):
        await one.runs.delete_thread(thread_id, access=EVERYTHING)


async def test_a_cancellation_meets_a_run_that_is_just_being_claimed(
    one: Process, gate: Gate
) -> None:
    """Whichever comes first, the run ends and nobody waits."""
    for _ in range(5):
        thread_id = await one.thread()
        submitted = await one.submit(thread_id, attached=False)

        await one.runs.cancel(thread_id, None, action="interrupt", access=EVERYTHING)

        assert (await one.runs.join(submitted)).status == "interrupted"
        assert await one.thread_status(thread_id) in ("idle", "interrupted")


async def test_a_starter_that_is_cancelled_gives_its_slot_back(one: Process, gate: Gate) -> None:
    thread_id = await one.thread()
    async with one.db.transaction() as tx:
        await tx.tuples(
            "SELECT 1 FROM thread WHERE thread_id = %(id)s FOR UPDATE", {"id": thread_id}
        )
        starting = asyncio.create_task(one.submit(thread_id))
        await until(lambda: _is_reserved(one))
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting

    await until(lambda: _is_idle(one))


async def _is_idle(one: Process) -> bool:
    """No slot is taken; a claim keeps some while it is under way."""
    return one.executor.free == one.executor.slots


async def _is_reserved(one: Process) -> bool:
    return one.executor.free < one.executor.slots


async def test_a_starter_that_finds_the_thread_gone_gives_its_slot_back(one: Process) -> None:
    thread_id = await one.thread()
    async with one.db.transaction() as tx:
        await tx.execute("DELETE FROM thread WHERE thread_id = %(id)s", {"id": thread_id})
        starting = asyncio.create_task(one.submit(thread_id))
        await until(lambda: _is_reserved(one))

    with pytest.raises(NotFoundError):
        await starting
    await until(lambda: _is_idle(one))


async def test_the_queue_is_not_used_by_what_a_dead_heart_would_lose(
    one: Process, gate: Gate
) -> None:
    await queue.retire(one.db, one.heartbeat.worker_id)
    submitted = await one.submit(await one.thread())
    gate.opened.set()

    assert (await one.runs.join(submitted)).status == "success"


class Talk(TypedDict):
    talk: Annotated[list[Any], add_messages]


async def test_a_deleted_run_leaves_the_messages_of_others_whatever_their_channel_is_called(
    db: Database,
) -> None:
    builder = StateGraph(Talk)
    builder.add_node("answer", lambda _: {"talk": [("ai", "yes")]})
    builder.set_entry_point("answer")
    async with process(db, {"talk": builder.compile()}) as one:
        thread_id = await one.thread()
        for question in ("one", "two"):
            asked = {"talk": [{"role": "user", "content": question}]}
            submitted = await one.submit(thread_id, graph="talk", input=asked)
            assert (await one.runs.join(submitted)).status == "success"

        await one.runs.delete(thread_id, submitted.run.run_id, access=EVERYTHING)

        assert [m.content for m in await messages.in_context(db, thread_id)] == ["one", "yes"]
