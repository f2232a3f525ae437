"""
Ends this process if one of its event loops never comes back, so that another takes its place.

A node, or an author's handler, that blocks for good would keep every other run of the process, whose
leases its heartbeat renews. See docs/decisions/0050-a-stuck-process-ends-itself.md.
"""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from typing import Final

import structlog

from graph.worker import Worker

log = structlog.get_logger(__name__)

#: How often a loop is looked at; more often if it may not be silent for long.
LOOK_SECONDS: Final = 1.0

#: Names of the two event loops of a process.
FIRST, GRAPHS = "first", "graphs"

#: The exit status of a process that was stuck: its supervisor is to start another.
STUCK_STATUS: Final = os.EX_SOFTWARE

#: How many frames of what blocks are logged, the innermost.
MAX_FRAMES: Final = 12


class Watchdog:
    """
    Looks at event loops from a thread of its own; by `watching`.

    Args:
        loops: By name.
        worker: Hands its runs back, if it is the graphs' loop that is stuck.
        seconds: How long a loop may be silent.
        exit_seconds: How long that may take, and all else that a process does when it leaves.
    """

    def __init__(
        self,
        loops: Mapping[str, asyncio.AbstractEventLoop],
        *,
        worker: Worker,
        seconds: float,
        exit_seconds: float,
    ) -> None:
        self._watched = [Watched(name, loop) for name, loop in loops.items()]
        self._worker = worker
        self._seconds = seconds
        self._exit_seconds = exit_seconds
        #: The exit status of this process.
        self.status = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        # At once: where a loop is, is known from when it has answered for the first time.
        for watched in self._watched:
            watched.look()
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a process that it ends is ended all the same."""
        self._over.set()

    def _watch(self) -> None:
        # Counted in looks, not by the clock: a process that was stopped as a whole, loops and this
        # thread alike, has one look more behind it when it goes on, however long that was.
        every = min(LOOK_SECONDS, self._seconds / 10)
        while not self._over.wait(every):
            for watched in self._watched:
                if watched.look() * every >= self._seconds:
                    self._end_the_process(watched)
                    return

    def _end_the_process(self, stuck: "Watched") -> None:
        self.status = STUCK_STATUS
        # What blocks it need not be a run's.
        run_id = stuck.run_id() if stuck.name == GRAPHS else None
        log.error(
            "an event loop is stuck: this process ends",
            loop=stuck.name,
            seconds=self._seconds,
            run_id=run_id,
            runs=list(self._worker.executor.running),
            blocked_at=stuck.stack(),
        )
        if stuck.name == GRAPHS:
            self._worker.abandon(run_id)
            os.kill(os.getpid(), signal.SIGTERM)
            # Not cut short by `stop`: it may hang after that, where threads are joined, for example.
            time.sleep(self._exit_seconds)
        # Without the first loop nobody hands runs back: their lease lapses, as after a SIGKILL.
        os._exit(STUCK_STATUS)


class Watched:
    """An event loop that is asked for a sign at each look, once at a time."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self._loop = loop
        self._is_asked = False
        self._silent_looks = 0
        self._thread_id: int | None = None

    def look(self) -> int:
        """How many looks in a row it has been silent for."""
        if self._is_asked:
            self._silent_looks += 1
            return self._silent_looks
        self._silent_looks = 0
        # First: it may answer at once.
        self._is_asked = True
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # closed: nothing can be stuck on it
            self._is_asked = False
        return 0

    def run_id(self) -> str | None:
        """The run whose task does not give the loop back; None if that is not known."""
        task = asyncio.current_task(self._loop)
        context = None if task is None else _context_of(task)
        if context is None:
            return None
        # Another thread cannot enter a context that is in use, but a copy of it.
        found = context.copy().run(structlog.contextvars.get_contextvars).get("run_id")
        return None if found is None else str(found)

    def stack(self) -> list[str]:
        """Where its thread is, the innermost frame last."""
        frame = sys._current_frames().get(self._thread_id or 0)
        if frame is None:
            return []
        # No source lines: they may have in them what the log must not.
        frames = traceback.StackSummary.extract(
            traceback.walk_stack(frame), limit=MAX_FRAMES, lookup_lines=False
        )
        return [f"{it.filename}:{it.lineno} {it.name}" for it in reversed(frames)]

    def _answer(self) -> None:
        self._thread_id = threading.get_ident()
        self._is_asked = False


def _context_of(task: "asyncio.Task[object]") -> Context | None:
    if sys.version_info >= (3, 12):
        return task.get_context()
    # It has no such method yet: the first context that it refers to is its own.
    return next((it for it in gc.get_referents(task) if isinstance(it, Context)), None)


@contextmanager
def watching(
    loops: Mapping[str, asyncio.AbstractEventLoop],
    *,
    worker: Worker,
    seconds: float,
    exit_seconds: float,
) -> Iterator[Watchdog]:
    """
    Watch the loops of a process that is Threadwell's own, and that somebody starts again when it ends.

    Args:
        loops: The `FIRST` one and that of the `GRAPHS`.
        seconds: How long a loop may be silent; 0 for ever.
        exit_seconds: As for `Watchdog`.
    """
    watchdog = Watchdog(loops, worker=worker, seconds=seconds, exit_seconds=exit_seconds)
    if seconds > 0:
        watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()
