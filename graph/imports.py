"""
Sessions that come from elsewhere, written here as if they had been held here.

The one function for every importer, of files, of databases, of another server's export. What makes
a second import do nothing is that ids are kept: whoever reads a source makes them deterministic.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from graph.adoption import Stretch, message_of
from graph.first_words import LOOK_AT_MESSAGES, begun
from graph.histories import Histories, as_input
from graph.state import States
from store import imports, threads
from store.access import Access
from store.database import Database
from store.errors import AlreadyExistsError, InvalidInputError
from store.models import JsonObject
from store.retention import Life

#: The longest id of a message, in characters.
MAX_ID = 255
MAX_SCORE = 100

Status = Literal["created", "updated", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedMessage:
    """
    A message of a session that was held elsewhere.

    Attributes:
        id: Its id there, or one made of that: the same each time, unique in the session.
        role: Whose.
        content: Text, or LangChain's content blocks.
        created_at: When it was said, with its zone; None if nobody knows: then it is of now.
        score: What was thought of it, from 0 to 100, and `reason` why; None if nothing.
        more: Further attributes as LangChain's JSON has them: ``tool_calls``, ``tool_call_id``,
            ``name``, ``additional_kwargs``, ``usage_metadata``, ….
    """

    id: str
    role: Literal["user", "assistant", "system", "tool"]
    content: str | list[Any]
    created_at: datetime | None = None
    score: int | None = None
    reason: str | None = None
    more: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedSession:
    """
    A session that was held elsewhere.

    Attributes:
        session_id: Its id there, kept as it is: a UUID, with dashes or without, in lower case. Of
            what is none, make one that is the same each time (`uuid.uuid5`).
        messages: The branch that was last shown, oldest first.
        metadata: Its attributes: ``name``, ``user_id``, ``chat_type``, ``assistant_id`` (an
            assistant's id or a graph's name; without it the server's first graph), ….
        created_at, updated_at: With their zones; None if nobody knows.
    """

    session_id: str
    messages: Sequence[ImportedMessage]
    metadata: JsonObject = field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a session, and how many messages were (or would be) added to it."""

    status: Status
    messages: int = 0


class Imports:
    """Writes sessions that come from elsewhere; one for each process."""

    def __init__(
        self, *, db: Database, histories: Histories, states: States, life: Life | None = None
    ) -> None:
        self._db = db
        self._histories = histories
        self._states = states
        self._life = life

    async def write(
        self, session: ImportedSession, *, access: Access, dry_run: bool = False
    ) -> Imported:
        """
        Write a session that was held elsewhere, or what it has more than is here already.

        All of its new messages are one update of the state: one checkpoint, one transaction, after
        which nothing is next. A message is known by its id, also one that the model does not see any more
        or that only a branch has that was left; it is not written again, and not changed. So a second
        import is ``skipped``, and one of a longer source appends. A session that is here keeps its
        attributes. Where a first import broke off, the next one goes on.

        Ids are kept. So are times: `create_time` of a message's row and of the session, and the
        order of the list of sessions; a rebuild of the rows comes to the same.

        Args:
            access: Which sessions are the importer's; ask ``threads.create`` for it.
            dry_run: Say what would be done, and do nothing.

        Raises:
            AlreadyExistsError: The id is somebody else's.
            ThreadBusyError: A run is in flight on the session; nothing was written.
            InvalidInputError: An id is none, or a message is none; nothing was written.
            NotFoundError: There is no graph to write it by.
        """
        messages = {message.id: _fields(message) for message in session.messages}
        for fields in messages.values():
            message_of(fields)
        _check_session(session.session_id)
        found = await threads.find(self._db, session.session_id, access=access)
        if found is None and await threads.exists(self._db, session.session_id):
            raise AlreadyExistsError(f"Session {session.session_id} already exists")
        known = await imports.known(self._db, session.session_id) if found else set()
        new = [message for id_, message in messages.items() if id_ not in known]
        status: Status = "created" if found is None else "updated" if new else "skipped"
        if dry_run or (status == "skipped" and not known):
            return Imported(status, len(new))
        if found is None:
            await self._create(session, access)
        if new:
            await self._append(session.session_id, new, access)
        # Also where nothing was new: an import may have broken off just before.
        times = {m.id: _at(m.created_at) for m in session.messages if m.created_at}
        await imports.stamp(
            self._db,
            session.session_id,
            times,
            created_at=session.created_at,
            updated_at=None if known else session.updated_at,
        )
        opinions = {
            m.id: (m.score, m.reason)
            for m in session.messages
            if m.score is not None and 0 <= m.score <= MAX_SCORE
        }
        user_id = session.metadata.get("user_id") or ""
        await imports.judge(self._db, session.session_id, opinions, user_id=str(user_id))
        return Imported(status, len(new))

    async def _create(self, session: ImportedSession, access: Access) -> None:
        metadata = {key: value for key, value in session.metadata.items() if value is not None}
        # Before anything is written: there may be none.
        metadata["graph_id"] = await self._histories.graph_of(metadata)
        said = [message_of(_fields(message)) for message in session.messages[:LOOK_AT_MESSAGES]]
        metadata |= begun(metadata, as_input(said))
        await threads.create(
            self._db, session.session_id, metadata=metadata, life=self._life, access=access
        )

    async def _append(self, thread_id: str, new: Sequence[JsonObject], access: Access) -> None:
        await self._histories.give_graph(thread_id, access=access)
        await self._states.adopt(thread_id, [Stretch(new)], access=access)


def _fields(of: ImportedMessage) -> JsonObject:
    """
    The message as `graph.adoption` takes it.

    Raises:
        InvalidInputError: Its id is none.
    """
    if not 0 < len(of.id) <= MAX_ID or "\0" in of.id:
        raise InvalidInputError(f"The id of a message must have 1 to {MAX_ID} characters")
    kept = of.more.get("additional_kwargs")
    kwargs = {**kept} if isinstance(kept, dict) else {}
    if of.created_at is not None:
        kwargs["created_at"] = _at(of.created_at)
    said = {"role": of.role, "id": of.id, "content": of.content}
    return {**of.more, "additional_kwargs": kwargs, **said}


def _check_session(id_: str) -> None:
    try:
        parsed = UUID(id_)
    except ValueError:
        parsed = None
    if parsed is None or id_ not in (str(parsed), parsed.hex):
        raise InvalidInputError("The id of a session must be a UUID")


def _at(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()
