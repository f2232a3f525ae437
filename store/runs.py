"""Runs as they are read. Their status is written by `store.queue` alone."""

from dataclasses import dataclass

from store.database import Database, repeated
from store.errors import NotFoundError
from store.lane import Statement
from store.models import JsonObject, Run, RunStatus
from store.sql import load

SQL = load("runs")
_SETTING = Statement(SQL["assistant_and_thread"])


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


async def setting(db: Database, *, assistant_id: str, thread_id: str | None) -> Setting | None:
    """What a run of the assistant on the thread inherits; None without such an assistant."""
    params = {"assistant_id": assistant_id, "thread_id": thread_id}
    [rows] = await repeated(lambda: db.at_once((_SETTING, params)))
    return Setting(*rows[0]) if rows else None


async def find(db: Database, run_id: str, *, thread_id: str | None = None) -> Run | None:
    """The run, if there is one and it is on the thread."""
    params = {"run_id": run_id, "thread_id": thread_id}
    return await repeated(lambda: db.one(Run, SQL["get"], params))


async def get(db: Database, run_id: str, *, thread_id: str | None = None) -> Run:
    """
    Read a run.

    Raises:
        NotFoundError: There is none with this id on this thread.
    """
    found = await find(db, run_id, thread_id=thread_id)
    if found is None:
        raise NotFoundError(f"Run {run_id} not found")
    return found


async def list_of_thread(
    db: Database, thread_id: str, *, status: RunStatus | None, limit: int, offset: int
) -> list[Run]:
    """A page of the thread's runs, newest first."""
    return await db.all(
        Run,
        SQL["list"],
        {"thread_id": thread_id, "status": status, "limit": limit, "offset": offset},
    )


async def in_flight(db: Database, statuses: list[RunStatus]) -> list[tuple[str, str]]:
    """Up to 1000 pairs of run id and thread id, oldest first."""
    rows = await db.tuples(SQL["in_flight"], {"statuses": statuses})
    return [(run_id, thread_id) for run_id, thread_id in rows]


async def ended(db: Database, run_ids: list[str]) -> list[str]:
    """Which of the runs are in flight no more; one that was deleted is not."""
    return [row[0] for row in await db.tuples(SQL["ended"], {"run_ids": run_ids})]
