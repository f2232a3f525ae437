"""Sessions from elsewhere: what is known of them already, and since when they are."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from store import feedback
from store.cipher import at
from store.database import Database, Transaction, repeated
from store.projection import born_at
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
    of_thread = {"thread_id": thread_id, "created_at": created_at, "updated_at": updated_at}
    async with db.transaction() as tx:
        if db.cipher.is_on:
            times = await _said(tx, thread_id, times)
        of_messages = {
            "thread_id": thread_id,
            "ids": list(times),
            "times": list(times.values()),
            "is_sealed": db.cipher.is_on,
        }
        await tx.execute(_SQL["stamp_messages"], of_messages)
        await tx.execute(_SQL["stamp_thread"], of_thread)


async def _said(tx: Transaction, thread_id: str, times: Mapping[str, str]) -> dict[str, str]:
    """Those of the times that their messages have themselves; for rows whose seals SQL cannot open."""
    params = {"thread_id": thread_id, "ids": list(times), "times": list(times.values())}
    found = {}
    for id_, sealed in await tx.tuples(_SQL["unstamped"], params):
        meta_data = tx.cipher.open_json(sealed, at("message.meta_data", thread_id, id_))
        if born_at(meta_data) == times[id_]:
            found[id_] = times[id_]
    return found


async def judge(
    db: Database,
    thread_id: str,
    opinions: Mapping[str, tuple[int, str | None]],
    *,
    user_id: str,
) -> None:
    """
    Keep what was thought of messages elsewhere, where nobody says anything else here.

    Args:
        opinions: By the message's id: from 0 to 100, and why.
        user_id: Whose opinion it is; empty where nobody is known.
    """
    if not opinions:
        return
    params = {
        "thread_id": thread_id,
        "user_id": user_id,
        "ids": list(opinions),
        "scores": [score for score, _ in opinions.values()],
        "reasons": [
            feedback.sealed(db.cipher, thread_id, id_, reason=reason, tags=())["reason"]
            for id_, (_, reason) in opinions.items()
        ],
    }
    await db.execute(_SQL["judge"], params)
