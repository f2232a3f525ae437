"""What the tests of the queue share."""

import asyncio
import uuid
from typing import Any

from store import endings, lost_runs, new_runs, queue, runs, threads
from store.access import EVERYTHING, Access
from store.database import Database
from store.endings import Ending
from store.lost_runs import GivenUp
from store.models import Run, RunStatus, Thread
from store.new_runs import NewRun
from store.queue import Claim

ASSISTANT = str(uuid.uuid4())
LEASE_SECONDS = 20.0


def new_run(thread_id: str, **more: Any) -> NewRun:
    return NewRun(
        **{
            "run_id": str(uuid.uuid4()),
            "thread_id": thread_id,
            "assistant_id": ASSISTANT,
            "multitask_strategy": "enqueue",
            "metadata": {},
            "kwargs": {"input": 1},
            "thread_metadata": {"graph_id": "g"},
            "access": EVERYTHING,
            **more,
        }
    )


async def a_thread(db: Database) -> str:
    """A thread whose first lease will have the epoch 1."""
    made = await threads.create(db, str(uuid.uuid4()), access=EVERYTHING)
    params = {"id": made.thread_id}
    await db.execute("UPDATE thread SET epoch = 0, base_epoch = 0 WHERE thread_id = %(id)s", params)
    return made.thread_id


async def a_worker(db: Database) -> str:
    worker_id = str(uuid.uuid4())
    await queue.register(db, worker_id=worker_id, host="h", pid=1, version="0", slots=9)
    return worker_id


async def put(db: Database, thread_id: str, **more: Any) -> Run:
    return await new_runs.enqueue(db, new_run(thread_id, **more))


async def begin(db: Database, thread_id: str, worker_id: str, **more: Any) -> Claim:
    claimed = await new_runs.start(db, new_run(thread_id, **more), worker_id=worker_id)
    assert isinstance(claimed, Claim)
    return claimed


async def claim_all(db: Database, worker_id: str, slots: int = 10) -> list[str]:
    claims = await queue.claim(db, worker_id=worker_id, slots=slots)
    return [claimed.run.run_id for claimed in claims]


async def end(db: Database, claimed: Claim, **more: Any) -> bool:
    options: dict[str, Any] = {"status": "success", "thread_status": "idle", "interrupts": {}}
    ended = await endings.finish(db, [Ending(claimed=claimed, **{**options, **more})])
    return ended == {claimed.run.run_id}


async def in_flight(
    db: Database, statuses: list[RunStatus], *, access: Access
) -> list[tuple[str, str]]:
    return [pair async for page in runs.in_flight(db, statuses, access=access) for pair in page]


async def reap(db: Database, worker_id: str, **more: Any) -> list[GivenUp]:
    options: dict[str, Any] = {"lease_seconds": LEASE_SECONDS, "max_attempts": 3}
    return await lost_runs.reap(db, worker_id=worker_id, **{**options, **more})


async def lose(db: Database, worker_id: str) -> None:
    """Make it look as if the worker had not beaten for longer than its lease."""
    await db.execute(
        "UPDATE worker SET last_seen_at = now() - interval '1 hour' WHERE worker_id = %(id)s::uuid",
        {"id": worker_id},
    )


async def checkpoint(db: Database, claimed: Claim, checkpoint_id: str = "1") -> None:
    """Write a checkpoint as the run's saver would."""
    params = {
        "thread_id": claimed.run.thread_id,
        "id": checkpoint_id,
        "metadata": {"run_id": claimed.run.run_id},
        "checkpoint": {"channel_versions": {"a": checkpoint_id}},
    }
    async with db.transaction() as tx:
        await tx.execute(
            "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)"
            " VALUES (%(thread_id)s, '', %(id)s, %(checkpoint)s, %(metadata)s)",
            params,
        )
        await tx.execute(
            "INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type)"
            " VALUES (%(thread_id)s, '', 'a', %(id)s, 'empty')",
            params,
        )
        await tx.execute(
            "UPDATE thread SET head_checkpoint_id = %(id)s WHERE thread_id = %(thread_id)s", params
        )


async def status(db: Database, run_id: str) -> str | None:
    run = await runs.find(db, run_id, access=EVERYTHING)
    return run.status if run else None


async def thread(db: Database, thread_id: str) -> Thread:
    return await threads.get(db, thread_id, access=EVERYTHING)


async def together(*jobs: Any) -> list[Any]:
    """The results of jobs that ran at the same time; none may fail."""
    async with asyncio.timeout(20):
        return list(await asyncio.gather(*jobs))
