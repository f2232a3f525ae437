"""What is not visible is not there: to read, to change, to run on, to count."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from store import assistants, endings, new_runs, rollback, runs, sessions, threads
from store.access import EVERYTHING, Access
from store.assistants import SystemAssistant
from store.database import Database
from store.errors import AlreadyExistsError, NotFoundError
from store.sessions import Filter
from tests.store.queues import a_worker, begin, end, in_flight, new_run, put

#: With all that an array of PostgreSQL, and JSON in it, has to quote.
OWNER = "a\"\\, {}' \u0000é"
MINE, THEIRS, NOTHING = Access(({"owner": OWNER},)), Access(({"owner": "b"},)), Access(())

Use = Callable[[Access], Awaitable[Any]]


async def a_thread(db: Database) -> str:
    metadata = {"owner": OWNER, "list": ["x"]}
    made = await threads.create(db, str(uuid.uuid4()), metadata=metadata, access=MINE)
    return made.thread_id


async def test_a_thread_that_is_not_visible_is_not_there(db: Database) -> None:
    thread_id = await a_thread(db)
    uses: list[Use] = [
        lambda access: threads.get(db, thread_id, access=access),
        lambda access: threads.update(db, thread_id, metadata={"x": 1}, access=access),
        lambda access: threads.lease(db, thread_id, access=access),
        lambda access: sessions.get(db, thread_id, access=access),
        lambda access: sessions.update(db, thread_id, changes={"name": "x"}, access=access),
        lambda access: endings.cancel(db, thread_id, None, action="interrupt", access=access),
        lambda access: new_runs.enqueue(db, new_run(thread_id, access=access)),
        lambda access: new_runs.enqueue(
            db, new_run(thread_id, access=access, multitask_strategy="interrupt")
        ),
        lambda access: threads.delete(db, thread_id, access=access),
    ]
    before = await threads.get(db, thread_id, access=EVERYTHING)
    for access in (THEIRS, NOTHING):
        for use in uses:
            with pytest.raises(NotFoundError):
                await use(access)
    assert await threads.get(db, thread_id, access=EVERYTHING) == before
    assert await in_flight(db, ["pending"], access=EVERYTHING) == []

    for use in uses[:6]:
        await use(MINE)
    await threads.delete(db, thread_id, access=MINE)


async def test_an_id_that_is_taken_by_a_stranger_is_taken(db: Database) -> None:
    thread_id = await a_thread(db)

    for access in (THEIRS, MINE):
        with pytest.raises(AlreadyExistsError):
            await threads.create(db, thread_id, access=access)
    with pytest.raises(AlreadyExistsError):
        await threads.create(db, thread_id, if_exists="do_nothing", access=THEIRS)
    found = await threads.create(db, thread_id, if_exists="do_nothing", access=MINE)
    assert found.thread_id == thread_id


async def test_lists_and_counts_have_only_what_is_visible(db: Database) -> None:
    thread_id = await a_thread(db)
    other = await threads.create(db, "b", metadata={"owner": "b"}, access=EVERYTHING)
    either = Access((*MINE.visible, *THEIRS.visible))
    listed: list[tuple[Access, set[str]]] = [
        (MINE, {thread_id}),
        (THEIRS, {other.thread_id}),
        (NOTHING, set()),
        (Access(({"owner": "b", "list": ["x"]},)), set()),
        (Access(({"list": ["x"]},)), {thread_id}),
        (either, {thread_id, other.thread_id}),
        (EVERYTHING, {thread_id, other.thread_id}),
    ]
    for access, expected in listed:
        found = await threads.search(db, metadata={}, access=access)
        filtered = await threads.search(db, metadata={}, status="idle", access=access)
        page, _ = await sessions.list_page(db, Filter(), limit=5, access=access)
        assert {thread.thread_id for thread in found} == expected
        assert {thread.thread_id for thread in filtered} == expected
        assert {session.id for session in page} == expected
        assert await threads.count(db, metadata={}, access=access) == len(expected)
        mine = await threads.search(db, metadata={"owner": "b"}, access=access)
        assert {thread.thread_id for thread in mine} == expected & {"b"}


async def test_a_run_is_as_visible_as_its_thread(db: Database) -> None:
    thread_id = await a_thread(db)
    worker_id = await a_worker(db)
    for access in (THEIRS, NOTHING):
        assert (
            await new_runs.start(db, new_run(thread_id, access=access), worker_id=worker_id) is None
        )
    claimed = await begin(db, thread_id, worker_id, access=MINE)
    run_id = claimed.run.run_id
    queued = await put(db, thread_id, access=MINE)

    for access in (THEIRS, NOTHING):
        with pytest.raises(NotFoundError):
            await runs.get(db, run_id, access=access)
        assert await in_flight(db, ["running", "pending"], access=access) == []
        page = await runs.list_of_thread(
            db, thread_id, status=None, limit=5, offset=0, access=access
        )
        assert page == []
    assert (await runs.get(db, run_id, access=MINE)).run_id == run_id
    found = await in_flight(db, ["running", "pending"], access=MINE)
    assert found == [(run_id, thread_id), (queued.run_id, thread_id)]
    await end(db, claimed)
    await endings.cancel(db, thread_id, None, action="interrupt", access=MINE)
    with pytest.raises(NotFoundError):
        await rollback.forget(db, thread_id, run_id, access=THEIRS)
    await rollback.forget(db, thread_id, run_id, access=MINE)


async def test_the_assistants_of_graphs_are_everybodys_and_others_are_not(db: Database) -> None:
    system, own = str(uuid.uuid4()), str(uuid.uuid4())
    of_graph = SystemAssistant(assistant_id=system, graph_id="g", name="g", description=None)
    await assistants.register_system(db, [of_graph])
    # It says that it is the system's, and is not.
    await db.execute(
        "INSERT INTO assistant (assistant_id, graph_id, name, metadata)"
        " VALUES (%(id)s::uuid, 'g', 'own', %(metadata)s)",
        {"id": own, "metadata": {"owner": OWNER, "created_by": "system"}},
    )
    for access, expected in ((MINE, {system, own}), (THEIRS, {system}), (NOTHING, {system})):
        found = await assistants.search(db, metadata={}, access=access)
        assert {assistant.assistant_id for assistant in found} == expected
        assert await assistants.count(db, metadata={}, access=access) == len(expected)
        assert (await assistants.get(db, system, access=access)).graph_id == "g"
        setting = await runs.setting(
            db, assistant_id=own, thread_id=None, access=EVERYTHING, assistant_access=access
        )
        assert (setting is not None) == (access is MINE)
    with pytest.raises(NotFoundError):
        await assistants.get(db, own, access=THEIRS)


async def test_a_run_inherits_nothing_of_a_thread_that_is_not_visible(db: Database) -> None:
    thread_id, assistant_id = await a_thread(db), str(uuid.uuid4())
    of_graph = SystemAssistant(assistant_id=assistant_id, graph_id="g", name="g", description=None)
    await assistants.register_system(db, [of_graph])

    for access, expected in ((MINE, thread_id), (THEIRS, None)):
        setting = await runs.setting(
            db,
            assistant_id=assistant_id,
            thread_id=thread_id,
            access=access,
            assistant_access=EVERYTHING,
        )
        assert setting is not None
        assert setting.thread_id == expected
        assert (setting.thread_metadata is None) == (expected is None)
