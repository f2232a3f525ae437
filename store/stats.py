"""
What was said, run and thought of it, counted by PostgreSQL under the caller's access.

Of threads that have settled it was counted in advance (`store.tallies`); all else is read when it is asked for.
What comes out is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from store import tallies
from store.access import EVERYTHING, Access
from store.database import Database
from store.sql import load

SQL = load("stats")

#: How many threads are read at the most beside tallies: with more, nothing has been counted yet, and all of a
#: range is read in the order of time.
_READ: Final = 20_000
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_QUARTER: Final = timedelta(minutes=15)

GroupBy = Literal["day", "user", "model", "chat_type"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """The messages of a group; unless `is_sum`, only the tokens of a model in it."""

    key: str | None
    model: str | None
    is_sum: bool
    sessions: int
    messages: int
    answers: int
    input_tokens: int
    output_tokens: int
    #: Of the input's, those that the model's server had kept.
    cached_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """The runs of a group. Of each time the median and the 95th percentile, in milliseconds."""

    key: str | None
    runs: int
    failed: int
    #: From a run's start to its first token, where one was streamed; None if there is none.
    first_token_ms: Sequence[float] | None
    #: From its start to its end, of those that succeeded.
    total_ms: Sequence[float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Thought:
    """The opinions of a group: how many, how many that like, and the mean of 0 to 100."""

    key: str | None
    opinions: int
    likes: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """What is counted: from `since` on, before `until`, of a user's sessions or of all."""

    since: datetime
    until: datetime
    #: The first moments of its days: a group's key is a number of them, from 1.
    days: Sequence[datetime]
    group_by: GroupBy
    user_id: str | None
    access: Access


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """All of it; a group may be in one list and not in another."""

    said: list[Said]
    ran: list[Ran]
    thought: list[Thought]


async def count(db: Database, of: Range) -> Stats:
    """
    Count what is visible in a range, as it is at one moment.

    Costs what has been counted in advance of it, and what has not.

    Raises:
        UnavailableError: It took longer than a statement may.
    """
    only = _only_user(of.access)
    async with db.transaction() as tx:
        await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", {})
        await tx.tuples(SQL["room"], {})
        params: dict[str, Any] = {
            **_stretch(of, await tallies.uncounted(tx, limit=_READ)),
            "group_by": of.group_by,
            "user_id": only if of.user_id is None else of.user_id,
            "visible": of.access.array,
            "narrowed": (of.access if only is None else EVERYTHING).array,
        }
        # Planned anew each time: for a user's few sessions, or for everybody's.
        return Stats(
            said=await tx.all(Said, SQL["said"], params, prepare=False),
            ran=await tx.all(Ran, SQL["ran"], params, prepare=False),
            thought=await tx.all(Thought, SQL["thought"], params, prepare=False),
        )


def _stretch(of: Range, uncounted: list[str] | None) -> dict[str, Any]:
    """The times of a range, and which of it has been counted."""
    first = of.since + (_EPOCH - of.since) % _QUARTER
    last = of.until - (of.until - _EPOCH) % _QUARTER
    # Clocks of long ago were not set by quarters of an hour.
    is_counted = not any((day - _EPOCH) % _QUARTER for day in of.days)
    if uncounted is None or first >= last or not is_counted:
        first, last, uncounted = of.until, of.until, []
    return {
        "since": of.since,
        "whole_since": first,
        "whole_until": last,
        "until": of.until,
        "uncounted": uncounted,
        "days": list(of.days),
        "day_quarters": [(day - _EPOCH) // _QUARTER for day in of.days],
    }


def _only_user(access: Access) -> str | None:
    """
    The one user whose threads are visible, if that is what an access says.

    PostgreSQL knows how many threads each user has, and of containment nothing.
    """
    user_id = access.visible[0].get("user_id") if len(access.visible) == 1 else None
    return user_id if isinstance(user_id, str) else None
