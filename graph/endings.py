"""
Notice that followed runs have ended, should their log not say so.

A run that is cancelled while it is queued never logs anything, and a log can be lost with its
Redis. One task asks PostgreSQL for all runs that are followed in this process.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from store import runs
from store.database import Database

#: How many runs that ended in the queue wait for one who follows their thread.
MAX_QUEUED = 100


class Endings:
    """
    The runs that are followed here, each with those who wait for its end.

    Args:
        interval_seconds: How often PostgreSQL is asked.
        grace_seconds: How long after its end a run's log may still deliver what it has.
    """

    def __init__(
        self, db: Database, *, interval_seconds: float = 2.0, grace_seconds: float = 2.0
    ) -> None:
        self._db = db
        self._interval_seconds = interval_seconds
        self._grace_seconds = grace_seconds
        self._waiting: dict[str, set[asyncio.Event]] = {}
        # Who follows threads, by thread.
        self._queued: dict[str, set[asyncio.Queue[str]]] = {}
        #: This process goes: nobody is to follow anything here any more.
        self.leaving = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether this process goes."""
        return self.leaving.is_set()

    @contextmanager
    def watch(self, run_id: str, *, ended: bool = False) -> Iterator[asyncio.Event]:
        """
        An event that is set when the run has ended and its log had time to say so.

        Whoever waits may still read on: what is there is whole. Also set when this process goes.

        Args:
            ended: The run is known to have ended: what its log has comes within the grace.
        """
        stop = asyncio.Event()
        if self.closed:
            stop.set()
        self._waiting.setdefault(run_id, set()).add(stop)
        if ended:
            self._end_later(run_id)
        try:
            yield stop
        finally:
            waiting = self._waiting[run_id]
            waiting.discard(stop)
            if not waiting:
                del self._waiting[run_id]

    def ended(self, run_id: str, *, queued_on: str = "") -> None:
        """
        Take it from another process that the run has ended, and logged nothing of it.

        Args:
            queued_on: Its thread, if it had never begun.
        """
        for stop in self._waiting.get(run_id, ()):
            stop.set()
        for told in self._queued.get(queued_on, ()):
            with suppress(asyncio.QueueFull):
                told.put_nowait(run_id)

    @contextmanager
    def watch_queued(self, thread_id: str) -> Iterator["asyncio.Queue[str]"]:
        """
        The ids of a thread's runs that end while they are queued, which no log tells of.

        At the most `MAX_QUEUED` that were not taken; those beyond are dropped.
        """
        told: asyncio.Queue[str] = asyncio.Queue(MAX_QUEUED)
        self._queued.setdefault(thread_id, set()).add(told)
        try:
            yield told
        finally:
            watching = self._queued[thread_id]
            watching.discard(told)
            if not watching:
                del self._queued[thread_id]

    def close(self) -> None:
        """Let every follower go: this process is leaving."""
        self.leaving.set()
        for waiting in self._waiting.values():
            for stop in waiting:
                stop.set()

    async def watch_forever(self) -> None:
        """Ask PostgreSQL from time to time; runs until it is cancelled."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            if self._waiting:
                for run_id in await runs.ended(self._db, list(self._waiting)):
                    self._end_later(run_id)

    def _end_later(self, run_id: str) -> None:
        for stop in self._waiting.get(run_id, ()):
            asyncio.get_running_loop().call_later(self._grace_seconds, stop.set)
