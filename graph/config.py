"""langgraph.json: which graphs there are, and what they need around them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from dotenv import dotenv_values

from graph.persistence import StoreConfig, checkpointer_path, store_config
from store.errors import InvalidInputError
from store.retention import Life

_READ_KEYS = frozenset({"graphs", "env", "dependencies", "checkpointer", "store"})
# They tell the official CLI how to build an image; a running server has no use for them.
_BUILD_KEYS = frozenset(
    {
        "$schema",
        "api_version",
        "base_image",
        "dockerfile_lines",
        "image_distro",
        "keep_pkg_tools",
        "node_version",
        "pip_config_file",
        "pip_installer",
        "python_version",
        "source",
    }
)


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """One graph as named in the file; not loaded yet."""

    graph_id: str
    target: str
    """``./file.py:variable`` or ``package.module:variable``."""
    description: str | None = None

    @property
    def name(self) -> str:
        """How its assistant is called."""
        return self.graph_id


@dataclass(frozen=True, slots=True)
class Ttl:
    """`checkpointer.ttl`: how long threads live that nobody uses."""

    life: Life | None = None
    """Of a thread that is created without one of its own."""
    sweep_interval_minutes: float = 5.0
    sweep_limit: int = 1000


@dataclass(frozen=True, slots=True)
class GraphConfig:
    """A langgraph.json, read and checked. Nothing is imported or applied yet."""

    path: Path
    graphs: Mapping[str, GraphEntry]
    env: Mapping[str, str]
    """Variables for the process. `langgraph dev` lets them win over what is already set."""
    dependencies: tuple[Path, ...]
    """Directories the graphs import from; packages are expected to be installed."""
    ttl: Ttl
    store: StoreConfig
    checkpointer: str | None
    """One of the user's own, in place of ours."""
    unsupported: tuple[str, ...]
    """Keys of the file that change nothing here."""
    raw: Mapping[str, Any]


def load_config(path: Path) -> GraphConfig:
    """
    Read a langgraph.json; relative paths in it are relative to it.

    Raises:
        InvalidInputError: The file, or the `.env` it names, is missing or not what it should be.
    """
    path = path.resolve()
    try:
        raw = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InvalidInputError(f"{path}: not a JSON object")
    store = store_config(path, raw.get("store"))
    return GraphConfig(
        path=path,
        graphs=_graphs(path, raw.get("graphs")),
        env=_env(path, raw.get("env", {})),
        dependencies=_dependencies(path, raw.get("dependencies", [])),
        ttl=_ttl(path, raw.get("checkpointer", {})),
        store=store,
        checkpointer=checkpointer_path(path, raw.get("checkpointer")),
        unsupported=tuple(sorted({*_unsupported(raw), *store.unsupported})),
        raw=raw,
    )


def _ttl(path: Path, checkpointer: Any) -> Ttl:
    ttl = checkpointer.get("ttl") or {} if isinstance(checkpointer, dict) else None
    if not isinstance(ttl, dict):
        raise InvalidInputError(f"{path}: `checkpointer.ttl` must be an object")
    strategy = ttl.get("strategy", "delete")
    if strategy not in ("delete", "keep_latest"):
        raise InvalidInputError(f"{path}: `checkpointer.ttl.strategy` is {strategy!r}")
    numbers = {
        key: ttl[key]
        for key in ("default_ttl", "sweep_interval_minutes", "sweep_limit")
        if ttl.get(key) is not None
    }
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InvalidInputError(f"{path}: `checkpointer.ttl.{key}` must be a number above 0")
    minutes = numbers.pop("default_ttl", None)
    if "sweep_limit" in numbers:
        numbers["sweep_limit"] = int(numbers["sweep_limit"]) or 1
    return Ttl(Life(ttl_minutes=minutes, strategy=strategy) if minutes else None, **numbers)


def _unsupported(raw: Mapping[str, Any]) -> tuple[str, ...]:
    checkpointer = raw.get("checkpointer")
    others = (
        checkpointer.keys() - {"ttl", "path", "backend"} if isinstance(checkpointer, dict) else ()
    )
    named = {f"checkpointer.{key}" for key in others}
    return tuple(sorted({*raw.keys() - _READ_KEYS - _BUILD_KEYS, *named}))


def _graphs(path: Path, graphs: Any) -> dict[str, GraphEntry]:
    if not isinstance(graphs, dict) or not graphs:
        raise InvalidInputError(f"{path}: `graphs` names no graph")
    return {graph_id: _entry(path, graph_id, value) for graph_id, value in graphs.items()}


def _entry(path: Path, graph_id: str, value: Any) -> GraphEntry:
    fields = value if isinstance(value, dict) else {"path": value}
    target, description = fields.get("path"), fields.get("description")
    location, _, variable = target.rpartition(":") if isinstance(target, str) else ("", "", "")
    if not location or not variable.isidentifier():
        raise InvalidInputError(
            f"{path}: graph {graph_id!r} must be './file.py:variable' or 'module:variable', "
            f"alone or as `path` beside a `description`; it is {value!r}"
        )
    if not isinstance(description, str | None):
        raise InvalidInputError(f"{path}: the description of graph {graph_id!r} is not a string")
    return GraphEntry(graph_id, f"{location}:{variable}", description)


def _env(path: Path, env: Any) -> dict[str, str]:
    if isinstance(env, str):
        file = path.parent / env
        if not file.is_file():
            raise InvalidInputError(f"{path}: `env` names {env}, which is not a file")
        return {name: value for name, value in dotenv_values(file).items() if value is not None}
    if isinstance(env, dict):
        return {name: str(value) for name, value in env.items()}
    raise InvalidInputError(f"{path}: `env` must be an object or the path of a .env file")


def _dependencies(path: Path, dependencies: Any) -> tuple[Path, ...]:
    if not isinstance(dependencies, list) or not all(isinstance(d, str) for d in dependencies):
        raise InvalidInputError(f"{path}: `dependencies` must be a list of strings")
    found = [path.parent / name for name in dependencies if name.startswith((".", "/"))]
    for directory in found:
        if not directory.is_dir():
            raise InvalidInputError(f"{path}: dependency {directory} is not a directory")
    return tuple(directory.resolve() for directory in found)
