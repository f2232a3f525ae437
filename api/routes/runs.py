"""Runs: create, stream, wait, join, list, cancel, delete; on a thread and without one."""

from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from api import limits
from api.deps import CallerDep, LastEventId, RunId, ServicesDep, ThreadId
from api.http.bodies import JsonRoute
from api.http.responses import json_response, selected
from api.schemas.runs import RunBatch, RunCreate, RunCreateStateless, RunsCancel
from api.sse import EventStream, RunStream, frame, long_json, result_json, stream_of_run
from api.submissions import submit, submit_batch
from graph.encode import dumps
from graph.runs import Submitted
from store import runs, threads
from store.errors import InvalidInputError, NotFoundError
from store.events import parse_event_id
from store.models import CancelAction, JsonObject, Run, RunStatus

router = APIRouter(tags=["runs"], route_class=JsonRoute)

NO_RUNS = "No runs found to cancel."
NO_MATCHING_RUNS = (
    "No matching runs to cancel. Please verify the thread ID and run IDs are correct, and the "
    "runs haven't been deleted or completed."
)
RUN_FIELDS = frozenset(
    {"run_id", "thread_id", "assistant_id", "created_at", "updated_at", "status", "metadata",
    "kwargs", "multitask_strategy", "langsmith_session_name"}
)  # fmt: skip


def run_json(run: Run) -> JsonObject:
    """A run as the SDK's `Run`."""
    return {
        "run_id": run.run_id,
        "thread_id": run.thread_id,
        "assistant_id": run.assistant_id,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
        "status": run.status,
        "metadata": run.metadata,
        "kwargs": run.kwargs,
        "multitask_strategy": run.multitask_strategy,
        # Of the tracing service, which this server does not use.
        "langsmith_session_name": None,
    }


def _path(run: Run) -> str:
    return f"/threads/{run.thread_id}/runs/{run.run_id}"


def _stream(
    services: ServicesDep,
    caller: CallerDep,
    submitted: Submitted,
    *,
    after: str | None = None,
    modes: list[str] | None = None,
    on_disconnect: str | None = "continue",
    stateless: bool = False,
) -> EventStream:
    run = submitted.run
    stream = RunStream(
        services,
        submitted,
        after=parse_event_id(after) if after else None,
        modes=modes,
        cancel_on_disconnect=on_disconnect == "cancel",
    )
    path = f"/runs/{run.run_id}" if stateless else _path(run)
    headers = {"Location": f"{path}/stream", "Content-Location": path}
    return stream_of_run(
        services,
        caller,
        submitted,
        stream.frames(),
        headers=headers,
        on_refused=stream.let_go_on,
    )


def _wait(
    services: ServicesDep, submitted: Submitted, *, on_disconnect: str | None = "continue"
) -> StreamingResponse:
    run = submitted.run
    return long_json(
        lambda: result_json(services, submitted),
        headers={"Location": f"{_path(run)}/join", "Content-Location": _path(run)},
        keep_alive_seconds=services.settings.sse_heartbeat_seconds,
        on_disconnect=partial(services.runs.abandon, run) if on_disconnect == "cancel" else None,
    )


@router.post("/threads/{thread_id}/runs")
async def create_run(
    thread_id: ThreadId, body: RunCreate, caller: CallerDep, services: ServicesDep
) -> Response:
    """Queue a run on a thread; it is executed whether or not anybody waits."""
    submitted = await submit(services, caller, body, thread_id=thread_id, attached=False)
    headers = {"Content-Location": _path(submitted.run)}
    return json_response(run_json(submitted.run), headers=headers)


@router.post("/threads/{thread_id}/runs/stream", response_class=EventStream)
async def stream_run(
    thread_id: ThreadId, body: RunCreate, caller: CallerDep, services: ServicesDep
) -> Response:
    """Start a run on a thread and stream its events."""
    submitted = await submit(services, caller, body, thread_id=thread_id, attached=True)
    return _stream(services, caller, submitted, on_disconnect=body.on_disconnect)


@router.post("/threads/{thread_id}/runs/wait")
async def wait_run(
    thread_id: ThreadId, body: RunCreate, caller: CallerDep, services: ServicesDep
) -> Response:
    """Start a run on a thread and answer with its output, or with the error it ended with."""
    submitted = await submit(services, caller, body, thread_id=thread_id, attached=True)
    return _wait(services, submitted, on_disconnect=body.on_disconnect)


@router.post("/runs")
async def create_stateless_run(
    body: RunCreateStateless, caller: CallerDep, services: ServicesDep
) -> Response:
    """Queue a run on a thread of its own."""
    submitted = await submit(services, caller, body, attached=False)
    headers = {"Content-Location": f"/runs/{submitted.run.run_id}"}
    return json_response(run_json(submitted.run), headers=headers)


@router.post("/runs/stream", response_class=EventStream)
async def stream_stateless_run(
    body: RunCreateStateless, caller: CallerDep, services: ServicesDep
) -> Response:
    """Start a run on a thread of its own and stream its events."""
    submitted = await submit(services, caller, body, attached=True)
    return _stream(services, caller, submitted, on_disconnect=body.on_disconnect, stateless=True)


@router.post("/runs/wait")
async def wait_stateless_run(
    body: RunCreateStateless, caller: CallerDep, services: ServicesDep
) -> Response:
    """Start a run on a thread of its own and answer with its output."""
    submitted = await submit(services, caller, body, attached=True)
    return _wait(services, submitted, on_disconnect=body.on_disconnect)


@router.post("/runs/batch")
async def create_runs(body: RunBatch, caller: CallerDep, services: ServicesDep) -> Response:
    """Queue runs, each on a thread of its own: all of them, or none if one is wrong."""
    created = await submit_batch(services, caller, body)
    return json_response([run_json(run) for run in created])


@router.get("/threads/{thread_id}/runs")
async def list_runs(
    thread_id: ThreadId,
    caller: CallerDep,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=0, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    status: RunStatus | None = None,
    select: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """The thread's runs, newest first; of each the fields that `select` repeats, or lists as JSON."""
    fields = _run_fields(select)
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    await threads.get(services.db, thread_id, access=access)
    page = await runs.list_of_thread(
        services.db, thread_id, status=status, limit=limit, offset=offset, access=access
    )
    return json_response([selected(run_json(run), fields) for run in page])


@router.get("/threads/{thread_id}/runs/{run_id}")
async def get_run(
    thread_id: ThreadId, run_id: RunId, caller: CallerDep, services: ServicesDep
) -> Response:
    """One run."""
    access = await caller.may("threads", "read", {"thread_id": thread_id, "run_id": run_id})
    run = await runs.get(services.db, run_id, thread_id=thread_id, access=access)
    return json_response(run_json(run))


@router.delete("/threads/{thread_id}/runs/{run_id}", status_code=204)
async def delete_run(
    thread_id: ThreadId, run_id: RunId, caller: CallerDep, services: ServicesDep
) -> Response:
    """Delete a run that has ended, with its checkpoints; 409 while one of the thread is going."""
    access = await caller.may("threads", "delete", {"thread_id": thread_id, "run_id": run_id})
    await services.runs.delete(thread_id, run_id, access=access)
    return Response(status_code=204)


@router.get("/threads/{thread_id}/runs/{run_id}/join")
async def join_run(
    thread_id: ThreadId,
    run_id: RunId,
    caller: CallerDep,
    services: ServicesDep,
    cancel_on_disconnect: bool = False,
) -> Response:
    """Wait for a run to end and answer with its output."""
    try:
        submitted = await _attach(
            services, caller, thread_id, run_id, may_cancel=cancel_on_disconnect
        )
    except NotFoundError:
        # The reference says so in the body, because its answer has begun by then.
        return Response(dumps({"__error__": _missing()}), media_type="application/json")
    await limits.follow()
    return _wait(
        services, submitted, on_disconnect="cancel" if cancel_on_disconnect else "continue"
    )


@router.get("/threads/{thread_id}/runs/{run_id}/stream", response_class=EventStream)
async def join_run_stream(
    thread_id: ThreadId,
    run_id: RunId,
    caller: CallerDep,
    services: ServicesDep,
    stream_mode: Annotated[list[str] | None, Query()] = None,
    cancel_on_disconnect: bool = False,
    last_event_id: LastEventId = None,
) -> Response:
    """
    Stream the events of a run: those after ``Last-Event-ID``, or all of them.

    Whatever the log still has is sent again. Past its bounds ``metadata`` says so, and a ``values``
    event stands in for who asked for it.
    """
    return await _join_stream(
        services, caller, thread_id, run_id, stream_mode, cancel_on_disconnect, last_event_id
    )


@router.get("/runs/{run_id}/stream", response_class=EventStream)
async def join_stateless_run_stream(
    run_id: RunId,
    caller: CallerDep,
    services: ServicesDep,
    stream_mode: Annotated[list[str] | None, Query()] = None,
    cancel_on_disconnect: bool = False,
    last_event_id: LastEventId = None,
) -> Response:
    """Stream the events of a run whose thread the client does not know."""
    return await _join_stream(
        services, caller, None, run_id, stream_mode, cancel_on_disconnect, last_event_id
    )


async def _join_stream(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: str | None,
    run_id: str,
    stream_mode: list[str] | None,
    cancel_on_disconnect: bool,
    last_event_id: str | None,
) -> Response:
    try:
        submitted = await _attach(
            services, caller, thread_id, run_id, may_cancel=cancel_on_disconnect
        )
    except NotFoundError:
        missing = frame("error", dumps(_missing()))
        headers = {"Cache-Control": "no-store"}
        return Response(missing, 200, headers, media_type="text/event-stream; charset=utf-8")
    return _stream(
        services,
        caller,
        submitted,
        after=last_event_id,
        modes=_listed("stream_mode", stream_mode),
        on_disconnect="cancel" if cancel_on_disconnect else "continue",
        stateless=thread_id is None,
    )


async def _attach(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: str | None,
    run_id: str,
    *,
    may_cancel: bool,
) -> Submitted:
    """The run, for who may read it; to have it stopped by leaving, one has to be allowed to, too."""
    value: JsonObject = {"thread_id": thread_id, "run_id": run_id}
    readable = await caller.may("threads", "read", {**value})
    if may_cancel:
        changeable = await caller.may("threads", "update", {**value, "action": "interrupt"})
        await services.runs.attach(run_id, thread_id=thread_id, access=changeable)
    return await services.runs.attach(run_id, thread_id=thread_id, access=readable)


def _missing() -> JsonObject:
    return {"error": "HTTPException", "message": "404: Run not found"}


def _listed(name: str, texts: list[str] | None) -> list[str] | None:
    """Values of a query: repeated, a JSON array, or empty for none, as the SDKs send them."""
    texts = [text for text in texts or () if text]
    if len(texts) != 1 or not texts[0].startswith("["):
        return texts or None
    try:
        values: Any = orjson.loads(texts[0])
    except orjson.JSONDecodeError:
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidInputError(f"{name} is not a JSON array of strings")
    return values or None


def _run_fields(texts: list[str] | None) -> list[str] | None:
    fields = _listed("select", texts)
    if fields and not set(fields) <= RUN_FIELDS:
        raise InvalidInputError(f"Invalid select columns. Expected: {sorted(RUN_FIELDS)}")
    return fields


@router.post("/threads/{thread_id}/runs/{run_id}/cancel")
async def cancel_run(
    thread_id: ThreadId,
    run_id: RunId,
    caller: CallerDep,
    services: ServicesDep,
    wait: bool = False,
    action: CancelAction = "interrupt",
) -> Response:
    """Stop a run; with ``rollback`` it leaves no trace. ``wait`` answers when it has ended."""
    value = {"thread_id": thread_id, "run_id": run_id, "action": action}
    access = await caller.may("threads", "update", value)
    try:
        submitted = await services.runs.attach(run_id, thread_id=thread_id, access=access)
    except NotFoundError:
        raise NotFoundError(NO_RUNS) from None
    if not await services.runs.cancel(thread_id, [run_id], action=action, access=access):
        raise NotFoundError(NO_MATCHING_RUNS)
    return _wait(services, submitted) if wait else Response(status_code=202)


@router.post("/runs/cancel", status_code=204)
async def cancel_runs(
    body: RunsCancel, caller: CallerDep, services: ServicesDep, action: CancelAction = "interrupt"
) -> Response:
    """Stop all runs with a status, or some runs of a thread."""
    value = {**body.model_dump(), "action": action}
    access = await caller.may("threads", "update", value)
    if body.status is None:
        assert body.thread_id is not None
        named = body.run_ids or []
        if not await runs.are_any(services.db, body.thread_id, named, access=access):
            raise NotFoundError(NO_RUNS)
        if not await services.runs.cancel(body.thread_id, named, action=action, access=access):
            raise NotFoundError(NO_MATCHING_RUNS)
        return Response(status_code=204)
    wanted: list[RunStatus] = ["pending", "running"] if body.status == "all" else [body.status]
    if not await services.runs.cancel_all(wanted, action=action, access=access):
        raise NotFoundError(NO_RUNS)
    return Response(status_code=204)
