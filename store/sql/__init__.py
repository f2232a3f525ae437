"""Named queries: ``-- name: get`` begins one, its text runs to the next name."""

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

from store.meters import query_names

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load(module: str) -> dict[str, LiteralString]:
    """
    Read the queries of a module from ``<module>.sql``.

    The cast takes full responsibility for their text: it comes from our own files, never from a
    caller.

    Raises:
        ValueError: Two queries have one name.
    """
    text = files("store.sql").joinpath(f"{module}.sql").read_text("utf-8")
    parts = _NAME.split(text)[1:]
    queries = dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
    if len(queries) * 2 != len(parts):
        raise ValueError(f"A name occurs twice in {module}.sql")
    query_names.update({query: f"{module}.{name}" for name, query in queries.items()})
    return cast("dict[str, LiteralString]", queries)
