"""
What was said, run and thought of it, counted by PostgreSQL from the projection and the runs.

Nothing is counted in advance: a range is read when it is asked for, under the caller's access.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from store.access import EVERYTHING, Access
from store.database import Database
from store.sql import load

SQL = load("stats")

GroupBy = Literal["day", "user", "model", "chat_type"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """The messages of a group; of a group and a model unless `is_sum`."""

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
    Count what is visible in a range. Costs what the range holds.

    Raises:
        UnavailableError: It took longer than a statement may.
    """
    only = _only_user(of.access)
    user_id = only if of.user_id is None else of.user_id
    params: dict[str, Any] = {
        "since": of.since,
        "until": of.until,
        "days": list(of.days),
        "group_by": of.group_by,
        "user_id": user_id,
        "visible": of.access.array,
        "narrowed": (of.access if only is None else EVERYTHING).array,
    }
    ran = "ran_by_model" if of.group_by == "model" else "ran"
    async with db.transaction() as tx:
        await tx.tuples(SQL["room"], {})
        # Planned anew each time: for a user's few sessions, or for everybody's.
        return Stats(
            said=await tx.all(Said, SQL["said"], params, prepare=False),
            ran=await tx.all(Ran, SQL[ran], params, prepare=False),
            thought=await tx.all(Thought, SQL["thought"], params, prepare=False),
        )


def _only_user(access: Access) -> str | None:
    """
    The one user whose threads are visible, if that is what an access says.

    PostgreSQL knows how many threads each user has, and of containment nothing.
    """
    user_id = access.visible[0].get("user_id") if len(access.visible) == 1 else None
    return user_id if isinstance(user_id, str) else None
