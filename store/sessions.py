"""Sessions: threads, as people who think in conversations list, name and delete them."""

from datetime import datetime

from store import threads
from store.access import EVERYTHING, Access
from store.database import Database, repeated
from store.errors import NotFoundError
from store.models import JsonObject, Session
from store.retention import Life
from store.sql import load

SQL = load("sessions")


async def create(
    db: Database,
    session_id: str,
    *,
    metadata: JsonObject,
    life: Life | None = None,
    access: Access,
) -> Session:
    """
    Create a session.

    Args:
        metadata: Its attributes, ``user_id`` and ``name`` among them, and whatever else is kept.
        life: How long it lives unused; None for ever.

    Raises:
        AlreadyExistsError: The id is taken.
    """
    await threads.create(db, session_id, metadata=metadata, life=life, access=access)
    return await get(db, session_id, access=EVERYTHING)


async def get(db: Database, session_id: str, *, access: Access) -> Session:
    """
    Read a session.

    Raises:
        NotFoundError: There is none with this id that is visible.
    """
    params = {"id": session_id, "visible": access.array}
    found = await repeated(lambda: db.one(Session, SQL["get"], params))
    if found is None:
        raise NotFoundError(f"Session {session_id} not found")
    return found


async def list_page(
    db: Database,
    *,
    user_id: str | None = None,
    status: str | None = "active",
    chat_type: str | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int,
    access: Access,
) -> tuple[list[Session], bool]:
    """
    A page of the visible sessions, the one touched last first.

    Args:
        before: Time of the last change and id of the last session that the client has.
        limit: Rows at the most.

    Returns:
        The page, and whether there is more.
    """
    query = SQL["list"] if user_id is None else SQL["list_of_user"]
    before_time, before_id = before or (None, None)
    params = {
        "user_id": user_id,
        "status": status,
        "attributes": {} if chat_type is None else {"chat_type": chat_type},
        "before_time": before_time,
        "before_id": before_id,
        "limit": limit + 1,
        "visible": access.array,
    }
    # Planned anew for each filter: a plan for any would be one for none.
    rows = await db.all(Session, query, params, prepare=False)
    return rows[:limit], len(rows) > limit


async def update(db: Database, session_id: str, *, changes: JsonObject, access: Access) -> Session:
    """
    Change attributes of a session.

    Raises:
        NotFoundError: There is no such session that is visible.
    """
    await threads.update(db, session_id, metadata=changes, access=access)
    return await get(db, session_id, access=EVERYTHING)
