"""What langgraph.json says of where graphs keep things: its `store` and its `checkpointer`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import InvalidInputError
from store.vectors import MAX_DIMS

#: More fields than anybody embeds of an item.
MAX_FIELDS = 100


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """`store.index`: items are found by likeness, too."""

    dims: int
    embed: str
    """``./file.py:variable``, ``package.module:variable`` or ``provider:model``."""
    fields: tuple[str, ...] = ("$",)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """`store`: the long-term memory of graphs."""

    path: str | None = None
    """A store of the user's own; then nothing else of this counts."""
    index: IndexConfig | None = None
    default_ttl: float | None = None
    """Minutes that an item lives that was put without a `ttl`; None for ever."""
    refresh_on_read: bool = True
    sweep_interval_minutes: float = 5.0
    unsupported: tuple[str, ...] = ()
    """Keys of the section that change nothing here."""

    @property
    def index_dims(self) -> int | None:
        """The length of the vectors that our own store is to have, if any."""
        return self.index.dims if self.index is not None and self.path is None else None


def store_config(path: Path, raw: Any) -> StoreConfig:
    """
    Read the section `store` of the langgraph.json at a path.

    Raises:
        InvalidInputError: It is not what it should be.
    """
    section = _section(path, "store", raw)
    target, index = section.get("path"), section.get("index")
    ttl = _section(path, "store.ttl", section.get("ttl"))
    if target is not None and not is_target(target):
        raise InvalidInputError(f"{path}: `store.path` must be './file.py:variable'")
    others = section.keys() - {"path", "index", "ttl"}
    refresh = ttl.get("refresh_on_read", True)
    if not isinstance(refresh, bool):
        raise InvalidInputError(f"{path}: `store.ttl.refresh_on_read` must be true or false")
    return StoreConfig(
        path=target,
        index=None if index is None else _index(path, _section(path, "store.index", index)),
        default_ttl=_minutes(path, "store.ttl.default_ttl", ttl.get("default_ttl")),
        refresh_on_read=refresh,
        sweep_interval_minutes=_minutes(
            path, "store.ttl.sweep_interval_minutes", ttl.get("sweep_interval_minutes")
        )
        or 5.0,
        # A store of one's own has an index and lifetimes of its own.
        unsupported=tuple(
            f"store.{key}"
            for key in sorted(others | (section.keys() & {"index", "ttl"} if target else set()))
        ),
    )


def checkpointer_path(path: Path, raw: Any) -> str | None:
    """
    The checkpointer of the user's own that the section `checkpointer` names, if any.

    Raises:
        InvalidInputError: It is not what it should be.
    """
    section = _section(path, "checkpointer", raw)
    target, backend = section.get("path"), section.get("backend")
    if target is not None and not is_target(target):
        raise InvalidInputError(f"{path}: `checkpointer.path` must be './file.py:variable'")
    if backend not in (None, "default", "custom"):
        raise InvalidInputError(f"{path}: `checkpointer.backend` {backend!r} is not supported")
    if backend is not None and (backend == "custom") != (target is not None):
        raise InvalidInputError(f"{path}: `checkpointer.backend` {backend!r} and `path` disagree")
    return target


def is_target(value: object) -> bool:
    """Whether it names a variable of a file or a module."""
    location, _, variable = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    return bool(location) and variable.isidentifier()


def _index(path: Path, index: Mapping[str, Any]) -> IndexConfig:
    dims, embed, fields = index.get("dims"), index.get("embed"), index.get("fields") or ["$"]
    if isinstance(dims, bool) or not isinstance(dims, int) or not 1 <= dims <= MAX_DIMS:
        raise InvalidInputError(f"{path}: `store.index.dims` must be a number from 1 to {MAX_DIMS}")
    if not isinstance(embed, str) or ":" not in embed.strip(":"):
        raise InvalidInputError(
            f"{path}: `store.index.embed` must be './file.py:variable', 'module:variable' or "
            "'provider:model'"
        )
    fields = [fields] if isinstance(fields, str) else fields
    if (
        not isinstance(fields, list)
        or not all(isinstance(field, str) and field for field in fields)
        or len(fields) > MAX_FIELDS
    ):
        raise InvalidInputError(f"{path}: `store.index.fields` must be a list of strings")
    if unknown := index.keys() - {"dims", "embed", "fields"}:
        raise InvalidInputError(f"{path}: `store.index` has an unknown key: {min(unknown)!r}")
    return IndexConfig(dims, embed, tuple(fields))


def _section(path: Path, name: str, raw: Any) -> Mapping[str, Any]:
    if not isinstance(raw, dict | None):
        raise InvalidInputError(f"{path}: `{name}` must be an object")
    return raw or {}


def _minutes(path: Path, name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10**8:
        raise InvalidInputError(f"{path}: `{name}` must be a number above 0")
    return float(value)
