"""
The bundles of generative UI: the components of each name, made for browsers, read at the start.

`threadwell build-ui` makes them, in the form of LangGraph's own bundler: a folder of files for each name.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from graph.config import GraphConfig

#: Beside langgraph.json; what the bundler writes.
FOLDER: Final = "ui-bundles"
#: What each name must have, and what it may have.
SCRIPT, STYLES = "entrypoint.js", "entrypoint.css"
_MEDIA_TYPES: Final = {".js": "text/javascript", ".css": "text/css"}
#: What to do where there is none.
HOW_TO_BUILD: Final = "run `threadwell build-ui` and restart the server"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a bundle."""

    content: bytes
    media_type: str
    etag: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """The components of one name."""

    name: str
    files: Mapping[str, File]

    @property
    def variable(self) -> str:
        """The global variable that its script sets, with the function that renders a component."""
        return f"__LGUI_{re.sub('[^a-zA-Z0-9]', '_', self.name)}"


def load(graphs: GraphConfig) -> dict[str, Bundle]:
    """Read the bundles of what langgraph.json names in `ui`, by their names, as far as they are there."""
    return {
        name: Bundle(name, {file.name: _read(file) for file in folder.iterdir() if file.is_file()})
        for name, folder in _folders(graphs).items()
        if (folder / SCRIPT).is_file()
    }


def missing(graphs: GraphConfig) -> list[str]:
    """The names in `ui` that have no bundle; none if generative UI is switched off."""
    if graphs.http.disable_ui:
        return []
    return [name for name, folder in _folders(graphs).items() if not (folder / SCRIPT).is_file()]


def _folders(graphs: GraphConfig) -> dict[str, Path]:
    return {name: graphs.path.parent / FOLDER / "public" / name for name in graphs.ui}


def _read(file: Path) -> File:
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return File(content, _MEDIA_TYPES.get(file.suffix, "application/octet-stream"), etag)
