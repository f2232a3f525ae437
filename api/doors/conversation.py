"""
From a conversation as a client has it to a run of the session that keeps it.

Every door begins its runs here, by `api.submissions`, as sessions do.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from uuid import UUID, uuid5

import orjson
from uuid_utils.compat import uuid7

from api.bootstrap import Services
from api.doors.files import has_files, require_keepable, with_files_kept
from api.doors.history import Step, kept, reconcile, sent
from api.identity.auth import Caller
from api.schemas.common import UUID_FORM
from api.session_events import MODES, text_of
from api.sessions.once import busy, claim, known_run, made_or_found
from api.sessions.runs import (
    begin_anew,
    first_graph,
    is_next,
    named,
    require_speaker,
    stop,
    under_way,
)
from api.submissions import admit, submit
from graph.encode import dumps
from graph.message_json import is_addressable
from graph.requests import RunRequest
from graph.runs import Submitted
from graph.snapshots import open_interrupts
from store import branches, messages, sessions, threads
from store.access import EVERYTHING, Access
from store.errors import (
    AlreadyExistsError,
    BadRequestError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    ThreadBusyError,
    UnsupportedError,
)
from store.models import JsonObject, Message, Session

#: Ids of clients that are no UUIDs are given one of these.
NAMESPACE: Final = UUID("0d6f4bb6-6b0c-4f2e-8e35-6a2f1f0c9a57")
#: Of which model a request wants that nothing of it is kept.
STATELESS: Final = "@stateless"
MAX_ID_LENGTH: Final = 255
#: How long an answer that is stopped for the next question may take to stop.
STOP_SECONDS: Final = 10.0
#: How often somebody else may be quicker to begin a run.
ATTEMPTS: Final = 3
#: Of a run's metadata: by which id the client knows the answer.
REPLY: Final = "reply_id"
#: Of a run's configurable: what the request says beside its messages, which nothing keeps as one.
REQUEST: Final = "request"
_ROWS: Final = 1000

OnBusy = Literal["reject", "interrupt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """
    What a door understood of a request.

    Attributes:
        messages: Of roles ``user`` and ``assistant``; the last one is the user's, unless `answers`.
        model: The graph or assistant that answers; None for the session's own.
        session_id: As the client names it; None keeps nothing.
        about: What the graph is told of the request: the system's words, a temperature.
        alone: The client may have sent the new message and nothing else.
        added: The messages are new, all of them; else they are the whole conversation.
        parent_id: The message that the last one, or what is added, follows: the client's id or ours.
        reply_id: By which id the client will know the answer.
        answers: To what the graph asked, by the interrupts' ids; those that are open count.
        fields: Of the graph's input, beside its messages. What the session's state has already is
            what the client was told, and is left out: a reducer would take it in once more.
        attributes: Of a session that is made for it.
        metadata: Of the run.
        key: Makes this request one with every other of the caller that has it.
        modes: What the run logs.
    """

    messages: list[JsonObject]
    model: str | None = None
    session_id: str | None = None
    about: JsonObject = field(default_factory=dict)
    alone: bool = False
    added: bool = False
    on_busy: OnBusy = "interrupt"
    parent_id: str | None = None
    reply_id: str | None = None
    answers: JsonObject = field(default_factory=dict)
    fields: JsonObject = field(default_factory=dict)
    attributes: JsonObject = field(default_factory=dict)
    metadata: JsonObject = field(default_factory=dict)
    key: str | None = None
    modes: Sequence[str] = MODES


def session_id_of(name: str, caller: Caller) -> str:
    """
    The id of the session that a client calls so: the name itself, if it can be one.

    Another name gets an id that is made of it and of the caller.

    Raises:
        InvalidInputError: It is too long.
    """
    if UUID_FORM.fullmatch(name.lower()):
        return name.lower()
    if len(name) > MAX_ID_LENGTH:
        raise InvalidInputError(f"The id of a conversation has {MAX_ID_LENGTH} characters at most")
    return str(uuid5(NAMESPACE, f"{caller.identity}\n{name}"))


def owner(caller: Caller, claimed: str | None = None) -> JsonObject:
    """
    Whose a session is that a caller has made.

    Args:
        claimed: Whom the front end says that it asks for; it counts only where nobody is known.
    """
    user_id = caller.user.identity if caller.user else claimed
    return {"user_id": user_id} if user_id else {}


async def in_flight(services: Services, caller: Caller, name: str) -> Submitted | None:
    """
    Find the run that answers in a session now; None of one that is idle, or not to be seen.

    Args:
        name: The session, as the client calls it.
    """
    session_id = session_id_of(name, caller)
    access = await caller.may("threads", "read", {"thread_id": session_id})
    try:
        await sessions.get(services.db, session_id, access=access)
        return await under_way(services, session_id, after=None, access=access)
    except NotFoundError:
        return None


async def begin(services: Services, caller: Caller, asked: Asked) -> Submitted:
    """
    Start the run that a request asks for.

    Raises:
        InvalidInputError: Its conversation does not end with the user's words.
        NotFoundError: The session is not the caller's, or there is no such graph.
        ThreadBusyError: The session is still being answered, and that is not to be stopped.
    """
    _require_words(asked)
    if asked.session_id is None:
        return await _pass_through(services, caller, asked)
    if services.graphs.checkpointer is not None:
        raise UnsupportedError(
            "Conversations that are kept: not with the checkpointer that langgraph.json names"
        )
    session_id = session_id_of(asked.session_id, caller)
    session, first = await _session(services, caller, asked, session_id)
    run_id = await _claim(services, caller, session, asked, first)
    if first is not None and run_id not in (None, first.run_id):
        first = None  # another request with the key came meanwhile, and that is the run's id
    run = replace(_run(services, asked, session.metadata), run_id=run_id)
    return await _answer(services, caller, session, asked, run, first)


async def _answer(
    services: Services,
    caller: Caller,
    session: Session,
    asked: Asked,
    run: RunRequest,
    first: RunRequest | None,
) -> Submitted:
    """
    The run that answers, once what else is answered in the session is stopped.

    Args:
        run: It without its input.
        first: It as it was taken in before the session was made for it, which counts unless somebody else
            speaks there first.
    """

    async def make() -> Submitted:
        request = await _still_first(services, caller, session, first)
        if request is None:
            request = await _request(services, caller, session, asked, run)
        return await submit(services, caller, request, thread_id=session.id, attached=True)

    for left in reversed(range(ATTEMPTS if asked.on_busy == "interrupt" else 1)):
        is_busy = await _is_busy(services, session.id)
        # Asked after that: what it is busy with may be this very request, which came twice at once.
        if known := await known_run(services, session, run.run_id):
            return known
        if is_busy:
            await _free(services, caller, session, asked.on_busy)
        try:
            return await made_or_found(services, session, run.run_id, make)
        except ThreadBusyError:
            # By somebody who came meanwhile.
            if not left:
                raise
    raise busy()


async def _session(
    services: Services, caller: Caller, asked: Asked, session_id: str
) -> tuple[Session, RunRequest | None]:
    """The session; if it is made for the request, with the run that was taken in before."""
    access = await caller.may("threads", "read", {"thread_id": session_id})
    try:
        return await sessions.get(services.db, session_id, access=access), None
    except NotFoundError:
        if asked.answers:
            # One that is made for this has asked nothing.
            raise
        return await _made(services, caller, asked, session_id, access)


async def _made(
    services: Services, caller: Caller, asked: Asked, session_id: str, access: Access
) -> tuple[Session, RunRequest | None]:
    """As `_session`, of one that is made for the request, unless the run is refused."""
    attributes = _attributes(asked, session_id)
    new = asked.messages if asked.added else reconcile([], sent(asked.messages)).new
    said = [_with_id(message, known=()) for message in new]
    run = replace(
        _run(services, asked, attributes),
        input={**asked.fields, "messages": said},
        session={"user_message_id": said[-1]["id"]},
    )
    first, may_run = await admit(services, caller, run, thread_id=session_id, is_first=True)
    await require_keepable(services, caller, _messages_in(first.input))
    try:
        session = await services.new_sessions.make(
            caller, session_id, attributes, seen_by=(access, may_run)
        )
    except AlreadyExistsError:
        # By somebody else meanwhile: it is found now; not theirs, it is not.
        return await sessions.get(services.db, session_id, access=access), None
    if _run(services, asked, session.metadata).assistant_id != run.assistant_id:
        # Handlers made it another assistant's, and of that nobody was asked.
        return session, None
    return session, first


async def _still_first(
    services: Services, caller: Caller, session: Session, first: RunRequest | None
) -> RunRequest | None:
    """The run that was taken in before its session was made, its files kept; None if it is not the first."""
    if first is None or not await threads.is_unused(services.db, session.id):
        return None
    given = [message for message in _messages_in(first.input) if has_files(message)]
    if not given:
        return first
    access = await caller.may("threads", "read", {"thread_id": session.id})
    for message in given:
        await with_files_kept(services, caller, session.id, message, access=access)
    # That takes a while.
    return first if await threads.is_unused(services.db, session.id) else None


def _messages_in(given: Any) -> list[JsonObject]:
    """The messages in the input of a run; handlers of an author's may have made anything of it."""
    listed = given.get("messages") if isinstance(given, dict) else None
    listed = listed if isinstance(listed, list) else []
    return [message for message in listed if isinstance(message, dict) and "content" in message]


def _run(services: Services, asked: Asked, metadata: JsonObject) -> RunRequest:
    """
    A run in a session with this metadata, without its input.

    Raises:
        NotFoundError: There is no graph.
    """
    reply = {REPLY: asked.reply_id} if asked.reply_id else {}
    return RunRequest(
        assistant_id=asked.model or named(metadata, "assistant_id") or first_graph(services),
        stream_modes=asked.modes,
        metadata={**asked.metadata, **reply},
        multitask_strategy="reject",
        injected={REQUEST: asked.about},
        session={},
    )


def _require_words(asked: Asked) -> None:
    speaks = bool(asked.messages) and asked.messages[-1]["role"] == "user"
    if not speaks and not asked.answers:
        raise InvalidInputError("The last message must be the user's")


async def _claim(
    services: Services, caller: Caller, session: Session, asked: Asked, first: RunRequest | None
) -> str | None:
    """
    The id of the run that the key of a request stands for, in this session.

    Args:
        first: The run that was taken in before the session was made: a new key stands for that.
    """
    access = await caller.may("threads", "read", {"thread_id": session.id})
    said = [asked.messages, asked.model, asked.about, asked.answers, asked.fields]
    payload = dumps([*said, asked.parent_id] if asked.parent_id else said)
    key, run_id = asked.key or None, first.run_id if first else None
    return await claim(services, caller, session, key, payload, run_id=run_id, access=access)


async def _pass_through(services: Services, caller: Caller, asked: Asked) -> Submitted:
    """A run that nothing is kept of."""
    if asked.answers:
        raise BadRequestError("Nothing waits for an answer: no conversation was named")
    request = RunRequest(
        assistant_id=asked.model or first_graph(services),
        input={**asked.fields, "messages": asked.messages},
        stream_modes=asked.modes,
        temporary=True,
        session={},
        injected={REQUEST: asked.about},
    )
    return await submit(services, caller, request, thread_id=None, attached=True)


def _attributes(asked: Asked, session_id: str) -> JsonObject:
    """The metadata of a session that is made for a request."""
    named = {} if asked.session_id == session_id else {"client_id": asked.session_id}
    model = {"assistant_id": asked.model} if asked.model else {}
    return {**asked.attributes, **named, **model}


async def _is_busy(services: Services, session_id: str) -> bool:
    thread = await threads.get(services.db, session_id, access=EVERYTHING)
    return thread.status == "busy"


async def _free(services: Services, caller: Caller, session: Session, on_busy: OnBusy) -> None:
    """Stop what is answered in a session: only then what was said is settled."""
    if on_busy == "reject":
        raise busy()
    value = {"thread_id": session.id, "action": "interrupt"}
    access = await caller.may("threads", "update", value)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await stop(services, session.id, access=access)
    except (ConflictError, NotFoundError):
        return  # it has ended by itself, or was taken back
    except TimeoutError:
        raise busy() from None


async def _request(
    services: Services, caller: Caller, session: Session, asked: Asked, run: RunRequest
) -> RunRequest:
    """The run that takes the session on by what was said, from wherever it was said."""
    access = await caller.may("threads", "read", {"thread_id": session.id})
    thread = await threads.get(services.db, session.id, access=EVERYTHING)
    waiting = open_interrupts(thread.interrupts) if thread.status == "interrupted" else ()
    if asked.answers:
        answers = {one.id: asked.answers[one.id] for one in waiting if one.id in asked.answers}
        if not answers:
            raise ConflictError("The session does not ask that any more", code="not_interrupted")
        return replace(run, command={"resume": answers}, strict_resume=True)
    step = await _step(services, session.id, asked)
    if waiting and step.at_head:
        # What is said now is the answer.
        answer = {waiting[0].id: text_of(step.new[-1]["content"])}
        return replace(run, command={"resume": answer}, strict_resume=True)
    if step.again:
        run = replace(run, session={"user_message_id": step.after})
        return await _following(services, caller, session, step, run, access)
    if any(has_files(message) for message in step.new):
        await require_speaker(services, caller, session, run, step.new[-1]["content"])
    said = await _said(services, caller, session.id, step, access)
    run = replace(run, session={"user_message_id": said[-1]["id"]})
    # Whole before it is gone back for it: else it might be refused only thereafter.
    whole = replace(run, input={**asked.fields, "messages": said})
    run = await _following(services, caller, session, step, whole, access)
    return await _without_known(services, session.id, asked.fields, run)


async def _step(services: Services, session_id: str, asked: Asked) -> Step:
    """What is to be done: by the ids that the client sent, else by what it says was said."""
    if step := await _named(services, session_id, asked):
        return step
    if asked.added:
        return Step(asked.messages, at_head=True)
    rows = await branch(services, session_id)
    return reconcile(kept(rows), sent(asked.messages), alone=asked.alone)


async def _named(services: Services, session_id: str, asked: Asked) -> Step | None:
    """What the ids say that a client sent; None if they are not known here."""
    last, known = asked.messages[-1], None
    if last.get("id"):
        with suppress(NotFoundError):
            known = await messages.get(services.db, session_id, last["id"], access=EVERYTHING)
    # Of a message that no client shows, such as a tool's, there is no turn.
    turns = kept([known]) if known and not asked.added else []
    if known and turns and sent([last])[0].key == turns[0].key:
        return Step([], after=known.id, again=True)
    if asked.parent_id is None:
        return None
    parent = await messages.by_either_id(services.db, session_id, asked.parent_id)
    return Step(asked.messages if asked.added else [last], after=parent) if parent else None


async def _said(
    services: Services, caller: Caller, session_id: str, step: Step, access: Access
) -> list[JsonObject]:
    """The messages that the graph is given, their files kept."""
    new = [
        await with_files_kept(services, caller, session_id, message, access=access)
        for message in step.new
    ]
    return await _with_ids(services, session_id, new)


async def _with_ids(
    services: Services, session_id: str, new: Sequence[JsonObject]
) -> list[JsonObject]:
    """Messages with an id each, and none that the session knows already."""
    ids = [message["id"] for message in new if message.get("id")]
    known = await messages.known_ids(services.db, session_id, ids) if ids else set()
    return [_with_id(message, known=known) for message in new]


def _with_id(message: JsonObject, *, known: Collection[str]) -> JsonObject:
    """A message with the id that its client gave it, if it can have it, or with a new one."""
    id_ = message.get("id") or ""
    is_usable = id_ != "" and id_ not in known and is_addressable(id_)
    return message if is_usable else {**message, "id": str(uuid7())}


async def _without_known(
    services: Services, session_id: str, fields: JsonObject, run: RunRequest
) -> RunRequest:
    """A run without those fields of its input that the state which it begins from has already."""
    if not fields or not isinstance(run.input, dict):
        return run
    known: Any = {}
    # Of a graph that is not served any more nothing is known, and another may answer.
    with suppress(NotFoundError):
        state = await services.states.get(session_id, checkpoint=run.checkpoint, access=EVERYTHING)
        # As clients are told it.
        known = orjson.loads(dumps(state["values"] or {}))
    known = known if isinstance(known, dict) else {}
    new = {
        key: value
        for key, value in run.input.items()
        if key not in fields or key not in known or not is_same(known[key], value)
    }
    return replace(run, input=new)


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same as JSON has it: for Python 1 is true, and 0 is false."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


async def _following(
    services: Services,
    caller: Caller,
    session: Session,
    step: Step,
    run: RunRequest,
    access: Access,
) -> RunRequest:
    """The run, from the state in which the message that it follows was the last one."""
    if step.at_head:
        return run
    found = await branches.state_following(services.db, session.id, step.after, access=access)
    if found is None:
        return run
    place = found.checkpoint_id
    leads_on = not step.again or await is_next(services, session.id, place, access)
    if place is None or not leads_on:
        return await begin_anew(
            services, caller, session, run, step.after, is_answered=not step.again
        )
    return run if found.is_head else replace(run, checkpoint={"checkpoint_id": place})


async def branch(services: Services, session_id: str) -> list[Message]:
    """All that was said on the branch that is shown."""
    rows: list[Message] = []
    more = True
    while more:
        after = rows[-1].seq if rows else None
        page, more = await messages.list_page(services.db, session_id, limit=_ROWS, after_seq=after)
        rows += page
    return rows
