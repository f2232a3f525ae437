"""Processes of a run engine, and graphs that stop where a test wants them to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypedDict

import orjson
from langgraph.graph import END, START, StateGraph
from langgraph_sdk import Priority

from api.schemas.crons import cron_request
from graph.changes import Changes
from graph.config import GraphEntry
from graph.crons import Clock, Crons
from graph.endings import Endings
from graph.executor import Executor
from graph.fairness import FairShares, QueueRoom
from graph.guard import Resolve, UrlRules
from graph.jobs import Jobs
from graph.loop import Backing, Here
from graph.priorities import Priorities
from graph.registry import Registry
from graph.requests import RunRequest, system_assistant_id
from graph.retention import Retention
from graph.runs import Runs, Submitted
from graph.webhook_config import WebhookConfig
from graph.webhooks import open_webhooks
from graph.worker import Timing, Worker, registered
from store import assistants, runs, threads
from store.access import EVERYTHING
from store.assistants import SystemAssistant
from store.checkpoints import open_saver
from store.database import Database
from store.events import Event, EventLog, Gap, open_event_log
from store.heartbeat import Heartbeat
from store.items import open_items
from store.models import Run
from store.webhooks import KIND
from tests.store.queues import a_thread

DEADLINE_SECONDS = 60.0

#: Everything soon, so that no test waits; nobody dies unless it is made to.
TIMING = Timing(
    lease_seconds=20.0,
    heartbeat_seconds=0.1,
    poll_seconds=0.1,
    sweep_seconds=0.1,
    grace_seconds=0.0,
    max_attempts=3,
    expiry_seconds=300.0,
    expiry_limit=1000,
    item_expiry_seconds=300.0,
    index_seconds=2.0,
    file_unused_seconds=86_400.0,
)
#: Webhooks that stand on this machine.
HERE = WebhookConfig(rules=UrlRules(disable_loopback=False))


class Steps(TypedDict, total=False):
    text: str
    log: Annotated[list[str], lambda left, right: left + right]


@dataclass
class Gate:
    """What the nodes of `gated` did, and what the one in the middle waits for and then does."""

    ran: list[str] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    act: Callable[[], Any] = lambda: None
    #: What it does when it is cancelled, before it lets that pass.
    on_cancel: Callable[[], Any] = lambda: None

    def reset(self) -> None:
        self.entered.clear()
        self.opened.clear()


def gated(gate: Gate) -> Any:
    """Three nodes; the second waits until the gate is open."""

    async def first(state: Steps) -> Steps:
        gate.ran.append("first")
        return {"log": ["first"]}

    async def wait(state: Steps) -> Steps:
        gate.ran.append("wait")
        gate.entered.set()
        try:
            await gate.opened.wait()
        except asyncio.CancelledError:
            gate.on_cancel()
            raise
        gate.act()
        return {"log": ["wait"]}

    async def last(state: Steps) -> Steps:
        gate.ran.append("last")
        return {"log": ["last"]}

    builder = StateGraph(Steps)
    for name, node in (("first", first), ("wait", wait), ("last", last)):
        builder.add_node(name, node)
    for source, target in ((START, "first"), ("first", "wait"), ("wait", "last"), ("last", END)):
        builder.add_edge(source, target)
    return builder.compile()


@dataclass(kw_only=True)
class Process:
    """What one process has of the engine."""

    db: Database
    events: EventLog
    executor: Executor
    runs: Runs
    endings: Endings
    worker: Worker
    heartbeat: Heartbeat
    crons: Crons
    jobs: Jobs

    async def submit(
        self, thread_id: str | None, *, attached: bool = True, graph: str = "gated", **more: Any
    ) -> Submitted:
        request = RunRequest(assistant_id=graph, **{"input": {"text": "x"}, **more})
        return await self.runs.submit(
            request,
            thread_id=thread_id,
            attached=attached,
            access=EVERYTHING,
            assistant_access=EVERYTHING,
        )

    async def names(self, submitted: Submitted, after: tuple[int, int] | None = None) -> list[str]:
        """The names of all events of a run up to its end."""
        return [event.name for event in await self.heard(submitted, after)]

    async def heard(
        self, submitted: Submitted, after: tuple[int, int] | None = None
    ) -> list[Event]:
        found: list[Event] = []
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            aclosing(self.runs.follower.follow(submitted.run, after=after)) as batches,
        ):
            async for batch in batches:
                assert not isinstance(batch, Gap)
                found += batch
        return found

    async def thread(self) -> str:
        return await a_thread(self.db)

    async def run(self, submitted: Submitted) -> Run | None:
        return await runs.find(self.db, submitted.run.run_id, access=EVERYTHING)

    async def status(self, submitted: Submitted) -> str | None:
        run = await self.run(submitted)
        return run.status if run else None

    async def thread_status(self, thread_id: str) -> str:
        return (await threads.get(self.db, thread_id, access=EVERYTHING)).status


@asynccontextmanager
async def process(
    db: Database,
    graphs: dict[str, Any],
    *,
    redis_url: str | None = None,
    slots: int = 3,
    run_timeout_seconds: float = 60.0,
    working: bool = True,
    keep: int = 0,
    webhooks: WebhookConfig = HERE,
    pauses_seconds: Sequence[float] = (0.05, 0.05),
    resolve: Resolve | None = None,
    clock: Clock = lambda: None,
    priority: Priority | None = None,
    is_fair: bool = False,
    most_running: int | None = None,
    room: tuple[int, int] | None = None,
    **timing: Any,
) -> AsyncIterator[Process]:
    """
    A process of the engine; without `working` it claims and sweeps nothing.

    Args:
        room: How many runs may wait, in all and of one identity.
    """
    registry = Registry({name: GraphEntry(name, f"tests:{name}") for name in graphs}, graphs, {})
    await assistants.register_system(
        db,
        [
            SystemAssistant(
                assistant_id=system_assistant_id(name), graph_id=name, name=name, description=None
            )
            for name in graphs
        ],
    )
    times = replace(TIMING, **timing)
    async with (
        open_event_log(redis_url) as events,
        registered(db, slots=slots, timing=times) as heartbeat,
        open_saver(db) as saver,
        open_items(db) as items,
        open_webhooks(webhooks, environment={}, resolve=resolve) as hooks,
    ):
        backing = Backing(saver, items, db)
        retention = Retention(
            db=db, registry=registry, place=Here(backing), events=events, keep=keep
        )
        executor = Executor(
            db=db,
            registry=registry,
            backing=backing,
            place=Here(backing),
            events=events,
            retention=retention,
            slots=slots,
            run_timeout_seconds=run_timeout_seconds,
            alive=heartbeat.alive,
        )
        endings = Endings(db, interval_seconds=0.2, grace_seconds=0.2)
        urgency: Priorities | FairShares | None = None
        if priority:
            urgency = Priorities(db, priority, most_running=most_running)
        elif is_fair:
            urgency = FairShares(db, most_running=most_running)
        commands = Runs(
            db=db, registry=registry, events=events, executor=executor, endings=endings,
            heartbeat=heartbeat, webhooks=hooks,
            priorities=urgency, room=QueueRoom(db, *room) if room else None,
        )  # fmt: skip
        crons = Crons(db=db, runs=commands, decode=cron_request, clock=clock)
        jobs = Jobs(
            db=db, kinds={KIND: hooks.kind(pauses_seconds)},
            lease_seconds=times.lease_seconds, renew_seconds=times.heartbeat_seconds,
        )  # fmt: skip
        changes = Changes(
            db=db, place=Here(backing), endings=endings, keep_count=1000, keep_seconds=3600
        )
        worker = Worker(
            db=db, executor=executor, runs=commands, endings=endings, events=events,
            heartbeat=heartbeat, retention=retention, crons=crons, jobs=jobs, changes=changes,
            timing=times, by_priority=urgency is not None, most_running=most_running,
        )  # fmt: skip
        one = Process(
            db=db,
            events=events,
            executor=executor,
            runs=commands,
            endings=endings,
            worker=worker,
            heartbeat=heartbeat,
            crons=crons,
            jobs=jobs,
        )
        if not working:
            yield one
            await executor.drain(grace_seconds=0)
            return
        async with worker.working():
            yield one


def last_values(events: list[Event]) -> Any:
    return orjson.loads([event.data for event in events if event.name == "values"][-1])


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await event.wait()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds, which is asked of the database."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - PostgreSQL tells nobody
            await asyncio.sleep(0.02)


async def until_status(one: Process, submitted: Submitted, status: str | None) -> None:
    async def reached() -> bool:
        return await one.status(submitted) == status

    await until(reached)
