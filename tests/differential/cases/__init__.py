"""The cases, by area: to import this is to name them all."""

import importlib

from tests.differential.registry import CASES

for _area in (
    *("a2a", "assistants", "crons", "items", "mcp", "runs", "state"),
    *("stopping", "streams", "system", "threads", "v2", "webhooks"),
):
    importlib.import_module(f"{__name__}.{_area}")

__all__ = ["CASES"]
