"""
Conversations of files as sessions of somebody.

Whatever is taken in twice is there once: a session's id is that of the file, or made of what was
said, and a message's likewise. A file that has gone on since is taken in where it has.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import ValidationError
from uuid_utils.compat import uuid7

from api.exchange.files import Entry
from api.exchange.transcript import Transcript, derived
from api.identity.auth import Caller
from api.new_sessions import NewSessions, new_value
from api.schemas.common import UUID_FORM
from api.schemas.sessions import SessionCreate
from graph.adoption import Stretch, message_of
from graph.registry import Registry
from graph.requests import RESERVED_METADATA, system_assistant_id
from graph.runs import Runs
from graph.state import States
from store import exchanges, imports, sessions, threads
from store.access import EVERYTHING, UNDER_WAY, Access
from store.database import Database
from store.errors import (
    AlreadyExistsError,
    ConflictError,
    Error,
    InvalidInputError,
    LeaseLostError,
    NotFoundError,
    ThreadBusyError,
    UnavailableError,
)
from store.models import JsonObject, Thread
from store.projection import plain_text

Outcome = Literal["created", "updated", "skipped"]

#: What is told of an import at the most.
MAX_ERRORS: Final = 100
MAX_LISTED: Final = 100
#: How many sessions may have begun with the same words, for a form that has no ids, or have gone on
#: here and in the file.
_CANDIDATES: Final = 20
#: Between tries to write to a session that somebody else is writing to.
_PAUSES_SECONDS: Final = (0.1, 0.5)
#: And to one that is being imported: until whoever began it is done, or long silent.
_MORE_PAUSES_SECONDS: Final = (2.0, 5.0, 10.0, 15.0)
_BEING_IMPORTED: Final = "import_under_way"


@dataclass(slots=True)
class Report:
    """What came of a file, as far as it was read."""

    counts: dict[str, int] = field(
        default_factory=lambda: {"created": 0, "updated": 0, "skipped": 0, "failed": 0}
    )
    errors: list[JsonObject] = field(default_factory=list)
    listed: list[JsonObject] = field(default_factory=list)
    #: The last of what went wrong; kept with nobody.
    fault: Error | None = None

    @classmethod
    def of(cls, told: JsonObject) -> "Report":
        """One that was kept."""
        counts = {name: told[name] for name in ("created", "updated", "skipped", "failed")}
        return cls(counts, list(told["errors"]), list(told["sessions"]))

    def json(self) -> JsonObject:
        """It as it is kept, and answered."""
        return {**self.counts, "errors": self.errors, "sessions": self.listed}

    def add(self, entry: Entry, session_id: str, outcome: Outcome) -> None:
        """Count a conversation."""
        self.counts[outcome] += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append({"id": session_id, "source_id": entry.id, "result": outcome})

    def fail(self, entry: Entry, error: Error) -> None:
        """Count one that was not taken in."""
        self.counts["failed"] += 1
        self.fault = error
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(
                {
                    "index": entry.number,
                    "id": entry.id,
                    "code": error.code,
                    "detail": error.message,
                }
            )


@dataclass(frozen=True, slots=True)
class _Plan:
    """A conversation as it is to be taken in, wherever that will be."""

    caller: Caller
    transcript: Transcript
    metadata: JsonObject
    stretches: Sequence[Stretch]
    head: int
    dry_run: bool


class Importer:
    """
    Takes conversations in; one for each process.

    Args:
        new_sessions: Makes them.
    """

    def __init__(
        self,
        *,
        db: Database,
        registry: Registry,
        states: States,
        runs: Runs,
        new_sessions: NewSessions,
    ) -> None:
        self._db = db
        self._registry = registry
        self._states = states
        self._runs = runs
        self._new_sessions = new_sessions

    async def take(self, caller: Caller, entry: Entry, report: Report, *, dry_run: bool) -> None:
        """
        Take a conversation in as the caller's, or tell why not; the next one is none the worse.

        Raises:
            UnavailableError: PostgreSQL did not answer: how far this came is not known.
        """
        if entry.transcript is None:
            assert entry.fault is not None
            report.fail(entry, entry.fault)
            return
        try:
            session_id, outcome = await self._in_turn(caller, entry.transcript, dry_run=dry_run)
        except UnavailableError:
            raise
        except Error as exc:
            report.fail(entry, exc)
        else:
            report.add(entry, session_id, outcome)

    async def _in_turn(
        self, caller: Caller, transcript: Transcript, *, dry_run: bool
    ) -> tuple[str, Outcome]:
        """Take it in when nobody else is writing to it, such as the same import a second time."""
        for pause in (*_PAUSES_SECONDS, *_MORE_PAUSES_SECONDS):
            try:
                return await self._take(caller, transcript, dry_run=dry_run)
            except (LeaseLostError, ThreadBusyError) as exc:
                if pause in _MORE_PAUSES_SECONDS and exc.code != _BEING_IMPORTED:
                    raise
                await asyncio.sleep(pause)
        return await self._take(caller, transcript, dry_run=dry_run)

    async def _take(
        self, caller: Caller, transcript: Transcript, *, dry_run: bool
    ) -> tuple[str, Outcome]:
        if not transcript.utterances:
            raise InvalidInputError("Nobody says anything in it", code="empty")
        metadata = _metadata(transcript, caller, self._graph(transcript))
        stretches, head = transcript.stretches()
        for stretch in stretches:
            for message in stretch.messages:
                message_of(message)
        plan = _Plan(caller, transcript, metadata, stretches, head, dry_run)
        for session_id in _candidates(transcript, caller):
            try:
                outcome = await self._at(session_id, plan)
            except AlreadyExistsError:
                continue
            if outcome is not None:
                return session_id, outcome
        raise ConflictError("It has gone on here and in the file", code="diverged")

    async def _at(self, session_id: str, plan: "_Plan") -> Outcome | None:
        """
        Take it in under an id; None if that is another conversation by now.

        Raises:
            AlreadyExistsError: The id is somebody else's.
        """
        # What others share is theirs: the caller gets a session of their own.
        readable = await plan.caller.may("threads", "read", {"thread_id": session_id}, shared=False)
        found = await threads.find(self._db, session_id, access=readable)
        if found is None:
            try:
                return await self._create(session_id, plan)
            except AlreadyExistsError:
                # It may be the caller's own, of a moment ago.
                found = await threads.find(self._db, session_id, access=readable)
                if found is None:
                    raise
        return await self._meet(session_id, found, plan)

    async def _meet(self, session_id: str, found: Thread, plan: "_Plan") -> Outcome | None:
        """Take it in where the caller has a session under its id."""
        if found.metadata.get("status") == "deleted":
            return "skipped"
        if UNDER_WAY in found.metadata:
            return await self._take_over(session_id, str(found.metadata[UNDER_WAY]), plan)
        if known := await exchanges.known(self._db, session_id):
            return await self._go_on(session_id, plan, known)
        if "graph_id" not in found.metadata:
            return None
        # Nobody has said anything in it yet.
        access = await self._changeable(plan.caller, session_id)
        if not plan.dry_run:
            mark = str(uuid7())
            await sessions.update(self._db, session_id, changes={UNDER_WAY: mark}, access=access)
            await self._fill(session_id, plan, access, mark)
        return "updated"

    async def _take_over(self, session_id: str, mark: str, plan: "_Plan") -> Outcome | None:
        """
        Begin an import anew that was begun and not ended.

        Its turns are written one by one, so what is there does not tell how far it came.

        Raises:
            ThreadBusyError: Whoever began it is at it.
        """
        access = await self._changeable(plan.caller, session_id)
        if plan.dry_run:
            return "updated"
        ids = [said.id for said in plan.transcript.utterances]
        is_fresh, _ = await imports.begun(self._db, session_id, ids)
        if is_fresh:
            raise _being_imported(session_id)
        lease = await threads.lease(self._db, session_id, access=access)
        # From here on nobody writes who did before.
        _, is_used = await imports.begun(self._db, session_id, ids)
        if is_used:
            await imports.end(self._db, session_id, mark)
            return await self._go_on(session_id, plan, await exchanges.known(self._db, session_id))
        if not await self._runs.delete_leased(lease):
            raise _being_imported(session_id)
        try:
            return await self._create(session_id, plan)
        except AlreadyExistsError as exc:
            raise _being_imported(session_id) from exc

    async def _create(self, session_id: str, plan: "_Plan") -> Outcome:
        attributes = dict(plan.metadata)
        if plan.dry_run:
            value = new_value(session_id, attributes)
            await self._new_sessions.allow(plan.caller, value, counts=False)
            if await threads.exists(self._db, session_id):
                raise AlreadyExistsError("It is somebody else's")
            return "created"
        mark = str(uuid7())
        marks = {UNDER_WAY: mark}
        await self._new_sessions.make(plan.caller, session_id, attributes, marks=marks)
        try:
            await self._fill(session_id, plan, EVERYTHING, mark)
        except (ConflictError, UnavailableError):
            # It is begun anew the next time, or by who is at it.
            raise
        except Error:
            with suppress(Error):
                await self._runs.delete_thread(session_id, access=EVERYTHING)
            raise
        return "created"

    async def _fill(self, session_id: str, plan: "_Plan", access: Access, mark: str) -> None:
        transcript = plan.transcript
        forgotten = [said.id for said in transcript.line if not said.is_in_context]
        await self._states.adopt(
            session_id, plan.stretches, head=plan.head, forgotten=forgotten, access=access
        )
        await self._stamp(session_id, transcript, mark=mark)

    async def _stamp(
        self,
        session_id: str,
        transcript: Transcript,
        *,
        is_new: bool = True,
        mark: str | None = None,
    ) -> None:
        """Let what was said be as old as it is; done again, it changes nothing."""
        times = {
            said.id: said.created_at.isoformat()
            for said in transcript.utterances
            if said.created_at
        }
        await imports.stamp(
            self._db,
            session_id,
            times,
            created_at=transcript.created_at,
            # What lives for a time lives from now on.
            updated_at=transcript.updated_at if is_new and not self._new_sessions.life else None,
            mark=mark,
        )

    async def _go_on(
        self, session_id: str, plan: "_Plan", known: Sequence[tuple[str, bool]]
    ) -> Outcome | None:
        """Add what a file has more of a session that is there."""
        transcript = plan.transcript
        there = {id_ for id_, _ in known}
        new = {said.id for said in transcript.utterances} - there
        if not new:
            if not plan.dry_run:
                # It may have broken off just before.
                await self._stamp(session_id, transcript, is_new=False)
            return "skipped"
        shown = [id_ for id_, on_branch in known if on_branch]
        line = transcript.line
        rest = line[len(shown) :]
        if [said.id for said in line[: len(shown)]] != shown or {said.id for said in rest} != new:
            return None
        access = await self._changeable(plan.caller, session_id)
        if plan.dry_run:
            return "updated"
        await self._states.adopt(
            session_id, [Stretch([said.message() for said in rest])], access=access
        )
        await self._stamp(session_id, transcript)
        return "updated"

    async def _changeable(self, caller: Caller, session_id: str) -> Access:
        return await caller.may("threads", "update", {"thread_id": session_id}, shared=False)

    def _graph(self, transcript: Transcript) -> str:
        """The graph that goes on: that of the file if it is served here, else the first."""
        named = transcript.attributes.get("graph_id")
        if isinstance(named, str) and named in self._registry.graph_ids:
            return named
        if not self._registry.graph_ids:
            raise NotFoundError("This server has no graph that could go on", code="no_graph")
        return self._registry.graph_ids[0]


def _being_imported(session_id: str) -> ThreadBusyError:
    return ThreadBusyError(f"Session {session_id} is being imported", code=_BEING_IMPORTED)


def _candidates(transcript: Transcript, caller: Caller) -> Iterator[str]:
    """
    The ids that a conversation may have here, the first of which that is free or its own it gets.

    The file's; else one that nobody but the caller makes of it, so that somebody else's session
    under the file's id is neither seen nor in the way.
    """
    id_ = transcript.id or ""
    if UUID_FORM.fullmatch(id_.lower()):
        yield id_.lower()
    owner = caller.user.identity if caller.user else ""
    first = transcript.utterances[0]
    about = (id_,) if id_ else (first.role, first.content)
    for number in range(_CANDIDATES):
        yield derived("session", owner, transcript.form, *about, number)


def _metadata(transcript: Transcript, caller: Caller, graph_id: str) -> JsonObject:
    """
    What the session's metadata is, checked like that of one which is made by hand.

    Raises:
        InvalidInputError: The file has attributes that no session has.
    """
    given = {key: v for key, v in transcript.attributes.items() if v is not None}
    kept = given.pop("metadata", {})
    others = {key: given.pop(key) for key in ("status", "pinned", "tags", "folder") if key in given}
    given.pop("graph_id", None)
    given.setdefault("name", _name(transcript))
    # Whose it was elsewhere does not count; a session of ours may be nobody's by that name.
    if caller.user is not None and ("user_id" in given or transcript.form != "native"):
        given["user_id"] = caller.user.identity
    plain = {key: v for key, v in kept.items() if key not in RESERVED_METADATA}
    try:
        made = SessionCreate.model_validate({**given, "metadata": {**plain, **others}})
    except ValidationError as exc:
        fault: Any = exc.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise InvalidInputError(f"{place}: {fault['msg']}") from exc
    return {
        **made.attributes(),
        "graph_id": graph_id,
        "assistant_id": system_assistant_id(graph_id),
    }


def _name(transcript: Transcript) -> str:
    """What was asked first, as a session is called by default."""
    asked = (said for said in transcript.line if said.role == "user")
    text = " ".join(plain_text(next(asked, transcript.utterances[0]).content).split())
    return text[:50] or "新对话"
