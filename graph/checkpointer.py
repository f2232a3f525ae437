"""
A checkpointer of the user's own, in place of ours (`checkpointer.path` of langgraph.json).

It is on the event loop of the graphs, as everything of the user's; what reads beside that loop
crosses over. What ours has beyond LangGraph's interface it does without: its writes are fenced by
this process alone, not in the database, and no messages are projected from them.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)

from store.checkpoints import Saver
from store.errors import LeaseLostError, NotFoundError, UnavailableError, UnsupportedError
from store.models import Lease
from store.placement import PUBLIC_CONFIGURABLE, kept_writes

log = structlog.stdlib.get_logger(__name__)

Result = TypeVar("Result")
Inner = BaseCheckpointSaver[Any]

#: How long a call of the user's checkpointer may take that a request waits for.
ANSWER_SECONDS: Final = 90.0
#: What of `configurable` it is told: where, and what may be seen.
_TOLD: Final = PUBLIC_CONFIGURABLE | {
    "thread_id",
    "checkpoint_ns",
    "checkpoint_id",
    "checkpoint_map",
}


class Elsewhere(Protocol):
    """Another event loop: a `graph.loop.Place`."""

    async def run(self, work: Callable[[Any], Coroutine[Any, Any, Result]]) -> Result:
        """Run a coroutine there."""
        ...


class CustomSaver(BaseCheckpointSaver[Any]):
    """
    The user's checkpointer, as the rest of the server uses ours.

    Args:
        inner: The user's own.
        place: Where it is; None on its own event loop.
    """

    def __init__(self, inner: Inner, place: Elsewhere | None = None) -> None:
        super().__init__(serde=inner.serde)
        self._inner = inner
        self._place = place
        self._alive: Callable[[], bool] = lambda: True
        self._run_id: str | None = None
        self.checkpoint_count = 0
        """How many there are to be pruned is not known."""

    def beside(self, place: Elsewhere) -> "CustomSaver":
        """The same for another event loop than its own."""
        return CustomSaver(self._inner, place)

    def leased(
        self,
        lease: Lease,
        *,
        run_id: str | None,
        messages_channel: str | None = "messages",
        alive: Callable[[], bool],
    ) -> "CustomSaver":
        """One that writes as long as this process may believe in the lease."""
        clone = copy.copy(self)
        clone._alive, clone._run_id = alive, run_id
        return clone

    def attend(self, channels: Mapping[str, Any]) -> None:
        """Nothing is made of a graph's channels here."""

    async def heads(
        self, thread_ids: Sequence[str], *, as_json: bool = False
    ) -> list[CheckpointTuple]:
        """The newest checkpoint of each thread that has one; its messages are made in any case."""

        async def read(inner: Inner) -> list[CheckpointTuple]:
            found = [await inner.aget_tuple(_head(thread_id)) for thread_id in thread_ids]
            return [head for head in found if head is not None]

        return await self._call(read)

    def require(self, method: str, what: str) -> None:
        """
        See that the user's checkpointer has an optional method.

        Raises:
            UnsupportedError: It has not, so `what` cannot be done.
        """
        if getattr(type(self._inner), method) is getattr(BaseCheckpointSaver, method):
            name = type(self._inner).__name__
            raise UnsupportedError(f"{what}: the checkpointer {name} has no `{method}`")

    async def forget_run(self, run_id: str) -> None:
        """Delete what a run wrote; raises UnsupportedError if the checkpointer cannot."""
        self.require("adelete_for_runs", "Taking back a run")
        await self._call(lambda inner: inner.adelete_for_runs([run_id]))

    async def forget_thread(self, thread_id: str) -> None:
        """Delete what a thread has; what cannot be deleted stays, and is warned of."""
        try:
            self.require("adelete_thread", "Deleting the checkpoints of a thread")
            await self._call(lambda inner: inner.adelete_thread(thread_id))
        except (UnsupportedError, UnavailableError) as exc:
            log.warning("checkpoints stay", thread_id=thread_id, reason=exc.message)

    async def copy_to(self, thread_id: str, copy_id: str) -> None:
        """Give a thread the checkpoints of another; raises UnsupportedError if it cannot."""
        self.require("acopy_thread", "Copying a thread")
        await self._call(lambda inner: inner.acopy_thread(thread_id, copy_id))

    async def prune_thread(self, thread_id: str) -> None:
        """Keep a thread's newest checkpoint; raises UnsupportedError if the checkpointer cannot."""
        self.require("aprune", "Pruning")
        await self._call(lambda inner: inner.aprune([thread_id], strategy="keep_latest"))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a checkpoint."""
        return await self._call(lambda inner: inner.aget_tuple(config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """List checkpoints, newest first."""

        async def read(inner: Inner) -> list[CheckpointTuple]:
            listed = inner.alist(config, filter=filter, before=before, limit=limit)
            return [found async for found in listed]

        for found in await self._call(read):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Write a checkpoint, if the thread is still ours as far as this process knows."""
        self._check()
        told: Any = {**metadata, **({"run_id": self._run_id} if self._run_id else {})}
        await self._call(lambda inner: inner.aput(_public(config), checkpoint, told, new_versions))
        at = {**config["configurable"], "checkpoint_id": checkpoint["id"]}
        return {"configurable": {key: at[key] for key in _ADDRESS if key in at}}

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Write what a task of a step has given, under the same condition."""
        self._check()
        kept = kept_writes(writes)
        await self._call(lambda inner: inner.aput_writes(_public(config), kept, task_id, task_path))

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As the user's own counts."""
        return self._inner.get_next_version(current, channel)

    def _check(self) -> None:
        if not self._alive():
            raise LeaseLostError("The thread may belong to another process now")

    async def _call(self, work: Callable[[Inner], Awaitable[Result]]) -> Result:
        if self._place is None:
            return await work(self._inner)

        async def there(backing: Any) -> Result:
            return await work(self._inner)

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._place.run(there)
        except TimeoutError as exc:
            raise UnavailableError("The checkpointer did not answer in time") from exc


AnySaver = Saver | CustomSaver


async def require_checkpoint(saver: AnySaver, config: RunnableConfig) -> None:
    """
    Check that the checkpoint which a config names exists.

    LangGraph would take a missing one for the beginning of a new history.

    Raises:
        NotFoundError: It does not.
    """
    if await saver.aget_tuple(config) is None:
        raise NotFoundError(f"Checkpoint {config['configurable']['checkpoint_id']} not found")


_ADDRESS: Final = ("thread_id", "checkpoint_ns", "checkpoint_id")


def _head(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


def _public(config: RunnableConfig) -> RunnableConfig:
    """The config without what may be secret: a checkpointer may put all of it into the metadata."""
    configurable = config["configurable"]
    return {**config, "configurable": {k: v for k, v in configurable.items() if k in _TOLD}}
