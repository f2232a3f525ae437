"""`threadwell build-ui`: bundles what `ui` of langgraph.json names, by LangGraph's own bundler in Node.js."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import orjson

from api.ui_bundles import FOLDER, SCRIPT
from graph.config import GraphConfig
from store.errors import InvalidInputError

BUNDLER: Final = "langgraphjs-ui"
SECONDS: Final = 600


def build(graphs: GraphConfig, environment: Mapping[str, str]) -> Path:
    """
    Bundle every name; the bundles that were there are replaced when all of them are made.

    Args:
        environment: Of the bundler, which prints what it has to say.

    Returns:
        The folder of the bundles.

    Raises:
        InvalidInputError: There is nothing to bundle, nothing to do it with, or it failed.
    """
    root = graphs.path.parent
    if not graphs.ui:
        raise InvalidInputError(f"{graphs.path} names no components in `ui`")
    if shutil.which("node", path=environment.get("PATH")) is None:
        raise InvalidInputError("Node.js is not installed: there is no `node` on the PATH")
    bundler = _bundler(root)
    with TemporaryDirectory(prefix=f".{FOLDER}-", dir=root) as made:
        _run(bundler, Path(made, FOLDER), graphs, environment)
        try:
            if (root / FOLDER).exists():
                shutil.rmtree(root / FOLDER)
            return Path(made, FOLDER).rename(root / FOLDER)
        except OSError as error:
            raise InvalidInputError(f"{root / FOLDER} cannot be replaced: {error}") from error


def _bundler(root: Path) -> Path:
    """The bundler that the project has; its version is the project's to choose."""
    for directory in (root, *root.parents):
        found = directory / "node_modules/.bin" / BUNDLER
        if found.is_file():
            return found
    raise InvalidInputError(
        f"{BUNDLER} is not installed in {root} or above it: "
        "npm install --save-dev @langchain/langgraph-ui"
    )


def _run(bundler: Path, to: Path, graphs: GraphConfig, environment: Mapping[str, str]) -> None:
    told = {
        "LANGGRAPH_UI": orjson.dumps(graphs.ui).decode(),
        "LANGGRAPH_UI_CONFIG": graphs.ui_config.model_dump_json(),
    }
    try:
        ended = subprocess.run(
            [bundler, "build", "--output", to],
            cwd=graphs.path.parent,
            env={**environment, **told},
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidInputError(f"{BUNDLER} took longer than {SECONDS} seconds") from None
    if ended.returncode:
        raise InvalidInputError(f"{BUNDLER} failed with status {ended.returncode}")
    if lost := [name for name in graphs.ui if not (to / "public" / name / SCRIPT).is_file()]:
        raise InvalidInputError(f"{BUNDLER} made no {SCRIPT} of {', '.join(lost)}")
