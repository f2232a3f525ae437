"""Where every step of a run says that it begins, and is kept for a random while."""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

STEP_SECONDS = (0.0, 0.01, 0.05, 0.3, 1.0)
#: How long a run that is hunted is kept, in each of its steps, and waited for.
CAUGHT_SECONDS = 6.0
#: How long after its process goes on a visit comes that was on its way when the process was frozen: on
#: 2 cores at a load of 36 one took 2.2 s.
LATE_SECONDS = 4.0


@dataclass(slots=True)
class Visit:
    """A step while it runs; `left_at` is when it went on, was cancelled or died."""

    run_id: str
    thread_id: str
    step: str
    pid: int
    arrived_at: float
    left_at: float = math.inf
    #: Its process was frozen between two steps: nobody knows whether this one had begun before that.
    is_late: bool = False


class Turnstile:
    """
    A gate (see `tests.acceptance.gate`) that lets everybody pass, later.

    Attributes:
        port: What the steps are told.
        visits: All that came, in order.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.port = 0
        self.visits: list[Visit] = []
        # A run that is kept in each of its steps, None for the next that comes; and the event of its
        # next visit.
        self._prey: str | None = ""
        self._came = asyncio.Event()
        #: When processes were frozen, and went on, last.
        self._frozen: dict[int, tuple[float, float]] = {}

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one visitor in."""
        try:
            words = (await reader.readline()).decode().split()
            if len(words) == 4:
                run_id, thread_id, step, pid = words
                visit = Visit(run_id, thread_id, step, int(pid), time.monotonic())
                visit.is_late = self._is_late(visit)
                self.visits.append(visit)
                seconds = self._rng.choice(STEP_SECONDS)
                if self._prey is None:
                    self._prey = run_id
                if run_id == self._prey:
                    self._came.set()
                    seconds = CAUGHT_SECONDS
                try:
                    async with asyncio.timeout(seconds):
                        await reader.read()
                except TimeoutError:
                    writer.write(b"go on\n")
                finally:
                    visit.left_at = min(visit.left_at, time.monotonic())
        except ConnectionError:
            pass
        finally:
            writer.close()

    def catch(self) -> None:
        """Let the run that comes next get no further, wherever it is tried."""
        self._prey = None
        self._came.clear()

    async def caught(self) -> int:
        """The process that the caught run is in; 0 if it does not come any more."""
        try:
            async with asyncio.timeout(CAUGHT_SECONDS):
                await self._came.wait()
        except TimeoutError:
            return 0
        self._came.clear()
        return next(visit.pid for visit in reversed(self.visits) if visit.run_id == self._prey)

    def release(self) -> None:
        """Let the run go."""
        self._prey = ""

    def frozen(self, pid: int) -> None:
        """Take those of a process that was stopped for gone: it does nothing from now on."""
        now = time.monotonic()
        self._frozen[pid] = now, math.inf
        for visit in self.visits:
            if visit.pid == pid and visit.left_at > now:
                visit.left_at = now

    def thawed(self, pid: int) -> None:
        """Take note that a process goes on."""
        self._frozen[pid] = self._frozen[pid][0], time.monotonic()

    def _is_late(self, visit: Visit) -> bool:
        frozen_at, thawed_at = self._frozen.get(visit.pid, (-math.inf, -math.inf))
        before = [v.left_at for v in self.visits if (v.run_id, v.pid) == (visit.run_id, visit.pid)]
        # Who was here meanwhile has no business to be at its next step, if somebody else is.
        was_here = bool(before) and before[-1] >= frozen_at
        return visit.arrived_at < thawed_at + LATE_SECONDS and not was_here


@asynccontextmanager
async def open_turnstile(rng: random.Random) -> AsyncIterator[Turnstile]:
    """Open one on a free port."""
    turnstile = Turnstile(rng)
    server = await asyncio.start_server(turnstile.visit, "127.0.0.1", 0)
    turnstile.port = server.sockets[0].getsockname()[1]
    try:
        yield turnstile
    finally:
        server.close()
