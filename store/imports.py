"""Sessions from elsewhere: what is known of them already, and since when they are."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from store.database import Database, repeated
from store.sql import load

_SQL: Final = load("imports")


async def known(db: Database, thread_id: str) -> set[str]:
    """The ids of all messages that a thread ever had; none if it is not there. Asks nobody who may."""
    rows = await repeated(lambda: db.tuples(_SQL["known"], {"thread_id": thread_id}))
    return {row[0] for row in rows}


async def stamp(
    db: Database,
    thread_id: str,
    times: Mapping[str, str],
    *,
    created_at: datetime | None,
    updated_at: datetime | None,
) -> None:
    """
    Let a thread and its messages be as old as they are; doing it again changes nothing.

    Args:
        times: When each message was said, by its id, as the message itself has it: a message that
            says otherwise, or nothing, keeps its time.
        created_at: The thread's; never later than it was.
        updated_at: The thread's; None leaves it.
    """
    of_messages = {"thread_id": thread_id, "ids": list(times), "times": list(times.values())}
    of_thread = {"thread_id": thread_id, "created_at": created_at, "updated_at": updated_at}
    async with db.transaction() as tx:
        await tx.execute(_SQL["stamp_messages"], of_messages)
        await tx.execute(_SQL["stamp_thread"], of_thread)
