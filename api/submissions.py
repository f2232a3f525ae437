"""The one way from a request to a run, whichever door it came through."""

from dataclasses import replace

from api.auth import Caller
from api.bootstrap import Services
from api.run_schemas import RunCreateStateless
from graph.requests import RunRequest
from graph.runs import Submitted
from store.models import JsonObject


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
    """
    request = body if isinstance(body, RunRequest) else body.request()
    value = _value(request, thread_id)
    access = await caller.may("threads", "create_run", value)
    assistant = {"assistant_id": request.assistant_id}
    return await services.runs.submit(
        _allowed(request, value, caller),
        thread_id=thread_id,
        attached=attached,
        access=access,
        assistant_access=await caller.may("assistants", "read", assistant),
    )


def _value(request: RunRequest, thread_id: str | None) -> JsonObject:
    """What a handler of ``threads.create_run`` sees, and may change."""
    return {
        "thread_id": thread_id,
        "assistant_id": request.assistant_id,
        "status": "pending",
        "metadata": dict(request.metadata),
        "multitask_strategy": request.multitask_strategy,
        "if_not_exists": request.if_not_exists,
        "after_seconds": request.after_seconds,
        "kwargs": {
            "input": request.input,
            "command": request.command,
            "config": request.config,
            "context": request.context,
        },
    }


def _allowed(request: RunRequest, value: JsonObject, caller: Caller) -> RunRequest:
    kwargs = value.get("kwargs") or {}
    return replace(
        request,
        metadata=value.get("metadata") or {},
        input=kwargs.get("input"),
        command=kwargs.get("command"),
        config=kwargs.get("config") or {},
        context=kwargs.get("context"),
        injected=caller.injected,
    )
