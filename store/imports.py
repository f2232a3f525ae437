"""Sessions from elsewhere: what is known of them already, and since when they are."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from store import feedback, tallies
from store.cipher import at
from store.database import Database, Transaction, repeated
from store.projection import born_at
from store.sql import load

_SQL: Final = load("imports")

#: After which an import that has written nothing is one that broke off: a part of it takes a few.
FRESH_SECONDS: Final = 30.0


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
    mark: str | None = None,
) -> None:
    """
    Let a thread and its messages be as old as they are; doing it again changes nothing.

    Args:
        times: When each message was said, by its id, as the message itself has it: a message that
            says otherwise, or nothing, keeps its time.
        created_at: The thread's; never later than it was.
        updated_at: The thread's; None leaves it.
        mark: The value of `UNDER_WAY` that the thread has, and loses; a thread that has another is left
            alone.
    """
    of_thread = {
        "thread_id": thread_id,
        "created_at": created_at,
        "updated_at": updated_at,
        "mark": mark,
    }
    async with db.transaction() as tx:
        if db.cipher.is_on:
            times = await _said(tx, thread_id, times)
        of_messages = {
            "thread_id": thread_id,
            "ids": list(times),
            "times": list(times.values()),
            "is_sealed": db.cipher.is_on,
        }
        await tallies.mark_stale(tx, [thread_id])
        await tx.execute(_SQL["stamp_messages"], of_messages)
        await tx.execute(_SQL["stamp_thread"], of_thread)


async def begun(db: Database, thread_id: str, ids: Collection[str]) -> tuple[bool, bool]:
    """
    Of a thread that an import has begun: whether somebody is at it, and whether it has been used since.

    Args:
        ids: Messages of the import: one that is none of them, a run or a deletion is somebody's use.
    """
    params = {"thread_id": thread_id, "ids": list(ids), "fresh_seconds": FRESH_SECONDS}
    rows = await repeated(lambda: db.tuples(_SQL["begun"], params))
    return rows[0] if rows else (False, False)


async def end(db: Database, thread_id: str, mark: str) -> None:
    """Leave a thread as it is that an import has begun, and not ended."""
    await db.execute(_SQL["end"], {"thread_id": thread_id, "mark": mark})


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
