"""Assistants: their versions, and who may change them."""

import uuid
from typing import Any

import pytest

from store import assistants, runs
from store.access import EVERYTHING, Access
from store.assistants import SystemAssistant
from store.database import Database
from store.errors import AlreadyExistsError, NotFoundError
from tests.store.queues import a_thread, a_worker, begin, end, put, together

ANNA, BERT = Access(({"owner": "anna"},)), Access(({"owner": "bert"},))


async def made(db: Database, **more: Any) -> str:
    assistant_id = str(uuid.uuid4())
    await assistants.create(
        db,
        assistant_id,
        **{
            "graph_id": "g", "name": "n", "description": None, "config": {}, "context": {},
            "metadata": {"owner": "anna"}, "access": ANNA, **more,
        },
    )  # fmt: skip
    return assistant_id


async def test_every_change_is_a_version_of_its_own(db: Database) -> None:
    assistant_id = await made(db)

    changed = await together(
        *(assistants.update(db, assistant_id, metadata={str(n): n}, access=ANNA) for n in range(8))
    )

    assert sorted(each.version for each in changed) == list(range(2, 10))
    kept = await assistants.versions(db, assistant_id, metadata={}, access=ANNA)
    assert [each.version for each in kept] == list(range(9, 0, -1))
    assert [len(each.metadata) for each in kept] == list(range(9, 0, -1))


async def test_a_version_comes_back_whole(db: Database) -> None:
    assistant_id = await made(db, config={"tags": ["a"]}, context={"b": 1}, description="first")
    first = await assistants.get(db, assistant_id, access=ANNA)
    await assistants.update(
        db,
        assistant_id,
        graph_id="h",
        name="m",
        description="second",
        config={"tags": ["c"]},
        context={"d": 1},
        metadata={"e": 1},
        access=ANNA,
    )

    back = await assistants.set_latest(db, assistant_id, 1, access=ANNA)
    then = await assistants.update(db, assistant_id, name="third", access=ANNA)

    assert back.updated_at > first.updated_at
    assert (back.graph_id, back.config, back.context, back.metadata, back.version) == (
        first.graph_id, first.config, first.context, first.metadata, 1,
    )  # fmt: skip
    assert (then.version, then.config, then.description) == (3, {"tags": ["a"]}, "first")


async def test_a_stranger_finds_no_assistant_to_change(db: Database) -> None:
    assistant_id = await made(db)
    system = str(uuid.uuid4())
    await assistants.register_system(
        db, [SystemAssistant(assistant_id=system, graph_id="g", name="g", description=None)]
    )

    for each in (assistant_id, system):
        with pytest.raises(NotFoundError):
            await assistants.update(db, each, name="x", access=BERT)
        with pytest.raises(NotFoundError):
            await assistants.set_latest(db, each, 1, access=BERT)
        with pytest.raises(NotFoundError):
            await assistants.delete(db, each, access=BERT)
    with pytest.raises(NotFoundError):
        await assistants.versions(db, assistant_id, metadata={}, access=BERT)
    with pytest.raises(AlreadyExistsError):
        await assistants.create(
            db, assistant_id, graph_id="g", name="n", description=None, config={}, context={},
            metadata={}, if_exists="do_nothing", access=BERT,
        )  # fmt: skip
    assert [v.version for v in await assistants.versions(db, system, metadata={}, access=BERT)] == [
        1
    ]


async def test_what_is_deleted_takes_its_versions_and_ended_runs_along(db: Database) -> None:
    assistant_id, worker_id = await made(db), await a_worker(db)
    ended, waiting, other = [await a_thread(db) for _ in range(3)]
    gone = await begin(db, ended, worker_id, assistant_id=assistant_id)
    await end(db, gone)
    left = await put(db, waiting, assistant_id=assistant_id)
    kept = await begin(db, other, worker_id)
    await end(db, kept)

    assert await runs.of_assistant(db, assistant_id) == [(left.run_id, waiting)]
    await assistants.delete(db, assistant_id, access=ANNA)

    with pytest.raises(NotFoundError):
        await assistants.get(db, assistant_id, access=EVERYTHING)
    assert await db.tuples("SELECT FROM assistant_version", {}) == []
    assert await runs.find(db, gone.run.run_id, access=EVERYTHING) is None
    assert await runs.find(db, left.run_id, access=EVERYTHING)
    assert await runs.find(db, kept.run.run_id, access=EVERYTHING)
