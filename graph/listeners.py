"""
Listeners: functions of a project that are told what happened to sessions, messages and runs.

    from graph.listeners import on

    @on("session.created")
    async def greet(event):
        print(event["data"]["session_id"])

`on` is called while a module is imported: one with a graph, or with the application that is mounted.
The names and what `event` holds are those of `GET /api/events`, see docs/events.md.

A listener is told every change that is published after it was first there, in order, at least once:
by one process at a time, however many there are. What it raises is logged, and the next change comes;
so does one that the process that was calling it did not see through, in the next process.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, overload

from store.models import JsonObject
from store.outbox import NAMES

Function = Callable[[JsonObject], Awaitable[Any] | Any]
F = TypeVar("F", bound=Function)

#: How many there may be: each is asked for by itself.
MAX_LISTENERS: Final = 100


@dataclass(frozen=True, slots=True)
class Listener:
    """A function, and what it is told."""

    #: How far it has come is kept under this.
    name: str
    events: tuple[str, ...]
    function: Function


#: What modules of the project registered as they were imported, by name: they know no server yet.
_REGISTERED: dict[str, Listener] = {}


def matches(pattern: str) -> bool:
    """Whether there are changes of this name, or whose names begin so: ``session.*``, ``*``."""
    head, star, tail = pattern.partition("*")
    if not star:
        return pattern in NAMES
    is_whole = not head or head.endswith(".")
    return is_whole and not tail and any(name.startswith(head) for name in NAMES)


@overload
def on(events: str | Sequence[str], function: F, *, name: str | None = None) -> F: ...


@overload
def on(
    events: str | Sequence[str], function: None = None, *, name: str | None = None
) -> Callable[[F], F]: ...


def on(
    events: str | Sequence[str], function: F | None = None, *, name: str | None = None
) -> Callable[[F], F] | F:
    """
    Register a listener: ``on("session.created", function)``, or as a decorator.

    Args:
        events: A name or several, ``session.*`` for all that begin so, ``*`` for everything.
        name: Under which it is kept how far it has come; by its module and name unless given. Two
            listeners of one name replace each other.

    Raises:
        ValueError: Nothing is told under this name, or there are too many listeners.
    """
    patterns = (events,) if isinstance(events, str) else tuple(events)
    for pattern in patterns:
        if not matches(pattern):
            raise ValueError(f"Nothing is told as {pattern!r}; there are {', '.join(NAMES)}")

    def register(function: F) -> F:
        place = name or f"{function.__module__}.{function.__qualname__}:{','.join(patterns)}"
        if len(_REGISTERED) >= MAX_LISTENERS and place not in _REGISTERED:
            raise ValueError(f"There are {MAX_LISTENERS} listeners already")
        _REGISTERED[place] = Listener(place, patterns, function)
        return function

    return register if function is None else register(function)


def off(function: Function) -> None:
    """Take back what was registered for a function."""
    for name in [name for name, one in _REGISTERED.items() if one.function is function]:
        del _REGISTERED[name]


def registered() -> list[Listener]:
    """The listeners that there are now."""
    return list(_REGISTERED.values())


def is_async(function: Function) -> bool:
    """Whether it is to be awaited where graphs are, instead of called in a thread."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - its kind is asked for
    )
