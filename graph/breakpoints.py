"""Where a run was told to stop, for an attempt that goes on from what an earlier one has left."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from langgraph.pregel import Pregel
from langgraph.types import Durability, StateSnapshot

from graph.factory import AnyGraph

#: What a breakpoint for all nodes passes by.
_HIDDEN_TAG: Final = "langsmith:hidden"

Nodes = Literal["*"] | Sequence[str]


async def reached(
    graph: AnyGraph, config: Any, *, before: Nodes | None, after: Nodes | None
) -> StateSnapshot | None:
    """
    The newest state of a run, if that is where one of its breakpoints is; else None.

    LangGraph takes being continued for the answer to a breakpoint. A run whose process was lost before
    it could write down that it had stopped would go through, with nobody asked.

    Args:
        config: Of the newest checkpoint, which the run has made itself.
        before: The run's `interrupt_before`; None leaves it to the graph.
        after: Likewise. The step before must have a checkpoint: see `durability`.
    """
    own = any(one.interrupt_before_nodes or one.interrupt_after_nodes for one in _all(graph))
    if not (own or before or after):
        return None
    state = await graph.aget_state(config, subgraphs=True)
    return state if await _is_reached(graph, graph, state, before, after) else None


def durability(
    graph: AnyGraph, wanted: Durability | None, after: Nodes | None
) -> Durability | None:
    """What a run is to be executed with, so that `reached` can tell after which nodes it is."""
    if wanted != "exit":
        return wanted
    has_after = after or any(one.interrupt_after_nodes for one in _all(graph))
    return "async" if has_after else wanted


async def _is_reached(
    root: AnyGraph, graph: AnyGraph, state: StateSnapshot, before: Nodes | None, after: Nodes | None
) -> bool:
    before = before or graph.interrupt_before_nodes
    after = after or graph.interrupt_after_nodes
    source = (state.metadata or {}).get("source")
    # Of a fork the run was told to go on.
    if source in ("input", "loop") and _meets(graph, _due(state), before):
        return True
    if source == "loop" and after and state.parent_config:
        came_from = await root.aget_state(state.parent_config)
        if _meets(graph, _due(came_from), after):
            return True
    inner = _inner(graph)
    return any(
        [
            await _is_reached(root, inner[task.name], task.state, None, None)
            for task in state.tasks
            if isinstance(task.state, StateSnapshot) and task.name in inner
        ]
    )


def _all(graph: AnyGraph) -> list[AnyGraph]:
    return [graph, *_inner(graph).values()]


def _inner(graph: AnyGraph) -> dict[str, AnyGraph]:
    """The graphs within it at any depth that are executed here, by their nodes."""
    found = graph.get_subgraphs(recurse=True)
    return {name: inner for name, inner in found if isinstance(inner, Pregel)}


def _due(state: StateSnapshot) -> list[str]:
    return [task.name for task in state.tasks]


def _meets(graph: AnyGraph, names: Iterable[str], breakpoints: Nodes) -> bool:
    if breakpoints != "*":
        return any(name in breakpoints for name in names)
    return any(_HIDDEN_TAG not in (graph.nodes[name].tags or ()) for name in names)
