"""
The beat that keeps a worker's leases.

It has a thread and a connection of its own, so that a graph that blocks the event loop does not
lose them.
"""

import math
import threading
import time
from types import TracebackType
from typing import Any, LiteralString

import psycopg

from store.database import CONNECT, cut

#: How long a connection and a beat may take.
CONNECT_SECONDS, BEAT_SECONDS = 3, 5.0

_BEAT: LiteralString = (
    "UPDATE worker SET last_seen_at = now() WHERE worker_id = %(worker_id)s::uuid"
)


class Heartbeat:
    """
    Beats for one worker from `start` to `stop`.

    Args:
        conninfo: A libpq URL or conninfo string.
        worker_id: A worker that is registered.
        interval_seconds: Between two beats.
        fence_seconds: How long after the last beat that PostgreSQL confirmed the worker still
            takes itself for the owner of its runs. Shorter than the lease by a beat, so that it
            stops writing before another worker may start.
    """

    def __init__(
        self, conninfo: str, worker_id: str, *, interval_seconds: float, fence_seconds: float
    ) -> None:
        self.worker_id = worker_id
        self._conninfo = conninfo
        self._interval_seconds = interval_seconds
        self._fence_seconds = fence_seconds
        self._confirmed_at = time.monotonic()
        # When PostgreSQL answered again after it had not for too long.
        self._returned_at = -math.inf
        self._buried = False
        self._renewed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def alive(self) -> bool:
        """Whether this worker may write: no other can have been given its runs yet."""
        return not self._buried and time.monotonic() - self._confirmed_at < self._fence_seconds

    def steady(self, seconds: float) -> bool:
        """
        Whether PostgreSQL was there for this worker all the time, for so long at least.

        After an outage every worker looks dead to the one that comes back first.
        """
        return self.alive() and time.monotonic() - self._returned_at > seconds

    @property
    def age_seconds(self) -> float:
        """How long ago the last beat was sent that PostgreSQL confirmed."""
        return time.monotonic() - self._confirmed_at

    @property
    def buried(self) -> bool:
        """Whether PostgreSQL said that this worker is gone: its runs belong to others for good."""
        return self._buried

    def renew(self, worker_id: str) -> None:
        """Beat for another worker that is registered, after this one was buried."""
        self.worker_id = worker_id
        self._confirmed_at = time.monotonic()
        self._buried = False
        self._renewed.set()

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._renewed.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._beat_until_it_fails()
                self._renewed.wait()
                self._renewed.clear()
            except Exception:  # noqa: BLE001
                # One side task. Whatever it is, a standby that is no primary yet or memory that has
                # run out among it: it may pass, and without a heartbeat this process is of no use.
                self._stopping.wait(0.2)

    def _beat_until_it_fails(self) -> None:
        with psycopg.connect(
            self._conninfo,
            autocommit=True,
            **{**CONNECT, "connect_timeout": CONNECT_SECONDS},
        ) as connection:
            while not self._stopping.is_set():
                sent_at = time.monotonic()
                if not self._beat(connection):
                    self._buried = True
                    return
                if not self.alive():
                    self._returned_at = sent_at
                self._confirmed_at = sent_at
                self._stopping.wait(self._interval_seconds)

    def _beat(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether PostgreSQL still has the worker."""
        # The server's own time-out is of no use while it is frozen.
        limit = threading.Timer(BEAT_SECONDS, cut, [connection])
        limit.start()
        try:
            return connection.execute(_BEAT, {"worker_id": self.worker_id}).rowcount > 0
        finally:
            limit.cancel()
