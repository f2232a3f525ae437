"""
Named queries: ``-- name: get`` begins one, its text runs to the next name.

What several queries of a file share is a part: ``-- part: lease`` begins one, and a line ``{lease}`` in
a query stands for it.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Any, LiteralString, cast

from store.meters import query_names

_HEAD = re.compile(r"^-- (name|part): (\w+)$", re.MULTILINE)
_PART = re.compile(r"^\{(\w+)\}$", re.MULTILINE)


@cache
def load(module: str) -> dict[str, LiteralString]:
    """
    Read the queries of a module from ``<module>.sql``.

    The cast takes full responsibility for their text: it comes from our own files, never from a
    caller.

    Raises:
        ValueError: Two queries have one name.
        KeyError: A query stands on a part that is not there.
    """
    pieces = _HEAD.split(files("store.sql").joinpath(f"{module}.sql").read_text("utf-8"))[1:]
    texts: dict[str, dict[str, str]] = {"name": {}, "part": {}}
    for kind, name, text in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
        if name in texts[kind]:
            raise ValueError(f"A name occurs twice in {module}.sql")
        texts[kind][name] = text.strip()
    queries: dict[str, Any] = {
        name: _PART.sub(lambda found: texts["part"][found[1]], text)
        for name, text in texts["name"].items()
    }
    query_names.update({query: f"{module}.{name}" for name, query in queries.items()})
    return cast("dict[str, LiteralString]", queries)
