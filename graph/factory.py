"""What a variable of langgraph.json holds: a graph, or something that makes one for each use."""

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from graph import taken_names
from store.errors import Error

if sys.version_info >= (3, 14):
    from annotationlib import Format

    # Reading a signature would resolve its annotations, which may name what is not there.
    _AS_TEXT: dict[str, Any] = {"annotation_format": Format.STRING}
else:
    _AS_TEXT: dict[str, Any] = {}

AnyGraph = Pregel[Any, Any, Any, Any]


class InvalidGraphError(Error):
    """The graph is named in langgraph.json and cannot be used."""

    default_code = "invalid_graph"


class Factory:
    """
    A function of the user that returns a graph or a context manager around one.

    It may be async and may take the run's config and a `ServerRuntime`, told apart by
    annotation (as text, so one that cannot be resolved will do), by name, or by position.

    Raises:
        InvalidGraphError: It wants anything else.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._arguments = _arguments(function)

    @asynccontextmanager
    async def open(self, config: RunnableConfig, runtime: Any) -> AsyncIterator[AnyGraph]:
        """
        A graph made anew, and what was opened for it closed after the block.

        Raises:
            InvalidGraphError: What was made is not a graph.
        """
        values = {"config": config, "runtime": runtime}
        arguments = inspect.BoundArguments(
            inspect.Signature([parameter for parameter, _ in self._arguments]),
            {parameter.name: values[kind] for parameter, kind in self._arguments},
        )
        made = self._function(*arguments.args, **arguments.kwargs)
        if inspect.isawaitable(made):
            made = await made
        if isinstance(made, AbstractAsyncContextManager):
            async with made as graph:
                yield compiled(graph)
        elif isinstance(made, AbstractContextManager):
            with made as graph:
                yield compiled(graph)
        else:
            yield compiled(made)


def load(target: str, root: Path) -> AnyGraph | Factory:
    """
    Import a target of langgraph.json. Runs the user's module, so it may raise anything.

    Raises:
        InvalidGraphError: There is no such file or variable, or it is no graph.
    """
    found = variable(target, root)
    if callable(found) and not isinstance(found, Pregel | StateGraph):
        return Factory(found)
    return compiled(found)


def variable(target: str, root: Path) -> Any:
    """
    What ``./file.py:name`` or ``module:name`` is. Runs the user's module: it may raise anything.

    Raises:
        InvalidGraphError: There is no such file or variable, or what it imports of its project has a
            name of ours.
    """
    location, _, name = target.rpartition(":")
    is_file = location.endswith(".py") or "/" in location
    if fault := taken_names.clash(root / location if is_file else location):
        raise InvalidGraphError(fault)
    module = _import_file(root / location, root) if is_file else importlib.import_module(location)
    if not hasattr(module, name):
        raise InvalidGraphError(f"{location} has no variable {name!r}")
    return getattr(module, name)


def reason(error: BaseException) -> str:
    """Why what a target names cannot be used, and where in it that shows."""
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, InvalidGraphError | SyntaxError) or not frames:
        return text
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})"


def compiled(found: Any) -> AnyGraph:
    """
    The graph itself, compiled if it is a builder.

    Raises:
        InvalidGraphError: It is neither.
    """
    if isinstance(found, StateGraph):
        return found.compile()
    if isinstance(found, Pregel):
        return found
    raise InvalidGraphError(
        f"expected a StateGraph or a compiled graph, found {type(found).__name__}"
    )


def _import_file(path: Path, root: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise InvalidGraphError(f"{path} is not a file")
    # Checkpoints name the classes in them by module: the same on every machine, every time.
    relative = path.relative_to(root) if path.is_relative_to(root) else path
    name = "graph_file_" + re.sub(r"\W", "_", str(relative.with_suffix("")))
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidGraphError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _arguments(function: Callable[..., Any]) -> list[tuple[inspect.Parameter, str]]:
    """The parameters to fill, each with ``config`` or ``runtime``."""
    found: list[tuple[inspect.Parameter, str]] = []
    for parameter in inspect.signature(function, **_AS_TEXT).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        taken = {kind for _, kind in found}
        kind = _kind(parameter)
        if kind is None and parameter.default is parameter.empty:
            kind = next((free for free in ("config", "runtime") if free not in taken), None)
            if kind is None:
                raise InvalidGraphError(f"the factory wants {parameter.name!r}; nothing fills it")
        if kind is not None and kind not in taken:
            found.append((parameter, kind))
    return found


def _kind(parameter: inspect.Parameter) -> str | None:
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else repr(annotation)
    if "Runtime" in text:
        return "runtime"
    if "RunnableConfig" in text:
        return "config"
    return parameter.name if parameter.name in ("config", "runtime") else None
