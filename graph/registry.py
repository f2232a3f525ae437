"""The graphs of a langgraph.json, by graph_id: loaded once, opened for each use."""

import copy
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph_sdk.runtime import AccessContext, _ExecutionRuntime, _ReadRuntime

from graph import schema
from graph.config import GraphConfig, GraphEntry
from graph.factory import AnyGraph, Factory, InvalidGraphError, load, reason
from graph.user import current_user
from store.errors import NotFoundError
from store.folds import fold_of
from store.heads import Fold

log = structlog.get_logger(__name__)


class UnknownGraphError(NotFoundError):
    """langgraph.json has no such graph."""

    default_code = "unknown_graph"


class Registry:
    """
    Graphs by graph_id; made by `load()`. Safe to share: nothing in it changes after that.

    A static graph is compiled once and opened as a shallow copy; a factory is called each time.
    """

    def __init__(
        self,
        entries: Mapping[str, GraphEntry],
        sources: Mapping[str, AnyGraph | Factory],
        failures: Mapping[str, str],
    ) -> None:
        self._entries = entries
        self._sources = sources
        self._schemas: dict[str, schema.JSON] = {}
        self.failures = failures
        """Why each graph that could not be loaded was not, by graph_id."""

    @classmethod
    async def load(cls, config: GraphConfig) -> "Registry":
        """
        Import every graph. One that fails is noted in `failures`; the others are served.

        Puts the file's directory and its dependencies at the end of `sys.path`; does not touch
        the environment, which must be set before. Blocks while the modules are imported.
        """
        for directory in (config.path.parent, *config.dependencies):
            if str(directory) not in sys.path:
                sys.path.append(str(directory))
        sources, failures = {}, {}
        for graph_id, entry in config.graphs.items():
            try:
                source = sources[graph_id] = load(entry.target, config.path.parent)
                _warn_of_its_own(graph_id, source)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's module raises anything
                failures[graph_id] = reason(error)
        return cls(config.graphs, sources, failures)

    @property
    def graph_ids(self) -> list[str]:
        """The graphs that can be run, in the file's order."""
        return list(self._sources)

    def entry(self, graph_id: str) -> GraphEntry:
        """
        The name and description of a graph, loaded or failed.

        Raises:
            UnknownGraphError: langgraph.json has no such graph.
        """
        try:
            return self._entries[graph_id]
        except KeyError:
            raise UnknownGraphError(
                f"Graph '{graph_id}' not found. Expected one of: {sorted(self._entries)}"
            ) from None

    def is_static(self, graph_id: str) -> bool:
        """
        Whether the graph is made already, so that opening it calls nothing of its author.

        Raises: as `open()`.
        """
        return not isinstance(self._source(graph_id), Factory)

    @asynccontextmanager
    async def open(
        self,
        graph_id: str,
        config: RunnableConfig,
        *,
        checkpointer: BaseCheckpointSaver[Any] | None,
        store: BaseStore | None,
        access_context: AccessContext = "threads.create_run",
        user: Any = None,
        context: Any = None,
    ) -> AsyncIterator[AnyGraph]:
        """
        A graph of one's own, bound to this saver and store, for the length of the block.

        Args:
            config: Of the run; a factory may read it.
            access_context, user, context: What a factory's `ServerRuntime` tells of the use. Whoever
                reads a graph is the user of the request; a run has one of its own.

        Raises:
            UnknownGraphError: langgraph.json has no such graph.
            InvalidGraphError: The graph failed to load, or its factory made something else, or
                raised anything when it was not to be run.
            Exception: Whatever a factory raises for a run.
        """
        source = self._source(graph_id)
        if not isinstance(source, Factory):
            yield _bound(source, graph_id, checkpointer, store)
            return
        about: dict[str, Any] = {
            "access_context": access_context,
            "user": user,
            "store": store if store is not None else InMemoryStore(),
        }
        if access_context != "threads.create_run":
            about["user"] = current_user()
            runtime: Any = _ReadRuntime(**about)
        else:
            runtime = _ExecutionRuntime(**about, context=context)
        async with AsyncExitStack() as stack:
            try:
                graph = await stack.enter_async_context(source.open(config, runtime))
            except Exception as error:
                if access_context == "threads.create_run" or isinstance(error, InvalidGraphError):
                    raise
                log.warning("the factory of a graph failed", graph_id=graph_id, exc_info=error)
                raise InvalidGraphError(
                    f"Graph '{graph_id}' is invalid: its factory raised {type(error).__name__}"
                ) from error
            yield _bound(graph, graph_id, checkpointer, store)

    async def schemas(self, graph_id: str, *, store: BaseStore | None = None) -> schema.JSON:
        """The five JSON schemas of a graph, each null if it has none. Raises as `open()`."""
        known = self._schemas.get(graph_id)
        if known is not None:
            return known
        async with self._described(graph_id, store) as graph:
            found = schema.schemas(graph)
        if not isinstance(self._source(graph_id), Factory):
            self._schemas[graph_id] = found
        return found

    async def drawable(
        self, graph_id: str, *, xray: bool | int = False, store: BaseStore | None = None
    ) -> schema.JSON:
        """The nodes and edges of a graph; `xray` opens subgraphs. Raises as `open()`."""
        async with self._described(graph_id, store) as graph:
            return schema.drawable(graph, xray=xray)

    async def subgraphs(
        self,
        graph_id: str,
        namespace: str | None = None,
        *,
        recurse: bool = False,
        store: BaseStore | None = None,
    ) -> schema.JSON:
        """The schemas of a graph's subgraphs by namespace. Raises as `open()`."""
        async with self._described(graph_id, store) as graph:
            return schema.subgraphs(graph, namespace, recurse=recurse)

    def messages_channel(self, graph_id: str) -> str | None:
        """
        The channel a conversation's messages are in; None if the graph has none.

        A factory's graph is not known before it is made: it is taken to follow the convention.
        """
        source = self._source(graph_id)
        return "messages" if isinstance(source, Factory) else schema.messages_channel(source)

    def channels(self, graph_id: str) -> Mapping[str, Any]:
        """
        The channels of a graph; none of a factory's, which is not known before it is made.

        Raises:
            UnknownGraphError: langgraph.json has no such graph.
            InvalidGraphError: The graph failed to load.
        """
        source = self._source(graph_id)
        return {} if isinstance(source, Factory) else source.channels

    def fold_of(self, graph_id: str | None) -> Fold | None:
        """How the channel of `channel_of` comes by its value, if it is a DeltaChannel."""
        if graph_id is None or graph_id not in self._sources:
            return None
        channel = self.channels(graph_id).get(self.channel_of(graph_id) or "")
        return fold_of(channel) if isinstance(channel, DeltaChannel) else None

    def channel_of(self, graph_id: str | None) -> str | None:
        """
        The channel that a stored thread's messages are in, by the graph that its metadata names.

        By convention that of `MessagesState` where no graph says otherwise; None if the graph is
        not served, so that nobody can tell.
        """
        if graph_id is None:
            return "messages"
        return (
            (self.messages_channel(graph_id) or "messages") if graph_id in self._sources else None
        )

    def _described(self, graph_id: str, store: BaseStore | None) -> Any:
        return self.open(
            graph_id,
            {"configurable": {}},
            checkpointer=None,
            store=store,
            access_context="assistants.read",
        )

    def _source(self, graph_id: str) -> AnyGraph | Factory:
        source = self._sources.get(graph_id)
        if source is None:
            self.entry(graph_id)
            raise InvalidGraphError(f"Graph '{graph_id}' is invalid: {self.failures[graph_id]}")
        return source


def _warn_of_its_own(graph_id: str, source: AnyGraph | Factory) -> None:
    """Say that the server's saver and store take the place of those a graph was compiled with."""
    if isinstance(source, Factory):
        return
    for name, its in (("checkpointer", source.checkpointer), ("store", source.store)):
        if its not in (None, True, False):
            log.warning("what a graph was compiled with is not used", graph_id=graph_id, its=name)


def _bound(
    graph: AnyGraph,
    graph_id: str,
    checkpointer: BaseCheckpointSaver[Any] | None,
    store: BaseStore | None,
) -> AnyGraph:
    # Seven times cheaper than Pregel.copy(), which validates again and forgets the classes a
    # checkpoint may hold.
    bound = copy.copy(graph)
    bound.checkpointer, bound.store, bound.name = checkpointer, store, graph_id
    return bound
