"""The states of threads: read, listed, changed and forked."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.deps import CallerDep, ServicesDep, ThreadId
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.schemas.common import Checkpoint, Limit, Text
from api.schemas.threads import HistorySearch, StateAtCheckpoint, StateFields, StateUpdate
from graph.snapshots import selected_state
from store.models import JsonObject

router = APIRouter(prefix="/threads", tags=["threads"], route_class=JsonRoute)

#: Which fields of a state to show, repeated.
Select = Annotated[StateFields | None, Query()]


@router.get("/{thread_id}/state")
async def get_state(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: ThreadId,
    subgraphs: bool = False,
    select: Select = None,
) -> Response:
    """Read the state of a thread."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    found = await services.states.get(thread_id, subgraphs=subgraphs, access=access)
    return json_response(selected_state(found, select))


@router.get("/{thread_id}/state/{checkpoint_id}")
async def get_state_at(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: ThreadId,
    checkpoint_id: Text,
    subgraphs: bool = False,
    select: Select = None,
) -> Response:
    """Read the state of a thread at a checkpoint."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    checkpoint = {"checkpoint_id": checkpoint_id}
    found = await services.states.get(
        thread_id, checkpoint=checkpoint, subgraphs=subgraphs, access=access
    )
    return json_response(selected_state(found, select))


@router.post("/{thread_id}/state/checkpoint")
async def get_state_at_checkpoint(
    services: ServicesDep, caller: CallerDep, thread_id: ThreadId, body: StateAtCheckpoint
) -> Response:
    """Read the state of a thread, or of one of its subgraphs, at a checkpoint."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    checkpoint = _configurable(body.checkpoint)
    found = await services.states.get(
        thread_id, checkpoint=checkpoint, subgraphs=bool(body.subgraphs), access=access
    )
    return json_response(selected_state(found, body.select))


@router.post("/{thread_id}/state")
async def update_state(
    services: ServicesDep, caller: CallerDep, thread_id: ThreadId, body: StateUpdate
) -> Response:
    """Change the state of an idle thread, or fork it at a checkpoint."""
    access = await caller.may("threads", "update", {"thread_id": thread_id})
    checkpoint = _configurable(body.checkpoint)
    if body.checkpoint_id is not None:
        checkpoint["checkpoint_id"] = body.checkpoint_id
    configurable = await services.states.update(
        thread_id, body.values, as_node=body.as_node, checkpoint=checkpoint, access=access
    )
    return json_response(
        {
            "checkpoint": configurable,
            "configurable": configurable,
            "checkpoint_id": configurable["checkpoint_id"],
        }
    )


@router.get("/{thread_id}/history")
async def get_history(
    services: ServicesDep,
    caller: CallerDep,
    thread_id: ThreadId,
    limit: Annotated[Limit, Query()] = 1,
    before: Text | None = None,
    select: Select = None,
) -> Response:
    """List the states of a thread, newest first."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    found = await services.states.history(thread_id, limit=limit, before=before, access=access)
    return json_response([selected_state(state, select) for state in found])


@router.post("/{thread_id}/history")
async def search_history(
    services: ServicesDep, caller: CallerDep, thread_id: ThreadId, body: HistorySearch
) -> Response:
    """List the states of a thread, newest first."""
    access = await caller.may("threads", "read", {"thread_id": thread_id})
    found = await services.states.history(
        thread_id,
        limit=body.limit,
        before=body.before_id(),
        metadata=body.metadata,
        checkpoint=_configurable(body.checkpoint),
        access=access,
    )
    return json_response([selected_state(state, body.select) for state in found])


def _configurable(checkpoint: Checkpoint | None) -> JsonObject:
    return checkpoint.model_dump(exclude_none=True) if checkpoint else {}
