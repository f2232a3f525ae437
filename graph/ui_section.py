"""`ui` and `ui_config` of a langgraph.json: the components of generative UI. Read and checked, not bundled."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from graph.http_section import Section
from store.errors import InvalidInputError


class UiConfig(Section):
    """How the components are bundled."""

    shared: list[str] = Field(default_factory=list)
    """Packages that the page has, and the bundles take from it."""


def read_ui(section: Any) -> dict[str, str]:
    """
    The file that exports the components of each name; a name is mostly a graph's.

    Raises:
        InvalidInputError: It is no object of names and paths, or a name is no segment of a path.
    """
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise InvalidInputError("`ui` must be an object")
    for name, entry in section.items():
        # It is a folder of the bundles, and a segment of their URL.
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
            raise InvalidInputError(f"`ui` has the name {name!r}, which is no segment of a path")
        if not isinstance(entry, str) or not entry:
            raise InvalidInputError(f"`ui.{name}` must be the path of a file")
    return dict(section)
