"""`priority` of langgraph.json: a function of the user's says how urgent the runs of a thread are."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog
from langgraph_sdk import Priority, PriorityContext

from graph.factory import reason, variable
from graph.requests import RunRequest, metadata_of
from graph.user import User, user_of
from store import priorities
from store.database import Database
from store.errors import InvalidInputError, UnavailableError
from store.new_runs import NewRun
from store.priorities import DEFAULT_GROUP, FIRST, GROUP_MAX_LENGTH, LAST, Urgency
from store.runs import Setting

log = structlog.get_logger(__name__)

#: How long the function may take: a request waits for it.
DECIDE_SECONDS: Final = 5.0

_NOBODY: Final = {"identity": "", "is_authenticated": False, "display_name": "", "permissions": []}
_KEYS: Final = frozenset({"priority", "fairness_group"})


class Priorities:
    """
    Asks the function, once for a thread.

    Args:
        priority: The object that langgraph.json names.
        most_running: How many runs of a group may be under way; None for any number.
    """

    def __init__(
        self, db: Database, priority: Priority, *, most_running: int | None = None
    ) -> None:
        self._db = db
        self._most_running = most_running
        self._assign: Any = priority._assign_handler

    async def decided(
        self, new: NewRun, request: RunRequest, setting: Setting, *, is_named: bool
    ) -> NewRun:
        """
        The run with the settings of its thread, which the first one that is queued decides.

        A function that fails keeps nobody from having a run: it counts as any other, and the next run
        asks again.

        Args:
            is_named: Whether whoever asked gave the thread an id.
        """
        if setting.thread_id is not None:
            known = await priorities.find(self._db, setting.thread_id)
            if known is not None:
                return replace(new, priority=known)
        context = _context(new, request, setting, thread_id=new.thread_id if is_named else None)
        try:
            async with asyncio.timeout(DECIDE_SECONDS):
                settings = _settings(await self._assign(context))
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - a user's function raises anything
            log.warning("the priority of a thread was not decided", error=error)
            return new
        return replace(new, priority=settings)

    async def may_start(self, new: NewRun) -> bool:
        """Whether nobody waits whom a run that begins at once would overtake."""
        if await priorities.is_anybody_waiting(self._db):
            return False
        if self._most_running is None or new.priority is None:
            return True
        group, most = new.priority.fairness_group, self._most_running
        return not await priorities.is_full(self._db, group, most_running=most)


def load(target: str, root: Path, db: Database, *, most_running: int | None = None) -> Priorities:
    """
    Import what langgraph.json names.

    Raises:
        InvalidInputError: It cannot be imported, or is no `Priority` with a function.
    """
    try:
        found = variable(target, root)
    except (Exception, SystemExit) as error:
        raise InvalidInputError(f"langgraph.json: `priority.path`: {reason(error)}") from error
    if not isinstance(found, Priority):
        raise InvalidInputError(
            f"langgraph.json: `priority.path` gives a {type(found).__name__}, not a Priority"
        )
    if found._assign_handler is None:
        raise InvalidInputError("langgraph.json: `priority.path` has no function: use @….assign")
    return Priorities(db, found, most_running=most_running)


def _context(
    new: NewRun, request: RunRequest, setting: Setting, *, thread_id: str | None
) -> PriorityContext:
    user = user_of(request.injected.get("langgraph_auth_user")) or User(_NOBODY)
    is_there = setting.thread_id is not None
    metadata = setting.thread_metadata if is_there else metadata_of(request)
    return PriorityContext(
        user=user,
        permissions=user.permissions,
        thread_id=thread_id,
        thread_metadata=dict(metadata or {}),
        assistant_id=new.assistant_id,
        graph_id=setting.graph_id,
        assistant_metadata=dict(setting.metadata),
        run_metadata=dict(new.metadata),
        cron_id=request.cron_id,
    )


def _settings(found: Any) -> Urgency:
    """
    What the function returned, with the defaults.

    Raises:
        ValueError: It is not what it should be.
    """
    given = {} if found is None else found
    if not isinstance(given, dict) or given.keys() - _KEYS:
        raise ValueError("it must return a dict of `priority` and `fairness_group`, or None")
    priority, group = given.get("priority"), given.get("fairness_group")
    if priority is None:
        priority = 0
    if priority not in range(FIRST, LAST + 1) or not isinstance(priority, int):
        raise ValueError(f"`priority` must be an integer from {FIRST} to {LAST}")
    if not isinstance(group, str | None) or len(group or "") > GROUP_MAX_LENGTH:
        raise ValueError(f"`fairness_group` must be a string of {GROUP_MAX_LENGTH} at the most")
    # PostgreSQL has no place for it in a text.
    return Urgency(priority, (group or "").replace("\0", "�") or DEFAULT_GROUP)
