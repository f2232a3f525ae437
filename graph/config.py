"""langgraph.json: which graphs there are, and what they need around them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson
from dotenv import dotenv_values
from pydantic import ValidationError

from graph.http_section import Http, Section
from graph.persistence import StoreConfig, checkpointer_path, is_target, store_config
from graph.ui_section import UiConfig, read_ui
from graph.webhook_config import WebhookConfig, read_webhooks
from store.errors import InvalidInputError
from store.retention import Life

AnySection = TypeVar("AnySection", bound=Section)

_READ_KEYS = frozenset(
    {
        "graphs", "env", "dependencies", "checkpointer", "http", "auth", "store", "webhooks",
        "priority", "encryption", "ui", "ui_config",
    }
)  # fmt: skip
_AUTH_KEYS = frozenset({"path", "disable_studio_auth", "openapi", "cache"})
# They tell the official CLI how to build an image; a running server has no use for them.
_BUILD_KEYS = frozenset(
    {
        "$schema",
        "_INTERNAL_docker_tag",
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
class Serde:
    """`checkpointer.serde`: which types a checkpoint may hold besides those of its graph."""

    json: tuple[tuple[str, ...], ...] | Literal[True] = ()
    """Modules and names that the JSON of old checkpoints may construct; True for all."""
    msgpack: tuple[tuple[str, ...], ...] | Literal[True] = ()
    """Modules and names that may be decoded; True for all."""


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
    disable_studio_auth: bool = True
    openapi: Mapping[str, Any] = field(default_factory=dict)
    """What the API's description says of it: `securitySchemes`, `security`, `paths`."""
    cache: Cache | None = None


@dataclass(frozen=True, slots=True)
class GraphConfig:
    """A langgraph.json, read and checked. Nothing is imported or applied yet."""

    path: Path
    graphs: Mapping[str, GraphEntry]
    env: Mapping[str, str]
    """Variables for the process, where it has none of that name."""
    dependencies: tuple[Path, ...]
    """Directories the graphs import from."""
    missing: tuple[str, ...]
    """Packages that the file wants and that are not installed."""
    ttl: Ttl
    store: StoreConfig
    checkpointer: str | None
    """One of the user's own, in place of ours."""
    serde: Serde
    http: Http
    webhooks: WebhookConfig
    auth: AuthEntry | None
    encryption: str | None
    """Who keeps the keys that everything is encrypted with, as a target."""
    priority: str | None
    """Who decides which waiting runs begin first, as a target."""
    ui: Mapping[str, str]
    """The file of each name's components of generative UI."""
    ui_config: UiConfig
    unsupported: tuple[str, ...]
    """Keys of the file that change nothing here, and should."""
    ignored: tuple[str, ...]
    """Keys of the file that are for building an image."""
    raw: Mapping[str, Any]


def load_config(path: Path, sections: Mapping[str, Any] | None = None) -> GraphConfig:
    """
    Read a langgraph.json; relative paths in it are relative to it.

    Args:
        sections: Take the place of the file's keys, or of `checkpointer.ttl`. With `graphs` no file is
            needed.

    Raises:
        InvalidInputError: The file, or the `.env` it names, is missing or not what it should be.
    """
    path = path.resolve()
    sections = sections or {}
    raw = _merged({} if "graphs" in sections and not path.exists() else _read(path), sections)
    checkpointer = _object(path, raw, "checkpointer")
    http = _section(path, "http", Http, raw)
    ui_config = _section(path, "ui_config", UiConfig, raw)
    store = store_config(path, raw.get("store"))
    dependencies = _dependencies(path, raw.get("dependencies") or [])
    return GraphConfig(
        path=path,
        graphs=_graphs(path, raw.get("graphs")),
        env=_env(path, raw.get("env") or {}),
        dependencies=_directories(path, dependencies),
        missing=tuple(name for name in dependencies if _is_missing(name)),
        ttl=_ttl(path, checkpointer),
        serde=_serde(path, checkpointer),
        store=store,
        checkpointer=checkpointer_path(path, checkpointer),
        http=http,
        webhooks=_webhooks(path, raw.get("webhooks"), http),
        auth=_auth(path, raw.get("auth")),
        encryption=_encryption(path, raw),
        priority=_priority(path, raw),
        ui=_ui(path, raw.get("ui")),
        ui_config=ui_config,
        unsupported=tuple(
            sorted({*_unsupported(raw, checkpointer, http, ui_config), *store.unsupported})
        ),
        ignored=tuple(sorted(_BUILD_KEYS & raw.keys())),
        raw=raw,
    )


def load_env(path: Path) -> dict[str, str]:
    """
    Read only `env` of a langgraph.json: variables for the process, where it has none of the name.

    Nothing if there is no such file.

    Raises:
        InvalidInputError: The file, or the `.env` it names, is not what it should be.
    """
    path = path.resolve()
    return _env(path, _read(path).get("env") or {}) if path.exists() else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InvalidInputError(f"{path}: not a JSON object")
    return raw


def _merged(raw: dict[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in sections.items():
        outer, _, inner = name.partition(".")
        before = raw.get(outer) or {}
        if not inner:
            raw[outer] = value
        elif isinstance(before, dict):  # otherwise it is refused for what it is
            raw[outer] = {**before, inner: value}
    return raw


def _object(path: Path, raw: Mapping[str, Any], key: str, within: str = "") -> dict[str, Any]:
    found = raw.get(key) or {}
    if not isinstance(found, dict):
        raise InvalidInputError(f"{path}: `{within}{key}` must be an object")
    return found


def _section(path: Path, key: str, kind: type[AnySection], raw: Mapping[str, Any]) -> AnySection:
    try:
        return kind.model_validate(raw.get(key) or {})
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join((key, *(str(part) for part in fault["loc"])))
        raise InvalidInputError(f"{path}: `{place}`: {fault['msg']}") from error


def _ui(path: Path, section: Any) -> dict[str, str]:
    try:
        return read_ui(section)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error.message}") from error


def _serde(path: Path, checkpointer: Mapping[str, Any]) -> Serde:
    given = _object(path, checkpointer, "serde", "checkpointer.")
    return Serde(
        **{
            name: _modules(path, key, given[key])
            for name, key in (
                ("json", "allowed_json_modules"),
                ("msgpack", "allowed_msgpack_modules"),
            )
            if given.get(key)
        }
    )


def _modules(path: Path, key: str, allowed: Any) -> Any:
    if allowed is True:
        return True
    if isinstance(allowed, list) and all(
        isinstance(names, list) and len(names) > 1 and all(isinstance(n, str) for n in names)
        for names in allowed
    ):
        return tuple(tuple(names) for names in allowed)
    raise InvalidInputError(
        f"{path}: `checkpointer.serde.{key}` must be true or a list of [module, …, name]"
    )


def _webhooks(path: Path, section: Any, http: Http) -> WebhookConfig:
    try:
        return read_webhooks(section, is_disabled=http.disable_webhooks)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error.message}") from error


def _ttl(path: Path, checkpointer: Mapping[str, Any]) -> Ttl:
    ttl = _object(path, checkpointer, "ttl", "checkpointer.")
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


def _unsupported(
    raw: Mapping[str, Any], checkpointer: Mapping[str, Any], http: Http, ui_config: UiConfig
) -> tuple[str, ...]:
    known = {
        "checkpointer": (checkpointer, {"ttl", "serde", "path", "backend"}),
        "checkpointer.ttl": (
            checkpointer.get("ttl") or {},
            {"default_ttl", "strategy", "sweep_interval_minutes", "sweep_limit"},
        ),
        "checkpointer.serde": (
            checkpointer.get("serde") or {},
            {"allowed_json_modules", "allowed_msgpack_modules"},
        ),
        "auth": (raw.get("auth") or {}, _AUTH_KEYS),
        "priority": (raw.get("priority") or {}, {"path"}),
    }
    named = {
        f"{section}.{key}"
        for section, (given, keys) in known.items()
        for key in given.keys() - keys
        # What is false, or the default, asks for nothing.
        if given[key] not in (None, False, "default")
    }
    others = {f"http.{key}" for key in http.unknown()}
    others |= {f"ui_config.{key}" for key in ui_config.unknown()}
    asked = {key for key in raw.keys() - _READ_KEYS - _BUILD_KEYS if raw[key] is not None}
    return tuple(sorted({*asked, *named, *others}))


def _auth(path: Path, auth: Any) -> AuthEntry | None:
    if auth is None or auth == {}:
        return None
    if not isinstance(auth, dict) or not isinstance(auth.get("path"), str):
        # To go on without it would be to serve everybody.
        raise InvalidInputError(f"{path}: `auth` must be an object with a `path`")
    disabled, openapi = auth.get("disable_studio_auth", True), auth.get("openapi") or {}
    if not isinstance(disabled, bool) or not _is_openapi(openapi):
        raise InvalidInputError(
            f"{path}: `auth.disable_studio_auth` must be a boolean, `auth.openapi` an object with "
            "`securitySchemes`, `security` and `paths` as OpenAPI has them"
        )
    location, _, variable = auth["path"].rpartition(":")
    if not location or not variable.isidentifier():
        raise InvalidInputError(
            f"{path}: `auth.path` must be './file.py:variable' or 'module:variable'"
        )
    return AuthEntry(auth["path"], disabled, openapi, _cache(path, auth.get("cache")))


def _is_openapi(openapi: Any) -> bool:
    """Whether what tells clients how to say who they are has the shape that it is read in."""
    if not isinstance(openapi, dict):
        return False
    schemes, paths = openapi.get("securitySchemes") or {}, openapi.get("paths") or {}
    return (
        isinstance(schemes, dict)
        and all(isinstance(scheme, dict) for scheme in schemes.values())
        and _is_security(openapi.get("security") or [])
        and isinstance(paths, dict)
        and all(
            isinstance(methods, dict) and all(_is_security(one) for one in methods.values())
            for methods in paths.values()
        )
    )


def _is_security(required: Any) -> bool:
    return isinstance(required, list) and all(
        isinstance(one, dict) and all(isinstance(scopes, list) for scopes in one.values())
        for one in required
    )


def _encryption(path: Path, raw: Mapping[str, Any]) -> str | None:
    section = _object(path, raw, "encryption")
    if not section:
        return None
    target = section.get("path")
    if not is_target(target) or section.keys() != {"path"}:
        # What it says to encrypt must not be kept in the clear for a key that is misspelt.
        raise InvalidInputError(
            f"{path}: `encryption` must have `path`, './file.py:variable' or 'module:variable', and no more"
        )
    return str(target)


def _priority(path: Path, raw: Mapping[str, Any]) -> str | None:
    section = _object(path, raw, "priority")
    if not section:
        return None
    target = section.get("path")
    if not isinstance(target, str) or not is_target(target):
        raise InvalidInputError(
            f"{path}: `priority.path` must be './file.py:variable' or 'module:variable'"
        )
    return target


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


def _dependencies(path: Path, dependencies: Any) -> list[str]:
    if not isinstance(dependencies, list) or not all(isinstance(d, str) for d in dependencies):
        raise InvalidInputError(f"{path}: `dependencies` must be a list of strings")
    return dependencies


def _directories(path: Path, dependencies: list[str]) -> tuple[Path, ...]:
    """What to import from, a package's `src` too: nothing is installed here."""
    found: list[Path] = []
    for name in dependencies:
        if not name.startswith((".", "/")):
            continue
        directory = (path.parent / name).resolve()
        if not directory.is_dir():
            raise InvalidInputError(f"{path}: dependency {directory} is not a directory")
        source = directory / "src"
        is_package = (directory / "pyproject.toml").is_file() and source.is_dir()
        found += [directory, source] if is_package else [directory]
    return tuple(found)


def _is_missing(dependency: str) -> bool:
    """Whether a package is not installed; false for what only pip can tell, such as a URL."""
    if dependency.startswith((".", "/")) or "://" in dependency or "@" in dependency:
        return False
    name = re.match(r"[A-Za-z0-9._-]+", dependency)
    try:
        distribution(name[0] if name else dependency)
    except PackageNotFoundError:
        return True
    return False
