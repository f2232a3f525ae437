"""Whether this process can do its work: for probes, which may ask often and are nobody."""

import asyncio
from dataclasses import dataclass
from typing import Final, Literal

from api.http.fresh import Fresh
from graph.loop import Place
from graph.worker import Worker
from store.database import Database
from store.errors import UnavailableError
from store.events import EventLog
from store.migrate import count_missing

#: How long a server that is asked may take; then it counts as away.
PROBE_SECONDS: Final = 3.0

State = Literal["ok", "none", "away", "behind", "lost", "blocked", "draining"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """
    What this process needs, and how it is.

    Attributes:
        postgres: ``ok``, or ``away``: nothing can be done.
        migrations: ``behind`` if the database lacks some that this version needs.
        redis: ``away`` does not stop it: runs go on, and clients of other processes wait. ``none`` if
            there is none.
        lease: ``lost`` once it could not beat for so long that others may take its runs.
        graphs: ``blocked`` while a node keeps all others from going on; that passes.
        process: ``draining`` once it takes no more runs, because it goes.
    """

    postgres: State
    migrations: State
    redis: State
    lease: State
    graphs: State
    process: State

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        needed = (self.postgres, self.migrations, self.lease, self.process)
        return all(state == "ok" for state in needed)


class Health:
    """The checks of one process, each made once by all who ask at a time."""

    def __init__(self, *, db: Database, events: EventLog, place: Place, worker: Worker) -> None:
        self._db = db
        self._events = events
        self._place = place
        self._worker = worker
        self._checks = Fresh(self._check)

    async def checks(self) -> Checks:
        """How it is now, or was a second ago; takes no longer than `PROBE_SECONDS`."""
        return await self._checks.get()

    def forget(self) -> None:
        """Check anew when somebody asks next."""
        self._checks.forget()

    async def _check(self) -> Checks:
        missing, redis = await asyncio.gather(self._missing(), self._redis())
        return Checks(
            postgres="away" if missing is None else "ok",
            migrations="away" if missing is None else "behind" if missing else "ok",
            redis=redis,
            lease="ok" if self._worker.heartbeat.alive() else "lost",
            graphs="blocked" if self._place.blocked else "ok",
            process="draining" if self._worker.draining else "ok",
        )

    async def _missing(self) -> int | None:
        """How many migrations the database lacks; None if it does not answer."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return await count_missing(self._db)
        except (UnavailableError, TimeoutError):
            return None

    async def _redis(self) -> State:
        if self._events.redis is None:
            return "none"
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._events.ping()
        except (UnavailableError, TimeoutError):
            return "away"
        return "ok"
