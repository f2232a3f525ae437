"""
How a session's message becomes a run, and a run an answer: the one way, for every door.

`ask` and `regenerate` take a run in, `answer` waits for what it came to; who streams follows the run
with `api.sse.SessionStream`. With an idempotency key two requests are one: see decision 20.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final
from uuid import UUID, uuid5

import orjson
from uuid_utils.compat import uuid7

from api.bootstrap import Services
from api.identity.auth import Caller
from api.schemas.sessions import MessageSend, Regenerate, attachment_block
from api.session_events import MODES
from api.sessions.once import claim, known_run, made_or_found, once, session_busy
from api.submissions import admit, allow, submit
from graph.branches import no_state
from graph.following import ENDED
from graph.requests import RunRequest
from graph.runs import Submitted
from store import branches, files, messages, runs, sessions, threads
from store.access import EVERYTHING, Access
from store.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RunFailedError,
    RunTimeoutError,
)
from store.events import EventId
from store.models import JsonObject, Message, Run, Session

#: How an answer ended that the model's server broke off, and the status of a run with one.
INCOMPLETE: Final = "incomplete"
#: Of the ids of runs that answer messages to which clients gave ids.
_RUN_OF_MESSAGE: Final = UUID("6e1c2f0a-8f43-4c0d-9a55-3f7f0b1f6a21")
#: How many runs may have ended without the message that they were to answer, of one id.
_ATTEMPTS: Final = 10


async def ask(
    services: Services,
    caller: Caller,
    session_id: str,
    body: MessageSend,
    *,
    idempotency_key: str | None = None,
) -> Submitted:
    """
    Start a run of the session's graph with the user's message, or with the answer to its question.

    Args:
        idempotency_key: Makes this one with every other request of the caller that has it.

    Raises:
        NotFoundError: There is no such session, message to follow, or graph to answer.
        ThreadBusyError: An answer is still coming and the message is not to wait.
        ConflictError: The key came with another payload; the message's id is taken; nothing was
            asked that could be answered; or no state is left that the branch could begin from.
    """
    access = await caller.may("threads", "read", {"thread_id": session_id})
    session = await sessions.get(services.db, session_id, access=access)
    key = await claim(services, caller, session, idempotency_key, _payload(body), access=access)
    request = _request(services, session.metadata, body, key)
    saying = partial(_say, services, caller, session, body, request, access)
    return await once(services, session, key, saying)


async def _say(
    services: Services,
    caller: Caller,
    session: Session,
    body: MessageSend,
    request: RunRequest,
    access: Access,
) -> Submitted:
    """As `ask`, of what has no run yet."""
    if body.resume is not None:
        if session.thread_status != "interrupted":
            raise ConflictError("The session asks nothing", code="not_interrupted")
        request = replace(request, command={"resume": body.resume}, strict_resume=True)
    else:
        is_once = body.id is not None and request.run_id is None
        if is_once:
            run_id = str(uuid5(_RUN_OF_MESSAGE, f"{session.id}\n{body.id}"))
            request = replace(request, run_id=run_id)
        message = await _message(services, caller, session, body, request, access)
        request = _saying(request, message)
        if is_once:
            return await _submit_once(services, caller, session, body, request, access)
    return await _submit(services, caller, session, body, request, access)


async def _submit(
    services: Services,
    caller: Caller,
    session: Session,
    body: MessageSend,
    request: RunRequest,
    access: Access,
) -> Submitted:
    """Submit a run, from the state that the message is to follow."""
    if body.resume is None and body.branches:
        request = await _following(services, caller, session, body, request, access)
    return await submit(services, caller, request, thread_id=session.id, attached=True)


async def admit_first(
    services: Services, caller: Caller, session_id: str, body: MessageSend, metadata: JsonObject
) -> tuple[RunRequest, list[Access]]:
    """
    Take in a text as the first message of a session, before that is made.

    Args:
        metadata: Of the session.

    Returns:
        The run, for `submit_first`; and what is to find the session, once it is there.

    Raises: as `ask`.
    """
    request = _saying(_request(services, metadata, body, None), _message_of(body, body.query or ""))
    may_read = await caller.may("threads", "read", {"thread_id": session_id})
    first, may_run = await admit(services, caller, request, thread_id=session_id, is_first=True)
    return first, [may_read, may_run]


async def submit_first(
    services: Services, caller: Caller, session_id: str, first: RunRequest
) -> Submitted:
    """
    Start the run that `admit_first` gave, once its session is made.

    Raises:
        ThreadBusyError: Somebody else was quicker to ask something there.
    """
    with session_busy():
        return await submit(services, caller, first, thread_id=session_id, attached=True)


async def regenerate(
    services: Services,
    caller: Caller,
    session_id: str,
    message_id: str,
    body: Regenerate,
    *,
    idempotency_key: str | None = None,
) -> Submitted:
    """
    Start a run that gives an answer again: its sibling, from the state that led to it.

    Args:
        idempotency_key: As for `ask`.

    Raises:
        InvalidInputError: The message is not the assistant's.
        Error: Others as `ask`.
    """
    access = await caller.may("threads", "read", {"thread_id": session_id})
    session = await sessions.get(services.db, session_id, access=access)
    payload = _payload(body, message_id)
    key = await claim(services, caller, session, idempotency_key, payload, access=access)
    answering = partial(_say_again, services, caller, session, message_id, body, key, access)
    return await once(services, session, key, answering)


async def _say_again(
    services: Services,
    caller: Caller,
    session: Session,
    message_id: str,
    body: Regenerate,
    key: str | None,
    access: Access,
) -> Submitted:
    """As `regenerate`, of what has no run yet."""
    place = await branches.state_before(services.db, session.id, message_id, access=access)
    if place.role != "assistant":
        raise InvalidInputError("Only what the assistant said can be said again")
    question = await branches.question_before(services.db, session.id, message_id)
    request = _request(services, session.metadata, body, key)
    request = replace(request, session={"user_message_id": question})
    if not await is_next(services, session.id, place.checkpoint_id, access):
        if question is None:
            raise no_state(message_id)
        # Of the question no state is kept that leads on to an answer. The conversation ends with it
        # then, and what begins is all that is to be done.
        request = await begin_anew(services, caller, session, request, question, is_answered=False)
    else:
        request = replace(request, checkpoint={"checkpoint_id": place.checkpoint_id})
    return await submit(services, caller, request, thread_id=session.id, attached=True)


async def is_next(
    services: Services, session_id: str, checkpoint_id: str | None, access: Access
) -> bool:
    """Whether a run without input would do anything in a state: not in one that was imported."""
    if checkpoint_id is None:
        return False
    at = {"checkpoint_id": checkpoint_id}
    state = await services.states.get(session_id, checkpoint=at, access=access)
    return bool(state["next"])


def _request(
    services: Services, metadata: JsonObject, body: MessageSend | Regenerate, run_id: str | None
) -> RunRequest:
    return RunRequest(
        run_id=run_id,
        assistant_id=answering(services, metadata),
        config={"configurable": {"model": body.model}} if body.model else {},
        stream_modes=MODES,
        multitask_strategy=body.on_busy,
        session={},
    )


def answering(services: Services, metadata: JsonObject) -> str:
    """
    The assistant or graph that answers in a session with this metadata.

    Raises:
        NotFoundError: There is none.
    """
    return named(metadata, "assistant_id", "graph_id") or first_graph(services)


def named(metadata: JsonObject, *keys: str) -> str | None:
    """What a session's metadata says by the first of the keys: through /threads anything is there."""
    found = (metadata.get(key) for key in keys)
    return next((name for name in found if isinstance(name, str) and name), None)


def first_graph(services: Services) -> str:
    """
    The graph that answers where none is named.

    Raises:
        NotFoundError: There is none.
    """
    if not services.registry.graph_ids:
        raise NotFoundError("This server has no graph that could answer", code="no_graph")
    return next(iter(services.registry.graph_ids))


# --------------------------------------------------------------------------- what is said


def _saying(request: RunRequest, message: JsonObject) -> RunRequest:
    """A run that is given the user's message."""
    asked = {"user_message_id": message["id"]}
    return replace(request, input={"messages": [message]}, session=asked)


async def _message(
    services: Services,
    caller: Caller,
    session: Session,
    body: MessageSend,
    request: RunRequest,
    access: Access,
) -> JsonObject:
    """The user's message, as the graph is given it."""
    await _require_unsaid(services, session, body.id)
    return _message_of(body, await _content(services, caller, session, body, request, access))


def _message_of(body: MessageSend, content: str | list[JsonObject]) -> JsonObject:
    message: JsonObject = {
        "role": "user",
        "content": content,
        # Or the graph would give it one, which nobody knew before it was kept.
        "id": body.id or str(uuid7()),
    }
    if body.chat_type is not None:
        message["additional_kwargs"] = {"chat_type": body.chat_type}
    return message


async def _require_unsaid(services: Services, session: Session, own_id: str | None) -> None:
    """See that a session has no message yet of the id that a client gives one: it would be replaced."""
    if own_id is None:
        return
    if await messages.find_seq(services.db, session.id, own_id) is not None:
        raise AlreadyExistsError(f"Message {own_id} exists already")


async def _content(
    services: Services,
    caller: Caller,
    session: Session,
    body: MessageSend,
    request: RunRequest,
    access: Access,
) -> str | list[JsonObject]:
    """
    The content of the user's message: its text, or blocks.

    Attachments become blocks here, and nowhere else.
    """
    named = files_named([body.content])
    given = [*named, *(body.attachments or [])]
    said = body.query if body.query is not None else body.content or []
    if given:
        await require_speaker(services, caller, session, request, said)
    sent = await files.send(
        services.db,
        given,
        session.id,
        owner=caller.identity,
        access=access,
    )
    attached = [attachment_block(file) for file in sent[len(named) :]]
    if not attached:
        return said
    return [*([{"type": "text", "text": said}] if isinstance(said, str) else said), *attached]


async def require_speaker(
    services: Services,
    caller: Caller,
    session: Session,
    request: RunRequest,
    said: str | list[JsonObject],
) -> None:
    """See that the caller may create a run with what is said, ahead of what is written for it."""
    asked = replace(request, input={"messages": [{"role": "user", "content": said}]})
    allowed = await allow(services, caller, asked, thread_id=session.id)
    await sessions.get(services.db, session.id, access=allowed.access)


def files_named(contents: Iterable[object]) -> list[str]:
    """The ids of files in contents of messages, each to be sent; other servers' are no ids of ours."""
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    found = [block.get("file_id") for block in blocks if isinstance(block, dict)]
    return [file_id for file_id in found if files.is_id(file_id)]


async def send_files(
    services: Services,
    caller: Caller,
    session_id: str,
    contents: Iterable[object],
    *,
    access: Access,
) -> None:
    """
    Let a session have the files that contents of messages name, before they are written there.

    Raises:
        NotFoundError: One of them is not visible to the caller.
    """
    named = files_named(contents)
    await files.send(services.db, named, session_id, owner=caller.identity, access=access)


async def _following(
    services: Services,
    caller: Caller,
    session: Session,
    body: MessageSend,
    request: RunRequest,
    access: Access,
) -> RunRequest:
    """The run, from the state in which the message that it follows was the last one."""
    parent_id = body.parent_id
    place = await branches.state_following(services.db, session.id, parent_id, access=access)
    if place is None:
        return request
    if place.is_head and request.multitask_strategy == "reject" and session.thread_status != "busy":
        # It is the newest one for as long as nothing else runs, and then this does not.
        return request
    if place.checkpoint_id is None:
        return await begin_anew(
            services, caller, session, request, parent_id, is_answered=True, own_id=body.id
        )
    return replace(request, checkpoint={"checkpoint_id": place.checkpoint_id})


async def begin_anew(
    services: Services,
    caller: Caller,
    session: Session,
    request: RunRequest,
    message_id: str | None,
    *,
    is_answered: bool,
    own_id: str | None = None,
) -> RunRequest:
    """
    Go back to where no checkpoint is kept, ahead of a run that the caller may create and will follow.

    Whatever would refuse the run does so now: without it the conversation would be left without its end.

    Args:
        request: With all that the run is to be given.
        own_id: The id that its client gave the message.

    Returns:
        The run that goes on from there.

    Raises:
        AlreadyExistsError: Another request has made the run meanwhile, or said the message.
        LeaseLostError: Somebody else writes to the session: perhaps another request, that is about to
            make the run.
        Error: What else refuses the run.
    """

    async def require_new() -> None:
        if await known_run(services, session, request.run_id):
            raise AlreadyExistsError(f"Run {request.run_id} exists already")
        await _require_unsaid(services, session, own_id)

    admitted, access = await admit(services, caller, request, thread_id=session.id)
    await services.branches.begin_anew(
        session.id, message_id, is_answered=is_answered, first=require_new, access=access
    )
    return admitted


# --------------------------------------------------------------------------- once only


def _payload(body: MessageSend | Regenerate, *asked_of: str) -> bytes:
    # In which form the answer comes is no part of what is asked.
    asked = body.model_dump(exclude={"stream"}, exclude_unset=True)
    return orjson.dumps([asked_of, asked], option=orjson.OPT_SORT_KEYS)


async def _submit_once(
    services: Services,
    caller: Caller,
    session: Session,
    body: MessageSend,
    request: RunRequest,
    access: Access,
) -> Submitted:
    """
    Submit a run with a message that the client named, unless one that is in flight has it.

    Raises:
        AlreadyExistsError: One is.
    """
    message_id, run_id = str(body.id), str(request.run_id)
    for _ in range(_ATTEMPTS):
        asked = replace(request, run_id=run_id)
        making = partial(_submit, services, caller, session, body, asked, access)
        found = await made_or_found(services, session, run_id, making)
        if found.access is not None:
            return found
        # Another request has made it.
        is_said = await messages.find_seq(services.db, session.id, message_id) is not None
        if is_said or found.run.status not in ENDED:
            break
        # It ended before the message was anywhere: this is another attempt.
        run_id = str(uuid5(UUID(run_id), message_id))
    raise AlreadyExistsError(f"Message {message_id} exists already")


# --------------------------------------------------------------------------- under way


async def stop(services: Services, session_id: str, *, access: Access) -> JsonObject:
    """
    Stop what is in flight of a session, and wait until it has ended.

    What was said of the answer stays, and a tool call that was left open gets an answer with the next
    message: see decision 9.

    Raises:
        NotFoundError: There is no such session that is visible.
        ConflictError: Nothing is in flight: ``session_idle``.
    """
    stopped = await services.runs.cancel(session_id, None, action="interrupt", access=access)
    if not stopped:
        raise ConflictError("No answer is coming", code="session_idle")
    # The running one comes last, after those that it kept waiting.
    submitted = await services.runs.attach(stopped[-1], thread_id=session_id, access=access)
    await services.runs.join(submitted)
    said = _said(await _of_run(services, submitted.run))
    return {
        "run_id": stopped[-1],
        "message_id": said.id if said else None,
        "status": "stopped",
    }


async def delete(services: Services, session_id: str, *, actor: str, access: Access) -> None:
    """
    Delete a session so that it can be restored; an answer that is still coming is stopped.

    Args:
        actor: Who does it, for the audit log.

    Raises:
        NotFoundError: There is no such session that is visible.
    """
    keep_seconds = services.settings.deleted_session_seconds
    await sessions.delete(
        services.db, session_id, keep_seconds=keep_seconds, actor=actor, access=access
    )
    with suppress(NotFoundError):  # purged meanwhile
        await services.runs.cancel(session_id, None, action="interrupt", access=EVERYTHING)


async def under_way(
    services: Services, session_id: str, *, after: EventId | None, access: Access
) -> Submitted | None:
    """
    Find the run that a client of a session's events is to follow: None if nothing comes.

    Args:
        after: The last event that the client has. If its run has ended and the client has not heard
            of that, it is the one.
    """
    run_id = await runs.to_follow(services.db, session_id, after=after, access=access)
    if run_id is None:
        return None
    return await services.runs.attach(run_id, thread_id=session_id, access=access)


# --------------------------------------------------------------------------- what is answered


async def answer(services: Services, submitted: Submitted) -> JsonObject:
    """
    Wait for the run and give its answer: the last thing that the assistant said in it.

    Raises:
        RunFailedError: The run ended with an error, or took too long (`RunTimeoutError`); what was
            asked is kept.
        NotFoundError: The session was purged meanwhile.
    """
    result = await services.runs.join(submitted)
    if result.error is not None:
        failure = RunTimeoutError if result.status == "timeout" else RunFailedError
        raise failure(result.error["message"])
    run = submitted.run
    rows = await _of_run(services, run)
    if not rows:
        await services.follower.patiently(
            lambda: threads.get(services.db, run.thread_id, access=EVERYTHING)
        )
    said, asked = _said(rows), next((row.id for row in rows if row.role == "user"), None)
    if rows and asked is None:
        asked = await services.follower.patiently(
            lambda: branches.question_of(services.db, run.thread_id, run.run_id)
        )
    stopped: str = "stopped" if result.status == "interrupted" else result.status
    if said and (said.meta_data.get("response_metadata") or {}).get("finish_reason") == INCOMPLETE:
        stopped = INCOMPLETE
    return {
        "id": said.id if said else None,
        "response": said.content if said else "",
        "session_id": run.thread_id,
        "run_id": run.run_id,
        "user_message_id": asked,
        "status": "interrupted" if result.interrupted else stopped,
        "interrupts": [{"id": i.id, "value": i.value} for i in result.interrupts],
        "usage": said.meta_data.get("usage_metadata") if said else None,
    }


async def _of_run(services: Services, run: Run) -> list[Message]:
    return await services.follower.patiently(
        lambda: messages.of_run(services.db, run.thread_id, run.run_id)
    )


def _said(rows: list[Message]) -> Message | None:
    """The last thing that the assistant said."""
    return next((row for row in reversed(rows) if row.role == "assistant"), None)
