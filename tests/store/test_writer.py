import asyncio
import time
from functools import partial

import pytest

from store.commits import Entry
from store.database import Database
from store.errors import LeaseLostError, UnavailableError
from store.writer import CheckpointWriter, open_writer
from tests.store.graphs import create_thread, take_lease

DEADLINE_SECONDS = 60.0


def writes(thread_id: str, task: str, *, epoch: int | None = None, size: int = 100) -> Entry:
    key = (thread_id.encode(), epoch, b"", b"checkpoint", task.encode(), b"")
    row = (*key, 0, b"channel", b"bytes", task.encode())
    return Entry(thread_id, epoch, lambda: True, writes=[row], size=size)


def _note(finished: list[int], i: int, _: object) -> None:
    finished.append(i)


async def stored(db: Database) -> set[str]:
    return {task for (task,) in await db.tuples("SELECT task_id FROM checkpoint_writes", {})}


async def is_waiting(task: asyncio.Task[object]) -> bool:
    done, _ = await asyncio.wait([task], timeout=0.1)
    return not done


@pytest.mark.parametrize("bounds", [{"max_items": 2}, {"max_bytes": 250}])
async def test_a_caller_waits_while_the_queue_is_full(db: Database, bounds: dict[str, int]) -> None:
    await create_thread(db, "t")
    epoch = (await take_lease(db, "t")).epoch
    async with open_writer(db, **bounds) as writer:
        async with db.transaction() as tx:
            await tx.execute("SELECT FROM thread FOR UPDATE", {})
            first = await writer.write(writes("t", "1", epoch=epoch))
            second = await writer.write(writes("t", "2", epoch=epoch))
            third = asyncio.create_task(writer.write(writes("t", "3", epoch=epoch)))
            assert await is_waiting(third)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(first, second, await third)

    assert await stored(db) == {"1", "2", "3"}


async def test_an_entry_whose_lease_was_given_up_is_not_even_queued(db: Database) -> None:
    dead = writes("t", "1")
    dead.alive = lambda: False
    async with open_writer(db) as writer:
        with pytest.raises(LeaseLostError):
            await writer.write(dead)


async def test_an_entry_larger_than_the_queue_goes_alone(db: Database) -> None:
    async with open_writer(db, max_bytes=10) as writer, asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.gather(*[await writer.write(writes("t", str(i))) for i in range(3)])

    assert await stored(db) == {"0", "1", "2"}


async def test_waiting_for_room_ends_at_the_deadline(db: Database) -> None:
    await create_thread(db, "t")
    epoch = (await take_lease(db, "t")).epoch
    async with open_writer(db, max_items=1, deadline_seconds=0.3) as writer:
        async with db.transaction() as tx:
            await tx.execute("SELECT FROM thread FOR UPDATE", {})
            first = await writer.write(writes("t", "1", epoch=epoch))
            with pytest.raises(UnavailableError):
                await writer.write(writes("t", "2", epoch=epoch))
        await first


async def test_closing_commits_what_is_queued_and_takes_nothing_more(db: Database) -> None:
    async with open_writer(db) as writer:
        queued = [await writer.write(writes("t", str(i))) for i in range(300)]
    with pytest.raises(UnavailableError):
        await writer.write(writes("t", "late"))

    assert all(future.done() and future.exception() is None for future in queued)
    assert len(await stored(db)) == 300


async def test_a_locked_thread_waits_alone_and_keeps_its_order(db: Database) -> None:
    epochs = {}
    for name in "abcd":
        await create_thread(db, name)
        epochs[name] = (await take_lease(db, name)).epoch
    finished: list[str] = []
    async with open_writer(db) as writer, asyncio.timeout(DEADLINE_SECONDS):

        async def write(name: str, task: str) -> asyncio.Future[None]:
            future = await writer.write(writes(name, task, epoch=epochs[name]))
            future.add_done_callback(lambda _: finished.append(task))
            return future

        async with db.transaction() as tx:
            await tx.execute("SELECT FROM thread WHERE thread_id = 'b' FOR UPDATE", {})
            locked = [await write("b", f"b{i}") for i in range(3)]
            await asyncio.gather(*[await write(name, name) for name in "acd"])
            locked.append(await write("b", "b3"))
            await (await write("a", "again"))
            assert finished == ["a", "c", "d", "again"]
        await asyncio.gather(*locked)

    assert finished[4:] == ["b0", "b1", "b2", "b3"]


async def test_an_entry_whose_thread_stays_locked_gives_up_at_its_deadline(db: Database) -> None:
    await create_thread(db, "t")
    epoch = (await take_lease(db, "t")).epoch
    async with open_writer(db, deadline_seconds=0.5) as writer, db.transaction() as tx:
        await tx.execute("SELECT FROM thread FOR UPDATE", {})
        with pytest.raises(UnavailableError):
            await (await writer.write(writes("t", "1", epoch=epoch)))

    assert await stored(db) == set()


async def test_a_writer_that_is_stopped_leaves_nobody_waiting(db: Database) -> None:
    writer = CheckpointWriter(db.conninfo, deadline_seconds=9, max_items=9, max_bytes=2**20)
    await create_thread(db, "t")
    epoch = (await take_lease(db, "t")).epoch
    running = asyncio.create_task(writer.run())
    async with db.transaction() as tx:
        await tx.execute("SELECT FROM thread FOR UPDATE", {})
        future = await writer.write(writes("t", "1", epoch=epoch))
        assert await is_waiting(asyncio.ensure_future(future))
        running.cancel()
        with pytest.raises(UnavailableError):
            await future
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_many_threads_write_at_once_is_one_transaction(db: Database) -> None:
    epochs: dict[str, int] = {}
    for thread_id in (f"t{number}" for number in range(20)):
        await create_thread(db, thread_id)
        epochs[thread_id] = (await take_lease(db, thread_id)).epoch
    async with open_writer(db) as writer:
        written = [
            await writer.write(writes(thread_id, thread_id, epoch=epoch))
            for thread_id, epoch in epochs.items()
        ]
        await asyncio.gather(*written)

    assert await stored(db) == set(epochs)
    query = "SELECT count(DISTINCT xmin::text) FROM checkpoint_writes"
    assert await db.tuples(query, {}) == [(1,)]


async def test_entries_of_a_thread_commit_in_their_order(db: Database) -> None:
    finished: list[int] = []
    async with open_writer(db) as writer:
        for i in range(100):
            future = await writer.write(writes("t", str(i)))
            future.add_done_callback(partial(_note, finished, i))
            if i % 7 == 0:
                await asyncio.sleep(0)

    assert finished == list(range(100))


async def test_large_blobs_commit_with_what_they_come_with_and_only_under_the_lease(
    db: Database,
) -> None:
    """Each has a statement of its own: in one transaction with the others, and fenced as they are."""
    for name in "ab":
        await create_thread(db, name)
    epochs = {"a": (await take_lease(db, "a")).epoch, "b": 99, "free": None}
    contents = {"small": b"x", "large": bytes(range(256)) * 4096, "none": None}
    async with open_writer(db) as writer, asyncio.timeout(DEADLINE_SECONDS):
        queued = []
        for name, epoch in epochs.items():
            entry = writes(name, name, epoch=epoch)
            entry.blobs = [
                (name.encode(), epoch, b"", channel.encode(), b"1", b"bytes", blob)
                for channel, blob in contents.items()
            ]
            queued.append(await writer.write(entry))
        done = await asyncio.gather(*queued, return_exceptions=True)

    assert [type(error) for error in done] == [type(None), LeaseLostError, type(None)]
    found = await db.tuples("SELECT thread_id, channel, blob FROM checkpoint_blobs", {})
    assert sorted(found) == sorted((n, c, b) for n in ("a", "free") for c, b in contents.items())
    assert await stored(db) == {"a", "free"}


async def test_a_lost_connection_is_made_again_at_once(db: Database) -> None:
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %(name)s"
    )
    async with open_writer(db) as writer:
        await (await writer.write(writes("t", "1")))
        await db.tuples(kill, {"name": "threadwell-checkpoints"})
        began = time.monotonic()
        await (await writer.write(writes("t", "2")))
        assert time.monotonic() - began < 5

    assert await stored(db) == {"1", "2"}
