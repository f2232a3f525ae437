"""What is done to whole threads, several at a time."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from graph.retention import Retention
from graph.runs import Runs, few_at_once
from graph.state import States
from store import assistants, runs, threads
from store.access import EVERYTHING, Access
from store.database import Database
from store.errors import AlreadyExistsError, ConflictError, Error, NotFoundError
from store.models import JsonObject, Thread
from store.retention import Life, Strategy

#: How many threads of an assistant are looked up at a time.
PAGE = 500


class Threads:
    """Creates threads with states, prunes them, deletes those of an assistant; one a process."""

    def __init__(self, *, db: Database, runs: Runs, states: States, retention: Retention) -> None:
        self._db = db
        self._runs = runs
        self._states = states
        self._retention = retention

    async def create(
        self,
        thread_id: str,
        supersteps: Sequence[Sequence[JsonObject]],
        *,
        metadata: JsonObject,
        if_exists: Literal["raise", "do_nothing"],
        life: Life | None,
        access: Access,
    ) -> Thread:
        """
        Create a thread that has states already, or find it when `if_exists` says so.

        Args:
            supersteps: As `States.begin` takes them. Nothing is done to a thread that was there.

        Raises:
            BadRequestError: `metadata` names no graph, or the graph refuses an update: then there is
                no thread.
            NotFoundError: The graph is not served.
            AlreadyExistsError: The id is taken, and `if_exists` is ``raise`` or it is not visible.
        """
        self._states.require_graph(thread_id, metadata)
        try:
            await threads.create(self._db, thread_id, metadata=metadata, life=life, access=access)
        except AlreadyExistsError:
            found = await threads.find(self._db, thread_id, access=access)
            if if_exists == "raise" or found is None:
                raise
            return found
        try:
            await self._states.begin(thread_id, supersteps, access=EVERYTHING)
        except Error:
            with suppress(Error):
                await self._runs.delete_thread(thread_id, access=EVERYTHING)
            raise
        return await threads.get(self._db, thread_id, access=EVERYTHING)

    async def copy(
        self, thread_id: str, copy_id: str, *, metadata: JsonObject, access: Access
    ) -> None:
        """
        Copy a thread with its checkpoints; see `store.threads.copy`.

        Raises:
            UnsupportedError: The checkpointer is the user's own and cannot.
        """
        own = self._retention.custom
        if own:
            own.require("acopy_thread", "Copying a thread")
        await threads.copy(self._db, thread_id, copy_id, metadata=metadata, access=access)
        if own:
            try:
                await own.copy_to(thread_id, copy_id)
            except BaseException:
                # Better none than one that has forgotten everything.
                with suppress(Error):
                    await self._runs.delete_thread(copy_id, access=EVERYTHING)
                raise

    async def prune(
        self, thread_ids: Sequence[str], *, strategy: Strategy, actor: str, access: Access
    ) -> int:
        """
        Delete threads, or all of their checkpoints but the newest.

        The latter leaves a thread alone that has a run in flight, which makes new ones.

        Args:
            actor: Who asked for it: the audit log has every thread that is deleted.

        Returns:
            How many were deleted or pruned; those that are not visible are not there.
        """
        pruned: list[str] = []

        async def prune(thread_id: str) -> None:
            with suppress(NotFoundError, ConflictError):
                if strategy == "delete":
                    await self._runs.delete_thread(thread_id, actor=actor, access=access)
                else:
                    lease = await threads.lease(self._db, thread_id, access=access)
                    await self._retention.prune(lease)
                pruned.append(thread_id)

        await few_at_once(dict.fromkeys(thread_ids), prune)
        return len(pruned)

    async def delete_assistant(
        self,
        assistant_id: str,
        *,
        actor: str | None = None,
        access: Access,
        thread_access: Access | None,
    ) -> None:
        """
        Delete an assistant: its runs in flight are stopped, the others deleted with it.

        It goes last, so that whoever was interrupted may ask again.

        Args:
            actor: Who asked for it: the audit log has every thread that is deleted.
            access: Which assistants may be deleted.
            thread_access: Which of its threads are to be deleted too; None for none.

        Raises:
            NotFoundError: There is no such assistant that is visible.
        """
        await assistants.require(self._db, assistant_id, access=access)
        if thread_access is not None:
            await self._delete_threads(assistant_id, actor, thread_access)
        await self._stop_runs(assistant_id)
        await assistants.delete(self._db, assistant_id, access=access)

    async def _delete_threads(self, assistant_id: str, actor: str | None, access: Access) -> None:
        async def delete(thread_id: str) -> None:
            with suppress(NotFoundError):
                await self._runs.delete_thread(thread_id, actor=actor, access=access)

        while page := await threads.of_assistant(self._db, assistant_id, limit=PAGE, access=access):
            await few_at_once(page, delete)

    async def _stop_runs(self, assistant_id: str) -> None:
        """Those that are in flight now; one that is running ends soon after."""
        await self._runs.cancel_each(
            await runs.of_assistant(self._db, assistant_id), action="interrupt"
        )
