"""The one way from a request to a run, whichever door it came through."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from uuid_utils.compat import uuid7

from api import limits
from api.bootstrap import Services
from api.identity.auth import Caller
from api.schemas.runs import RunCreateStateless
from graph.requests import Admission, RunRequest
from graph.runs import Submitted
from store import threads
from store.access import EVERYTHING, Access
from store.models import JsonObject, Run


async def submit(
    services: Services,
    caller: Caller,
    body: RunCreateStateless | RunRequest,
    *,
    thread_id: str | None = None,
    attached: bool,
) -> Submitted:
    """
    Take a run in, if the caller may create one there; once this returns, it is not lost.

    Args:
        thread_id: The thread; None makes one.
        attached: Somebody waits for it, so it had better begin at once.

    Raises:
        PermissionDeniedError: The caller may not create runs, or not read assistants.
        NotFoundError: There is no such assistant or thread, or it is not the caller's.
        ThreadBusyError: The strategy is ``reject`` and a run is in flight.
        QuotaError: A thread would be made, and the caller has as many as they may.
        LimitedError: The caller follows as many runs as they may.
    """
    request = body if isinstance(body, RunRequest) else body.request()
    if attached:
        await limits.follow()
    allowed = await allow(services, caller, request, thread_id=thread_id)
    if await _makes_session(services, request, thread_id):
        await services.quotas.require_session(caller)
    return await services.runs.submit(
        allowed.request,
        thread_id=thread_id,
        attached=attached,
        access=allowed.access,
        assistant_access=allowed.assistant_access,
    )


async def admit(
    services: Services,
    caller: Caller,
    request: RunRequest,
    *,
    thread_id: str,
    is_first: bool = False,
) -> tuple[RunRequest, Access]:
    """
    See that a run would be taken in, ahead of what is made for it; the caller will follow it.

    Args:
        is_first: Its thread is still to be made.

    Returns:
        What to submit then: it is not refused any more by who was asked here. And the threads that it may
        run on.

    Raises: as `submit`.
    """
    await limits.follow()
    asked = replace(request, if_not_exists="create" if is_first else "reject")
    allowed = await allow(services, caller, asked, thread_id=thread_id)
    access, assistant_access = allowed.access, allowed.assistant_access
    await services.runs.admit(
        allowed.request, thread_id=thread_id, access=access, assistant_access=assistant_access
    )
    admission = Admission(access, assistant_access)
    return replace(allowed.request, if_not_exists="reject", admitted=admission), access


async def submit_batch(
    services: Services, caller: Caller, bodies: Sequence[RunCreateStateless]
) -> list[Run]:
    """
    Take runs in on threads of their own, if the caller may create all of them; otherwise none.

    Raises: as `submit`.
    """
    if services.quotas.sessions:
        made = sum(not body.request().temporary for body in bodies)
        await services.quotas.require_session(caller, made)
    asked = []
    for body in bodies:
        allowed = await allow(services, caller, body.request(), thread_id=None)
        asked.append((allowed.request, allowed.assistant_access))
    return await services.runs.submit_batch(asked)


async def _makes_session(services: Services, request: RunRequest, thread_id: str | None) -> bool:
    """Whether a run comes with a thread of its own that stays, where that is to be known."""
    if not services.quotas.sessions or request.temporary:
        return False
    if thread_id is None:
        return True
    return request.if_not_exists == "create" and not await threads.exists(services.db, thread_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """A run that a caller may create, as the handlers leave it."""

    request: RunRequest
    #: On which threads, and of which assistants.
    access: Access
    assistant_access: Access


async def allow(
    services: Services, caller: Caller, request: RunRequest, *, thread_id: str | None
) -> Allowed:
    """
    Ask whether the caller may create a run; for those who have it created later, too.

    Raises:
        InvalidInputError: The assistant is no assistant's id and no graph's name.
        PermissionDeniedError: The caller may not create runs, or not read the assistant.
    """
    if request.admitted is not None:
        access, assistant_access = request.admitted.access, request.admitted.assistant_access
        return Allowed(request=request, access=access, assistant_access=assistant_access)
    assistant_id = services.runs.assistant_id(request.assistant_id)
    request = replace(
        request,
        run_id=request.run_id or str(uuid7()),
        assistant_id=assistant_id,
        language=caller.language,
        injected={**request.injected, **caller.injected},
    )
    if caller.may_everything:
        return Allowed(request=request, access=EVERYTHING, assistant_access=EVERYTHING)
    value = _value(request, thread_id)
    threads = await caller.may("threads", "create_run", value)
    assistants = EVERYTHING
    if not services.runs.is_system(assistant_id):
        # Nobody is asked about those of the graphs, as on the LangGraph Server.
        assistants = await caller.may("assistants", "read", {"assistant_id": assistant_id})
    return Allowed(request=_allowed(request, value), access=threads, assistant_access=assistants)


def _value(request: RunRequest, thread_id: str | None) -> JsonObject:
    """
    What a handler of ``threads.create_run`` sees, and may change.

    It is a copy: of a request that they are asked about again, they are not to change it twice.
    """
    kwargs = {
        "input": request.input,
        "command": request.command,
        "config": request.config,
        "context": request.context,
    }
    return {
        "thread_id": thread_id,
        "assistant_id": request.assistant_id,
        "run_id": request.run_id,
        "status": "pending",
        "metadata": deepcopy(request.metadata),
        "prevent_insert_if_inflight": request.multitask_strategy == "reject",
        "multitask_strategy": request.multitask_strategy,
        "if_not_exists": request.if_not_exists,
        "after_seconds": request.after_seconds,
        "kwargs": deepcopy(kwargs),
    }


def _allowed(request: RunRequest, value: JsonObject) -> RunRequest:
    kwargs = value.get("kwargs") or {}
    return replace(
        request,
        metadata=value.get("metadata") or {},
        input=kwargs.get("input"),
        command=kwargs.get("command"),
        config=kwargs.get("config") or {},
        context=kwargs.get("context"),
    )
