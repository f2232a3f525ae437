"""How much of a thread's past a process leaves behind."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels import DeltaChannel
from langgraph.graph import START, StateGraph, add_messages
from langgraph.graph.message import _messages_delta_reducer

from graph.retention import SLACK
from store import messages, retention, threads
from store.access import EVERYTHING
from store.database import Database
from store.errors import NotFoundError
from store.retention import Life
from tests.graph.engines import Process, process

KEEP = 10


class Full(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Delta(TypedDict):
    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=1000)
    ]


def talk(state: Any) -> Any:
    async def answer(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(f"answer {len(state['messages'])}")]}

    builder: StateGraph[Any] = StateGraph(state)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    return builder.compile()


@pytest.fixture
async def one(db: Database) -> AsyncIterator[Process]:
    graphs = {"full": talk(Full), "delta": talk(Delta)}
    async with process(db, graphs, keep=KEEP, working=False) as opened:
        yield opened


async def said(one: Process, thread_id: str, graph: str, text: str) -> Any:
    values = {"messages": [{"role": "user", "content": text}]}
    submitted = await one.submit(thread_id, graph=graph, input=values)
    result = await one.runs.join(submitted)
    assert result.status == "success", result
    return submitted


async def count(db: Database) -> int:
    rows = await db.tuples("SELECT count(*) FROM checkpoints", {})
    return int(rows[0][0])


@pytest.mark.parametrize("graph", ["full", "delta"])
async def test_a_thread_keeps_no_more_checkpoints_however_long_it_gets(
    db: Database, one: Process, graph: str
) -> None:
    thread_id = await one.thread()
    most = 0
    for turn in range(20):
        await said(one, thread_id, graph, f"turn {turn}")
        most = max(most, await count(db))

    # What one run writes comes on top.
    assert KEEP <= most <= SLACK * KEEP + 3
    assert len(await messages.in_context(db, thread_id)) == 40


async def test_a_run_that_others_built_upon_can_be_deleted(db: Database, one: Process) -> None:
    thread_id = await one.thread()
    runs = [await said(one, thread_id, "delta", f"turn {turn}") for turn in range(3)]

    await one.runs.delete(thread_id, runs[1].run.run_id, access=EVERYTHING)
    await said(one, thread_id, "delta", "turn 3")

    context = await messages.in_context(db, thread_id)
    assert [message.content for message in context if message.role == "user"] == [
        "turn 0", "turn 1", "turn 2", "turn 3",
    ]  # fmt: skip


@pytest.mark.parametrize("graph", ["full", "delta"])
async def test_of_an_expired_thread_its_newest_state_is_kept(
    db: Database, one: Process, graph: str
) -> None:
    thread_id = await one.thread()
    for turn in range(3):
        await said(one, thread_id, graph, f"turn {turn}")
    await retention.set_life(db, thread_id, Life(ttl_minutes=0.0001, strategy="keep_latest"))
    await _pass(db)

    assert await one.executor.retention.sweep(limit=10) == 1

    assert await count(db) == 1
    await said(one, thread_id, graph, "turn 3")
    assert len(await messages.in_context(db, thread_id)) == 8


async def test_an_expired_thread_is_deleted_with_all_it_has(db: Database, one: Process) -> None:
    thread_id = await one.thread()
    await said(one, thread_id, "delta", "hello")
    await retention.set_life(db, thread_id, Life(ttl_minutes=0.0001))
    await _pass(db)

    assert await one.executor.retention.sweep(limit=10) == 1

    with pytest.raises(NotFoundError):
        await threads.get(db, thread_id, access=EVERYTHING)
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "message", "run"):
        assert await db.tuples(f"SELECT count(*) FROM {table}", {}) == [(0,)]
    # As the server's act.
    acts = await db.tuples("SELECT act, actor, subject FROM audit", {})
    assert acts == [("session.purged", None, f"session:{thread_id}")]


async def _pass(db: Database) -> None:
    await db.execute("UPDATE thread SET updated_at = updated_at - interval '1 hour'", {})
    await db.execute("UPDATE thread_ttl SET due_at = due_at - interval '1 hour'", {})
