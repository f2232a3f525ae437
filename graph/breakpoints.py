"""Where a run was told to stop, for an attempt that goes on from what an earlier one has left."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from langgraph.types import StateSnapshot

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
        after: Likewise.
    """
    before, after = before or graph.interrupt_before_nodes, after or graph.interrupt_after_nodes
    if not before and not after:
        return None
    state = await graph.aget_state(config)
    source = (state.metadata or {}).get("source")
    # Of a fork the run was told to go on.
    if source in ("input", "loop") and _meets(graph, _due(state), before):
        return state
    if source == "loop" and after and state.parent_config:
        came_from = await graph.aget_state(state.parent_config)
        if _meets(graph, _due(came_from), after):
            return state
    return None


def _due(state: StateSnapshot) -> list[str]:
    return [task.name for task in state.tasks]


def _meets(graph: AnyGraph, names: Iterable[str], breakpoints: Nodes) -> bool:
    if breakpoints != "*":
        return any(name in breakpoints for name in names)
    return any(_HIDDEN_TAG not in (graph.nodes[name].tags or ()) for name in names)
