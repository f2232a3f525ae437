"""Has the runs of crons made when they are due: once each, whichever process sees it first."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

import structlog

from graph.requests import RunRequest
from graph.runs import Runs
from graph.schedule import next_time
from store import crons, threads
from store.access import Access
from store.crons import Cron
from store.database import Database
from store.errors import Error, InvalidInputError, UnavailableError
from store.models import JsonObject, Run

log = structlog.get_logger(__name__)

#: How long nobody looks at the most: a cron of another process may be due before.
LOOK_SECONDS: Final = 5.0
#: Between two looks while one is due that another process has in hand.
BUSY_SECONDS: Final = 0.2
#: How many are taken up at a time.
BATCH_CRONS: Final = 50

#: What time it is; None for the database's.
Clock = Callable[[], datetime | None]


class Crons:
    """
    One process's part in the crons.

    Args:
        runs: Where the runs are made, as those of requests are.
        decode: What a cron asks for when it is due. Raises InvalidInputError.
        most_sessions: How many threads the user of a cron may have; 0 for any number.
        clock: For tests.
    """

    def __init__(
        self,
        *,
        db: Database,
        runs: Runs,
        decode: Callable[[Cron], RunRequest],
        most_sessions: int = 0,
        clock: Clock = lambda: None,
    ) -> None:
        self._db = db
        self._runs = runs
        self._decode = decode
        self._most_sessions = most_sessions
        self._clock = clock
        self._changed = asyncio.Event()

    async def now(self) -> datetime:
        """What time it is for crons."""
        now, _ = await crons.look(self._db, now=self._clock())
        return now

    def wake(self) -> None:
        """Look now: there is a new cron, or one that was changed."""
        self._changed.set()

    async def work_forever(self) -> None:
        """Fire what is due, until this is cancelled."""
        while True:
            self._changed.clear()
            pause = await self.tick()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def tick(self) -> float:
        """
        Fire what is due.

        Returns:
            In how many seconds to look again.
        """
        now, next_at = await crons.look(self._db, now=self._clock())
        if next_at is None or next_at > now:
            seconds = (next_at - now).total_seconds() if next_at else LOOK_SECONDS
            return min(seconds, LOOK_SECONDS)
        found = await crons.due(self._db, now=now, limit=BATCH_CRONS)
        # Replicas that look at the same time begin with different ones.
        random.shuffle(found)
        fired = [
            await self.fire(cron, now=now)
            if unreadable is None
            else await self._refuse(cron, unreadable, now)
            for cron, unreadable in found
        ]
        return 0.0 if any(fired) else BUSY_SECONDS

    async def fire(self, cron: Cron, *, now: datetime) -> bool:
        """
        Make the run of a cron that is due, or keep why there is none.

        Returns:
            False if somebody else did.
        """
        try:
            run = await self._run(cron, now)
        except UnavailableError:
            raise
        except Error as exc:
            return await self._refuse(cron, exc, now)
        except Exception:
            # One cron: whatever is wrong with it must not keep the others from their times.
            log.exception("cron failed", cron_id=cron.cron_id)
            return await self._refuse(cron, Error("Internal Server Error"), now)
        if run is not None:
            log.info("cron fired", cron_id=cron.cron_id, run_id=run.run_id)
        return run is not None

    async def _run(self, cron: Cron, now: datetime) -> Run | None:
        prepared = await self._runs.prepare(
            self._decode(cron),
            thread_id=cron.thread_id,
            access=Access(tuple(cron.visible_threads)),
            assistant_access=Access(tuple(cron.visible_assistants)),
        )
        if self._most_sessions and prepared.thread and not prepared.thread.temporary:
            owner = cron.user_id or None
            await threads.require_room(self._db, owner, most=self._most_sessions)
        return await crons.fire(
            self._db, cron, prepared.run, prepared.thread, next_run_at=following(cron, now)
        )

    async def _refuse(self, cron: Cron, error: Error, now: datetime) -> bool:
        said: JsonObject = {
            "error": error.code,
            "message": error.message,
            "scheduled_for": cron.next_run_at,
        }
        log.warning("cron could not fire", cron_id=cron.cron_id, reason=error.message)
        next_run_at = None
        with suppress(InvalidInputError):  # a zone that there is no more: then never
            next_run_at = following(cron, now)
        return await crons.refuse(self._db, cron, said, next_run_at=next_run_at)


def following(cron: crons.NewCron, now: datetime) -> datetime | None:
    """
    When a cron is due next after a moment; None if that is after its end.

    Raises:
        InvalidInputError: The schedule or the time zone is none.
    """
    found = next_time(cron.schedule, cron.timezone, now)
    return None if cron.end_time is not None and found > cron.end_time else found
