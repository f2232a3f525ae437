"""A state as LangGraph gives it, as the JSON that clients get."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import Interrupt, PregelTask, StateSnapshot

from graph.encode import plain
from store.models import JsonObject, ThreadStatus

_CHECKPOINT_KEYS = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")

#: In the metadata of a corrected state, for the next correction: the nodes as which it was written.
CORRECTED_AS: Final = "corrected_as"

#: The state of a thread on which no graph ever ran.
EMPTY = StateSnapshot({}, (), {"configurable": {}}, None, None, None, (), ())


def state_json(snapshot: StateSnapshot) -> JsonObject:
    """A state as the API shows it."""
    checkpoint = checkpoint_json(snapshot.config)
    parent = checkpoint_json(snapshot.parent_config)
    return {
        "values": snapshot.values,
        "next": snapshot.next,
        "tasks": [_task_json(task) for task in snapshot.tasks],
        "metadata": _shown(snapshot.metadata),
        "created_at": snapshot.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [_interrupt_json(interrupt) for interrupt in snapshot.interrupts],
        # What older clients read.
        "checkpoint_id": checkpoint and checkpoint["checkpoint_id"],
        "parent_checkpoint_id": parent and parent["checkpoint_id"],
    }


def selected_state(state: JsonObject, fields: Sequence[str] | None) -> JsonObject:
    """The fields of a state that were asked for, ``values.<key>`` for one of its values."""
    if not fields:
        return state
    shown = {name: state[name] for name in fields if name in state}
    keys = [name.removeprefix("values.") for name in fields if name.startswith("values.")]
    if keys and "values" not in shown:
        values = state["values"] if isinstance(state["values"], Mapping) else {}
        shown["values"] = {key: values[key] for key in keys if key in values}
    return shown


def checkpoint_json(config: RunnableConfig | None) -> JsonObject | None:
    """The checkpoint that a config names; None if it names none."""
    configurable = (config or {}).get("configurable", {})
    if not configurable.get("checkpoint_id"):
        return None
    return {key: configurable[key] for key in _CHECKPOINT_KEYS if key in configurable}


def status_of(snapshot: StateSnapshot) -> ThreadStatus:
    """The status of a thread that was left in this state by something that is no run."""
    return "interrupted" if snapshot.next else "idle"


def interrupts_of(snapshot: StateSnapshot) -> JsonObject:
    """What a thread in this state waits for, as JSON: the open interrupts of each task."""
    found = {
        task.id: [_interrupt_json(interrupt) for interrupt in task.interrupts]
        for task in snapshot.tasks
        if task.interrupts
    }
    # A node may ask with any object; the thread's row keeps JSON.
    return cast("JsonObject", plain(found))


def open_interrupts(found: JsonObject) -> tuple[Interrupt, ...]:
    """What `interrupts_of` found, read back from a thread's row."""
    return tuple(interrupt_of(asked) for of_task in found.values() for asked in of_task)


def interrupt_of(asked: JsonObject) -> Interrupt:
    """An interrupt, of its JSON."""
    schema = asked.get("response_schema")
    return Interrupt(value=asked["value"], id=asked["id"], response_schema=schema)


def _shown(metadata: Mapping[str, Any] | None) -> JsonObject | None:
    """The metadata of a state without what is nobody's but ours."""
    if metadata is None:
        return None
    return {key: value for key, value in metadata.items() if key != CORRECTED_AS}


def _task_json(task: PregelTask) -> JsonObject:
    state = task.state
    # A subgraph's state when it was asked for, else the config to ask for it.
    inner = state_json(state) if isinstance(state, StateSnapshot) else None
    config = state if isinstance(state, Mapping) else {}
    return {
        "id": task.id,
        "name": task.name,
        "path": task.path,
        "error": _error_text(task.error),
        "interrupts": [_interrupt_json(interrupt) for interrupt in task.interrupts],
        "checkpoint": config.get("configurable"),
        "state": inner,
        "result": task.result,
    }


def _error_text(error: Any) -> str | None:
    return error if error is None or isinstance(error, str) else repr(error)


def _interrupt_json(interrupt: Interrupt) -> JsonObject:
    shown = {"id": interrupt.id, "value": interrupt.value}
    if interrupt.response_schema is not None:
        shown["response_schema"] = interrupt.response_schema
    return shown
