"""The one thing of a query that is composed: its order, from a closed set of columns."""

from typing import Literal, LiteralString, cast

from psycopg.sql import SQL, Composed, Identifier

Order = Literal["asc", "desc"]


def ordered(query: LiteralString, sort_by: str, order: Order, *, tie_break: str) -> LiteralString:
    """
    Add ORDER BY, LIMIT and OFFSET to a query.

    Args:
        sort_by: A column, quoted here; the caller's type names the ones there are.
        tie_break: A unique column, so that pages neither repeat nor skip a row.
    """
    page = SQL("{} {} LIMIT %(limit)s OFFSET %(offset)s")
    return _text(page.format(_bare(query), _order_by(sort_by, order, tie_break)))


def first(query: LiteralString, sort_by: str, order: Order, *, tie_break: str) -> LiteralString:
    """Add ORDER BY to a query, and a LIMIT that is called ``window``."""
    window = SQL("{} {} LIMIT %(window)s")
    return _text(window.format(_bare(query), _order_by(sort_by, order, tie_break)))


def among(table: str, rows: LiteralString, query: LiteralString) -> LiteralString:
    """
    Have a query read what another one gives in place of a table.

    Each is planned by itself: conditions and order of the one do not lead to an index of the other.
    """
    read = SQL("WITH {} AS MATERIALIZED ({}) {}")
    return _text(read.format(Identifier(table), _bare(rows), _bare(query)))


def _order_by(sort_by: str, order: Order, tie_break: str) -> Composed:
    direction = SQL("ASC" if order == "asc" else "DESC")
    return SQL("ORDER BY {} {}, {} {}").format(
        Identifier(sort_by), direction, Identifier(tie_break), direction
    )


def _bare(query: LiteralString) -> SQL:
    return SQL(query.rstrip(";"))


def _text(composed: Composed) -> LiteralString:
    return cast("LiteralString", composed.as_string())  # type: ignore[redundant-cast]
