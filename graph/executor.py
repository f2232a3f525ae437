"""
One leased run: execute the graph, log its events, settle its end.

What ends a run comes in two steps. `_stream` finds out how it ended and never fails; `_settle`
writes that down, fenced by the lease, and only then tells those who follow.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.errors import UnknownInterruptError
from langgraph.types import StateSnapshot
from opentelemetry.trace import Span

from graph import breakpoints, protocol_run
from graph.attachments import PROCESS_BYTES, FileRoom, attach
from graph.checkpointer import AnySaver, require_checkpoint
from graph.encode import dumps, error_payload, plain
from graph.factory import AnyGraph
from graph.files import RunFiles
from graph.loop import STOP_SECONDS, Backing, Here, Outbox, Place
from graph.meters import RunMeter
from graph.registry import Registry
from graph.requests import answered_ids, fork_of, graph_input
from graph.retention import Retention
from graph.snapshots import interrupts_of, status_of
from graph.stopped import Speeches, answer_calls, keep_speech
from graph.stream import ASIDE, Outcome, StreamPlan, stream
from graph.tracing import Tracing, fail
from graph.user import user_of
from graph.webhooks import delivery_of
from store import endings, lost_runs, messages, rollback, sessions, threads
from store.checkpoints import Saver
from store.database import Database
from store.endings import Ending
from store.errors import (
    CONTENT_ERRORS,
    LeaseLostError,
    UnavailableError,
    UnreadableError,
)
from store.events import EventLog, ThreadWriter
from store.finisher import Finisher
from store.models import JsonObject, RunStatus, ThreadStatus
from store.queue import Claim, Held

log = structlog.get_logger(__name__)

#: Why a run is stopped from outside: somebody cancelled it, this process is going, or it has lost
#: the lease and must leave everything as it is.
StopReason = Literal["interrupt", "rollback", "drain", "lost"]

#: Of two reasons the later one here counts.
_PRECEDENCE: tuple[StopReason, ...] = ("drain", "interrupt", "rollback", "lost")

#: How long the end of a run that was told to stop may take to be written, and between two tries.
SETTLE_SECONDS, RETRY_SECONDS = 5.0, 0.5

#: Stops that are kept while claims are under way; what is beyond that is found by the next sweep.
MAX_EARLY = 1000

#: Has LangGraph refuse a resume that answers what is not asked; and the error that it does so by.
STRICT_RESUME, REFUSAL = "__pregel_strict_resume", "UnknownInterruptError"

#: What addresses another state than the newest of the root graph.
_ADDRESS = ("checkpoint_id", "checkpoint_ns", "checkpoint_map")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a run ended."""

    status: RunStatus
    #: It stopped before the graph's end, to be continued.
    interrupted: bool = False
    #: The output of the graph as it last was; None if nothing came.
    values: Any = None
    interrupts: tuple[Any, ...] = ()
    error: JsonObject | None = None
    #: The answers that it was stopped in.
    speeches: Speeches | None = None


class Execution:
    """
    A run under way in this process.

    Args:
        fenced: Set when the thread's log has gone on without it.
        alive: Whether this process still owns its runs.
    """

    def __init__(self, claim: Claim, *, fenced: asyncio.Event, alive: Callable[[], bool]) -> None:
        self.claim = claim
        self.fenced = fenced
        self.ended = asyncio.Event()
        self.result: Result | None = None
        self.stop_reason: StopReason | None = None
        self._began_at = time.monotonic()
        #: When its first token was streamed, by the same clock.
        self.first_token_at: float | None = None
        self._alive = alive
        self._may_write = True
        self._streaming: asyncio.Task[Any] | None = None

    @property
    def first_token_ms(self) -> int | None:
        """How long the first token took from the run's start; None if that was another attempt."""
        if self.first_token_at is None or self.claim.run.attempt != 1:
            return None
        return round(1000 * (self.first_token_at - self._began_at))

    @property
    def age_seconds(self) -> float:
        """How long ago it began here."""
        return time.monotonic() - self._began_at

    def begin(self) -> None:
        """Mark the part of the running task that `stop` may cancel."""
        self._streaming = asyncio.current_task()
        if self.stop_reason and self._streaming:
            self._streaming.cancel()

    def end(self) -> None:
        """From here on the run settles, whatever comes."""
        self._streaming = None
        self.close_writes()

    def close_writes(self) -> None:
        """From here on nothing counts that its graph writes."""
        self._may_write = False

    def may_write(self) -> bool:
        """
        Whether what its graph writes counts; asked on whichever loop it is on.

        If it does not, because the process may have lost its lease, that is for good: also if the
        lease turns out to be its own still.
        """
        if not self._alive():
            self.close_writes()
        return self._may_write

    def stop(self, reason: StopReason) -> None:
        """Have the graph cancelled, once; of several reasons the gravest counts."""
        if self.stop_reason is None and self._streaming:
            self._streaming.cancel()
        self.stop_reason = max(self.stop_reason or reason, reason, key=_PRECEDENCE.index)


class Executor:
    """
    The runs under way in this process, up to a number of slots.

    Args:
        backing: What graphs stand on that are only read: on this event loop.
        place: Where graphs are executed.
        retention: Asked after each run how much of its thread is to be kept.
        slots: How many runs at once.
        run_timeout_seconds: How long one run may take.
        alive: Whether this process still owns its runs; see `store.heartbeat.Heartbeat.alive`.
        on_free: Called whenever a slot comes free.
        tracing: Makes the spans of runs, if there are any.
        file_bytes: How much the calls of models may hold of files at once.
    """

    def __init__(
        self,
        *,
        db: Database,
        registry: Registry,
        backing: Backing,
        place: Place,
        events: EventLog,
        retention: Retention,
        slots: int,
        run_timeout_seconds: float,
        alive: Callable[[], bool],
        on_free: Callable[[], None] = lambda: None,
        tracing: Tracing | None = None,
        file_bytes: int = PROCESS_BYTES,
    ) -> None:
        self._tracing = tracing
        self._file_room = FileRoom(file_bytes)
        self._db = db
        self.finisher = Finisher(db)
        self.meter = RunMeter()
        self._registry = registry
        self._here = Here(backing)
        self._saver = backing.saver
        self._place = place
        self._events = events
        self.retention = retention
        self._run_timeout_seconds = run_timeout_seconds
        self._alive = alive
        self.on_free = on_free
        self.slots = slots
        self._reserved = 0
        self._asking = set[object]()
        #: Stops of runs that are not here; one may be of a run whose claim is being answered.
        self._early: dict[str, StopReason] = {}
        # A run can be here twice for a while: given up, and taken up again before it has stopped.
        self._tasks: dict[Execution, asyncio.Task[None]] = {}
        self._draining = self._is_abandoned = False

    @property
    def free(self) -> int:
        """How many more runs could start now; none while a graph blocks all others here."""
        if self._place.blocked:
            return 0
        return self.slots - self._reserved - len(self._tasks)

    @property
    def running(self) -> dict[str, Execution]:
        """The runs under way, by run id; of any thread."""
        return {execution.claim.run.run_id: execution for execution in list(self._tasks)}

    def reserve(self, slots: int = 1) -> bool:
        """Keep slots for runs about to be claimed; `release` or `start` gives each back."""
        if self.free < slots:
            return False
        if not self._reserved:
            self._early.clear()
        self._reserved += slots
        return True

    @contextmanager
    def ask(self) -> Iterator[None]:
        """
        Ask PostgreSQL for runs, and start them, within this.

        They may be ours by the database long before its answer is here.
        """
        request = object()
        self._asking.add(request)
        try:
            yield
        finally:
            self._asking.discard(request)

    @property
    def asking(self) -> frozenset[object]:
        """What was asked for by `ask` and is not answered yet."""
        return frozenset(self._asking)

    def release(self, slots: int = 1) -> None:
        """Give reserved slots back unused."""
        self._reserved -= slots

    def start(self, claim: Claim) -> Execution:
        """Begin to execute a claimed run, in a slot that was reserved."""
        self._reserved -= 1
        run, lease = claim.run, claim.lease
        self.meter.begin(run)
        # Before anybody can ask for its events: whoever follows then reads them from memory.
        is_protocol = "protocol" in run.kwargs
        writer = self._events.writer(lease.thread_id, lease.epoch, run.run_id, timed=is_protocol)
        execution = Execution(claim, fenced=writer.fenced, alive=self._alive)
        if (session := run.kwargs.get("session")) is not None:
            writer.emit(ASIDE, dumps(session))
        writer.emit("metadata", dumps({"run_id": run.run_id, "attempt": run.attempt}))
        if is_protocol:
            writer.emit(protocol_run.BEGIN, b"{}")
        if run.kwargs["command"] and (answered := answered_ids(run.kwargs["command"])):
            writer.emit(protocol_run.ANSWERED, dumps({"interrupt_ids": answered}))
        task = asyncio.create_task(self._run(execution, writer), name=f"run {run.run_id}")
        self._tasks[execution] = task
        task.add_done_callback(lambda done: self._end(execution, writer, done))
        if reason := self._early.pop(run.run_id, None):
            execution.stop(reason)
        if self._draining:
            execution.stop("drain")
        return execution

    def stop(self, run_id: str, reason: StopReason) -> None:
        """Stop a run, if it is here or on its way here: claimed, and PostgreSQL's answer is not read yet."""
        if execution := self.running.get(run_id):
            execution.stop(reason)
        elif self._reserved and len(self._early) < MAX_EARLY:
            self._early[run_id] = reason

    def abandon(self, run_id: str | None) -> None:
        """Lose the run that never gives the graphs' loop back, or all if that is not known."""
        self._is_abandoned = True
        for execution in self._tasks:
            if run_id in (None, execution.claim.run.run_id):
                execution.stop("lost")

    async def drain(self, *, grace_seconds: float) -> None:
        """Let the runs finish for `grace_seconds`, then hand the rest back, and all that come."""
        # On a loop that is stuck none of them would.
        await self._wait(0 if self._is_abandoned else grace_seconds)
        self._draining = True
        for execution in self._tasks:
            execution.stop("drain")
        await self._wait(STOP_SECONDS + SETTLE_SECONDS)

    async def require_checkpoint(self, thread_id: str, checkpoint_id: str) -> None:
        """
        Check that a thread has a checkpoint, of its graph itself, that a run is to begin from.

        Raises:
            NotFoundError: It has not.
        """
        # One that cannot be read is there: its run will tell what is wrong with it.
        with suppress(UnreadableError, *CONTENT_ERRORS):
            await require_checkpoint(self._saver, _at(thread_id, checkpoint_id))

    async def project(self, thread_id: str) -> None:
        """Make the messages of a thread again, from the checkpoints that it has left."""
        if not isinstance(self._saver, Saver):
            return  # no messages are projected from a checkpointer of the user's own
        await messages.rebuild(
            self._db,
            self._saver,
            thread_id=thread_id,
            channel_of=self._registry.channel_of,
            fold_of=self._registry.fold_of,
        )

    async def roll_back(self, held: Held) -> bool:
        """
        Take back a run of ours that is not executed any more, and whatever it wrote.

        Until this is through, the run is running: whoever finds it without its worker begins anew.

        Returns:
            False if the run was not ours any more.
        """
        if not await rollback.undo(self._db, held):
            return False
        await self.retention.forget_run(held.run_id)
        # While the thread is still ours: the next run projects onto what is there.
        await self.project(held.thread_id)
        return await rollback.discard(self._db, held)

    async def _wait(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=seconds)

    def _end(self, execution: Execution, writer: ThreadWriter, task: asyncio.Task[None]) -> None:
        """Free the slot, however the task has ended."""
        if not task.cancelled() and (exc := task.exception()):
            log.error("the end of a run was not written", run_id=writer.run_id, exc_info=exc)
        writer.close()
        del self._tasks[execution]
        execution.ended.set()
        self.on_free()

    async def _run(self, execution: Execution, writer: ThreadWriter) -> None:
        run = execution.claim.run
        # Of this task, and of all that runs for it on the graphs' loop.
        structlog.contextvars.bind_contextvars(
            run_id=run.run_id,
            thread_id=run.thread_id,
            request_id=run.kwargs["config"]["configurable"].get("langgraph_request_id"),
        )
        if self._tracing is None:
            await self._carry_out(execution, writer)
            return
        with self._tracing.run(execution.claim) as span:
            await self._carry_out(execution, writer)
            _close(span, execution)

    async def _carry_out(self, execution: Execution, writer: ThreadWriter) -> None:
        result = await self._stream(execution, writer)
        try:
            await self._settle(execution, writer, result)
        except Exception as exc:
            # One run still: the state that it left cannot be read by its graph, for example.
            log.warning("run left its thread unreadable", run_id=writer.run_id, exc_info=True)
            failed = Result(status="error", error=plain(error_payload(exc)))
            await self._settle(execution, writer, failed)

    async def _stream(self, execution: Execution, writer: ThreadWriter) -> Result:
        """Execute the graph to its end, whichever it is."""
        outcome = Outcome(lambda: self._require_lease(execution))
        outbox = self._place.outbox(writer.emit)
        try:
            execution.begin()
            async with asyncio.timeout(self._run_timeout_seconds) as limit:
                await self._place.run(
                    lambda backing: self._execute(backing, execution, outbox, outcome)
                )
        except asyncio.CancelledError as exc:
            if not _is_cancelled():  # a node's own affair that nobody here wanted
                return self._failed(exc, outcome, "error")
            return _stopped(execution, outcome)
        except (LeaseLostError, UnavailableError) as exc:
            # What is written is safe and the rest is not ours to write: another attempt resumes.
            log.warning("run left to another attempt", run_id=writer.run_id, reason=exc.message)
            # Not by `stop`, which would cancel what is to come.
            execution.stop_reason = "lost"
            return Result(status="pending")
        except Exception as exc:
            # One run: whatever its graph raises ends it, and it alone.
            if execution.stop_reason:  # in answer to being cancelled
                return _stopped(execution, outcome)
            log.warning("run failed", exc_info=True)
            if isinstance(exc, UnknownInterruptError):
                writer.emit(protocol_run.REFUSED, protocol_run.refusal(exc))
            return self._failed(exc, outcome, "timeout" if limit.expired() else "error")
        finally:
            execution.first_token_at = outcome.speeches.first_at
            outbox.close()
            # Before the thread may go on elsewhere, which closes its log to what comes later.
            writer.hurry()
            execution.end()
        return Result(
            status="success",
            interrupted=outcome.interrupted,
            values=outcome.values,
            interrupts=tuple(outcome.interrupts),
        )

    def _failed(self, exc: BaseException, outcome: Outcome, status: RunStatus) -> Result:
        error: JsonObject = plain(error_payload(exc))
        if status == "timeout":
            message = f"The run took longer than {self._run_timeout_seconds:g} seconds"
            error = {"error": "TimeoutError", "message": message}
        return Result(status=status, values=outcome.values, error=error)

    async def _execute(
        self, backing: Backing, execution: Execution, outbox: Outbox, outcome: Outcome
    ) -> None:
        """Run the graph, where graphs run."""
        claim = execution.claim
        run, kwargs = claim.run, claim.run.kwargs
        config = _config(claim)
        graph_id = config["configurable"]["graph_id"]
        owner = config["configurable"].get("langgraph_auth_user_id") or ""
        files = RunFiles(backing.db, thread_id=run.thread_id, owner=owner)
        attach(files.find, self._file_room)
        saver = None if run.temporary else self._leased(backing.saver, execution, graph_id)
        resumes = await _resumes(backing.saver, claim)
        # Frozen since it was claimed, it may run elsewhere by now.
        self._require_lease(execution)
        if resumes:
            config = _at_head(config)
        elif fork := fork_of(run.kwargs):
            # Deleted while the run waited, by the end of another.
            await require_checkpoint(backing.saver, _at(run.thread_id, fork))
        async with self._registry.open(
            graph_id,
            config,
            checkpointer=saver,
            store=backing.items,
            user=config["configurable"]["langgraph_auth_user"],
        ) as graph:
            if saver is not None:
                saver.attend(graph.channels)
            if resumes and (left := await _at_breakpoint(graph, config, kwargs)):
                outcome.stop_at(left, graph.output_channels)
                if "values" in kwargs["stream_mode"]:
                    outbox.put("values", dumps(outcome.values))
                return
            given = None if resumes else await self._input(claim, graph, config)
            steps = self._tracing.steps() if self._tracing else None
            if steps is not None:
                config = {**config, "callbacks": [steps]}
            async with aclosing(steps) if steps else nullcontext():
                await _forward(_events(graph, given, config, kwargs, outcome), outbox, execution)
            # Where it stopped is told by the checkpoint before, until that is written down.
            if saver is not None and not outcome.interrupted:
                await self.retention.trim(saver)

    async def _input(self, claim: Claim, graph: AnyGraph, config: Any) -> Any:
        """What the graph is given; with it, what the last run of the thread was stopped in."""
        given, is_fork = graph_input(claim.run.kwargs), fork_of(claim.run.kwargs) is not None
        if claim.run.temporary or not (is_fork or claim.lease.settled_status != "idle"):
            return given
        channel = self._registry.messages_channel(config["configurable"]["graph_id"])
        return await answer_calls(graph, config, given, channel=channel)

    def _leased(self, saver: AnySaver, execution: Execution, graph_id: str) -> AnySaver:
        return saver.leased(
            execution.claim.lease,
            run_id=execution.claim.run.run_id,
            messages_channel=self._registry.messages_channel(graph_id),
            alive=execution.may_write,
        )

    def _require_lease(self, execution: Execution) -> None:
        if not execution.may_write():
            thread_id = execution.claim.run.thread_id
            raise LeaseLostError(f"Thread {thread_id} may belong to another process now")

    async def _settle(self, execution: Execution, writer: ThreadWriter, result: Result) -> None:
        """Write the end of the run down, then tell; tell nothing if it is not ours to end."""
        claim, reason = execution.claim, execution.stop_reason
        if reason == "lost":
            ended = False
        elif reason == "drain" and result.status == "interrupted":
            ended = await self._insist(lambda: self._hand_back(claim))
        elif reason == "rollback":
            # Whatever it came to meanwhile.
            result = Result(status="interrupted", values=result.values)
            ended = await self._insist(lambda: self._roll_back(claim))
        else:
            ended = await self._insist(lambda: self._finish(execution, result, writer.event_count))
            if not ended and await self._insist(lambda: rollback.is_to_undo(self._db, claim.held)):
                # That was said before the end could be written, and counts.
                execution.stop("rollback")
                await self._settle(execution, writer, result)
                return
        if ended:
            execution.result = result
            self.meter.end(
                "rollback" if reason == "rollback" else result.status,
                seconds=execution.age_seconds,
                first_token_ms=execution.first_token_ms,
            )
            emit_end(writer, result.status, result.error)
            log.debug("run ended", status=result.status, seconds=round(execution.age_seconds, 4))
        else:
            self.meter.given_up["handed_back" if reason == "drain" else "lost"] += 1
            await self._forsake(claim.run.thread_id)

    async def _forsake(self, thread_id: str) -> None:
        """If a run is not ours any more because its thread is gone, leave nothing in its log."""
        with suppress(UnavailableError):  # then it stays until it expires
            if not await threads.exists(self._db, thread_id):
                await self._events.delete(thread_id)

    async def _insist(self, write: Callable[[], Awaitable[bool]]) -> bool:
        """Try until PostgreSQL answers, or the run may belong to somebody else."""
        while self._alive():
            try:
                return await write()
            except UnavailableError as exc:
                log.warning("the end of a run could not be written yet", reason=exc.message)
                await asyncio.sleep(RETRY_SECONDS)
        return False

    async def _hand_back(self, claim: Claim) -> bool:
        """Whether that was the run's end, because somebody wants it stopped."""
        given_up = await lost_runs.hand_back(self._db, claim)
        if given_up and given_up.status == "running":
            return await self.roll_back(given_up.held)
        return given_up is not None and given_up.status != "pending"

    async def _finish(self, execution: Execution, result: Result, event_count: int) -> bool:
        claim = execution.claim
        error = endings.CANCELLED if result.status == "interrupted" else result.error
        webhook = delivery_of(claim.run, status=result.status, error=error, values=result.values)
        if claim.run.temporary:
            return await endings.finish_temporary(self._db, claim, webhook=webhook)
        status, interrupts = await self._thread_state(claim, result)
        if title := claim.run.kwargs.get("title"):
            # Before the end, not in its statement: most runs have no title to ask for.
            await sessions.enqueue_title(self._db, claim.run.thread_id, language=title["language"])
        return await self.finisher.finish(
            Ending(
                claimed=claim,
                status=result.status,
                thread_status=status,
                interrupts=interrupts,
                error=result.error,
                thread_error=error,
                event_count=event_count,
                first_token_ms=execution.first_token_ms,
                webhook=webhook,
            )
        )

    async def _roll_back(self, claim: Claim) -> bool:
        if claim.run.temporary:
            webhook = delivery_of(
                claim.run, status="rollback", error=endings.ROLLED_BACK, values=None
            )
            return await endings.finish_temporary(self._db, claim, webhook=webhook)
        return await self.roll_back(claim.held)

    async def _thread_state(self, claim: Claim, result: Result) -> tuple[ThreadStatus, JsonObject]:
        """What the run leaves its thread in; read back only if it did not run through."""
        refused = result.error is not None and result.error["error"] == REFUSAL
        if result.status in ("error", "timeout") and not refused:
            return "error", {}
        # A resume that was refused leaves everything as it was.
        if result.status == "success" and not result.interrupted:
            return "idle", {}
        config = _at_head(_config(claim))
        graph_id = config["configurable"]["graph_id"]
        speeches = None if self._place.blocked else result.speeches
        # Where a blocked node is not in the way, if no code of the graph's has to be called.
        place = self._place if speeches or not self._registry.is_static(graph_id) else self._here
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await place.run(lambda backing: self._left(backing, claim, config, speeches))
        except TimeoutError:
            return "interrupted", {}

    async def _left(
        self, backing: Backing, claim: Claim, config: Any, speeches: Speeches | None
    ) -> tuple[ThreadStatus, JsonObject]:
        graph_id = config["configurable"]["graph_id"]
        channel = self._registry.messages_channel(graph_id)
        # The graph itself is over; what is written here is the end of the run. What the claim knew
        # of the thread's head is old.
        lease = replace(claim.lease, head_is_newest=False)
        saver = backing.saver.leased(
            lease, run_id=claim.run.run_id, messages_channel=channel, alive=self._alive
        )
        async with self._registry.open(
            graph_id,
            config,
            checkpointer=saver,
            store=backing.items,
            user=config["configurable"]["langgraph_auth_user"],
        ) as graph:
            saver.attend(graph.channels)
            snapshot = await graph.aget_state(config)
            if speeches:
                snapshot = await keep_speech(
                    graph, config, snapshot, channel=channel, speeches=speeches
                )
        return status_of(snapshot), interrupts_of(snapshot)


async def _at_breakpoint(graph: AnyGraph, config: Any, kwargs: JsonObject) -> StateSnapshot | None:
    before, after = kwargs["interrupt_before"], kwargs["interrupt_after"]
    return await breakpoints.reached(graph, config, before=before, after=after)


async def _forward(
    events: AsyncGenerator[tuple[str, bytes]], outbox: Outbox, execution: Execution
) -> None:
    """Send on what the graph does, until it has ended or its thread has gone on without it."""
    async with aclosing(events):
        async for name, data in events:
            outbox.put(name, data)
            if execution.fenced.is_set():
                thread_id = execution.claim.run.thread_id
                raise LeaseLostError(f"Thread {thread_id} went on without this run")
            if outbox.full:
                await outbox.room()


def _events(
    graph: AnyGraph, given: Any, config: Any, kwargs: JsonObject, outcome: Outcome
) -> AsyncGenerator[tuple[str, bytes]]:
    """What the graph does with its input, for clients of either protocol."""
    options = {key: kwargs[key] for key in ("context", "interrupt_before", "interrupt_after")}
    options["durability"] = breakpoints.durability(
        graph, kwargs["durability"], kwargs["interrupt_after"]
    )
    if "protocol" in kwargs:
        return protocol_run.stream(graph, given, config, outcome=outcome, **options)
    plan = StreamPlan.parse(
        kwargs["stream_mode"], subgraphs=kwargs["subgraphs"], asides="session" in kwargs
    )
    return stream(graph, given, config, plan, outcome=outcome, **options)


def _close(span: Span, execution: Execution) -> None:
    """Say on a run's span what came of it here."""
    result = execution.result
    if result is None:
        span.set_attribute("threadwell.given_up", execution.stop_reason or "lost")
        return
    span.set_attribute("threadwell.status", result.status)
    if result.error is not None:
        fail(span, result.error["error"])


def emit_end(writer: ThreadWriter, status: RunStatus, error: JsonObject | None) -> None:
    """Log the end of a run, once it is written down."""
    if error is not None:
        writer.emit("error", dumps(error))
    writer.emit("end", dumps({"run_id": writer.run_id, "status": status}))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _stopped(execution: Execution, outcome: Outcome) -> Result:
    task = asyncio.current_task()
    if task:
        task.uncancel()
    if execution.stop_reason is None:  # not by us: the event loop is closing
        execution.stop_reason = "drain"
    return Result(status="interrupted", values=outcome.values, speeches=outcome.speeches)


async def _resumes(saver: AnySaver, claim: Claim) -> bool:
    """Whether an earlier attempt of the run left a checkpoint to go on from."""
    run = claim.run
    if run.temporary or claim.lease.epoch == run.first_epoch:
        return False
    head: RunnableConfig = {"configurable": {"thread_id": run.thread_id, "checkpoint_ns": ""}}
    found = await saver.aget_tuple(head)
    return found is not None and found.metadata.get("run_id") == run.run_id


def _at(thread_id: str, checkpoint_id: str) -> RunnableConfig:
    at = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}
    return {"configurable": at}


def _at_head(config: Any) -> Any:
    """The config without the checkpoint that the run began from."""
    configurable = {k: v for k, v in config["configurable"].items() if k not in _ADDRESS}
    return {**config, "configurable": configurable}


def _config(claim: Claim) -> Any:
    """The config of one attempt: the run's own, never shared with its row."""
    config = claim.run.kwargs["config"]
    configurable = config["configurable"]
    strict = {STRICT_RESUME: True} if "strict_resume" in claim.run.kwargs else {}
    user = user_of(configurable.get("langgraph_auth_user"))
    return {
        **config,
        "configurable": {**configurable, "langgraph_auth_user": user, **strict},
        "metadata": {**config["metadata"], "run_attempt": claim.run.attempt},
    }
