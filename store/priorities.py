"""Which waiting run is claimed first: settings of a thread, decided once, and copied to its runs."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from store.database import Database, Transaction
from store.json import dump_json
from store.sql import load

SQL = load("priorities")

#: The most urgent and the least, and how long the name of a group may be.
FIRST: Final = -5
LAST: Final = 5
GROUP_MAX_LENGTH: Final = 256
DEFAULT_GROUP: Final = "default"


@dataclass(frozen=True, slots=True)
class Settings:
    """How urgent the runs of a thread are, and with whose they share."""

    priority: int = 0
    fairness_group: str = DEFAULT_GROUP


async def find(db: Database, thread_id: str) -> Settings | None:
    """What was decided for a thread; None if nothing was. For those who may see it."""
    return await db.one(Settings, SQL["of_thread"], {"thread_id": thread_id})


async def keep(db: Database, thread_id: str, settings: Settings) -> None:
    """Remember what was decided for a thread, unless something is known already."""
    await db.execute(SQL["keep"], {"thread_id": thread_id, **asdict(settings)})


async def mark(tx: Transaction, runs: Iterable[tuple[str, str, Settings]]) -> None:
    """
    Remember what was decided for threads, and give it to runs of theirs that were just queued.

    Args:
        runs: The id of the run, that of its thread, and the decision.
    """
    rows = [
        {"run_id": run_id, "thread_id": thread_id, **asdict(settings)}
        for run_id, thread_id, settings in runs
    ]
    params = {"settings": dump_json(rows).decode()}
    await tx.execute(SQL["keep_all"], params)
    await tx.execute(SQL["mark_all"], params)


async def adopt(db: Database) -> int:
    """Give the runs that wait without a priority that of their threads; how many there were."""
    return len(await db.tuples(SQL["adopt"], {}))


async def is_anybody_waiting(db: Database) -> bool:
    """Whether a run is due that nobody has begun: who would start another at once jumps the queue."""
    return bool((await db.tuples(SQL["is_anybody_waiting"], {}))[0][0])
