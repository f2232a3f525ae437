"""
The conversation of a session, read and written by others than its runs.

What an old chain says is written as its graph would have: under the thread's lease, so never
between two steps of a run, and in a checkpoint after which nothing is next. Rows, searches and
streams of states then know it as they know every other message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from langchain_core.messages import BaseMessage, RemoveMessage, convert_to_messages

from graph.first_words import LOOK_AT_MESSAGES, begun
from graph.message_json import require_addressable
from graph.registry import Registry
from graph.runs import Runs
from graph.state import States
from store import assistants, runs, threads
from store.access import EVERYTHING, Access
from store.database import Database
from store.errors import (
    BadRequestError,
    ConflictError,
    Error,
    LeaseLostError,
    NotFoundError,
    ThreadBusyError,
)
from store.models import JsonObject, Run

T = TypeVar("T")


class Histories:
    """Reads, extends and empties what the model sees of a session; one for each process."""

    def __init__(self, *, db: Database, registry: Registry, runs: Runs, states: States) -> None:
        self._db = db
        self._registry = registry
        self._runs = runs
        self._states = states

    async def read(self, thread_id: str, *, access: Access) -> list[Any]:
        """
        The messages that the model sees next, in its order.

        Raises:
            NotFoundError: There is no such thread that is visible.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        values = (await self._states.values_of([thread])).get(thread_id)
        graph_id = thread.metadata.get("graph_id")
        channel = self._registry.channel_of(graph_id if isinstance(graph_id, str) else None)
        found = values.get(channel) if isinstance(values, dict) else None
        return list(convert_to_messages(found)) if isinstance(found, list) else []

    async def add(
        self,
        thread_id: str,
        messages: Sequence[BaseMessage],
        *,
        wait_seconds: float = 0.0,
        access: Access,
    ) -> list[str]:
        """
        Add messages to the end; those that are there by their id already are replaced in place.

        Waits for the run that is in flight, if there is one: it is written after it.

        Args:
            wait_seconds: How long, at the most.

        Returns:
            The ids of the messages, those that were made here among them.

        Raises:
            NotFoundError: There is no such thread that is visible, or no graph to write by.
            ThreadBusyError: Runs went on for so long; nothing was written.
            BadRequestError: The graph keeps no messages, or refuses these.
            InvalidInputError: No URL can name one of them by its id.
        """
        for message in messages:
            require_addressable(message.id)
        named = [m if m.id else m.model_copy(update={"id": str(uuid4())}) for m in messages]
        if named:
            await self._write(thread_id, lambda _: named, wait_seconds, access)
            await self._title(thread_id, named)
        return [str(message.id) for message in named]

    async def clear(self, thread_id: str, *, wait_seconds: float = 0.0, access: Access) -> None:
        """
        Take every message out of what the model sees; the history keeps its rows.

        Raises: as `add`.
        """
        await self._write(thread_id, _removals, wait_seconds, access)

    async def _write(
        self,
        thread_id: str,
        edit: Callable[[list[Any]], Sequence[BaseMessage]],
        wait_seconds: float,
        access: Access,
    ) -> None:
        await self.give_graph(thread_id, access=access)

        async def write() -> None:
            await self._states.converse(thread_id, edit, access=access)

        await self._when_idle(thread_id, write, wait_seconds)

    async def _title(self, thread_id: str, said: Sequence[BaseMessage]) -> None:
        """Name a session that has no name yet by what was said, as its first run would."""
        thread = await threads.find(self._db, thread_id, access=EVERYTHING)
        if thread and (title := begun(thread.metadata, as_input(said))):
            await threads.update(self._db, thread_id, metadata=title, access=EVERYTHING)

    async def give_graph(self, thread_id: str, *, access: Access) -> None:
        """
        See that a thread has a graph, as its first run would: the one its session names, or the first.

        Raises:
            NotFoundError: There is no such thread that is visible, or no such graph.
        """
        thread = await threads.get(self._db, thread_id, access=access)
        if not thread.metadata.get("graph_id"):
            graph_id = await self.graph_of(thread.metadata)
            await threads.update(
                self._db, thread_id, metadata={"graph_id": graph_id}, access=access
            )

    async def graph_of(self, metadata: JsonObject) -> str:
        """
        The graph that has answered on a thread with this metadata, or that would.

        Raises:
            InvalidInputError: It names what is no assistant's id and no graph's name.
            NotFoundError: Its assistant is gone, or this server has no graph.
        """
        known = metadata.get("graph_id")
        if isinstance(known, str) and known:
            return known
        named = metadata.get("assistant_id")
        if isinstance(named, str) and named:
            assistant_id = self._runs.assistant_id(named)
            return (await assistants.get(self._db, assistant_id, access=EVERYTHING)).graph_id
        if not self._registry.graph_ids:
            raise NotFoundError("This server has no graph that could answer", code="no_graph")
        return self._registry.graph_ids[0]

    async def _when_idle(
        self, thread_id: str, write: Callable[[], Awaitable[T]], wait_seconds: float
    ) -> T:
        """Write when no run has the thread; a run that comes in between goes first."""
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while True:
            try:
                return await write()
            except (ThreadBusyError, LeaseLostError) as exc:
                busy = exc
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise _busy(thread_id) from busy
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._end_of_runs(thread_id)

    async def _end_of_runs(self, thread_id: str) -> None:
        """Wait for the runs that are in flight, the oldest first."""
        found: list[Run] = []
        for status in ("pending", "running"):
            found += await runs.list_of_thread(
                self._db, thread_id, status=status, limit=100, offset=0, access=EVERYTHING
            )
        for run in reversed(found):
            with suppress(Error):  # it was deleted, or what it came to is not known
                await self._runs.join(
                    await self._runs.attach(run.run_id, thread_id=thread_id, access=EVERYTHING)
                )
        if not found:
            # Its last transaction is under way, or another change of state.
            await asyncio.sleep(RETRY_SECONDS)


def as_input(messages: Sequence[BaseMessage]) -> JsonObject:
    """Messages as a client would say them to a graph."""
    said = messages[:LOOK_AT_MESSAGES]
    return {"messages": [{"type": m.type, "content": m.content} for m in said]}


#: How soon to try again on a thread that nobody is seen to have.
RETRY_SECONDS = 0.05


def _busy(thread_id: str) -> ConflictError:
    return ThreadBusyError(f"Session {thread_id} is still being answered", code="session_busy")


def _removals(messages: list[Any]) -> list[BaseMessage]:
    ids = [getattr(message, "id", None) for message in messages]
    if not all(ids):
        raise BadRequestError("The conversation has messages without ids", code="invalid_update")
    return [RemoveMessage(id=str(id_)) for id_ in ids]
