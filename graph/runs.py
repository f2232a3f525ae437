"""Commands on runs: submit, join, cancel, delete."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from graph.endings import Endings
from graph.executor import Execution, Executor, Result
from graph.fairness import FairShares, QueueRoom
from graph.first_words import SOURCE, TITLE, begun
from graph.following import Follower
from graph.priorities import Priorities
from graph.registry import Registry
from graph.requests import (
    RunRequest,
    compose,
    fork_of,
    metadata_of,
    system_assistant_id,
    thread_config,
)
from graph.tracing import TRACEPARENT, Tracing
from graph.webhooks import Webhooks
from store import endings, new_runs, rollback, runs, sessions, threads
from store.access import EVERYTHING, Access
from store.database import Database
from store.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from store.events import EventLog
from store.heartbeat import Heartbeat
from store.models import CancelAction, Lease, Run, RunStatus
from store.new_runs import NewRun
from store.queue import Claim
from store.retention import Life
from store.runs import Setting
from store.threads import NewThread

log = structlog.get_logger(__name__)

#: With how many threads of many something is done at the same time, each on a connection.
THREADS_AT_ONCE = 8

MISSING = "Thread or assistant not found."

#: Of the thread of a stateless run, if something fails before the run is there.
ORPHAN_LIFE = Life(ttl_minutes=10)


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
        room: QueueRoom | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        #: Reads the logs of those that it takes in.
        self.follower = Follower(db, events, endings)
        self._db = db
        self._tracing = tracing
        self._room = room
        self._priorities = priorities
        self._titles = titles
        self._registry = registry
        self._executor = executor
        self._retention = executor.retention
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
        prepare = self.prepare if request.admitted else self.admit
        prepared = await prepare(
            request, thread_id=thread_id, access=access, assistant_access=assistant_access
        )
        new, thread = prepared.run, prepared.thread
        if thread is not None:
            await self._make(thread, access)
        started = await self._start(new) if attached else None
        if isinstance(started, Execution):
            return Submitted(started.claim.run, started, access)
        return Submitted(started or await new_runs.enqueue(self._db, new), None, access)

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
            self._retention.require_taking_back()
        new_thread = thread_id is None
        thread_id = thread_id or str(uuid7())
        setting = await self._setting(request, thread_id, access, assistant_access)
        new = self._new_run(request, setting, thread_id, access)
        if (checkpoint_id := fork_of(new.kwargs)) is not None:
            await self._executor.require_checkpoint(thread_id, checkpoint_id)
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
                # A stateless one goes with its run; by this if that is never taken in.
                life=ORPHAN_LIFE if request.temporary else self._life,
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
        return await new_runs.enqueue_new(self._db, new, life=self._life)

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

    async def _start(self, new: NewRun) -> Execution | Run | None:
        """The execution; or the run, if it is there and not here; None if it is to be queued."""
        if self.draining or new.after_seconds > 0 or not self._heartbeat.alive():
            return None
        if not self._executor.reserve():
            return None
        with self._executor.ask():
            try:
                started = await self._granted(new)
            except BaseException:
                self._executor.release()
                raise
            if isinstance(started, Claim):
                return self._executor.start(started)
            self._executor.release()
            return started

    async def _granted(self, new: NewRun) -> Claim | Run | None:
        if self._priorities is not None and not await self._priorities.may_start(new):
            return None
        return await new_runs.start(self._db, new, worker_id=self._heartbeat.worker_id)

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
        return await self.follower.result(submitted.run)

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
            self._retention.require_taking_back()
        stopped = await endings.cancel(self._db, thread_id, run_ids, action=action, access=access)
        for run_id in stopped:
            # The signal would reach us too; this is sooner.
            self._executor.stop(run_id, action)
        return stopped

    async def cancel_all(
        self, statuses: list[RunStatus], *, action: CancelAction, access: Access
    ) -> bool:
        """
        Stop the runs with one of these statuses on visible threads, the oldest first.

        Returns:
            Whether there were any.
        """
        are_any = False
        async for page in runs.in_flight(self._db, statuses, access=access):
            are_any = True
            await self.cancel_each(page, action=action)
        return are_any

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
        await self._retention.detach(thread_id, run_id)
        self._retention.require_taking_back()
        await rollback.forget(self._db, thread_id, run_id, access=access)
        await self._retention.forget_run(run_id)
        await self._executor.project(thread_id)
        await rollback.delete(self._db, thread_id, run_id)

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
        await self._retention.forget(thread_id)

    async def delete_leased(self, lease: Lease) -> bool:
        """As `delete_thread`, unless somebody took the thread since the lease; whether it was deleted."""
        if not await threads.delete_leased(self._db, lease):
            return False
        await self._retention.forget(lease.thread_id)
        return True

    async def purge_session(self, session_id: str, *, actor: str, access: Access) -> None:
        """
        Delete a session for good, deleted before or not, as `delete_thread`; it is known that it was.

        Raises:
            NotFoundError: There is no such session that is visible.
        """
        await sessions.purge(self._db, session_id, actor=actor, access=access)
        await self._retention.forget(session_id)


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
