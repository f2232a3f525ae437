"""Fair shares: whose a run is says with whom it shares, and how many may wait."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from graph.requests import RunRequest
from store import priorities
from store.database import Database
from store.errors import LimitedError, OverloadedError
from store.limits import key_of
from store.new_runs import NewRun
from store.priorities import DEFAULT_GROUP, Urgency
from store.runs import Setting

#: When it is worth asking again for a place in the queue.
RETRY_SECONDS: Final = 5.0


class FairShares:
    """
    Has every identity's runs begin in turn with those of all others.

    It stands where `graph.priorities.Priorities` does, if langgraph.json names none.

    Args:
        most_running: How many runs of one identity may be under way, in all processes; None for any
            number.
    """

    def __init__(self, db: Database, *, most_running: int | None) -> None:
        self._db = db
        self._most_running = most_running

    async def decided(
        self, new: NewRun, request: RunRequest, setting: Setting, *, is_named: bool
    ) -> NewRun:
        """The run, as one of whoever asks for it: on a thread that is shared, too."""
        identity = request.injected.get("langgraph_auth_user_id") or ""
        return replace(new, priority=Urgency(0, key_of(identity), is_of_run=True))

    async def may_start(self, new: NewRun) -> bool:
        """Whether nobody waits whom a run that begins at once would overtake."""
        group = new.priority.fairness_group if new.priority else DEFAULT_GROUP
        return await priorities.may_begin(self._db, group, most_running=self._most_running)


@dataclass(frozen=True, slots=True)
class QueueRoom:
    """
    How many runs may wait; 0 for any number.

    Those that many requests ask for at the same moment may be a few more.

    Attributes:
        most: Of all, and `most_of_group` of one identity, or of a group that langgraph.json's
            `priority` has put it in.
    """

    db: Database
    most: int
    most_of_group: int

    async def require(self, new: Sequence[NewRun]) -> None:
        """
        See that runs may be queued, before anything is done for them.

        Where all together have filled the queue, whoever has less than an equal part of it is let in.

        Raises:
            LimitedError: Too many of the same group wait.
            OverloadedError: Too many wait in all.
        """
        if not new:
            return
        count = len(new)
        group = new[0].priority.fairness_group if new[0].priority else DEFAULT_GROUP
        found = await priorities.waiting(
            self.db, group, most=self.most, most_of_group=self.most_of_group or self.most
        )
        if self.most_of_group and found.of_group + count > self.most_of_group:
            raise LimitedError(
                f"{self.most_of_group} runs may wait",
                code="queue_full",
                retry_in_seconds=RETRY_SECONDS,
            )
        if self.most and found.total + count > self.most:
            share = self.most // max(1, await priorities.count_groups(self.db))
            if found.of_group + count > share:
                raise OverloadedError("Too many runs are waiting", code="queue_full")
