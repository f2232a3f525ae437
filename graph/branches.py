"""
A conversation changed by its reader: gone back, corrected, cut out of, copied up to a message.

All of it is new checkpoints, by the graph itself: LangGraph and Studio show the same.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, cast

from langchain_core.messages import RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import TASKS
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, Send, StateSnapshot, StateUpdate

from graph.adoption import end_with
from graph.executor import Executor
from graph.factory import AnyGraph
from graph.schema import messages_channel
from graph.snapshots import CORRECTED_AS, interrupts_of
from graph.state import States
from graph.stopped import appends
from store import branches, messages, threads
from store.access import EVERYTHING, Access
from store.checkpoints import Saver
from store.database import Database
from store.errors import ConflictError, InvalidInputError, ThreadBusyError, UnsupportedError
from store.models import JsonObject, Message
from store.projection import identified
from store.threads import NewThread

#: Of a list of messages, what is to be given to the graph to change it.
Change = Callable[[dict[str, Any]], list[Any]]
#: Of the path of a task that is next by its node's name, and not by a ``Send``.
_BY_NAME: Final = "__pregel_pull"
#: What is not in the name of a node.
_BETWEEN_NODES: Final = "|"
#: Messages that are read at a time.
_PAGE = 500
#: Updates in a row that are looked behind, for the nodes that led to what is next.
_UPDATES = 50


class Branches:
    """
    Changes conversations that are idle, message by message; one for each process.

    Args:
        executor: Projects the messages of a copy.
    """

    def __init__(self, *, db: Database, states: States, executor: Executor) -> None:
        self._db = db
        self._states = states
        self._executor = executor

    async def go_to(self, thread_id: str, message_id: str, *, access: Access) -> str:
        """
        Make the state in which a message is the last one the newest: a copy of its checkpoint.

        Returns:
            The checkpoint that the conversation goes on from now.

        Raises:
            NotFoundError: There is no such message that is visible.
            ConflictError: No checkpoint is kept that ends with it: ``no_state``.
            ThreadBusyError: A run is pending or running on the thread.
            LeaseLostError: A run took the thread meanwhile; nothing was changed.
        """
        place = await branches.state_after(self._db, thread_id, message_id, access=access)
        if place.is_head:
            return str(place.checkpoint_id)
        if place.checkpoint_id is None:
            return await self.begin_anew(thread_id, message_id, access=access)
        at = {"checkpoint_id": place.checkpoint_id}
        copied = await self._states.update(
            thread_id, None, as_node="__copy__", checkpoint=at, access=access
        )
        return str(copied["checkpoint_id"])

    async def begin_anew(
        self,
        thread_id: str,
        message_id: str | None,
        *,
        is_answered: bool = True,
        first: Callable[[], Awaitable[None]] | None = None,
        access: Access,
    ) -> str:
        """
        Go back to a message of which no checkpoint is kept, by what the model sees now up to it.

        What the state has beside the messages is as now, as far as the graph takes it for its input.

        Args:
            message_id: None for the state before anything was said.
            is_answered: The graph is not to answer it.
            first: As for `States.begin_anew`.

        Returns:
            The checkpoint that the conversation goes on from now, which continues no other.

        Raises:
            ConflictError: The model does not see the message now: ``no_state``.
            Error: Others as `go_to`; and what `first` raises.
        """

        def values(graph: AnyGraph, newest: JsonObject) -> JsonObject:
            return _up_to(graph, newest, message_id)

        begun = await self._states.begin_anew(
            thread_id, values, is_answered=is_answered, first=first, access=access
        )
        return str(begun["checkpoint_id"])

    async def edit(
        self, thread_id: str, message_id: str, content: str | list[JsonObject], *, access: Access
    ) -> Message:
        """
        Give a message another content, where it stands; nothing is answered again.

        Raises:
            NotFoundError: There is no such message that is visible.
            ConflictError: The model does not see it: ``not_in_context``; or the graph waits for an
                answer: ``session_interrupted``; or a part of the next step is done: ``step_unfinished``.
            Error: Others as `go_to`.
        """
        found = await messages.get(self._db, thread_id, message_id, access=access)
        if not found.in_context:
            raise _not_in_context(message_id)

        def change(listed: dict[str, Any]) -> list[Any]:
            message = _own(listed, message_id)
            if isinstance(message, dict):
                return [{**message, "content": content}]
            return [message.model_copy(update={"content": content})]

        await self._change(thread_id, change, access)
        return await messages.get(self._db, thread_id, message_id, access=access)

    async def remove(self, thread_id: str, message_id: str, *, access: Access) -> None:
        """
        Take a message out of the conversation: the model does not see it, nor does the history show it.

        The answers of tools go with the message that called them.

        Raises:
            InvalidInputError: It is a tool's answer, without which its call would be left open.
            Error: Others as `edit`.
        """
        found = await messages.get(self._db, thread_id, message_id, access=access)
        if found.role == "tool":
            raise InvalidInputError("A tool's answer goes with the message that called the tool")
        calls = _calls(found.meta_data)
        gone = {message_id, *await self._answers_since(found, calls)}

        def change(listed: dict[str, Any]) -> list[Any]:
            _own(listed, message_id)
            after = list(listed.items())[list(listed).index(message_id) + 1 :]
            going = [message_id, *_answers(calls, after)]
            gone.update(going)
            return [RemoveMessage(id_) for id_ in going]

        if found.in_context:
            await self._change(thread_id, change, access)
        # After the change: whoever asks again, because it was not heard, is not shown it either.
        await messages.delete(self._db, thread_id, list(gone), access=access)

    async def fork(
        self, thread_id: str, message_id: str | None, new: NewThread, *, access: Access
    ) -> None:
        """
        Make a thread that is as another one was when a message was the last one: its line alone.

        The other one may be in the middle of a run.

        Args:
            message_id: None for the last one of the branch that is shown.
            access: Which threads may be copied.

        Raises:
            NotFoundError: There is no such thread or message that is visible.
            ConflictError: No checkpoint is kept that ends with it, nor does the model see it: ``no_state``.
        """
        if message_id is None:
            message_id = await branches.last(self._db, thread_id, access=access)
        if message_id is None:
            raise ConflictError("The session has no messages", code="no_messages")
        place = await branches.state_after(self._db, thread_id, message_id, access=access)
        await branches.copy_line(
            self._db,
            thread_id,
            new,
            message_id=message_id,
            checkpoint_id=place.checkpoint_id,
            access=access,
        )
        is_known = False
        try:
            if place.checkpoint_id is None:
                await self._begin_copy(thread_id, message_id, new.thread_id)
            await self._executor.project(new.thread_id)
            await branches.know(self._db, new.thread_id)
            is_known = True
        finally:
            if not is_known:
                # It would be without messages, and nothing would be told of it.
                await threads.delete(self._db, new.thread_id, access=EVERYTHING)
        with suppress(ThreadBusyError):  # somebody talks there already: their run settles it
            await self._states.settle(new.thread_id, access=EVERYTHING)

    async def _begin_copy(self, source_id: str, message_id: str, thread_id: str) -> None:
        """Begin a thread with what the model sees of another one now, up to a message."""
        newest = await self._states.get(source_id, access=EVERYTHING)
        # Of its checkpoint, as `begin_anew`.
        seen = await self._states.get(source_id, checkpoint=newest["checkpoint"], access=EVERYTHING)

        def values(graph: AnyGraph, _: JsonObject) -> JsonObject:
            return _up_to(graph, seen["values"], message_id)

        await self._states.begin_anew(thread_id, values, is_answered=True, access=EVERYTHING)

    async def _answers_since(self, found: Message, calls: set[str]) -> list[str]:
        """The answers to a message's calls in the whole history, whether or not the model sees them."""
        answers: list[str] = []
        seq, has_more = found.seq, bool(calls)
        while has_more:
            page, has_more = await messages.list_page(
                self._db, found.conversation_id, limit=_PAGE, after_seq=seq, branch="all"
            )
            answers += _answers(calls, ((row.id, row.meta_data) for row in page))
            has_more = has_more and not any(calls & _calls(row.meta_data) for row in page)
            seq = page[-1].seq if page else seq
        return answers

    async def _change(self, thread_id: str, change: Change, access: Access) -> None:
        async def apply(graph: AnyGraph, config: RunnableConfig) -> RunnableConfig:
            channel = _channel(graph)
            snapshot = await graph.aget_state(config)
            _require_whole_step(snapshot)
            changes = change(
                {
                    id_: message
                    for id_, (message, _) in identified(snapshot.values.get(channel)).items()
                }
            )
            if not snapshot.next:
                # A node that LangGraph guesses may lead on, or there may be none to guess.
                return await end_with(graph, config, {channel: changes})
            return await _go_on_with(graph, config, snapshot, channel, changes)

        await self._states.change(thread_id, apply, access=access)


async def _go_on_with(
    graph: AnyGraph,
    config: RunnableConfig,
    snapshot: StateSnapshot,
    channel: str,
    changes: list[Any],
) -> RunnableConfig:
    """
    Change messages as the nodes that made the state, so that what is next is next thereafter.

    The edges of these nodes lead on again: conditional edges see the change. What a ``Command`` of theirs
    said is next is said again, unless one of them has conditional edges, or tool calls are taken out that
    wait to be made.
    """
    saver = cast("Saver", graph.checkpointer)
    found = await saver.aget_tuple(snapshot.config)
    last = await _last_nodes(graph, snapshot, found)
    goto: list[str | Send] = []
    # What is next does not tell who said so: where there are conditional edges, they may have.
    is_decided_anew = any(_has_conditional_edges(graph, name) for name in last)
    if not is_decided_anew and not _withdraws_calls(snapshot.values.get(channel) or [], changes):
        goto += [task.name for task in snapshot.tasks if task.path[0] == _BY_NAME]
        goto += (found.checkpoint["channel_values"].get(TASKS) or []) if found else []
    said = cast("Any", Command(update={channel: changes}, goto=goto))
    if not last:
        # Then LangGraph knows which.
        return await graph.aupdate_state(config, said)
    updates = [StateUpdate(said, last[0]), *(StateUpdate(None, name) for name in last[1:])]
    marked: RunnableConfig = {**config, "metadata": {CORRECTED_AS: _BETWEEN_NODES.join(last)}}
    return await graph.abulk_update_state(marked, [updates])


async def _last_nodes(
    graph: AnyGraph, snapshot: StateSnapshot, found: CheckpointTuple | None
) -> list[str]:
    """The nodes that led to what is next in a state, in a step or by an update; none if not known."""
    at = snapshot
    for _ in range(_UPDATES):
        about = at.metadata or {}
        if not at.parent_config or about.get("source") not in ("loop", "update"):
            break
        corrected = str(about.get(CORRECTED_AS, "")).split(_BETWEEN_NODES)
        if graph.nodes.keys() >= set(corrected):
            return corrected
        before = await graph.aget_state(at.parent_config)
        if about.get("source") == "loop":
            # With the durability `exit` not every step has its checkpoint.
            if (before.metadata or {}).get("step") == about["step"] - 1:
                return sorted({task.name for task in before.tasks})
            break
        # A client's, as a node that was next: LangGraph keeps it as the result of its task.
        written = sorted({task.name for task in before.tasks if task.result is not None})
        if written:
            return written
        if sorted(before.next) != sorted(at.next):
            break
        at = before
    # What a ``Send`` began is not in it.
    seen = found.checkpoint["versions_seen"] if found else {}
    spoke = {name: max(of.values()) for name, of in seen.items() if of and name in graph.nodes}
    return sorted(name for name in spoke if spoke[name] == max(spoke.values()))


def _require_whole_step(snapshot: StateSnapshot) -> None:
    """Check that nothing of the next step is done, or waits for an answer: it would be lost."""
    if interrupts_of(snapshot):
        raise ConflictError(
            "The session waits for an answer: give it first", code="session_interrupted"
        )
    if any(task.result is not None for task in snapshot.tasks):
        raise ConflictError(
            "A part of the session's next step is done: let a run without input finish it first",
            code="step_unfinished",
        )


def _has_conditional_edges(graph: AnyGraph, node: str) -> bool:
    return isinstance(graph, CompiledStateGraph) and bool(graph.builder.branches.get(node))


def _withdraws_calls(listed: Iterable[Any], changes: Iterable[Any]) -> bool:
    """Whether a change takes messages out whose tool calls have no answer yet."""
    gone = {change.id for change in changes if isinstance(change, RemoveMessage)}
    calls = {call for one in listed if _read(one, "id") in gone for call in _calls(one)}
    return bool(calls - {str(_read(one, "tool_call_id")) for one in listed})


def _channel(graph: AnyGraph) -> str:
    """Where a graph's messages are, of which each can be changed."""
    channel = messages_channel(graph)
    if channel is None or not appends(graph, channel):
        raise UnsupportedError("This graph's messages cannot be changed one by one")
    return channel


def _up_to(graph: AnyGraph, values: JsonObject, message_id: str | None) -> JsonObject:
    """The values of a state with the messages up to one, or with none."""
    channel = _channel(graph)
    listed = values.get(channel) or []
    if message_id is None:
        return {**values, channel: []}
    _, position = identified(listed).get(message_id, (None, None))
    if position is None:
        raise no_state(message_id)
    return {**values, channel: listed[: position + 1]}


def no_state(message_id: str | None) -> ConflictError:
    """No checkpoint is kept that ends with a message, or at the beginning."""
    where = f"message {message_id}" if message_id else "the beginning"
    return ConflictError(f"No state of the session is kept that ends at {where}", code="no_state")


def _not_in_context(message_id: str) -> ConflictError:
    return ConflictError(
        f"Message {message_id} is not in what the model sees", code="not_in_context"
    )


def _own(listed: dict[str, Any], message_id: str) -> Any:
    """A message of a list by an id of its own, by which the graph knows it too."""
    message = listed.get(message_id)
    if message is None:
        raise _not_in_context(message_id)
    if _read(message, "id") != message_id:
        raise UnsupportedError("A message that its graph gave no id cannot be changed")
    return message


def _calls(message: Any) -> set[str]:
    """The ids of the tool calls that a message makes."""
    found = (_read(message, key) for key in ("tool_calls", "invalid_tool_calls"))
    calls = (call for listed in found if isinstance(listed, list) for call in listed)
    return {str(call.get("id") or "") for call in calls if isinstance(call, dict)}


def _answers(calls: set[str], after: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """The tools' answers to calls among later messages, up to other calls by the same ids."""
    for id_, message in after:
        if calls & _calls(message):
            return
        answered = _read(message, "tool_call_id")
        if answered is not None and str(answered) in calls:
            yield id_


def _read(message: Any, key: str) -> Any:
    return message.get(key) if isinstance(message, dict) else getattr(message, key, None)
