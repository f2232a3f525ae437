"""What is done to whole threads, several at a time."""

from collections.abc import Sequence
from contextlib import suppress

from graph.retention import Retention
from graph.runs import Runs, few_at_once
from store import assistants, runs, threads
from store.access import Access
from store.database import Database
from store.errors import ConflictError, NotFoundError
from store.retention import Strategy

#: How many threads of an assistant are looked up at a time.
PAGE = 500


class Threads:
    """Prunes threads, and deletes those of an assistant; one for each process."""

    def __init__(self, *, db: Database, runs: Runs, retention: Retention) -> None:
        self._db = db
        self._runs = runs
        self._retention = retention

    async def prune(self, thread_ids: Sequence[str], *, strategy: Strategy, access: Access) -> int:
        """
        Delete threads, or all of their checkpoints but the newest.

        The latter leaves a thread alone that has a run in flight, which makes new ones.

        Returns:
            How many were deleted or pruned; those that are not visible are not there.
        """
        pruned: list[str] = []

        async def prune(thread_id: str) -> None:
            with suppress(NotFoundError, ConflictError):
                if strategy == "delete":
                    await self._runs.delete_thread(thread_id, access=access)
                else:
                    lease = await threads.lease(self._db, thread_id, access=access)
                    await self._retention.prune(lease)
                pruned.append(thread_id)

        await few_at_once(dict.fromkeys(thread_ids), prune)
        return len(pruned)

    async def delete_assistant(
        self, assistant_id: str, *, access: Access, thread_access: Access | None
    ) -> None:
        """
        Delete an assistant: its runs in flight are stopped, the others deleted with it.

        It goes last, so that whoever was interrupted may ask again.

        Args:
            access: Which assistants may be deleted.
            thread_access: Which of its threads are to be deleted too; None for none.

        Raises:
            NotFoundError: There is no such assistant that is visible.
        """
        await assistants.require(self._db, assistant_id, access=access)
        if thread_access is not None:
            await self._delete_threads(assistant_id, thread_access)
        await self._stop_runs(assistant_id)
        await assistants.delete(self._db, assistant_id, access=access)

    async def _delete_threads(self, assistant_id: str, access: Access) -> None:
        async def delete(thread_id: str) -> None:
            with suppress(NotFoundError):
                await self._runs.delete_thread(thread_id, access=access)

        while page := await threads.of_assistant(self._db, assistant_id, limit=PAGE, access=access):
            await few_at_once(page, delete)

    async def _stop_runs(self, assistant_id: str) -> None:
        """Those that are in flight now; one that is running ends soon after."""
        await self._runs.cancel_each(
            await runs.of_assistant(self._db, assistant_id), action="interrupt"
        )
