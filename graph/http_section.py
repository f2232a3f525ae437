"""`http` of a langgraph.json: what the server's routes are like. Read and checked, not applied."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class Section(BaseModel):
    """A part of the file: wrong types are refused, null is as good as absent."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if value is not None}

    def unknown(self) -> Iterator[str]:
        """The keys that mean nothing, by their path below this section."""
        yield from self.model_extra or ()
        for name in self.model_fields_set:
            value = getattr(self, name)
            if isinstance(value, Section):
                yield from (f"{name}.{key}" for key in value.unknown())


class HeaderRule(Section):
    """Which headers of a request: patterns with ``*``, and which of those not."""

    includes: list[str] = []
    excludes: list[str] = []


class Cors(Section):
    """What browsers may do from other origins."""

    allow_origins: list[str] | None = None
    """None if the file does not say."""
    allow_methods: list[str] = ["*"]
    allow_headers: list[str] = ["*"]
    allow_credentials: bool | None = None
    """None if the file does not say: with every origin but ``*``."""
    allow_origin_regex: str | None = None
    expose_headers: list[str] = []
    """Besides those that the SDKs read."""
    max_age: int = Field(default=600, ge=0)

    @field_validator("allow_origin_regex")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return pattern


class Http(Section):
    """The whole section."""

    app: str | None = None
    """``./file.py:variable`` or ``package.module:variable``."""
    mount_prefix: str = ""
    """Empty, or a path without a slash at its end."""
    cors: Cors = Cors()
    configurable_headers: HeaderRule = HeaderRule()
    logging_headers: HeaderRule = HeaderRule()
    middleware_order: Literal["auth_first", "middleware_first"] = "middleware_first"
    enable_custom_route_auth: bool = False
    disable_assistants: bool = False
    disable_threads: bool = False
    disable_runs: bool = False
    disable_store: bool = False
    disable_meta: bool = False
    disable_webhooks: bool = False
    disable_ui: bool = False
    disable_mcp: bool = False
    disable_a2a: bool = False
    disable_event_streaming: bool = False

    @field_validator("mount_prefix")
    @classmethod
    def _is_path(cls, prefix: str) -> str:
        return checked_prefix(prefix)

    @field_validator("app")
    @classmethod
    def _is_target(cls, target: str | None) -> str | None:
        location, _, variable = (target or "").rpartition(":")
        if not location or not variable.isidentifier():
            raise ValueError("must be './file.py:variable' or 'module:variable'")
        return target

    @property
    def disabled(self) -> frozenset[str]:
        """What is switched off, by the part of the key after ``disable_``."""
        keys = (key for key in type(self).model_fields if key.startswith("disable_"))
        return frozenset(key.removeprefix("disable_") for key in keys if getattr(self, key))


def checked_prefix(prefix: str) -> str:
    """
    A prefix of paths without the slash at its end.

    Raises:
        ValueError: It does not begin with a slash, or has what a path must not.
    """
    prefix = prefix.rstrip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError("must be a path such as /api")
    return prefix
