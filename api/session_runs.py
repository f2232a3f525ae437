"""How a session's message becomes a run, and a run an answer."""

from api.auth import Caller
from api.bootstrap import Services
from api.session_events import MODES
from api.session_schemas import MessageSend
from api.submissions import submit
from graph.requests import RunRequest
from graph.runs import Submitted
from store import messages, sessions
from store.errors import NotFoundError, RunFailedError, ThreadBusyError
from store.models import JsonObject


async def ask(services: Services, caller: Caller, session_id: str, body: MessageSend) -> Submitted:
    """
    Start a run of the session's graph with the user's message.

    Raises:
        NotFoundError: There is no such session, or no graph to answer.
        ThreadBusyError: An answer is still coming and the message is not to wait.
    """
    access = await caller.may("threads", "read", {"thread_id": session_id})
    session = await sessions.get(services.db, session_id, access=access)
    request = RunRequest(
        assistant_id=session.metadata.get("assistant_id") or _first_graph(services),
        input={"messages": [{"role": "user", "content": body.query}]},
        stream_modes=MODES,
        multitask_strategy=body.on_busy,
    )
    try:
        return await submit(services, caller, request, thread_id=session_id, attached=True)
    except ThreadBusyError as exc:
        raise ThreadBusyError("The session is still being answered", code="session_busy") from exc


def _first_graph(services: Services) -> str:
    if not services.registry.graph_ids:
        raise NotFoundError("This server has no graph that could answer", code="no_graph")
    return next(iter(services.registry.graph_ids))


async def answer(services: Services, submitted: Submitted) -> JsonObject:
    """
    Wait for the run and give its answer: the last thing that the assistant said in it.

    Raises:
        RunFailedError: The run ended with an error; what was asked is kept.
    """
    result = await services.runs.join(submitted)
    if result.error is not None:
        code = "run_timeout" if result.status == "timeout" else "run_failed"
        raise RunFailedError(result.error["message"], code=code)
    run = submitted.run
    rows = await services.runs.patiently(
        lambda: messages.of_run(services.db, run.thread_id, run.run_id)
    )
    said = next((row for row in reversed(rows) if row.role == "assistant"), None)
    asked = next((row for row in rows if row.role == "user"), None)
    return {
        "id": said.id if said else None,
        "response": said.content if said else "",
        "session_id": run.thread_id,
        "run_id": run.run_id,
        "user_message_id": asked.id if asked else None,
        "status": "interrupted" if result.interrupted else result.status,
        "interrupts": [{"id": i.id, "value": i.value} for i in result.interrupts],
        "usage": said.meta_data.get("usage_metadata") if said else None,
    }
