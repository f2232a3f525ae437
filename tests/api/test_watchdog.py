"""What a loop that is stuck is known by; a process that has one: tests/acceptance/test_blocking_nodes.py."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from api.processes.watchdog import Watched

DEADLINE_SECONDS = 60.0


def test_a_loop_is_silent_for_the_looks_that_it_left_unanswered() -> None:
    loop = asyncio.new_event_loop()
    watched = Watched("graphs", loop)

    # However long each was after the one before.
    assert [watched.look() for _ in range(4)] == [0, 1, 2, 3]
    loop.run_until_complete(asyncio.sleep(0))
    assert [watched.look() for _ in range(2)] == [0, 1]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    # Nothing can be stuck on it any more.
    assert [watched.look() for _ in range(3)] == [0, 0, 0]


def test_what_keeps_a_loop_is_named_by_its_run_and_by_its_place() -> None:
    async def work(block: Callable[[], object]) -> None:
        structlog.contextvars.bind_contextvars(run_id="the run")
        # A node is a task of its own.
        await asyncio.create_task(node(block))

    async def node(block: Callable[[], object]) -> None:
        block()

    with _kept(lambda loop, block: loop.create_task(work(block))) as watched:
        assert watched.run_id() == "the run"
        assert any(f"{__file__}:" in at and at.endswith(" node") for at in watched.stack())


def test_nobody_is_blamed_for_a_loop_that_is_kept_by_no_run() -> None:
    with _kept(lambda loop, block: loop.call_soon(block)) as watched:
        assert watched.run_id() is None
        assert watched.stack()


@contextmanager
def _kept(
    keep: Callable[[asyncio.AbstractEventLoop, Callable[[], object]], object],
) -> Iterator[Watched]:
    """A loop that has answered once, and that something keeps then."""
    loop = asyncio.new_event_loop()
    is_kept, is_over = threading.Event(), threading.Event()

    def block() -> None:
        is_kept.set()
        is_over.wait(DEADLINE_SECONDS)

    def begin() -> None:
        keep(loop, block)

    watched = Watched("graphs", loop)
    watched.look()
    loop.call_soon(begin)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        assert is_kept.wait(DEADLINE_SECONDS)
        yield watched
    finally:
        is_over.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            loop.run_until_complete(task)
        loop.close()
