"""
The database of an old Langchain-Chatchat or fufan-chat-api, read as it is: SQLite or MySQL.

Synchronous, for one thread; needs the extra ``import`` (SQLAlchemy). Nothing is written to it. Times are
as they lie there, without a zone, and JSON as text: what is no JSON stays readable.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    Select,
    String,
    Table,
    cast,
    collate,
    create_engine,
    inspect,
    literal_column,
    null,
    select,
)
from sqlalchemy.dialects.mysql import CHAR
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from store.errors import InvalidInputError, UnavailableError
from store.old_rows import OldConversation, OldMessage

#: The drivers that the projects name are asynchronous.
_DRIVERS: Final = {
    "sqlite": "sqlite",
    "sqlite+aiosqlite": "sqlite",
    "mysql": "mysql+pymysql",
    "mysql+asyncmy": "mysql+pymysql",
    "mysql+aiomysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb+pymysql": "mariadb+pymysql",
}
_PAGE: Final = 500
#: Rows that are fetched at a time of what is read in one go.
_ROWS: Final = 500


@dataclass(frozen=True, slots=True)
class OldUser:
    """Who registered there."""

    id: str
    username: str
    password_hash: str


class OldDatabase:
    """By `opened`; one thread at a time may use it."""

    def __init__(self, engine: Engine, connection: Connection) -> None:
        self._connection = connection
        self._is_sqlite = engine.dialect.name == "sqlite"
        names = set(inspect(engine).get_table_names())
        if "message" not in names:
            raise InvalidInputError("The database has no table `message`: it is none of theirs")
        metadata = MetaData()
        self._messages = Table("message", metadata, autoload_with=engine, resolve_fks=False)
        self._conversations = self._table("conversation", names, metadata, engine)
        self._users = self._table("user", names, metadata, engine)

    def conversations(self) -> Iterator[OldConversation]:
        """Each conversation with all of its turns, one at a time, by id; without those of no id."""
        for id_ in self._ids():
            found = self._row(id_)
            messages = [_message(row) for row in self._connection.execute(self._of(id_))]
            yield OldConversation(
                id_,
                found.get("user_id"),
                found.get("name"),
                found.get("chat_type"),
                found.get("create_time"),
                messages,
            )

    def loose(self) -> Iterator[tuple[str, list[OldMessage]]]:
        """The turns that are of no conversation, by the day (as text) that they are of, in order."""
        column = self._messages.c.conversation_id
        query = self._selected().where((column == "") | column.is_(None))
        options = {"stream_results": True, "yield_per": _ROWS}
        with self._connection.execute(self._ordered(query), execution_options=options) as rows:
            turns = (_message(row) for row in rows)
            for day, of_day in groupby(turns, lambda turn: (turn.create_time or "")[:10]):
                yield day, list(of_day)

    def users(self) -> Iterator[OldUser]:
        """Who registered; nobody where there were no users."""
        if self._users is None:
            return
        columns = [self._users.c[name] for name in ("id", "username", "password_hash")]
        for row in self._connection.execute(select(*columns).order_by(columns[0])).all():
            yield OldUser(*(str(value) for value in row))

    def _table(
        self, name: str, names: set[str], metadata: MetaData, engine: Engine
    ) -> Table | None:
        if name not in names:
            return None
        return Table(name, metadata, autoload_with=engine, resolve_fks=False)

    def _ids(self) -> Iterator[str]:
        """The ids of conversations that have a row, or a turn; in pages, each once."""
        after = ""
        while True:
            found = {id_ for column in self._id_columns() for id_ in self._page(column, after)}
            # Of each column no more than a page was read: what is beyond the shortest comes later.
            page = sorted(found)[:_PAGE]
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1]

    def _id_columns(self) -> list[Column[Any]]:
        own = self._conversations
        return [self._messages.c.conversation_id, *([] if own is None else [own.c.id])]

    def _page(self, column: Column[Any], after: str) -> list[str]:
        id_ = self._exactly(column)
        named = id_.label("exact_id")
        query = select(named).where(id_ > after).distinct().order_by(named).limit(_PAGE)
        return [row[0] for row in self._connection.execute(query)]

    def _exactly(self, column: Column[Any]) -> ColumnElement[str]:
        """A column compared and ordered as Python does, whatever its own collation thinks equal."""
        if self._is_sqlite:
            return collate(column, "BINARY")
        return collate(cast(column, CHAR(charset="utf8mb4")), "utf8mb4_bin")

    def _row(self, id_: str) -> dict[str, Any]:
        table = self._conversations
        if table is None:
            return {}
        columns = [
            cast(table.c[name], String(255)).label(name)
            for name in ("user_id", "name", "chat_type", "create_time")
            if name in table.c
        ]
        found = self._connection.execute(select(*columns).where(table.c.id == id_)).first()
        return {} if found is None else dict(found._mapping)

    def _of(self, id_: str) -> Select[*tuple[Any, ...]]:
        column = self._messages.c.conversation_id
        # The first finds them by an index.
        query = self._selected().where(column == id_, self._exactly(column) == id_)
        return self._ordered(query)

    def _selected(self) -> Select[*tuple[Any, ...]]:
        table = self._messages

        def text(name: str, length: int | None = None) -> Any:
            return cast(table.c[name], String(length)) if name in table.c else null()

        return select(
            table.c.id,
            table.c.chat_type,
            table.c.query,
            table.c.response,
            text("meta_data"),
            table.c.feedback_score if "feedback_score" in table.c else null(),
            table.c.feedback_reason if "feedback_reason" in table.c else null(),
            text("create_time", 32),
        )

    def _ordered(self, query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
        """By the second of their time; within one as they were inserted, where that is known."""
        last = literal_column("rowid") if self._is_sqlite else self._messages.c.id
        return query.order_by(self._messages.c.create_time, last)


@contextmanager
def opened(url: str) -> Iterator[OldDatabase]:
    """
    Open an old database.

    Args:
        url: SQLAlchemy's, such as ``sqlite:///info.db`` or ``mysql://user:password@host/name``.

    Raises:
        InvalidInputError: It is none of theirs, or not one of SQLite or MySQL.
        UnavailableError: It cannot be read; nothing of a password is told.
    """
    parsed = _parsed(url)
    try:
        engine = create_engine(parsed)
        with engine.connect() as connection:
            yield OldDatabase(engine, connection)
    except SQLAlchemyError as exc:
        reason = str(getattr(exc, "orig", None) or type(exc).__name__)
        raise UnavailableError(f"The old database cannot be read: {reason}") from exc


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed = parsed.set(drivername=_DRIVERS[parsed.drivername])
    except (ArgumentError, KeyError, NoSuchModuleError, ValueError):
        raise InvalidInputError("--url must begin with sqlite:// or mysql://") from None
    if parsed.drivername == "sqlite" and not Path(parsed.database or "").is_file():
        # SQLite would make an empty one.
        raise InvalidInputError(f"There is no file {parsed.database}")
    return parsed


def _message(row: Any) -> OldMessage:
    id_, chat_type, query, response, meta_data, score, reason, at = row
    return OldMessage(
        str(id_), chat_type or "", query or "", response or "", meta_data, score, reason or "", at
    )
