"""Runs as they are read. Their status is written by the queries of ``queue.sql`` alone."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from store.access import Access
from store.cipher import Cipher, at
from store.database import Database, repeated
from store.errors import NotFoundError
from store.lane import Statement
from store.models import CONFIG, JsonObject, Run, RunStatus, ThreadStatus, opened_assistant
from store.sql import load

SQL = load("runs")
#: How many runs are looked at together.
PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Setting:
    """What a new run inherits: from its assistant, and from its thread if there is one."""

    assistant_id: str
    graph_id: str
    config: JsonObject
    context: JsonObject
    metadata: JsonObject
    thread_id: str | None
    thread_config: JsonObject | None
    thread_metadata: JsonObject | None

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        return replace(
            self,
            **opened_assistant(self, cipher),
            thread_config=cipher.open_values(self.thread_config, CONFIG),
            thread_metadata=cipher.open_values(self.thread_metadata),
        )


_SETTING = Statement(SQL["assistant_and_thread"], Setting)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedEnd:
    """How a run stands, and where its log ends: after `event_count` events of its last epoch."""

    run_id: str
    status: RunStatus
    error: JsonObject | None
    epoch: int | None
    #: None if it has not ended, or not by itself.
    event_count: int | None

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        return replace(self, error=cipher.open_json(self.error, at("run.error", self.run_id)))


async def setting(
    db: Database,
    *,
    assistant_id: str,
    thread_id: str | None,
    access: Access,
    assistant_access: Access,
) -> Setting | None:
    """
    What a run of the assistant on the thread inherits; None without such an assistant.

    Args:
        access: Which threads are visible; one that is not is as if it were not there.
        assistant_access: Which assistants are visible, beside those of the graphs.
    """
    params = {
        "assistant_id": assistant_id,
        "thread_id": thread_id,
        "visible": access.array,
        "assistant_visible": assistant_access.array,
    }
    [rows] = await repeated(lambda: db.at_once((_SETTING, params)))
    found: Setting | None = rows[0] if rows else None
    return found.opened(db.cipher) if found and db.cipher.is_on else found


async def find(
    db: Database, run_id: str, *, thread_id: str | None = None, access: Access
) -> Run | None:
    """The run, if there is one, it is on the thread, and that is visible."""
    params = {"run_id": run_id, "thread_id": thread_id, "visible": access.array}
    return await repeated(lambda: db.one(Run, SQL["get"], params))


async def ending(db: Database, run_id: str) -> LoggedEnd | None:
    """How the run stands, if there is one; for those who follow it already."""
    return await repeated(lambda: db.one(LoggedEnd, SQL["ending"], {"run_id": run_id}))


async def left_in(db: Database, run_id: str) -> ThreadStatus | None:
    """
    What a run that has ended left its thread in; None if somebody else has had the thread since.

    Whatever was read of the thread before this is then what the run left there.
    """
    rows = await repeated(lambda: db.tuples(SQL["left_in"], {"run_id": run_id}))
    return rows[0][0] if rows else None


async def get(db: Database, run_id: str, *, thread_id: str | None = None, access: Access) -> Run:
    """
    Read a run.

    Raises:
        NotFoundError: There is none with this id on this thread, or that is not visible.
    """
    found = await find(db, run_id, thread_id=thread_id, access=access)
    if found is None:
        raise NotFoundError(f"Run {run_id} not found")
    return found


async def list_of_thread(
    db: Database,
    thread_id: str,
    *,
    status: RunStatus | None,
    limit: int,
    offset: int,
    access: Access,
) -> list[Run]:
    """A page of the thread's runs, newest first; none if it is not visible."""
    params = {
        "thread_id": thread_id,
        "status": status,
        "limit": limit,
        "offset": offset,
        "visible": access.array,
    }
    return await db.all(Run, SQL["list"], params, lenient=True)


async def in_flight(
    db: Database, statuses: list[RunStatus], *, access: Access
) -> AsyncIterator[list[tuple[str, str]]]:
    """Pages of pairs of run id and thread id, oldest first, of threads that are visible."""
    after, page = 0, list[tuple[Any, ...]]()
    while not after or len(page) == PAGE:
        params = {"statuses": statuses, "after": after, "limit": PAGE, "visible": access.array}
        page = await db.tuples(SQL["in_flight"], params)
        if not page:
            return
        yield [(run_id, thread_id) for run_id, thread_id, _ in page]
        after = page[-1][2]


async def ended(db: Database, run_ids: list[str]) -> list[str]:
    """Which of the runs are in flight no more; one that was deleted is not."""
    return [row[0] for row in await db.tuples(SQL["ended"], {"run_ids": run_ids})]


async def to_follow(
    db: Database, thread_id: str, *, after: tuple[int, int] | None, access: Access
) -> str | None:
    """
    The run of a visible thread whose events come next for somebody; None if none do.

    That of the last event that they have, if they have not had its end; else the one in flight.
    """
    epoch, seq = after or (None, None)
    params = {"thread_id": thread_id, "epoch": epoch, "seq": seq, "visible": access.array}
    rows = await repeated(lambda: db.tuples(SQL["to_follow"], params))
    return rows[0][0] if rows else None


async def graph_ids(db: Database, run_ids: list[str]) -> dict[str, str]:
    """The graphs that runs are of, by run; without those that are gone. Asks nobody who may know."""
    return dict(await db.tuples(SQL["graph_ids"], {"run_ids": run_ids}))


async def of_assistant(db: Database, assistant_id: str) -> list[tuple[str, str]]:
    """The runs of an assistant that are in flight, as pairs of run id and thread id."""
    rows = await db.tuples(SQL["of_assistant"], {"assistant_id": assistant_id})
    return [(run_id, thread_id) for run_id, thread_id in rows]


async def are_any(db: Database, thread_id: str, run_ids: list[str], *, access: Access) -> bool:
    """Whether one of the runs is on the thread, and that is visible."""
    params = {"thread_id": thread_id, "run_ids": run_ids, "visible": access.array}
    return bool(await db.tuples(SQL["are_any"], params))
