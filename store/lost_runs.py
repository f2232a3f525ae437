"""Runs that lose their process: given back to the queue, or ended if that is their last attempt."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from store import endings
from store.access import EVERYTHING
from store.database import Database, Transaction
from store.endings import CANCELLED, WORKER_LOST
from store.errors import Error, LockedError, UnavailableError
from store.models import JsonObject, RunStatus
from store.queue import Claim, Held
from store.signals import notify_ready
from store.sql import load

SQL = load("queue")
log = structlog.get_logger(__name__)

#: How long a lost run waits for its thread's lock: others wait behind it.
_HURRY = "500ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenUp:
    """A run that lost its lease, and what became of it."""

    run_id: str
    thread_id: str
    status: RunStatus
    error: JsonObject | None
    #: In which no run writes: what is to be told of the end goes here.
    epoch: int

    @property
    def held(self) -> Held:
        """The run, if it is still ``running``: whoever took it away is to roll it back."""
        return Held(run_id=self.run_id, thread_id=self.thread_id, epoch=self.epoch)


async def hand_back(db: Database, claimed: Claim) -> GivenUp | None:
    """
    Give up a run unfinished, for another worker to resume from its last checkpoint.

    It counts as no attempt. A run that somebody wants stopped ends instead; one that is to leave
    no trace stays ``running``, under a new epoch, for the caller to undo and discard,
    see `store.rollback`.

    Returns:
        None if the run was not ours any more.
    """
    return await _give_up(db, claimed.held, worker_id=None, max_attempts=None)


async def reap(
    db: Database,
    *,
    worker_id: str,
    lease_seconds: float | None,
    max_attempts: int,
    strays: Sequence[Held] = (),
) -> list[GivenUp]:
    """
    Take the runs of dead workers away from them.

    A run goes back to the queue, or ends: as it was being cancelled, or with ``error`` after its
    last attempt. One that is to leave no trace is ``running`` under its new epoch, as one of
    `worker_id`: the caller is to undo and discard it, see `store.rollback`.

    Args:
        worker_id: Who asks; it is alive.
        lease_seconds: A worker that did not beat for so long, by the database's clock, is dead.
            None declares nobody dead.
        max_attempts: How often a run may be started.
        strays: Runs that are to be taken away too, because their owner does not execute them.
    """
    if lease_seconds is not None:
        await db.execute(SQL["bury"], {"lease_seconds": lease_seconds, "worker_id": worker_id})
    lost = [*strays, *await db.all(Held, SQL["lost"], {})]
    reaped: list[GivenUp] = []
    for held in lost:
        try:
            given_up = await _give_up(db, held, worker_id=worker_id, max_attempts=max_attempts)
        except LockedError:
            # The others are not to wait for that.
            log.warning("a lost run waits: its thread is locked", run_id=held.run_id)
            continue
        except UnavailableError as error:
            if not reaped:
                raise
            # The caller has to end what was given up so far; the rest is found by the next sweep.
            log.warning("lost runs wait for the database", reason=error.message)
            break
        except Error as error:
            # One run, which the next one to ask may have better luck with.
            log.warning("a lost run is not given up", run_id=held.run_id, reason=error.message)
            continue
        if given_up:
            reaped.append(given_up)
    return reaped


async def _give_up(
    db: Database, held: Held, *, worker_id: str | None, max_attempts: int | None
) -> GivenUp | None:
    params = {
        "run_id": held.run_id,
        "thread_id": held.thread_id,
        "epoch": held.epoch,
        "worker_id": worker_id,
        "max_attempts": max_attempts,
        "error": endings.run_error(db.cipher, held.run_id, WORKER_LOST),
        "visible": EVERYTHING.array,
    }
    async with db.transaction() as tx:
        await tx.tuples(SQL["hurry"], {"lock_timeout": _HURRY})
        await tx.execute(SQL["lock"], params)
        rows = await tx.tuples(SQL["give_up"], params)
        if not rows:
            return None
        status, temporary, epoch, with_webhook = rows[0]
        if status not in ("pending", "running"):
            await endings.enqueue_webhook(
                tx, with_webhook, status, WORKER_LOST if status == "error" else CANCELLED
            )
            await _end_given_up(tx, held, status, temporary=temporary)
        await notify_ready(tx)
    return GivenUp(
        run_id=held.run_id,
        thread_id=held.thread_id,
        status=status,
        error=WORKER_LOST if status == "error" else None,
        epoch=epoch,
    )


async def _end_given_up(tx: Transaction, held: Held, status: RunStatus, *, temporary: bool) -> None:
    params = {"run_id": held.run_id, "thread_id": held.thread_id}
    if temporary:
        await tx.execute(SQL["delete_thread"], params)
    else:
        error = WORKER_LOST if status == "error" else CANCELLED
        await endings.settle_given_up(tx, {**params, "status": status}, error)
        await tx.execute(SQL["settle"], params)
