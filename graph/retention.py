"""When a thread's past is deleted: at the end of a run, and when nobody used the thread for long."""

from contextlib import suppress
from typing import Final

import structlog

from graph.checkpointer import AnySaver, CustomSaver
from graph.factory import InvalidGraphError
from graph.loop import Backing, Place
from graph.registry import Registry
from store import audit, idempotency, retention, sessions, threads
from store.access import EVERYTHING
from store.checkpoints import Saver
from store.database import Database
from store.errors import (
    CONTENT_ERRORS,
    ConflictError,
    Error,
    LeaseLostError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from store.events import EventLog
from store.models import Lease

log = structlog.stdlib.get_logger(__name__)

#: A thread is pruned when it has so many times the checkpoints that are kept.
SLACK: Final = 1.5


class Retention:
    """
    Keeps the past of threads within bounds; one for each process.

    Args:
        place: Where graphs are executed: the values of a DeltaChannel are made there.
        keep: How many checkpoints of its root namespace a thread keeps at least; 0 keeps all.
        custom: The checkpointer, if it is the user's own, for this event loop.
        audit_seconds: How long entries of the audit log are kept; 0: for ever.
    """

    def __init__(
        self,
        *,
        db: Database,
        registry: Registry,
        place: Place,
        events: EventLog,
        keep: int,
        custom: CustomSaver | None = None,
        audit_seconds: float = 0.0,
    ) -> None:
        self._db = db
        self._audit_seconds = audit_seconds
        self.custom = custom
        self._registry = registry
        self._place = place
        self._events = events
        self._keep = keep

    async def trim(self, saver: AnySaver) -> None:
        """Prune the thread of a run that is about to end, if it has grown enough; once in a while."""
        if isinstance(saver, CustomSaver):
            return  # its user's affair
        if self._keep == 0 or saver.checkpoint_count < SLACK * self._keep:
            return
        try:
            await saver.trim(keep=self._keep)
        except (Error, *CONTENT_ERRORS) as exc:
            # The run itself has ended well.
            log.warning("thread was not pruned", error=exc)

    async def sweep(self, *, limit: int) -> int:
        """
        Do what is to be done with threads whose time has come.

        Safe in any number of processes at once; a thread with a run in flight is left alone.

        Args:
            limit: Threads at the most.

        Returns:
            How many threads were deleted or pruned.
        """
        done = 0
        for thread_id, strategy in await retention.claim_expired(self._db, limit=limit):
            with suppress(ConflictError, NotFoundError, LeaseLostError):
                lease = await threads.lease(self._db, thread_id, access=EVERYTHING)
                if strategy == "delete":
                    done += await self._delete(lease)
                else:
                    await self._prune_if_possible(lease)
                    await retention.renew(self._db, thread_id)
                    done += 1
        return done

    async def sweep_sessions(self, *, limit: int) -> int:
        """
        Purge the sessions whose time has come: those that expire, and what is long deleted.

        Safe in any number of processes at once. A run in flight is stopped.

        Args:
            limit: Sessions at the most.

        Returns:
            How many were purged.
        """
        done = 0
        for session_id in await sessions.ended(self._db, limit=limit):
            with suppress(NotFoundError):  # restored, or purged by another process
                await sessions.purge(self._db, session_id, only_if_ended=True, access=EVERYTHING)
                await self.forget(session_id)
                done += 1
        await sessions.forget_tombstones(self._db)
        return done

    def require_taking_back(self) -> None:
        """
        See that what a run wrote can be deleted.

        Raises:
            UnsupportedError: The checkpointer is the user's own and cannot.
        """
        if self.custom:
            self.custom.require("adelete_for_runs", "Taking back a run")

    async def forget_run(self, run_id: str) -> None:
        """
        Delete what a checkpointer of the user's own has of a run that is taken back.

        Raises:
            UnsupportedError: It cannot.
        """
        if self.custom:
            await self.custom.forget_run(run_id)

    async def forget(self, thread_id: str) -> None:
        """
        Delete what else there is of a thread that was deleted: its log, as another may come under its
        name, and what a checkpointer of the user's own has of it.
        """
        if self.custom:
            await self.custom.forget_thread(thread_id)
        with suppress(UnavailableError):  # then it stays until it expires
            await self._events.delete(thread_id)

    async def sweep_items(self, *, limit: int) -> int:
        """
        Delete items of the long-term memory whose life has ended; safe in many processes at once.

        Args:
            limit: Items of one transaction; there are as many of them as it takes.

        Returns:
            How many items were deleted.
        """
        done = last = await retention.delete_expired_items(self._db, limit=limit)
        while last == limit:
            last = await retention.delete_expired_items(self._db, limit=limit)
            done += last
        return done

    async def sweep_keys(self, *, limit: int) -> int:
        """
        Delete idempotency keys whose life has ended; safe in many processes at once.

        Args:
            limit: Keys of one transaction; there are as many of them as it takes.

        Returns:
            How many keys were deleted.
        """
        done = last = await idempotency.delete_expired(self._db, limit=limit)
        while last == limit:
            last = await idempotency.delete_expired(self._db, limit=limit)
            done += last
        return done

    async def sweep_audit(self, *, limit: int) -> int:
        """
        Delete entries of the audit log whose time has come; safe in many processes at once.

        Args:
            limit: Entries of one transaction; there are as many of them as it takes.

        Returns:
            How many entries were deleted.
        """
        done = 0
        while self._audit_seconds:
            gone = await audit.trim(self._db, keep_seconds=self._audit_seconds, limit=limit)
            done += gone
            if gone < limit:
                break
        return done

    async def _prune_if_possible(self, lease: Lease) -> None:
        try:
            await self.prune(lease)
        except UnsupportedError as exc:
            log.warning("thread was not pruned", thread_id=lease.thread_id, reason=exc.message)

    async def prune(self, lease: Lease) -> None:
        """
        Delete all checkpoints of a thread but the newest one.

        Raises:
            UnsupportedError: The checkpointer is the user's own and cannot.
        """
        if self.custom:
            await self.custom.prune_thread(lease.thread_id)
            return
        graph_id = await retention.graph_of(self._db, lease.thread_id)
        # Without its graph a thread keeps the checkpoints that its newest is made of.
        await self._place.run(lambda backing: self._saver(backing, lease, graph_id).trim(keep=1))

    async def detach(self, thread_id: str, run_id: str) -> None:
        """
        Make the checkpoints that follow those of a run independent of them.

        Raises:
            NotFoundError: There is no such thread.
            ThreadBusyError: A run is pending or running on the thread.
            ConflictError: The graph that knows how is not served.
        """
        if not await retention.has_followers(self._db, thread_id, run_id):
            return
        lease = await threads.lease(self._db, thread_id, access=EVERYTHING)
        graph_id = await retention.graph_of(self._db, thread_id)

        async def work(backing: Backing) -> bool:
            saver = self._saver(backing, lease, graph_id)
            return await retention.detach(saver.database, saver, lease, run_id)

        if not await self._place.run(work):
            raise ConflictError(
                f"Later states of thread {thread_id} are made of what the run wrote",
                code="run_is_needed",
            )

    def _saver(self, backing: Backing, lease: Lease, graph_id: str | None) -> Saver:
        assert isinstance(backing.saver, Saver)
        saver = backing.saver.leased(lease, run_id=None, messages_channel=None, alive=lambda: True)
        if graph_id is not None:
            with suppress(InvalidGraphError, NotFoundError):
                saver.attend(self._registry.channels(graph_id))
        return saver

    async def _delete(self, lease: Lease) -> bool:
        if not await threads.delete_leased(self._db, lease, has_ended=True):
            return False
        await self.forget(lease.thread_id)
        return True
