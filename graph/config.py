"""langgraph.json: which graphs there are, and what they need around them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from dotenv import dotenv_values

from store.errors import InvalidInputError
from store.retention import Life

_READ_KEYS = frozenset({"graphs", "env", "dependencies", "checkpointer", "auth"})
_AUTH_KEYS = frozenset({"path", "disable_studio_auth", "openapi", "cache"})
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
class Cache:
    """`auth.cache`: whom to know again without asking."""

    keys: tuple[str, ...]
    """The headers that tell who somebody is, all of them together."""
    ttl_seconds: float = 60.0
    max_size: int = 1000


@dataclass(frozen=True, slots=True)
class AuthEntry:
    """`auth`: who finds out who is calling; not loaded yet."""

    target: str
    """``./file.py:variable`` or ``package.module:variable``."""
    disable_studio_auth: bool = False
    openapi: Mapping[str, Any] = field(default_factory=dict)
    """What the API's description says of it: `securitySchemes`, `security`, `paths`."""
    cache: Cache | None = None


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
    auth: AuthEntry | None
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
    return GraphConfig(
        path=path,
        graphs=_graphs(path, raw.get("graphs")),
        env=_env(path, raw.get("env", {})),
        dependencies=_dependencies(path, raw.get("dependencies", [])),
        ttl=_ttl(path, raw.get("checkpointer", {})),
        auth=_auth(path, raw.get("auth")),
        unsupported=_unsupported(raw),
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


def _auth(path: Path, auth: Any) -> AuthEntry | None:
    if auth is None or auth == {}:
        return None
    if not isinstance(auth, dict) or not isinstance(auth.get("path"), str):
        # To go on without it would be to serve everybody.
        raise InvalidInputError(f"{path}: `auth` must be an object with a `path`")
    disabled, openapi = auth.get("disable_studio_auth", False), auth.get("openapi") or {}
    if not isinstance(disabled, bool) or not isinstance(openapi, dict):
        raise InvalidInputError(
            f"{path}: `auth.disable_studio_auth` must be a boolean, `auth.openapi` an object"
        )
    location, _, variable = auth["path"].rpartition(":")
    if not location or not variable.isidentifier():
        raise InvalidInputError(
            f"{path}: `auth.path` must be './file.py:variable' or 'module:variable'"
        )
    return AuthEntry(auth["path"], disabled, openapi, _cache(path, auth.get("cache")))


def _cache(path: Path, cache: Any) -> Cache | None:
    if cache is None:
        return None
    keys = cache.get("cache_keys") if isinstance(cache, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise InvalidInputError(f"{path}: `auth.cache.cache_keys` must be a list of headers")
    numbers = {name: cache[name] for name in ("ttl_seconds", "max_size") if name in cache}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InvalidInputError(f"{path}: `auth.cache.{name}` must be a number above 0")
    return Cache(tuple(keys), **numbers)


def _unsupported(raw: Mapping[str, Any]) -> tuple[str, ...]:
    checkpointer = raw.get("checkpointer")
    others = checkpointer.keys() - {"ttl"} if isinstance(checkpointer, dict) else ()
    named = {f"checkpointer.{key}" for key in others}
    auth = raw.get("auth")
    named |= {f"auth.{key}" for key in (auth.keys() - _AUTH_KEYS if isinstance(auth, dict) else ())}
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
