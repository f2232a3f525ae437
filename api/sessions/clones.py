"""What a shared link shows, as a session of whoever took it over."""

from uuid_utils.compat import uuid7

from api.bootstrap import Services
from api.exchange.transcript import MAX_MESSAGES, derived
from api.identity.auth import Caller
from api.schemas.sessions import SessionCreate
from graph.adoption import Stretch
from graph.requests import system_assistant_id
from store import imports, sessions, shares
from store.access import EVERYTHING
from store.errors import ConflictError, Error, NotFoundError, TooLargeError
from store.models import JsonObject, Session
from store.shares import Shared, SharedMessage

_PAGE = 500


async def adopt_shared(services: Services, caller: Caller, shared: Shared) -> Session:
    """
    Make a session of the caller's of what a link shows them, and of nothing else.

    Raises:
        ConflictError: It shows nothing yet.
        TooLargeError: It is longer than a conversation that is taken in may be.
        NotFoundError: There is no graph to go on with.
    """
    said = await _all(services, shared)
    if not said:
        raise ConflictError("Nothing has been said in it yet", code="empty")
    graph_ids = services.registry.graph_ids
    if not graph_ids:
        raise NotFoundError("This server has no graph that could go on", code="no_graph")
    graph_id = shared.graph_id if shared.graph_id in graph_ids else graph_ids[0]
    session_id = str(uuid7())
    user_id = caller.user.identity if caller.user else None
    attributes = SessionCreate(name=shared.name[:255], user_id=user_id).attributes()
    answers = {"graph_id": graph_id, "assistant_id": system_assistant_id(graph_id)}
    await services.new_sessions.make(caller, session_id, {**attributes, **answers})
    try:
        messages = [_message(session_id, message) for message in said]
        await services.states.adopt(session_id, [Stretch(messages)], access=EVERYTHING)
        times = {m["id"]: m["additional_kwargs"]["created_at"] for m in messages}
        await imports.stamp(services.db, session_id, times, created_at=None, updated_at=None)
    except Error:
        await services.runs.delete_thread(session_id, access=EVERYTHING)
        raise
    return await sessions.get(services.db, session_id, access=EVERYTHING)


async def _all(services: Services, shared: Shared) -> list[SharedMessage]:
    found: list[SharedMessage] = []
    more = True
    while more:
        after = found[-1].seq if found else -1
        page, more = await shares.messages(services.db, shared, after_seq=after, limit=_PAGE)
        found.extend(page)
        if len(found) > MAX_MESSAGES:
            raise TooLargeError(f"It has more than {MAX_MESSAGES} messages")
    return found


def _message(session_id: str, message: SharedMessage) -> JsonObject:
    return {
        "id": derived("clone", session_id, message.id),
        "role": message.role,
        "content": message.content,
        "additional_kwargs": {"created_at": message.create_time.isoformat()},
    }
