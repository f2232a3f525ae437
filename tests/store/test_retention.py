"""What is left of a thread's past, and of threads whose time has come."""

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from store import retention, threads
from store.access import EVERYTHING
from store.checkpoints import Saver
from store.database import Database
from store.errors import LeaseLostError
from store.models import Lease
from store.retention import Life
from tests.store.graphs import config, create_thread
from tests.store.test_heads import Delta, Full, graph, opened, says, stock

__all__ = ["stock"]

TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


async def talked(db: Database, saver: Saver, state: Any, turns: int = 8) -> None:
    await create_thread(db, "t")
    for turn in range(turns):
        await (await opened(db, saver, state)).ainvoke(says(f"turn {turn}"), config("t"))


async def trim(db: Database, saver: Saver, state: Any, keep: int) -> None:
    own: Any = (await opened(db, saver, state)).checkpointer
    await own.trim(keep=keep)


async def history(reader: Any) -> list[Any]:
    return [found async for found in reader.aget_state_history(config("t"))]


async def sizes(db: Database) -> list[int]:
    counts = [await db.tuples(f"SELECT count(*) FROM {table}", {}) for table in TABLES]
    return [count for [(count,)] in counts]


@pytest.mark.parametrize("state", [Full, Delta])
@pytest.mark.parametrize("keep", [1, 5])
async def test_the_newest_states_are_left_as_they_were(
    db: Database, saver: Saver, stock: AsyncPostgresSaver, state: Any, keep: int
) -> None:
    await talked(db, saver, state)
    reader = graph(state, stock)
    before = await history(reader)
    said = await db.tuples("SELECT id, content, position, seq FROM message ORDER BY seq", {})

    await trim(db, saver, state, keep)

    after = await history(reader)
    assert [found.values for found in after] == [found.values for found in before[:keep]]
    assert [found.config for found in after] == [found.config for found in before[:keep]]
    assert after[-1].parent_config is None
    left = await sizes(db)
    assert left[0] == keep
    assert left[2] <= 5 * keep
    query = "SELECT id, content, position, seq FROM message ORDER BY seq"
    assert await db.tuples(query, {}) == said
    values = await (await opened(db, saver, state)).ainvoke(says("on"), config("t"))
    assert len(values["messages"]) == len(before[0].values["messages"]) + 2


@pytest.mark.parametrize("state", [Full, Delta])
async def test_no_blob_is_left_that_nobody_refers_to(
    db: Database, saver: Saver, state: Any
) -> None:
    await talked(db, saver, state)
    await trim(db, saver, state, 3)

    unused = await db.tuples(
        """
        SELECT channel, version FROM checkpoint_blobs
        EXCEPT
        SELECT v.key, v.value FROM checkpoints,
            jsonb_each_text(checkpoint -> 'channel_versions') AS v
        """,
        {},
    )
    assert unused == []


async def test_without_its_graph_a_thread_keeps_what_its_newest_state_is_made_of(
    db: Database, saver: Saver, stock: AsyncPostgresSaver
) -> None:
    await talked(db, saver, Delta)
    reader = graph(Delta, stock)
    before = await history(reader)
    lease = await threads.lease(db, "t", access=EVERYTHING)

    kept = await retention.prune(db, saver, lease, keep=2)

    assert 2 <= len(kept) < len(before)
    after = await history(reader)
    assert [found.values for found in after[:2]] == [found.values for found in before[:2]]


async def test_whoever_lost_the_thread_prunes_nothing(db: Database, saver: Saver) -> None:
    await talked(db, saver, Full)
    own: Any = (await opened(db, saver, Full)).checkpointer
    before = await sizes(db)
    await threads.lease(db, "t", access=EVERYTHING)

    await own.trim(keep=1)

    assert await sizes(db) == before


async def test_a_change_of_the_past_that_was_pruned_meanwhile_is_refused(
    db: Database, saver: Saver
) -> None:
    await talked(db, saver, Full)
    changing = await opened(db, saver, Full)
    past = (await history(changing))[-1].config
    await trim(db, saver, Full, 1)

    with pytest.raises(LeaseLostError):
        await changing.aupdate_state(past, says("too late"), as_node="answer")


async def unused_for(db: Database, minutes: int, thread_id: str = "t") -> None:
    moved = {"thread_id": thread_id, "minutes": minutes}
    await db.execute(
        "UPDATE thread SET updated_at = now() - make_interval(mins => %(minutes)s) "
        "WHERE thread_id = %(thread_id)s",
        moved,
    )
    await db.execute(
        "UPDATE thread_ttl SET due_at = due_at - make_interval(mins => %(minutes)s) "
        "WHERE thread_id = %(thread_id)s",
        moved,
    )


async def test_a_thread_expires_when_it_was_not_used_for_its_time(db: Database) -> None:
    await threads.create(db, "t", life=Life(ttl_minutes=10), access=EVERYTHING)
    assert await retention.claim_expired(db, limit=10) == []

    await unused_for(db, 11)
    await threads.update(db, "t", metadata={"used": True}, access=EVERYTHING)
    assert await retention.claim_expired(db, limit=10) == []
    life = await retention.lifetime(db, "t")
    assert life is not None
    assert (life.ttl_minutes, life.strategy) == (10, "delete")

    await unused_for(db, 21)
    assert await retention.claim_expired(db, limit=10) == [("t", "delete")]


async def test_a_thread_in_use_does_not_expire(db: Database) -> None:
    await threads.create(db, "t", life=Life(ttl_minutes=10), access=EVERYTHING)
    await unused_for(db, 11)
    await db.execute("UPDATE thread SET status = 'busy'", {})

    assert await retention.claim_expired(db, limit=10) == []


async def test_two_processes_never_take_up_the_same_thread(db: Database) -> None:
    names = [f"t{i}" for i in range(40)]
    for name in names:
        await threads.create(db, name, life=Life(ttl_minutes=1), access=EVERYTHING)
        await unused_for(db, 2, name)

    found = await asyncio.gather(*(retention.claim_expired(db, limit=7) for _ in range(12)))

    taken = [thread_id for some in found for thread_id, _ in some]
    assert sorted(taken) == sorted(names)


async def test_an_expired_thread_that_somebody_takes_is_not_deleted(db: Database) -> None:
    await threads.create(db, "t", access=EVERYTHING)
    lease = await threads.lease(db, "t", access=EVERYTHING)
    later: Lease = await threads.lease(db, "t", access=EVERYTHING)

    assert not await threads.delete_leased(db, lease)
    assert await threads.delete_leased(db, later)
