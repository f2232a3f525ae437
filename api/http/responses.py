"""What routes answer: JSON by the graph's encoder, and pages of it."""

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import Response

from graph.encode import dumps


def json_response(
    content: Any, *, headers: dict[str, str] | None = None, status_code: int = 200
) -> Response:
    """Any value as JSON; what has no JSON form is null."""
    return Response(dumps(content), status_code, headers, media_type="application/json")


def page_headers(rows: Sequence[Any], *, limit: int, offset: int) -> dict[str, str]:
    """
    Tell where the next page begins, from the rows of a query with `limit` + 1.

    The total is a hint: one more than the next offset as long as there is a next page.
    """
    if len(rows) <= limit:
        return {"X-Pagination-Total": str(offset + len(rows))}
    following = offset + limit
    return {"X-Pagination-Total": str(following + 1), "X-Pagination-Next": str(following)}


def selected(item: dict[str, Any], fields: Iterable[str] | None) -> dict[str, Any]:
    """The fields that were asked for; all without a selection."""
    return item if fields is None else {name: item[name] for name in fields if name in item}
