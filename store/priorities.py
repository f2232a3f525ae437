"""Which waiting run is claimed first: settings of a thread, decided once, and copied to its runs."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from store.database import Database, Transaction
from store.json import dump_json
from store.models import JsonObject
from store.sql import load

SQL = load("priorities")

#: The most urgent and the least, and how long the name of a group may be.
FIRST: Final = -5
LAST: Final = 5
GROUP_MAX_LENGTH: Final = 256
DEFAULT_GROUP: Final = "default"


@dataclass(frozen=True, slots=True)
class Urgency:
    """
    How urgent the runs of a thread are, and with whose they share.

    Attributes:
        is_of_run: It is one run's, which is inserted with it, and nothing that its thread is to remember.
    """

    priority: int = 0
    fairness_group: str = DEFAULT_GROUP
    is_of_run: bool = False

    def row(self, run_id: str, thread_id: str) -> JsonObject:
        """What the statements that give it to runs take."""
        return {"run_id": run_id, "thread_id": thread_id, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many runs wait, in all and of a group; no more were counted than was asked for."""

    total: int
    of_group: int


async def find(db: Database, thread_id: str) -> Urgency | None:
    """What was decided for a thread; None if nothing was. For those who may see it."""
    return await db.one(Urgency, SQL["of_thread"], {"thread_id": thread_id})


async def keep(db: Database, thread_id: str, settings: Urgency) -> None:
    """Remember what was decided for a thread, unless something is known already."""
    await db.execute(SQL["keep"], {"thread_id": thread_id, **asdict(settings)})


async def mark(tx: Transaction, runs: Iterable[tuple[str, str, Urgency]]) -> None:
    """
    Remember what was decided for threads, and give it to runs of theirs that were just queued.

    Args:
        runs: The id of the run, that of its thread, and the decision.
    """
    given = [settings.row(run_id, thread_id) for run_id, thread_id, settings in runs]
    params = {"settings": dump_json(given).decode()}
    await tx.execute(SQL["keep_all"], params)
    await tx.execute(SQL["mark_all"], params)


async def adopt(db: Database) -> int:
    """Give the runs that wait without a priority that of their threads; how many there were."""
    return len(await db.tuples(SQL["adopt"], {}))


async def is_anybody_waiting(db: Database) -> bool:
    """Whether a run is due that nobody has begun: who would start another at once jumps the queue."""
    return bool((await db.tuples(SQL["is_anybody_waiting"], {}))[0][0])


async def may_begin(db: Database, group: str, *, most_running: int | None) -> bool:
    """
    Whether a run of a group may begin at once: nobody waits whom a claim would take before it.

    Args:
        most_running: How many of a group may run; None for any number.
    """
    params = {"fairness_group": group, "most_running": most_running}
    return bool((await db.tuples(SQL["may_begin"], params))[0][0])


async def is_full(db: Database, group: str, *, most_running: int) -> bool:
    """Whether as many runs of a group are under way as may be."""
    params = {"fairness_group": group, "most_running": most_running}
    return bool((await db.tuples(SQL["is_full"], params))[0][0])


async def waiting(db: Database, group: str, *, most: int, most_of_group: int) -> Waiting:
    """
    Count the runs that wait; costs what it counts.

    Args:
        most: How far all are counted, and `most_of_group` how far those of the group are.
    """
    params = {"fairness_group": group, "most": most, "most_of_group": most_of_group}
    return (await db.all(Waiting, SQL["waiting"], params))[0]


async def count_groups(db: Database) -> int:
    """How many groups have runs that wait; costs the groups, not what waits."""
    return int((await db.tuples(SQL["count_groups"], {}))[0][0])
