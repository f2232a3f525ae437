"""Ends the runs of a process: those that end while others are being written down, together."""

import asyncio
from collections.abc import Sequence

from store import endings
from store.database import Database
from store.endings import Ending
from store.errors import UnavailableError
from store.meters import BATCH_SIZES, Histogram

#: How many runs a transaction ends at the most.
BATCH_RUNS = 64

#: A run's end, and whether it was written; None: it is to be written by itself.
_Waiting = tuple[Ending, asyncio.Future[bool | None]]


class Finisher:
    """
    Batches form by themselves: a run that ends alone waits for nobody.

    One for each process.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        #: How many runs each transaction was to end.
        self.batches = Histogram(BATCH_SIZES)

    async def finish(self, ending: Ending) -> bool:
        """
        End a run that is ours and settle its thread.

        A thread that somebody else holds locked delays its own run only.

        Returns:
            False if the run was not ours any more, or is to be rolled back: nothing was changed.

        Raises:
            UnavailableError: PostgreSQL did not answer; safe to try again.
        """
        finished: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((ending, finished))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name="finish runs")
        ended = await finished
        if ended is None:
            ended = bool(await endings.finish(self._db, [ending]))
        return ended

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_RUNS], self._waiting[BATCH_RUNS:]
            ended_runs = [ending for ending, _ in batch]
            self.batches.observe(len(batch))
            try:
                ended = await endings.finish(self._db, ended_runs, wait=False)
            except UnavailableError as exc:
                _fail(batch, exc)
            except Exception:  # noqa: BLE001 - which one is at fault shows when each is alone
                _tell(batch, None)
            except BaseException as exc:
                _fail([*batch, *self._waiting], exc)
                raise
            else:
                _tell(batch, ended)


def _tell(batch: Sequence[_Waiting], ended: set[str] | None) -> None:
    for ending, finished in batch:
        if not finished.done():
            finished.set_result(None if ended is None else ending.claimed.run.run_id in ended)


def _fail(batch: Sequence[_Waiting], exc: BaseException) -> None:
    for _, finished in batch:
        if not finished.done():
            finished.set_exception(exc)
