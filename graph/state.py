"""
The state of threads: read, listed, changed and forked through their graphs.

A thread's values are in its checkpoints and nowhere else.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import structlog
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import BinaryOperatorAggregate, DeltaChannel
from langgraph.channels.base import BaseChannel
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.errors import InvalidUpdateError
from langgraph.graph import END, START
from langgraph.pregel._checkpoint import achannels_from_checkpoint
from langgraph.types import StateSnapshot, StateUpdate
from langgraph_sdk.runtime import AccessContext

from graph.adoption import Stretch, adopt, end_with
from graph.checkpointer import require_checkpoint
from graph.encode import dumps
from graph.factory import AnyGraph, InvalidGraphError
from graph.loop import Backing, Here, Place
from graph.registry import Registry, UnknownGraphError
from graph.requests import as_command
from graph.snapshots import (
    EMPTY,
    checkpoint_json,
    interrupts_of,
    state_json,
    status_of,
)
from store import runs, threads
from store.access import EVERYTHING, Access
from store.checkpoints import Saver
from store.database import Database, repeated
from store.errors import (
    CONTENT_ERRORS,
    BadRequestError,
    ConflictError,
    UnavailableError,
)
from store.events import EventLog
from store.models import JsonObject, Lease, Run, Thread
from store.projection import IMPORTED

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Output:
    """
    The channels that are a graph's values.

    Attributes:
        names: One whose value is all, or several by name.
        replayed: Those whose value may have to be made of what was written to them.
    """

    names: str | Sequence[str]
    replayed: Mapping[str, BaseChannel[Any, Any, Any]]


#: The event that tells of a new state, with its checkpoint: of no run, and in the thread's log.
STATE_UPDATE = "state_update"


class States:
    """
    Reads and changes the states of threads; one for each process.

    Args:
        backing: What graphs stand on that are only read: on this event loop.
        place: Where code of a graph's author is executed.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        db: Database,
        events: EventLog,
        backing: Backing,
        place: Place,
    ) -> None:
        self._registry = registry
        self._db = db
        self._events = events
        self._saver = backing.saver
        self._here = Here(backing)
        self._place = place

    async def get(
        self,
        thread_id: str,
        *,
        checkpoint: JsonObject | None = None,
        subgraphs: bool = False,
        access: Access,
    ) -> JsonObject:
        """
        Read a state of a thread, as the API shows it; an empty one where there is none.

        Args:
            checkpoint: Which: ``checkpoint_id``, ``checkpoint_ns``, ``checkpoint_map``, each
                optional; else the newest of the root graph.
            subgraphs: With the states of the subgraphs under way, instead of their addresses.

        Raises:
            NotFoundError: There is no such thread that is visible, or its graph is not served any more.
            BadRequestError: The namespace is none of the graph's.
            ConflictError: The state cannot be read.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        if not _graph_id(thread):
            return state_json(EMPTY)
        config = _config(thread_id, checkpoint)

        async def read(backing: Backing) -> JsonObject:
            async with self._open(thread, backing, "threads.read") as graph:
                with _readable(thread_id):
                    return state_json(await graph.aget_state(config, subgraphs=subgraphs))

        return await self._reader(thread).run(read)

    async def history(
        self,
        thread_id: str,
        *,
        limit: int,
        before: str | None = None,
        metadata: JsonObject | None = None,
        checkpoint: JsonObject | None = None,
        access: Access,
    ) -> list[JsonObject]:
        """
        List the states of a thread, newest first.

        Args:
            limit: States at the most.
            before: The checkpoint that the first one comes before.
            metadata: What the metadata of each contains.
            checkpoint: Its ``checkpoint_ns`` names a subgraph.

        Raises:
            NotFoundError: There is no such thread that is visible, or its graph is not served any more.
            BadRequestError: The namespace is none of the graph's.
            ConflictError: A state cannot be read.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        if not _graph_id(thread):
            return []

        async def read(backing: Backing) -> list[JsonObject]:
            async with self._open(thread, backing, "threads.read") as graph:
                with _readable(thread_id):
                    states = graph.aget_state_history(
                        _config(thread_id, checkpoint),
                        filter=metadata,
                        before=_config(thread_id, {"checkpoint_id": before}) if before else None,
                        limit=limit,
                    )
                    return [state_json(snapshot) async for snapshot in states]

        return await self._reader(thread).run(read)

    async def update(
        self,
        thread_id: str,
        values: Any,
        *,
        as_node: str | None = None,
        checkpoint: JsonObject | None = None,
        access: Access,
    ) -> JsonObject:
        """
        Change the state of an idle thread, as if a node had returned `values`.

        The new checkpoint follows the newest one, or `checkpoint`: a fork. It and the thread's
        status are two transactions, and the first one counts: whoever takes the thread in between
        settles its status, and until somebody does it is what it was before.

        Returns:
            The address of the new checkpoint.

        Raises:
            NotFoundError: There is no such thread, graph or checkpoint.
            ThreadBusyError: A run is pending or running on the thread.
            LeaseLostError: A run took the thread meanwhile; nothing was changed.
            BadRequestError: No run gave the thread a graph yet, or the graph refuses the values.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        if not _graph_id(thread):
            raise _no_graph(thread_id)
        config = _config(thread_id, checkpoint)
        await self._require(config)

        async def apply(graph: AnyGraph, config: RunnableConfig) -> RunnableConfig:
            return await graph.aupdate_state(config, values, as_node=as_node)

        return await self._write(thread, config, apply, access)

    async def change(
        self,
        thread_id: str,
        apply: Callable[[AnyGraph, RunnableConfig], Awaitable[RunnableConfig]],
        *,
        access: Access,
    ) -> JsonObject:
        """
        Change the newest state of an idle thread by what `apply` does with its graph, under a lease.

        Returns, and raises, as `update`; and what `apply` raises of ours.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        if not _graph_id(thread):
            raise _no_graph(thread_id)
        return await self._write(thread, _config(thread_id), apply, access)

    async def begin_anew(
        self,
        thread_id: str,
        values: Callable[[AnyGraph, JsonObject], JsonObject],
        *,
        is_answered: bool,
        first: Callable[[], Awaitable[None]] | None = None,
        access: Access,
    ) -> JsonObject:
        """
        Give an idle thread a state that continues none, made of the values of its newest one.

        Args:
            values: What the graph is given, as its input.
            is_answered: Nothing is to be done about it; else the graph is to begin with it.
            first: Called once the thread is leased: what it finds there then is so until it is written,
                or nothing is.

        Returns, and raises, as `update`; and what `values` and `first` raise of ours.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        if not _graph_id(thread):
            raise _no_graph(thread_id)

        async def apply(graph: AnyGraph, config: RunnableConfig) -> RunnableConfig:
            # Of its checkpoint: what a run that was stopped had yet to save is not in it.
            newest = await graph.aget_state(config)
            snapshot = await graph.aget_state(newest.config)
            steps = [[StateUpdate(values(graph, snapshot.values), START)]]
            if is_answered:
                steps.append([StateUpdate(None, END)])
            with cast("Saver", graph.checkpointer).beginning_anew():
                return await graph.abulk_update_state(config, steps)

        return await self._write(thread, _config(thread_id), apply, access, first)

    async def settle(self, thread_id: str, *, access: Access) -> None:
        """
        Give an idle thread the status that its newest state means.

        Raises:
            NotFoundError: There is no such thread, or its graph is not served.
            ThreadBusyError: A run is pending or running on it, and settles it.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        lease = await threads.lease(self._db, thread_id, access=access)

        async def read(backing: Backing) -> StateSnapshot:
            async with self._open(thread, backing, "threads.read") as graph:
                with _readable(thread_id):
                    return await graph.aget_state(_config(thread_id))

        await self._settle(lease, await self._reader(thread).run(read))

    async def begin(
        self, thread_id: str, supersteps: Sequence[Sequence[JsonObject]], *, access: Access
    ) -> None:
        """
        Give a thread states to begin with.

        Args:
            supersteps: One after the other; of each the updates that were made at the same time:
                ``as_node``, and the ``values`` or the ``command`` that it returned.

        Raises: as `update`. States of supersteps before a wrong one are left: delete the thread.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        steps = [[_state_update(update) for update in updates] for updates in supersteps]

        async def apply(graph: AnyGraph, config: RunnableConfig) -> RunnableConfig:
            return await graph.abulk_update_state(config, steps)

        await self._write(thread, _config(thread_id), apply, access)

    async def adopt(
        self,
        thread_id: str,
        stretches: Sequence[Stretch],
        *,
        head: int | None = None,
        forgotten: Sequence[str] = (),
        access: Access,
    ) -> None:
        """
        Have an idle thread go on from a conversation that was held elsewhere; nothing is run.

        Args:
            stretches: What was said, as `graph.adoption` writes it; one at least.
            head: The stretch that the thread is at in the end; the last unless given.
            forgotten: Messages of it that the model is not to see.

        Raises: as `update`; BadRequestError too if the graph keeps no messages.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        self.require_graph(thread_id, thread.metadata)
        channel = self._registry.messages_channel(_graph_id(thread))
        if channel is None:
            raise BadRequestError(
                f"Graph '{_graph_id(thread)}' keeps no messages", code="no_messages"
            )

        async def apply(graph: AnyGraph, config: RunnableConfig) -> RunnableConfig:
            at = len(stretches) - 1 if head is None else head
            return await adopt(graph, config, channel, stretches, head=at, forgotten=forgotten)

        config = _config(thread_id)
        config["metadata"] = {IMPORTED: True}
        await self._write(thread, config, apply, access)

    async def converse(
        self,
        thread_id: str,
        edit: Callable[[list[Any]], Sequence[BaseMessage]],
        *,
        access: Access,
    ) -> bool:
        """
        Change the conversation of an idle thread, after which nothing is next, whatever was.

        One checkpoint, where the graph has a node after which it ends; else another one clears what
        would be next. A question that the graph had asked is dropped, as by a new message.

        Args:
            edit: From the messages that the model sees to what the graph is given: messages to
                add, each with an id, or ``RemoveMessage``s. With none, nothing is written.

        Returns:
            Whether anything was written.

        Raises: as `update`; its BadRequestError also if the graph has no conversation.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        self.require_graph(thread_id, thread.metadata)
        channel = self._registry.messages_channel(_graph_id(thread))
        if channel is None:
            raise BadRequestError(
                f"Graph '{_graph_id(thread)}' keeps no messages", code="no_messages"
            )
        config = _config(thread_id)
        is_written = False

        async def apply(graph: AnyGraph, config: RunnableConfig) -> RunnableConfig:
            nonlocal is_written
            with _readable(thread_id):
                before = await graph.aget_state(config)
            given = list(edit(_listed_in(before, channel)))
            if not given:
                return before.config
            is_written = True
            return await end_with(graph, config, {channel: given})

        await self._write(thread, config, apply, access)
        return is_written

    def require_graph(self, thread_id: str, metadata: JsonObject) -> None:
        """
        Check that a thread with this metadata would have a graph to update its state by.

        Raises:
            BadRequestError: It names none.
            UnknownGraphError: langgraph.json has no such graph.
            InvalidGraphError: The graph failed to load.
        """
        graph_id = metadata.get("graph_id")
        if not isinstance(graph_id, str) or not graph_id:
            raise _no_graph(thread_id)
        self._registry.is_static(graph_id)

    async def _write(
        self,
        thread: Thread,
        config: RunnableConfig,
        apply: Callable[[AnyGraph, RunnableConfig], Awaitable[RunnableConfig]],
        access: Access,
        first: Callable[[], Awaitable[None]] | None = None,
    ) -> JsonObject:
        """Write to an idle thread, settle it, and tell; the address of the newest checkpoint."""
        thread_id = thread.thread_id
        lease = await threads.lease(self._db, thread_id, access=access)
        if first is not None:
            await first()
        # What a checkpoint's metadata says of its graph.
        config["configurable"]["graph_id"] = _graph_id(thread)

        async def write(backing: Backing) -> tuple[RunnableConfig, StateSnapshot]:
            saver = backing.saver.leased(
                lease,
                run_id=None,
                messages_channel=self._registry.messages_channel(_graph_id(thread)),
                alive=lambda: True,
            )
            leased = Backing(saver, backing.items, backing.db)
            async with self._open(thread, leased, "threads.update") as graph:
                saver.attend(graph.channels)
                with _applicable():
                    written = await apply(graph, config)
                with _readable(thread_id):
                    return written, await graph.aget_state(_config(thread_id))

        written, snapshot = await self._place.run(write)
        address = checkpoint_json(written) or {}
        if await self._settle(lease, snapshot):
            writer = self._events.writer(thread_id, lease.epoch, run_id="")
            writer.emit(STATE_UPDATE, dumps({"checkpoint_id": address.get("checkpoint_id")}))
            writer.close()
        return address

    async def _settle(self, lease: Lease, snapshot: StateSnapshot) -> bool:
        """Whether the thread may be told of its new state: it is there, and no run has it."""
        status, interrupts = status_of(snapshot), interrupts_of(snapshot)
        try:
            return await repeated(
                lambda: threads.settle(self._db, lease, status=status, interrupts=interrupts)
            )
        except UnavailableError as exc:
            # The change is on disk: to refuse it now would have it made twice.
            log.warning("status not settled", thread_id=lease.thread_id, reason=exc.message)
            return False

    async def values(self, thread_id: str, *, access: Access) -> Any:
        """
        Read the values of a thread; None if it has none, or none that can be read.

        Raises:
            NotFoundError: There is no such thread.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        return (await self.values_of([thread])).get(thread_id)

    async def values_of(self, found: Sequence[Thread], *, as_json: bool = False) -> dict[str, Any]:
        """
        Read the values of many threads, by their ids, in one round trip.

        With `as_json` messages may be plain dicts, as in JSON, which takes less work. Missing are threads
        without a checkpoint or with one that cannot be read, and those whose graph is not served: a list of
        threads is answered all the same.
        """
        outputs = await self._outputs(found)
        values = {}
        for head in await self._heads(list(outputs), as_json=as_json):
            thread_id = head.config["configurable"]["thread_id"]
            with _listed(thread_id):
                values[thread_id] = await self._output_of(head, outputs[thread_id])
        return values

    async def _output_of(self, head: CheckpointTuple, output: _Output) -> Any:
        stored = head.checkpoint["channel_values"]
        absent = {
            name: channel
            for name, channel in output.replayed.items()
            if isinstance(stored.get(name), _DeltaSnapshot)
            or (name not in stored and name in head.checkpoint["channel_versions"])
        }
        if absent:
            channels, _ = await achannels_from_checkpoint(
                absent, head.checkpoint, saver=self._saver, config=head.config
            )
            stored = stored | {name: c.get() for name, c in channels.items() if c.is_available()}
        if isinstance(output.names, str):
            return stored.get(output.names)
        return {name: stored[name] for name in output.names if name in stored}

    async def values_of_run(self, run: Run) -> Any:
        """
        Read the values that a run has led to so far, or has left, whatever came after it.

        None if it left none, or none that can be read.

        Raises:
            NotFoundError: Its thread is gone.
        """
        thread = await threads.get(self._db, run.thread_id, access=EVERYTHING)
        output = (await self._outputs([thread])).get(run.thread_id)
        found = await self._of_run(run) if output else None
        if found is None or output is None:
            return None
        with _listed(run.thread_id):
            return await self._output_of(found, output)
        return None

    async def _of_run(self, run: Run) -> CheckpointTuple | None:
        """The newest checkpoint of a run; that of its thread, if it goes on and has none yet."""
        try:
            own = self._saver.alist(_config(run.thread_id), filter={"run_id": run.run_id}, limit=1)
            async for found in own:
                return found
        except CONTENT_ERRORS as exc:
            log.warning("state cannot be read", thread_id=run.thread_id, error=exc)
            return None
        heads = await self._readable_head(run.thread_id)
        # Asked after it was read: until a run ends nobody else writes to its thread.
        now = await runs.find(self._db, run.run_id, access=EVERYTHING)
        return heads[0] if heads and now and now.status in ("pending", "running") else None

    async def _outputs(self, found: Sequence[Thread]) -> dict[str, _Output]:
        """What the values of each thread are; missing are those whose graph is not served."""
        of_graphs: dict[str, _Output | None] = {}
        for thread in found:
            if _graph_id(thread) not in of_graphs:
                of_graphs[_graph_id(thread)] = await self._output(thread)
        of_threads = ((thread.thread_id, of_graphs[_graph_id(thread)]) for thread in found)
        return {thread_id: output for thread_id, output in of_threads if output}

    async def _output(self, thread: Thread) -> _Output | None:
        try:
            return await self._reader(thread).run(
                lambda backing: self._read_output(thread, backing)
            )
        except UnknownGraphError:
            return None
        except (InvalidGraphError, OSError, RuntimeError, *CONTENT_ERRORS) as exc:
            log.warning("graph cannot be opened", graph_id=_graph_id(thread), error=exc)
            return None

    async def _read_output(self, thread: Thread, backing: Backing) -> _Output:
        async with self._open(thread, backing, "threads.read") as graph:
            names = graph.stream_channels_asis
            replayed = {
                name: channel
                for name in ([names] if isinstance(names, str) else names)
                # The latter may have been a DeltaChannel once.
                if isinstance(
                    channel := graph.channels[name], DeltaChannel | BinaryOperatorAggregate
                )
            }
            return _Output(names, replayed)

    async def _heads(self, thread_ids: list[str], *, as_json: bool) -> list[CheckpointTuple]:
        try:
            return await self._saver.heads(thread_ids, as_json=as_json)
        except CONTENT_ERRORS:
            # One of them cannot be read; which one shows when each is read alone.
            return [head for key in thread_ids for head in await self._readable_head(key)]

    async def _readable_head(self, thread_id: str) -> list[CheckpointTuple]:
        try:
            return await self._saver.heads([thread_id])
        except CONTENT_ERRORS as exc:
            log.warning("state cannot be read", thread_id=thread_id, error=exc)
            return []

    async def _require(self, config: RunnableConfig) -> None:
        """Check that the checkpoint which is to be changed exists, if one is named."""
        configurable = config["configurable"]
        if "checkpoint_id" in configurable:
            with _readable(configurable["thread_id"]):
                await require_checkpoint(self._saver, config)

    def _reader(self, thread: Thread) -> Place:
        """Where to read: a graph that is there already runs no code of its author for that."""
        return self._here if self._registry.is_static(_graph_id(thread)) else self._place

    def _open(
        self, thread: Thread, backing: Backing, access_context: AccessContext
    ) -> AbstractAsyncContextManager[AnyGraph]:
        inherited = thread.config.get("configurable") or {}
        about = {"thread_id": thread.thread_id, "graph_id": _graph_id(thread)}
        return self._registry.open(
            _graph_id(thread),
            {"configurable": {**inherited, **about}},
            checkpointer=backing.saver,
            store=backing.items,
            access_context=access_context,
        )


def _listed_in(snapshot: StateSnapshot, channel: str) -> list[Any]:
    found = snapshot.values.get(channel) if isinstance(snapshot.values, dict) else None
    return found if isinstance(found, list) else []


def _no_graph(thread_id: str) -> BadRequestError:
    return BadRequestError(
        f"Thread '{thread_id}' has no assigned graph ID: make a run on it first, or set `graph_id` "
        "in its metadata",
        code="no_graph",
    )


def _state_update(update: JsonObject) -> StateUpdate:
    command = update.get("command")
    values = update.get("values") if command is None else as_command(command)
    return StateUpdate(cast("Any", values), update["as_node"])


def _graph_id(thread: Thread) -> str:
    """The graph that the thread's state belongs to; empty if no run chose one yet."""
    graph_id = thread.metadata.get("graph_id")
    return graph_id if isinstance(graph_id, str) else ""


def _config(thread_id: str, checkpoint: JsonObject | None = None) -> RunnableConfig:
    named = {key: value for key, value in (checkpoint or {}).items() if value is not None}
    return {"configurable": {"checkpoint_ns": "", **named, "thread_id": thread_id}}


@contextmanager
def _listed(thread_id: str) -> Iterator[None]:
    """Say that a stored value cannot be read, and go on without it."""
    try:
        yield
    except CONTENT_ERRORS as exc:
        log.warning("state cannot be read", thread_id=thread_id, error=exc)


@contextmanager
def _readable(thread_id: str) -> Iterator[None]:
    """Tell that a stored state cannot be read: code or types it was written with are gone."""
    try:
        yield
    except CONTENT_ERRORS as exc:
        log.warning("state cannot be read", thread_id=thread_id, error=exc)
        raise ConflictError(
            f"The state of thread {thread_id} cannot be read", code="unreadable_state"
        ) from exc


@contextmanager
def _applicable() -> Iterator[None]:
    """Tell that the graph refuses a client's values: its channels' reducers may raise anything."""
    try:
        yield
    except (InvalidUpdateError, RuntimeError, *CONTENT_ERRORS) as exc:
        raise BadRequestError(str(exc) or type(exc).__name__, code="invalid_update") from exc
