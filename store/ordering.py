"""The one thing of a query that is composed: its ORDER BY, from a closed set of columns."""

from typing import Literal, LiteralString, cast

from psycopg.sql import SQL, Identifier

Order = Literal["asc", "desc"]


def ordered(query: LiteralString, sort_by: str, order: Order, *, tie_break: str) -> LiteralString:
    """
    Add ORDER BY, LIMIT and OFFSET to a query.

    Args:
        sort_by: A column, quoted here; the caller's type names the ones there are.
        tie_break: A unique column, so that pages neither repeat nor skip a row.
    """
    direction = SQL("ASC" if order == "asc" else "DESC")
    composed = SQL("{} ORDER BY {} {}, {} {} LIMIT %(limit)s OFFSET %(offset)s").format(
        SQL(query.rstrip(";")),
        Identifier(sort_by),
        direction,
        Identifier(tie_break),
        direction,
    )
    return cast("LiteralString", composed.as_string())  # type: ignore[redundant-cast]
