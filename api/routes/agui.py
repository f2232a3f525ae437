"""AG-UI: a session as an agent that front ends such as CopilotKit talk to."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.deps import CallerDep, ServicesDep
from api.doors.agui import AgentEvents, RunAgentInput
from api.doors.conversation import begin, owner
from api.http.bodies import JsonRoute
from api.sse import stream_of_run

router = APIRouter(tags=["ag-ui"], route_class=JsonRoute)

Model = Annotated[str | None, Query(min_length=1, max_length=255)]


@router.post("/agui")
async def run_agent(
    body: RunAgentInput, caller: CallerDep, services: ServicesDep, assistant_id: Model = None
) -> Response:
    """Run the agent: the graph or assistant that the query names, or the session's own."""
    submitted = await begin(services, caller, body.asked(assistant_id, owner(caller)))
    events = AgentEvents(services, submitted, body).frames()
    headers = {"Cache-Control": "no-cache"}
    return stream_of_run(services, caller, submitted, events, headers=headers)
