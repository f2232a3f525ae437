"""
How much of a thread's past is kept: its newest checkpoints, and for how long it lives unused.

Messages are never deleted with checkpoints: the conversation stays whole, only its older states
cannot be gone back to any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Protocol

from store.cipher import at
from store.database import Database, Transaction
from store.models import Lease
from store.sql import load

_SQL: Final = load("retention")

Strategy = Literal["delete", "keep_latest"]

#: How long others leave a thread alone whose time has come and that somebody took up.
_RETRY_SECONDS: Final = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """How long a thread lives unused, and what happens then."""

    ttl_minutes: float
    strategy: Strategy = "delete"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lifetime(Life):
    """A thread's life, and when it ends if nobody uses the thread before."""

    expires_at: datetime


class Snapshots(Protocol):
    """Makes the values of DeltaChannels whole: a `store.checkpoints.Saver`."""

    async def snapshots(
        self, thread_id: str, checkpoint_id: str, channels: Sequence[str]
    ) -> Mapping[str, tuple[str, bytes]] | None:
        """The type and bytes of a blob for each channel at a checkpoint; None if it cannot."""


async def prune(db: Database, snapshots: Snapshots, lease: Lease, *, keep: int) -> set[str]:
    """
    Delete all checkpoints of a thread but the newest, and what only those needed.

    Where an older checkpoint has what a kept one is made of (DeltaChannels), the kept one gets a
    snapshot; if that cannot be made, its ancestors are kept back to a snapshot.

    Args:
        lease: The right to write to the thread; nobody may write under it meanwhile.
        keep: How many checkpoints of the root namespace are kept at least; 1 or more.

    Returns:
        The checkpoints of the root namespace that are left; none if the lease is not the newest.
    """
    params = {"thread_id": lease.thread_id, "keep": keep}
    rows = await db.tuples(_SQL["newest"], params)
    if any(is_old for _, _, _, is_old in rows):
        return set()  # LangGraph's earlier format, in which each checkpoint needs its parent
    kept = {row[0] for row in rows}
    made: list[tuple[str, Mapping[str, tuple[str, bytes]]]] = []
    for checkpoint_id, parent, absent, _ in rows:
        if parent is None or parent in kept or not absent:
            continue
        blobs = await snapshots.snapshots(lease.thread_id, checkpoint_id, absent)
        if blobs is None:
            kept |= await _ancestors(db, lease.thread_id, checkpoint_id, absent)
        else:
            made.append((checkpoint_id, blobs))
    async with db.transaction() as tx:
        if not await _locked(tx, lease):
            return set()
        for checkpoint_id, blobs in made:
            await _put_snapshots(tx, lease.thread_id, checkpoint_id, blobs)
        await _delete_rest(tx, lease.thread_id, kept)
    return kept


async def has_followers(db: Database, thread_id: str, run_id: str) -> bool:
    """Whether checkpoints of others are made of what a run wrote (DeltaChannels)."""
    params = {"thread_id": thread_id, "run_id": run_id}
    return bool(await db.tuples(_SQL["followers"], params))


async def detach(db: Database, snapshots: Snapshots, lease: Lease, run_id: str) -> bool:
    """
    Give the checkpoints that follow those of a run snapshots, so that they can do without.

    Returns:
        False if it cannot be done: the graph is not known, or somebody took the thread.
    """
    params = {"thread_id": lease.thread_id, "run_id": run_id}
    made: list[tuple[str, Mapping[str, tuple[str, bytes]]]] = []
    for checkpoint_id, absent in await db.tuples(_SQL["followers"], params):
        blobs = await snapshots.snapshots(lease.thread_id, checkpoint_id, absent)
        if blobs is None:
            return False
        made.append((checkpoint_id, blobs))
    async with db.transaction() as tx:
        if not await _locked(tx, lease):
            return False
        for checkpoint_id, blobs in made:
            await _put_snapshots(tx, lease.thread_id, checkpoint_id, blobs)
    return True


async def _locked(tx: Transaction, lease: Lease) -> bool:
    held = {"thread_id": lease.thread_id, "epoch": lease.epoch}
    return bool(await tx.tuples(_SQL["lock"], held))


async def _ancestors(
    db: Database, thread_id: str, checkpoint_id: str, channels: Sequence[str]
) -> set[str]:
    params = {"thread_id": thread_id, "checkpoint_id": checkpoint_id, "channels": channels}
    return {found for (found,) in await db.tuples(_SQL["ancestors"], params)}


async def _put_snapshots(
    tx: Transaction, thread_id: str, checkpoint_id: str, blobs: Mapping[str, tuple[str, bytes]]
) -> None:
    for channel, (type_, blob) in blobs.items():
        params: dict[str, Any] = {
            "thread_id": thread_id,
            "checkpoint_id": checkpoint_id,
            "channel": channel,
            "type": type_,
            "blob": blob,
        }
        if tx.cipher.is_on:
            for (version,) in await tx.tuples(_SQL["version"], params):
                place = at("checkpoint_blobs.blob", thread_id, "", channel, version, type_)
                params["blob"] = tx.cipher.seal(blob, place)
        await tx.execute(_SQL["put_snapshot"], params)


async def _delete_rest(tx: Transaction, thread_id: str, kept: set[str]) -> None:
    params = {"thread_id": thread_id, "kept": sorted(kept), "count": len(kept)}
    await tx.execute(_SQL["delete_checkpoints"], params)
    await tx.execute(_SQL["cut_lines"], params)
    await tx.execute(_SQL["delete_blobs"], params)
    await tx.execute(_SQL["count"], params)


async def graph_of(db: Database, thread_id: str) -> str | None:
    """The graph that a thread's state belongs to, if a run chose one."""
    rows = await db.tuples(_SQL["graph"], {"thread_id": thread_id})
    return rows[0][0] if rows else None


async def set_life(db: Database, thread_id: str, life: Life) -> None:
    """Give a thread a life, counted from its last use."""
    params = {
        "thread_id": thread_id,
        "strategy": life.strategy,
        "ttl_minutes": life.ttl_minutes,
    }
    await db.execute(_SQL["set_ttl"], params)


async def lifetime(db: Database, thread_id: str) -> Lifetime | None:
    """The life of a thread; None if it has no end."""
    return await db.one(Lifetime, _SQL["get_ttl"], {"thread_id": thread_id})


async def claim_expired(db: Database, *, limit: int) -> list[tuple[str, Strategy]]:
    """
    Find threads whose time has come and that are not in use; others look elsewhere meanwhile.

    Args:
        limit: Threads to look at, at the most.
    """
    params = {"limit": limit, "retry_seconds": _RETRY_SECONDS}
    rows = await db.tuples(_SQL["claim_expired"], params)
    return [(thread_id, strategy) for thread_id, strategy, is_expired in rows if is_expired]


async def renew(db: Database, thread_id: str) -> None:
    """Let a life begin anew."""
    await db.execute(_SQL["renew"], {"thread_id": thread_id})


async def delete_expired_items(db: Database, *, limit: int) -> int:
    """
    Delete items of the long-term memory whose life has ended; they are found no more before that.

    Args:
        limit: Items at the most; those that somebody writes meanwhile are left for later.

    Returns:
        How many were deleted.
    """
    return await db.execute(_SQL["delete_expired_items"], {"limit": limit})
