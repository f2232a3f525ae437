"""What remembers: a real small model of embeddings, graphs with a memory, and stores of one's own."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import wordllama
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore, Op, Result
from langgraph.store.memory import InMemoryStore

DIMS = 256


@cache
def _model() -> Any:
    # The weights are in the package; it looks for its tokenizer beside a cache.
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors of a model with 16 MB of weights; of numbers of numpy's own kind."""
    return list(_model().embed(list(texts), norm=True))


async def embed_badly(texts: Sequence[str]) -> list[list[float]]:
    """Too short, and for one text nothing at all."""
    if "secret" in texts[0]:
        raise ConnectionError("the key sk-secret is wrong")
    return [[1.0, 2.0] for _ in texts]


async def remember(state: MessagesState, runtime: Runtime[None]) -> dict[str, Any]:
    """Keeps what was said, and answers with what is most like it of all that was said before."""
    assert runtime.store is not None
    said = str(state["messages"][-1].content)
    found = await runtime.store.asearch(("said",), query=said, limit=1)
    await runtime.store.aput(("said",), said, {"text": said})
    return {"messages": [("ai", found[0].value["text"] if found else "nothing")]}


async def recall(state: MessagesState, runtime: Runtime[None]) -> dict[str, Any]:
    """Reads without awaiting, as a sync library does."""
    assert runtime.store is not None
    item = await runtime.store.aget(("said",), "now")
    return {"messages": [("ai", item.value["text"] if item else "nothing")]}


remembers = StateGraph(MessagesState).add_node(remember).add_edge(START, "remember").compile()
recalls = StateGraph(MessagesState).add_node(recall).add_edge(START, "recall").compile()


class Shelf(BaseStore):
    """A store of the user's own, which keeps no lifetimes."""

    def __init__(self) -> None:
        self._kept = InMemoryStore()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        return self._kept.batch(ops)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        return await self._kept.abatch(ops)


opened: list[str] = []


@asynccontextmanager
async def shelf() -> AsyncIterator[Shelf]:
    opened.append("opened")
    try:
        yield Shelf()
    finally:
        opened.append("closed")


def no_shelf() -> str:
    return "a string"


class Notebook(InMemorySaver):
    """A checkpointer of the user's own, without any of the methods that are optional."""


class FullNotebook(Notebook):
    """One with some of them."""

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        for namespaces in self.storage.values():
            for checkpoints in namespaces.values():
                for key, (_, metadata, _) in list(checkpoints.items()):
                    if self.serde.loads_typed(metadata).get("run_id") in run_ids:
                        del checkpoints[key]

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        async for found in self.alist({"configurable": {"thread_id": source_thread_id}}):
            config = {**found.config["configurable"], "thread_id": target_thread_id}
            config["checkpoint_id"] = None
            versions = found.checkpoint["channel_versions"]
            await self.aput({"configurable": config}, found.checkpoint, found.metadata, versions)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        for thread_id in thread_ids:
            for checkpoints in self.storage[thread_id].values():
                for key in sorted(checkpoints)[:-1]:
                    del checkpoints[key]


notebooks: list[Notebook] = []


async def notebook() -> Notebook:
    notebooks.append(Notebook())
    return notebooks[-1]


def full_notebook() -> Notebook:
    notebooks.append(FullNotebook())
    return notebooks[-1]
