"""
`threadwell import chatchat`: the conversations of an old Langchain-Chatchat or fufan-chat-api.

Read one conversation at a time, and written by `graph.imports`: ids stay, a second time does nothing.
What their tables really contain, and what is made of it, docs/existing-project.md says.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo

from api.bootstrap import Services
from api.exchange.old_sessions import session_of
from graph.imports import Imported, ImportedSession
from store import chatchat, users
from store.access import EVERYTHING
from store.chatchat import OldDatabase
from store.errors import Error
from store.models import JsonObject
from store.old_rows import OldConversation

Dialect = Literal["fufan", "chatchat"]
T = TypeVar("T")

PROGRESS_SECONDS = 5.0
#: Sessions that are written at the same time: the commits of several are one.
AT_ONCE = 8
#: Errors that the report has; the others are counted.
MAX_ERRORS = 20


@dataclass
class Report:
    """What became of it all."""

    created: int = 0
    updated: int = 0
    skipped: int = 0
    failed: int = 0
    messages: int = 0
    users: int = 0
    errors: list[JsonObject] = field(default_factory=list)

    def add(self, done: Imported) -> None:
        """Count a session."""
        setattr(self, done.status, getattr(self, done.status) + 1)
        self.messages += done.messages

    def fail(self, session_id: str, error: Error) -> None:
        """Note a session that could not be written."""
        self.failed += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(
                {"session_id": session_id, "code": error.code, "detail": error.message}
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    How to read a database and where to write it.

    Attributes:
        zone: Of the times in it.
        assistant: Who goes on with the conversations: an assistant's id or a graph's name.
        user_id: Whose they are, where the database does not say.
    """

    url: str
    dialect: Dialect
    zone: ZoneInfo
    assistant: str | None = None
    user_id: str | None = None
    dry_run: bool = False


async def run(
    services: Services, plan: Plan, *, tell: Callable[[Report], None] = lambda _: None
) -> Report:
    """
    Import every conversation of a database.

    Args:
        tell: Called every few seconds with what is done so far.

    Raises:
        InvalidInputError: It is none of theirs.
        UnavailableError: It cannot be read any further; what was written stays, call again.
    """
    report = Report()
    told_at = time.monotonic()
    # One thread for the old database, whose driver waits; the conversations come one by one.
    with ThreadPoolExecutor(max_workers=1) as reader, ExitStack() as stack:
        loop = asyncio.get_running_loop()
        old = await loop.run_in_executor(reader, stack.enter_context, chatchat.opened(plan.url))
        try:
            await _users(services, plan, old, report, reader)
            sessions = _sessions(old, plan)
            free = asyncio.Semaphore(AT_ONCE)
            async with asyncio.TaskGroup() as writing:
                while session := await loop.run_in_executor(reader, next, sessions, None):
                    # No more are read than are written: each is in memory as a whole.
                    await free.acquire()
                    written = writing.create_task(_write(services, plan, session, report))
                    written.add_done_callback(lambda _: free.release())
                    if time.monotonic() - told_at > PROGRESS_SECONDS:
                        tell(report)
                        told_at = time.monotonic()
        finally:
            await loop.run_in_executor(reader, stack.close)
    return report


async def _users(
    services: Services, plan: Plan, old: OldDatabase, report: Report, reader: ThreadPoolExecutor
) -> None:
    found = await asyncio.get_running_loop().run_in_executor(reader, lambda: list(old.users()))
    for user in found if plan.dialect == "fufan" and not plan.dry_run else ():
        report.users += await users.keep(
            services.db, user.id, username=user.username, password_hash=user.password_hash
        )


async def _write(services: Services, plan: Plan, session: ImportedSession, report: Report) -> None:
    try:
        done = await services.imports.write(session, access=EVERYTHING, dry_run=plan.dry_run)
    except Error as exc:
        report.fail(session.session_id, exc)
    else:
        report.add(done)


def _sessions(old: OldDatabase, plan: Plan) -> Iterator[ImportedSession]:
    for conversation in old.conversations():
        yield _session(conversation, plan)
    for day, messages in old.loose():
        name = f"Without a conversation {day}".strip()
        loose = OldConversation(f"loose {day}", None, name, None, None, messages)
        yield _session(loose, plan)


def _session(old: OldConversation, plan: Plan) -> ImportedSession:
    about = {"assistant_id": plan.assistant, "source": plan.dialect}
    return session_of(old, plan.zone, user_id=plan.user_id, **about)


def show_progress(report: Report) -> None:
    """Tell a person how far it is."""
    done = report.created + report.updated + report.skipped + report.failed
    sys.stderr.write(f"{done} sessions, {report.messages} new messages\n")
    sys.stderr.flush()
