"""Whole threads, copied and pruned while they are in use."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from graph.threads import Threads
from store import messages, threads
from store.access import EVERYTHING
from store.checkpoints import open_saver
from store.database import Database
from tests.graph.engines import Process, process
from tests.graph.test_retention import Delta, Full, said, talk


@pytest.fixture
async def one(db: Database) -> AsyncIterator[Process]:
    async with process(db, {"full": talk(Full), "delta": talk(Delta)}, working=False) as opened:
        yield opened


def of(one: Process) -> Threads:
    return Threads(
        db=one.db,
        runs=one.runs,
        states=cast("Any", None),
        retention=one.executor.retention,
    )


async def texts(db: Database, thread_id: str) -> list[str]:
    return [each.content for each in await messages.in_context(db, thread_id)]


async def conversation(one: Process, thread_id: str, graph: str) -> int:
    """How many messages the graph itself finds on a thread, from its checkpoints alone."""
    submitted = await one.submit(
        thread_id, graph=graph, input={"messages": [{"role": "user", "content": "count"}]}
    )
    result = await one.runs.join(submitted)
    return len(result.values["messages"])


@pytest.mark.parametrize("graph", ["full", "delta"])
async def test_each_copy_made_while_a_thread_is_in_use_is_whole(
    one: Process, db: Database, graph: str
) -> None:
    source = (await threads.create(db, str(uuid.uuid4()), access=EVERYTHING)).thread_id
    await said(one, source, graph, "turn 0")
    copies: list[str] = []

    async def talking() -> None:
        for number in range(1, 8):
            await said(one, source, graph, f"turn {number}")

    talked = asyncio.create_task(talking())
    while not talked.done():
        copies.append(str(uuid.uuid4()))
        await threads.copy(db, source, copies[-1], metadata={}, access=EVERYTHING)
    await talked

    spoken = await texts(db, source)
    lengths = set()
    for copy in copies:
        found = await texts(db, copy)
        lengths.add(len(found))
        assert found == spoken[: len(found)]
        # Its projection is what its checkpoints say, and it goes on from there.
        assert await conversation(one, copy, graph) == len(found) + 2
    assert len(lengths) > 1
    assert await texts(db, source) == spoken


@pytest.mark.parametrize("graph", ["full", "delta"])
async def test_what_is_pruned_goes_on_from_its_newest_state(
    one: Process, db: Database, graph: str
) -> None:
    ids = [(await threads.create(db, str(uuid.uuid4()), access=EVERYTHING)).thread_id for _ in "ab"]
    for thread_id in ids:
        for number in range(3):
            await said(one, thread_id, graph, f"turn {number}")

    pruned = await of(one).prune(ids, strategy="keep_latest", actor="ada", access=EVERYTHING)

    assert pruned == 2
    left = await db.tuples("SELECT thread_id, count(*) FROM checkpoints GROUP BY 1", {})
    assert sorted(left) == sorted((thread_id, 1) for thread_id in ids)
    for thread_id in ids:
        assert await conversation(one, thread_id, graph) == 8


async def test_a_stock_checkpoint_that_names_its_thread_names_the_copy(db: Database) -> None:
    source, target = str(uuid.uuid4()), str(uuid.uuid4())
    await threads.create(db, source, access=EVERYTHING)
    async with open_saver(db) as saver:
        await db.execute(
            "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)"
            " VALUES (%(id)s, '', '1', '{}', %(metadata)s)",
            {"id": source, "metadata": {"thread_id": source, "step": 1}},
        )
        await saver.acopy_thread(source, target)

    rows = await db.tuples(
        "SELECT metadata FROM checkpoints WHERE thread_id = %(id)s", {"id": target}
    )
    assert rows == [({"thread_id": target, "step": 1},)]
