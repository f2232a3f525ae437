"""How the question of an old front end becomes a run, within a session or without one."""

from typing import Any

from api.bootstrap import Services
from api.identity.auth import Caller
from api.schemas.sessions import MessageSend, SessionCreate
from api.session_events import MODES
from api.sessions import records
from api.sessions.runs import admit_first, answering, ask, submit_first
from api.submissions import submit
from graph.requests import RunRequest
from graph.runs import Submitted
from store.errors import AlreadyExistsError, NotFoundError
from store.models import JsonObject


async def ask_in_session(
    services: Services,
    caller: Caller,
    session_id: str,
    query: str,
    *,
    chat_type: str,
    model: str | None,
    create: bool = False,
) -> Submitted:
    """
    Ask within a session, as `api.sessions.runs.ask` does.

    Args:
        chat_type: Kept with the question: which of its modes a graph is to answer in.
        model: ``configurable.model`` of the graph, unless it is a graph's name; empty for none.
        create: Make the session if it is not there: the client has made its id up.
    """
    named = None if _is_graph(services, model) else model or None
    body = MessageSend(query=query, chat_type=chat_type, model=named)
    try:
        return await ask(services, caller, session_id, body)
    except NotFoundError:
        if not create:
            raise
    assistant_id = model if _is_graph(services, model) else None
    new = SessionCreate(id=session_id, chat_type=chat_type, assistant_id=assistant_id)
    attributes = new.attributes()
    first, seen_by = await admit_first(services, caller, session_id, body, attributes)
    try:
        session = await records.create(services, caller, new, seen_by=seen_by)
    except AlreadyExistsError:  # somebody else has made it meanwhile
        return await ask(services, caller, session_id, body)
    if answering(services, session.metadata) != answering(services, attributes):
        # Handlers made it another assistant's, and of that nobody was asked.
        return await ask(services, caller, session_id, body)
    return await submit_first(services, caller, session_id, first)


async def ask_without_session(
    services: Services, caller: Caller, said: list[JsonObject], *, model: str | None
) -> Submitted:
    """Ask with a history that the client keeps: nothing of it is kept here."""
    graphs = services.registry.graph_ids
    if not graphs:
        raise NotFoundError("This server has no graph that could answer", code="no_graph")
    is_graph = _is_graph(services, model)
    config = {"configurable": {"model": model}} if model and not is_graph else {}
    request = RunRequest(
        assistant_id=model if model and is_graph else graphs[0],
        input={"messages": said},
        config=config,
        stream_modes=MODES,
        session={},
        temporary=True,
    )
    return await submit(services, caller, request, thread_id=None, attached=True)


def history_messages(history: Any) -> list[JsonObject]:
    """A history that a client sends: pairs of role and content, as lists or as objects."""
    said = []
    for item in history if isinstance(history, list) else []:
        if isinstance(item, dict):
            role, content = item.get("role"), item.get("content")
        elif isinstance(item, list | tuple) and len(item) == 2:
            role, content = item
        else:
            continue
        if role in ("user", "assistant", "system") and isinstance(content, str):
            said.append({"role": role, "content": content})
    return said


def _is_graph(services: Services, model: str | None) -> bool:
    return model in services.registry.graph_ids
