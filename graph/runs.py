"""Commands on runs: submit, follow, join, cancel."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, aclosing, suppress
from dataclasses import dataclass, replace
from typing import TypeVar
from uuid import UUID

import orjson
import structlog
from langgraph.types import Interrupt
from uuid_utils.compat import uuid7

from graph.encode import dumps
from graph.endings import Endings
from graph.executor import Execution, Executor, Result
from graph.fairness import FairShares, Room
from graph.first_words import SOURCE, TITLE, begun
from graph.priorities import Priorities
from graph.registry import Registry
from graph.requests import (
    RunRequest,
    compose,
    metadata_of,
    system_assistant_id,
    thread_config,
)
from graph.snapshots import open_interrupts
from graph.tracing import TRACEPARENT, Tracing
from graph.webhooks import Webhooks
from store import queue, runs, sessions, threads
from store.access import EVERYTHING, Access
from store.database import Database
from store.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from store.events import START, Event, EventId, EventLog, Gap
from store.heartbeat import Heartbeat
from store.models import CancelAction, JsonObject, Lease, Run, RunStatus
from store.queue import NewRun
from store.retention import Life
from store.runs import Setting
from store.threads import NewThread

log = structlog.get_logger(__name__)

#: The events that tell what a run came to, and the key under which two of them tell what it asks.
_TELLING = frozenset({"values", "updates", "error", "end"})
_INTERRUPT = "__interrupt__"

#: Statuses after which a run never changes.
ENDED = frozenset({"success", "error", "timeout", "interrupted"})

#: With how many threads of many something is done at the same time, each on a connection.
THREADS_AT_ONCE = 8

MISSING = "Thread or assistant not found."

#: What those get who waited for a stateless run whose log is lost.
RESULT_LOST: JsonObject = {
    "error": "ResultLost",
    "message": "The run has ended, and what it came to is not known any more",
}

#: How long after PostgreSQL did not answer somebody who waits asks again.
RETRY_SECONDS = 0.5

T = TypeVar("T")


#: How long the log of a followed thread is quiet before PostgreSQL is asked for its run's end.
QUIET_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """
    A run that was taken in, and its execution if this process began it at once.

    Args:
        access: The threads that it might run on, of who submitted it now; None of one that was found.
    """

    run: Run
    execution: Execution | None
    access: Access | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that may be taken in, and the thread to be made for it, if it has none."""

    run: NewRun
    thread: NewThread | None


class Runs:
    """
    The one way to run a graph; every door submits here.

    Args:
        webhooks: Asked whether those that runs name may be told.
        heartbeat: Who this process is in the queue.
        life: Of threads that a run makes.
        titles: Whether the model gives sessions their titles.
        priorities: Who decides which waiting runs begin first; None for whichever is due longest.
        tracing: If there are traces: knows which one a run goes on with.
        room: How many runs may wait; None for any number.
    """

    def __init__(
        self,
        *,
        db: Database,
        registry: Registry,
        events: EventLog,
        executor: Executor,
        endings: Endings,
        heartbeat: Heartbeat,
        webhooks: Webhooks,
        life: Life | None = None,
        titles: bool = False,
        priorities: Priorities | FairShares | None = None,
        room: Room | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._room = room
        self._priorities = priorities
        self._db = db
        self._titles = titles
        self._registry = registry
        self._events = events
        self._executor = executor
        self._endings = endings
        self._heartbeat = heartbeat
        self._webhooks = webhooks
        self._life = life
        self._system = frozenset(system_assistant_id(name) for name in registry.graph_ids)
        #: Set when this process goes: then runs are queued for others.
        self.draining = False
        self._abandoning: set[asyncio.Task[None]] = set()

    async def submit(
        self,
        request: RunRequest,
        *,
        thread_id: str | None,
        attached: bool,
        access: Access,
        assistant_access: Access,
    ) -> Submitted:
        """
        Take a run in; once this returns, the run is not lost.

        Args:
            thread_id: The thread; None makes one.
            attached: Somebody waits for it: start it here and now if the thread and a slot are
                free, instead of by the queue.
            access: The threads that it may run on.
            assistant_access: The assistants that it may be a run of, beside those of the graphs.

        Raises:
            InvalidInputError: The assistant is no assistant's id and no graph's name.
            NotFoundError: There is no such assistant or thread that is visible.
            ThreadBusyError: The strategy is ``reject`` and a run is in flight.
            LimitedError: As many runs of the caller wait as may.
            OverloadedError: As many runs wait as may.
        """
        prepared = await self.admit(
            request, thread_id=thread_id, access=access, assistant_access=assistant_access
        )
        new, thread = prepared.run, prepared.thread
        if thread is not None:
            await self._make(thread, access)
        if attached and (execution := await self._start(new)):
            return Submitted(execution.claim.run, execution, access)
        return Submitted(await queue.enqueue(self._db, new), None, access)

    async def admit(
        self,
        request: RunRequest,
        *,
        thread_id: str | None,
        access: Access,
        assistant_access: Access,
    ) -> Prepared:
        """
        Check all that `submit` checks, also that there is room for one more run; nothing is written.

        Args: As for `submit`, which raises the same.
        """
        if request.webhook:
            await self._webhooks.check(request.webhook)
        prepared = await self.prepare(
            request, thread_id=thread_id, access=access, assistant_access=assistant_access
        )
        if self._room is not None:
            await self._room.require([prepared.run])
        return prepared

    async def prepare(
        self,
        request: RunRequest,
        *,
        thread_id: str | None,
        access: Access,
        assistant_access: Access,
    ) -> Prepared:
        """
        Make of a request the run that it asks for, and check all but its webhook; nothing is written.

        Args: As for `submit`, which raises the same.
        """
        if request.multitask_strategy == "rollback":
            self._require_taking_back()
        new_thread = thread_id is None
        thread_id = thread_id or str(uuid7())
        setting = await self._setting(request, thread_id, access, assistant_access)
        new = self._new_run(request, setting, thread_id, access)
        if self._priorities is not None:
            new = await self._priorities.decided(new, request, setting, is_named=not new_thread)
        thread = None
        if setting.thread_id is None:
            if not new_thread and request.if_not_exists == "reject":
                raise NotFoundError(MISSING)
            thread = NewThread(
                thread_id=thread_id,
                # Among it what says whose it is.
                metadata=metadata_of(request),
                life=None if request.temporary else self._life,
                temporary=request.temporary,
            )
            new = replace(new, access=EVERYTHING)
        return Prepared(new, thread)

    def _new_run(
        self, request: RunRequest, setting: Setting, thread_id: str, access: Access
    ) -> NewRun:
        new = _new_run(request, setting, thread_id, access, titles=self._titles)
        if self._tracing is not None and (parent := self._tracing.traceparent()):
            new.kwargs[TRACEPARENT] = parent
        return new

    def is_system(self, assistant_id: str) -> bool:
        """Whether it is the assistant that a graph has: those are everybody's."""
        return assistant_id in self._system

    async def submit_batch(self, asked: Sequence[tuple[RunRequest, Access]]) -> list[Run]:
        """
        Take runs in on threads of their own, all or none; once this returns, they are not lost.

        Args:
            asked: Each with the assistants that it may be a run of, beside those of the graphs.

        Raises:
            InvalidInputError: An assistant is no assistant's id and no graph's name.
            NotFoundError: There is no such assistant that is visible.
        """
        for webhook in {request.webhook for request, _ in asked if request.webhook}:
            await self._webhooks.check(webhook)
        new = []
        for request, assistant_access in asked:
            thread_id = str(uuid7())
            setting = await self._setting(request, thread_id, EVERYTHING, assistant_access)
            run = self._new_run(request, setting, thread_id, EVERYTHING)
            if self._priorities is not None:
                run = await self._priorities.decided(run, request, setting, is_named=False)
            metadata = {**metadata_of(request), **run.thread_metadata}
            new.append(replace(run, thread_metadata=metadata))
        if self._room is not None:
            await self._room.require(new)
        return await queue.enqueue_new(self._db, new, life=self._life)

    async def _setting(
        self, request: RunRequest, thread_id: str, access: Access, assistant_access: Access
    ) -> Setting:
        setting = await runs.setting(
            self._db,
            assistant_id=self.assistant_id(request.assistant_id),
            thread_id=thread_id,
            access=access,
            assistant_access=assistant_access,
        )
        if setting is None:
            raise NotFoundError(MISSING)
        # Or it is clear at once that it cannot run.
        self._registry.is_static(setting.graph_id)
        return setting

    async def _make(self, thread: NewThread, access: Access) -> None:
        try:
            await threads.create(
                self._db,
                thread.thread_id,
                metadata=thread.metadata,
                if_exists="do_nothing",
                life=thread.life,
                temporary=thread.temporary,
                access=access,
            )
        except AlreadyExistsError:  # and is not theirs
            raise NotFoundError(MISSING) from None

    def assistant_id(self, text: str) -> str:
        """
        The id of an assistant that a client names, by itself or by its graph.

        Raises:
            InvalidInputError: It is no assistant's id and no graph's name.
            InvalidGraphError: It is the name of a graph that failed to load.
        """
        if text in self._registry.graph_ids:
            return system_assistant_id(text)
        if text in self._registry.failures:
            self._registry.is_static(text)  # raises
        try:
            return str(UUID(text))
        except ValueError:
            names = ", ".join(self._registry.graph_ids)
            raise InvalidInputError(
                f"Invalid assistant: '{text}'. Must be either:\n- A valid assistant UUID, or\n"
                f"- One of the registered graphs: {names}"
            ) from None

    async def _start(self, new: NewRun) -> Execution | None:
        if self.draining or new.after_seconds > 0 or not self._heartbeat.alive():
            return None
        if not self._executor.reserve():
            return None
        try:
            if self._priorities is not None and not await self._priorities.may_start(new):
                self._executor.release()
                return None
            claim = await queue.start(self._db, new, worker_id=self._heartbeat.worker_id)
        except BaseException:
            self._executor.release()
            raise
        if claim is None:
            self._executor.release()
            return None
        return self._executor.start(claim)

    async def attach(
        self, run_id: str, *, thread_id: str | None = None, access: Access
    ) -> Submitted:
        """
        Find a run to follow it: with what this gives, nobody is asked again who may.

        Raises:
            NotFoundError: There is no such run on the thread, or that is not visible.
        """
        run = await runs.get(self._db, run_id, thread_id=thread_id, access=access)
        return Submitted(run, self._executor.running.get(run_id))

    async def follow(
        self, submitted: Submitted, *, after: tuple[int, int] | None = None
    ) -> AsyncGenerator[list[Event] | Gap, None]:
        """
        Yield the events of a run after a position, in order, none missing and none twice.

        Ends with the run, or when this process goes. Events come in lists: all that there were at
        a time. A `Gap` says that the log does not reach back so far any more. Close it when done.

        Args:
            after: The last event that the client has; None for all of them.
        """
        run = submitted.run
        position = max(after or (0, 0), (run.log_epoch, 0))
        # Where the run is in the log, once it has begun; and what was skipped since.
        place = position if run.first_epoch is not None else None
        skipped = START
        with self._endings.watch(run.run_id, ended=run.status in ENDED) as stop:
            # From here on its end is noticed; it may have been cancelled in the queue before.
            if run.status == "pending" and not await self.patiently(
                lambda: self._has_log(run.run_id)
            ):
                return
            events = self._events.follow(run.thread_id, position, stop=stop)
            async with aclosing(events):
                async for batch in events:
                    ours = [] if isinstance(batch, Gap) else _of_run(batch, run.run_id)
                    gap = await self._missed(run.run_id, batch) if isinstance(batch, Gap) else None
                    if found := gap or ours:
                        yield found
                    if isinstance(batch, Gap):
                        skipped = batch.resume_at
                        continue
                    if self._endings.closed or _is_over(ours, stopped=stop.is_set()):
                        return
                    place = ours[-1].position if ours else place
                    lost = (
                        await self._lost_end(run.run_id, place, skipped)
                        if place is not None and batch[-1].epoch != place[0]
                        else []
                    )
                    for item in lost:
                        yield item
                    if lost:
                        return

    async def _missed(self, run_id: str, gap: Gap) -> Gap | None:
        """A gap, unless nothing of a run is in it: it begins after it, or has yet to."""
        run = await self.patiently(lambda: runs.find(self._db, run_id, access=EVERYTHING))
        if run and (run.first_epoch is None or gap.resume_at <= (run.first_epoch, 0)):
            return None
        return gap

    async def tail(self, thread_id: str, *, access: Access) -> EventId:
        """
        Where the log of a thread ends now: `follow_thread` from there gives what comes next.

        Raises:
            NotFoundError: There is no such thread that is visible.
            UnavailableError: Redis, or PostgreSQL, does not answer.
        """
        await threads.get(self._db, thread_id, access=access)
        return await self._events.tail(thread_id)

    async def retained(self, thread_id: str) -> list[Event]:
        """
        What the log of a thread has now, from wherever it begins; nothing of who may see it.

        If Redis does not answer, what is in memory here.
        """
        now = asyncio.Event()
        now.set()
        found: list[Event] = []
        events = self._events.follow(thread_id, START, stop=now)
        async with aclosing(self._of_thread(thread_id, events)) as batches:
            async for batch in batches:
                found += [] if isinstance(batch, Gap) else batch
        return found

    async def end_of_log(self, thread_id: str) -> EventId:
        """
        Where the log of a thread ends now, START if there is none; nothing of who may see it.

        Raises:
            UnavailableError: The thread's run is not here, and Redis does not answer.
        """
        return await self._events.tail(thread_id)

    def watch_queued(self, thread_id: str) -> AbstractContextManager["asyncio.Queue[str]"]:
        """The ids of a thread's runs that end while they are queued, which its log never tells."""
        return self._endings.watch_queued(thread_id)

    async def follow_thread(
        self, thread_id: str, *, after: EventId
    ) -> AsyncGenerator[list[Event] | Gap, None]:
        """
        Yield the events of all runs of a thread after a position, and then whatever comes.

        In order, none missing and none twice, until this process goes. Of every run that begins
        the end is told too, before the next one begins or soon, though its log has lost it.
        """
        events = self._events.follow(
            thread_id, after, idle_seconds=QUIET_SECONDS, stop=self._endings.leaving
        )
        # Of a run that was not seen to end.
        last: Event | None = None
        async with aclosing(self._of_thread(thread_id, events)) as batches:
            async for batch in batches:
                if isinstance(batch, Gap):
                    last = None
                    yield batch
                    continue
                found, last = await self._with_ends(batch, last)
                for item in found:
                    yield item

    async def _of_thread(
        self, thread_id: str, events: AsyncGenerator[list[Event] | Gap, None]
    ) -> AsyncGenerator[list[Event] | Gap, None]:
        """
        What a log has of this thread, and not what is left of one that had its id and was deleted.

        Deleting a thread does not reach the memory of other processes, nor Redis while it is away.
        """
        base = newest = 0
        async with aclosing(events):
            async for batch in events:
                epoch = _last_epoch(batch)
                if epoch > newest:
                    # With a new lease it may be another thread than a moment ago.
                    newest = epoch
                    base = await self.patiently(lambda: threads.base_epoch(self._db, thread_id))
                if not isinstance(batch, Gap) and epoch > base:
                    batch = [event for event in batch if event.epoch > base]
                if epoch > base or not epoch:
                    yield batch

    async def _with_ends(
        self, batch: list[Event], last: Event | None
    ) -> tuple[list[list[Event] | Gap], Event | None]:
        """Events with the ends that their log has lost, and the last one of a run still open."""
        if not batch and last:
            ending = await self._lost_end(last.run_id, last.position)
            return ending, None if ending else last
        found: list[list[Event] | Gap] = []
        told: list[Event] = []
        for event in batch:
            if last and event.run_id not in ("", last.run_id):
                found += [told, *await self._lost_end(last.run_id, last.position)]
                told = []
            if event.run_id:
                last = None if event.name == "end" else event
            told.append(event)
        return [item for item in [*found, told] if item], last

    async def _has_log(self, run_id: str) -> bool:
        """Whether the run has logged something, or will."""
        run = await runs.find(self._db, run_id, access=EVERYTHING)
        return run is not None and (run.status not in ENDED or run.first_epoch is not None)

    async def _lost_end(
        self, run_id: str, place: EventId, skipped: EventId = START
    ) -> list[list[Event] | Gap]:
        """
        The end of a run that the next one of its thread overtook in the log.

        A run's end is told after it is written down, and from then on another process may begin
        the thread's next run: its first event closes the log to those of the epochs before it. If
        Redis is slower than that, more than the end is lost.

        Args:
            place: Its last event that was there.
            skipped: Where the last gap that was told of ends.
        """
        run = await self.patiently(lambda: runs.ending(self._db, run_id))
        if run is not None and run.status not in ENDED:
            return []
        content: JsonObject = {"error": run.error} if run and run.error else {}
        content["end"] = {"run_id": run_id, "status": run.status if run else "interrupted"}
        epoch, seq = max(place, skipped)
        told = [
            Event(epoch, seq + number, run_id, name, dumps(data))
            for number, (name, data) in enumerate(content.items(), 1)
        ]
        had = run.told if run is not None and run.epoch == epoch else None
        is_known = skipped > place or (had is not None and had <= seq)
        return [told] if is_known else [Gap(place), told]

    async def join(self, submitted: Submitted) -> Result:
        """
        Wait for a run to end, wherever it is executed.

        Raises:
            UnavailableError: This process goes before the run ends.
        """
        execution = submitted.execution
        if execution is not None:
            await execution.ended.wait()
            if execution.result is not None:
                return execution.result
        # Of each kind the last one.
        heard: dict[str, bytes] = {}
        whole = True
        async with aclosing(self.follow(submitted)) as batches:
            async for batch in batches:
                whole = whole and not isinstance(batch, Gap)
                heard |= {} if isinstance(batch, Gap) else {e.name: e.data for e in batch}
        if whole and "end" in heard:
            return _result(heard)
        return await self.patiently(lambda: self._stored_result(submitted.run))

    async def _stored_result(self, run: Run) -> Result:
        ended = await runs.find(self._db, run.run_id, access=EVERYTHING)
        if ended is None:
            # A stateless run that came to something took it along.
            return Result(status="interrupted", error=RESULT_LOST if run.temporary else None)
        if ended.status not in ENDED:
            raise UnavailableError("The run goes on in another process")
        thread = await threads.get(self._db, ended.thread_id, access=EVERYTHING)
        return Result(
            status=ended.status,
            interrupted=thread.status == "interrupted",
            interrupts=open_interrupts(thread.interrupts),
            error=ended.error,
        )

    async def patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """
        Ask PostgreSQL until it answers: for those who wait for a run anyway.

        Raises:
            UnavailableError: It does not answer, and this process goes.
        """
        while True:
            try:
                return await read()
            except UnavailableError:
                if self._endings.closed:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def cancel(
        self, thread_id: str, run_ids: list[str] | None, *, action: CancelAction, access: Access
    ) -> list[str]:
        """
        Stop runs of a thread, all in flight if none are named.

        Returns:
            The ids of those that were in flight.

        Raises:
            NotFoundError: There is no such thread that is visible.
        """
        if action == "rollback":
            self._require_taking_back()
        stopped = await queue.cancel(self._db, thread_id, run_ids, action=action, access=access)
        for run_id in stopped:
            # The signal would reach us too; this is sooner.
            self._executor.stop(run_id, action)
        return stopped

    async def cancel_all(
        self, statuses: list[RunStatus], *, action: CancelAction, access: Access
    ) -> bool:
        """
        Stop the runs with one of these statuses on visible threads, the oldest 1000 at the most.

        Returns:
            Whether there were any.
        """
        found = await runs.in_flight(self._db, statuses, access=access)
        await self.cancel_each(found, action=action)
        return bool(found)

    async def cancel_each(self, found: Sequence[tuple[str, str]], *, action: CancelAction) -> None:
        """Stop runs that were found by somebody who may: pairs of run id and thread id."""
        of_threads: dict[str, list[str]] = defaultdict(list)
        for run_id, thread_id in found:
            of_threads[thread_id].append(run_id)

        async def stop(thread_id: str) -> None:
            with suppress(NotFoundError):  # deleted meanwhile
                await self.cancel(
                    thread_id, of_threads[thread_id], action=action, access=EVERYTHING
                )

        await few_at_once(of_threads, stop)

    def abandon(self, run: Run) -> None:
        """Cancel a run because its client has left; by a task, for the client's is cancelled."""
        task = asyncio.create_task(self._abandon(run), name=f"abandon {run.run_id}")
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)

    async def _abandon(self, run: Run) -> None:
        with suppress(NotFoundError):
            try:
                await self.cancel(
                    run.thread_id, [run.run_id], action="interrupt", access=EVERYTHING
                )
            except UnavailableError as exc:
                log.warning("abandoned run goes on", run_id=run.run_id, reason=exc.message)

    async def delete(self, thread_id: str, run_id: str, *, access: Access) -> None:
        """
        Delete a run that has ended, with what it wrote; the thread is as without it.

        Raises:
            NotFoundError: There is no such run on the thread, or that is not visible.
            ConflictError: A run is in flight on the thread.
        """
        await runs.get(self._db, run_id, thread_id=thread_id, access=access)
        await self._executor.retention.detach(thread_id, run_id)
        self._require_taking_back()
        await queue.forget(self._db, thread_id, run_id, access=access)
        if self._executor.retention.custom:
            await self._executor.retention.custom.forget_run(run_id)
        await self._executor.project(thread_id)
        await queue.delete(self._db, thread_id, run_id)

    async def delete_thread(
        self, thread_id: str, *, actor: str | None = None, access: Access
    ) -> None:
        """
        Delete a thread with all that it has, its log too: another may come under its name.

        Args:
            actor: Who asked for it, for the audit log; None: it is no act of anybody's.

        Raises:
            NotFoundError: There is no such thread that is visible.
        """
        await threads.delete(self._db, thread_id, actor=actor, access=access)
        await self._executor.retention.forget(thread_id)

    async def delete_leased(self, lease: Lease) -> bool:
        """As `delete_thread`, unless somebody took the thread since the lease; whether it was deleted."""
        if not await threads.delete_leased(self._db, lease):
            return False
        await self._executor.retention.forget(lease.thread_id)
        return True

    async def purge_session(self, session_id: str, *, actor: str, access: Access) -> None:
        """
        Delete a session for good, deleted before or not, as `delete_thread`; it is known that it was.

        Raises:
            NotFoundError: There is no such session that is visible.
        """
        await sessions.purge(self._db, session_id, actor=actor, access=access)
        await self._executor.retention.forget(session_id)

    def _require_taking_back(self) -> None:
        """
        See that what a run wrote can be deleted.

        Raises:
            UnsupportedError: The checkpointer is the user's own and cannot.
        """
        if self._executor.retention.custom:
            self._executor.retention.custom.require("adelete_for_runs", "Taking back a run")


async def few_at_once(thread_ids: Iterable[str], work: Callable[[str], Awaitable[None]]) -> None:
    """Do something with each of many threads, a few at the same time."""
    waiting = iter(thread_ids)

    async def some() -> None:
        for thread_id in waiting:
            await work(thread_id)

    await asyncio.gather(*(some() for _ in range(THREADS_AT_ONCE)))


def _new_run(
    request: RunRequest, setting: Setting, thread_id: str, access: Access, *, titles: bool
) -> NewRun:
    run_id = request.run_id or str(uuid7())
    metadata, kwargs = compose(request, setting, run_id=run_id, thread_id=thread_id)
    # Known already, and merged by a statement that there is anyway.
    title = {} if request.temporary else begun(setting.thread_metadata, request.input)
    if title and titles:
        kwargs["title"] = {"language": request.language}
    if title and request.session is not None:
        kwargs["session"] = {**request.session, "name": title[TITLE], SOURCE: title[SOURCE]}
    return NewRun(
        run_id=run_id,
        thread_id=thread_id,
        assistant_id=setting.assistant_id,
        multitask_strategy=request.multitask_strategy,
        metadata=metadata,
        kwargs=kwargs,
        thread_metadata={
            **title,
            "graph_id": setting.graph_id,
            "assistant_id": setting.assistant_id,
        },
        thread_config=thread_config(request, setting),
        access=access,
        temporary=request.temporary,
        after_seconds=request.after_seconds,
    )


def _of_run(batch: list[Event], run_id: str) -> list[Event]:
    return [event for event in batch if event.run_id == run_id]


def _last_epoch(batch: list[Event] | Gap) -> int:
    """The newest epoch of what a log has; 0 of nothing."""
    if isinstance(batch, Gap):
        return batch.resume_at[0]
    return batch[-1].epoch if batch else 0


def _is_over(found: list[Event], *, stopped: bool) -> bool:
    """Whether nothing more of a run comes, after what was just found of it."""
    return found[-1].name == "end" if found else stopped


def _result(heard: dict[str, bytes]) -> Result:
    """What a run came to, by the last events of its log."""
    last = {name: orjson.loads(data) for name, data in heard.items() if name in _TELLING}
    values, asked = last.get("values"), last.get("updates", {}).get(_INTERRUPT)
    if isinstance(values, dict) and _INTERRUPT in values:
        asked = values.pop(_INTERRUPT)
    return Result(
        status=last["end"]["status"],
        interrupted=asked is not None,
        values=values or None,
        interrupts=tuple(
            Interrupt(found["value"], id=found["id"], response_schema=found.get("response_schema"))
            for found in asked or ()
        ),
        error=last.get("error"),
    )
