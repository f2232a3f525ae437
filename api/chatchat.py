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
from datetime import datetime
from typing import Literal, TypeVar
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import orjson

from api.bootstrap import Services
from api.compat.question import question_id
from graph.imports import Imported, ImportedMessage, ImportedSession
from store import chatchat, users
from store.access import EVERYTHING
from store.chatchat import OldConversation, OldDatabase, OldMessage
from store.errors import Error
from store.models import JsonObject

Dialect = Literal["fufan", "chatchat"]
T = TypeVar("T")

#: What ids of sessions are made with that were none, and those of what was of no conversation.
_SESSIONS = UUID("6a9f0f0e-52d0-4a56-9c55-2b1f8c9a7d10")
#: Names that mean none.
UNNAMED = frozenset({"", "新对话", "new_chat"})
NAME_CHARACTERS = 50
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
        yield session_of(conversation, plan)
    for day, messages in old.loose():
        name = f"Without a conversation {day}".strip()
        loose = OldConversation(f"loose {day}", None, name, None, None, messages)
        yield session_of(loose, plan)


def session_of(old: OldConversation, plan: Plan) -> ImportedSession:
    """The session that a conversation becomes."""
    turns = _without_twins(old.messages)
    said = [message for turn in turns for message in _messages(turn, plan.zone)]
    created_at = _time(old.create_time, plan.zone) or (said[0].created_at if said else None)
    session_id, source = _session_id(old.id)
    first = turns[0].query[:NAME_CHARACTERS].strip() if turns else ""
    named = (old.name or "").strip()
    metadata: JsonObject = {
        "name": (first if named in UNNAMED else named[:255]) or None,
        "user_id": old.user_id or plan.user_id,
        "chat_type": old.chat_type or (turns[0].chat_type if turns else None) or None,
        "assistant_id": plan.assistant,
        "source": plan.dialect,
        "source_id": source,
    }
    return ImportedSession(
        session_id=session_id,
        messages=said,
        metadata=metadata,
        created_at=created_at,
        updated_at=(said[-1].created_at if said else None) or created_at,
    )


def _without_twins(turns: list[OldMessage]) -> list[OldMessage]:
    """Chatchat's master writes a turn twice: as the agent's, never answered, and as the model's."""
    answered = {turn.query for turn in turns if turn.response}
    return [turn for turn in turns if turn.response or turn.query not in answered]


def _messages(turn: OldMessage, zone: ZoneInfo) -> Iterator[ImportedMessage]:
    at = _time(turn.create_time, zone)
    kept: JsonObject = {"pair_id": turn.id}
    if turn.chat_type:
        kept["chat_type"] = turn.chat_type
    asked = kept if turn.response else {**kept, "status": "incomplete"}
    yield ImportedMessage(
        id=question_id(turn.id),
        role="user",
        content=turn.query,
        created_at=at,
        more={"additional_kwargs": asked},
    )
    if turn.response:
        meta_data = _meta_data(turn.meta_data)
        answered = {**kept, **({"meta_data": meta_data} if meta_data else {})}
        yield ImportedMessage(
            id=turn.id,
            role="assistant",
            content=turn.response,
            created_at=at,
            # -1 says nothing.
            score=turn.feedback_score,
            reason=turn.feedback_reason[:2000] or None,
            more={"additional_kwargs": answered},
        )


def _meta_data(text: str | None) -> JsonObject:
    """Opaque: a text in it may be what LangChain has dumped, and is never loaded."""
    try:
        found = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {"text": text}
    return found if isinstance(found, dict) else {"value": found} if found else {}


def _session_id(old: str) -> tuple[str, str | None]:
    """The id of the session, and the old one where it cannot stay."""
    try:
        parsed = UUID(old)
    except ValueError:
        return str(uuid5(_SESSIONS, old)), old
    if old.lower() in (str(parsed), parsed.hex):
        return old.lower(), None
    return str(uuid5(_SESSIONS, old)), old


def _time(text: str | None, zone: ZoneInfo) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=zone)


def show_progress(report: Report) -> None:
    """Tell a person how far it is."""
    done = report.created + report.updated + report.skipped + report.failed
    sys.stderr.write(f"{done} sessions, {report.messages} new messages\n")
    sys.stderr.flush()
