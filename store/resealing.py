"""
How what lies in a database comes to be sealed by the newest key, for the place where it is.

When encryption begins, when a key is changed, and when rows are copied to another thread. What a column
holds and what it is bound to is in `store.sealing`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, LiteralString, cast

from psycopg.sql import SQL, Composed, Identifier

from store import audit
from store.cipher import Cipher, KeyRing, at
from store.database import Database, Transaction
from store.errors import AlreadyExistsError, InvalidInputError, UnreadableError
from store.sealing import (
    FILE,
    PAGE,
    TABLES,
    Column,
    Form,
    Table,
    is_clear,
    place_of,
    sealed_anew,
)
from store.sql import load

#: How often everything is gone over at the most: servers that do not know the key yet write behind it.
_PASSES: Final = 5
IN_THE_CLEAR: Final = (
    "The database has something that is not encrypted: run `threadwell encrypt`, which encrypts it "
    "while servers run that have the key"
)
LEFT_IN_THE_CLEAR: Final = (
    "The database is encrypted, and has something that is not: if it was you who wrote it there, run "
    "`threadwell encrypt --accept-clear`, which encrypts it"
)

_SQL: Final = load("resealing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """
    How many rows were sealed anew, and how many values there are that cannot be opened.

    Args:
        older_keys: How many keys beside the newest are still needed; told of the database as a whole.
    """

    rows: int = 0
    unreadable: int = 0
    older_keys: int = 0

    def __add__(self, other: "Sealed") -> "Sealed":
        return Sealed(rows=self.rows + other.rows, unreadable=self.unreadable + other.unreadable)


@dataclass(frozen=True, slots=True)
class _State:
    is_complete: bool
    key_ids: list[str]


async def admit(db: Database) -> None:
    """
    Check, when a process starts, that its keys are those of the database, and that nothing is in the clear.

    A database that has nothing yet is encrypted from here on. While another one is being encrypted what
    is in the clear is read; afterwards of each table what is newest is looked at.

    Raises:
        InvalidInputError: A key is missing, or what is to be encrypted is not.
    """
    state = await db.one(_State, _SQL["state"], {})
    ring = db.cipher
    if not isinstance(ring, KeyRing):
        if state is not None:
            raise InvalidInputError(
                "The database is encrypted: LANGGRAPH_AES_KEY is to have its key"
            )
        return
    if state is None:
        if await _has_clear(db, all_of_it=True):
            raise InvalidInputError(IN_THE_CLEAR)
        params = {"is_complete": True, "key_ids": [ring.ids[0]]}
        await db.execute(_SQL["begin"], params)
        # Somebody else may have begun at the same time, with a key of their own.
        state = await db.one(_State, _SQL["state"], {})
        assert state is not None
    _check_keys(ring, state)
    if not state.is_complete:
        ring.accepts_clear = True
    elif await _has_clear(db):
        raise InvalidInputError(LEFT_IN_THE_CLEAR)
    await db.execute(_SQL["use_key"], {"key_id": ring.ids[0]})


def _check_keys(ring: KeyRing, state: _State) -> None:
    if missing := sorted(set(state.key_ids) - set(ring.ids)):
        raise InvalidInputError(
            f"The database is encrypted with key {missing[0]} too, which is neither LANGGRAPH_AES_KEY "
            "nor one of ENCRYPTION_OLD_KEYS"
        )


async def encrypt(
    db: Database, tell: Callable[[str, Sealed], None], *, accept_clear: bool = False
) -> Sealed:
    """
    Encrypt all that a database has by the newest key, beside running servers that have it too.

    Stopped, it goes on where it was when it is called again: what is done is passed over. A key that a
    process which lives seals with stays one that is needed, though nothing that it sealed is left.

    Args:
        tell: Is told of each table that is done.
        accept_clear: Encrypt what is in the clear although everything had been encrypted before: whoever
            wrote it there may have been anybody.

    Raises:
        InvalidInputError: There is no key, or one is missing.
    """
    ring = db.cipher
    if not isinstance(ring, KeyRing):
        raise InvalidInputError("LANGGRAPH_AES_KEY is not set: there is nothing to encrypt with")
    async with db.transaction() as tx:
        begun = {"is_complete": False, "key_ids": [ring.ids[0]]}
        if await tx.execute(_SQL["begin"], begun):
            await _record(tx, "encryption.begun", ring)
    state = await db.one(_State, _SQL["state"], {})
    assert state is not None
    _check_keys(ring, state)
    ring.accepts_clear = accept_clear or not state.is_complete
    ring.may_lack_keys = state.is_complete
    await db.execute(_SQL["use_key"], {"key_id": ring.ids[0]})
    done, is_all = await _sealed_whole(db, tell)
    await _hide_hashes(db)
    await _begin_index_anew(db)
    async with db.transaction() as tx:
        await tx.execute(_SQL["lock"], {})
        complete = {"key_id": ring.ids[0], "is_all": is_all}
        [(older_keys,)] = await tx.tuples(_SQL["complete"], complete)
        await _record(tx, "encryption.rotated", ring, rows=done.rows, unreadable=done.unreadable)
    ring.accepts_clear = False
    return replace(done, older_keys=older_keys)


async def _sealed_whole(db: Database, tell: Callable[[str, Sealed], None]) -> tuple[Sealed, bool]:
    """Seal every table, and what was written behind that; and whether nothing needs an older key now."""
    rows, done = 0, Sealed()
    for number in range(_PASSES):
        done = Sealed()
        for table in TABLES:
            of_table = await reseal(db, table)
            if number == 0:
                tell(table.name, of_table)
            done += of_table
        rows += done.rows
        if not done.rows:
            break
    return Sealed(rows=rows, unreadable=done.unreadable), done == Sealed()


async def _record(tx: Transaction, act: audit.Act, ring: KeyRing, **details: int) -> None:
    subject = f"database:{ring.ids[0]}"
    await audit.record(tx, act, actor=None, owner="", subject=subject, details=details)


async def _has_clear(db: Database, *, all_of_it: bool = False) -> bool:
    """Whether something is not encrypted: of what is newest in each table, or of all."""
    for table in TABLES:
        after: tuple[Any, ...] | None = None
        while True:
            async with db.transaction() as tx:
                rows = await _page(tx, table, after, newest=not all_of_it)
            if any(is_clear(db.cipher, table, row) for row in rows):
                return True
            if not all_of_it or len(rows) < table.page:
                break
            after = tuple(rows[-1][name] for name in table.key)
    return False


async def _hide_hashes(db: Database) -> None:
    """Plain hashes of files would tell whether they are ones that somebody has."""
    cipher = db.cipher
    after = ""
    while rows := await db.tuples(_SQL["plain_files"], {"after": after, "limit": PAGE}):
        for content_id, digest in rows:
            text, place = digest.hex(), at("file_content.sealed_sha256", content_id)
            params = {
                "content_id": content_id,
                "sha256": cipher.blind(text, FILE),
                "sealed_sha256": cipher.seal_text(text, place),
            }
            try:
                await db.execute(_SQL["hide_file"], params)
            except AlreadyExistsError:
                # The same was uploaded again meanwhile: whoever uploads it now is given that one.
                alone = cipher.blind(f"{text} {content_id}", FILE)
                await db.execute(_SQL["hide_file"], {**params, "sha256": alone})
        after = rows[-1][0]


async def _begin_index_anew(db: Database) -> None:
    """Terms that another key named, or none, are not found by this one: they are made again."""
    [(last,)] = await db.tuples(_SQL["last_indexed"], {})
    while await db.execute(_SQL["forget_terms"], {"last": last, "limit": 50 * PAGE}):
        continue
    await db.execute(_SQL["index_anew"], {})


# ------------------------------------------------------------------ rows that are sealed anew

#: What is left of a column to be sealed by the newest key; of the others every row is looked at.
_LEFT: Final[Mapping[Form, LiteralString]] = {
    "bytes": "substring({0} FROM 1 FOR 8) <> %(head)s",
    "text": "{0} <> '' AND NOT starts_with({0}, %(text_head)s)",
    "json": "{0} NOT IN ('{{}}', '[]', 'null')"
    " AND NOT starts_with(coalesce({0} ->> '$sealed', ''), %(text_head)s)",
    "item": "{0} <> '{{}}' AND NOT starts_with(coalesce({0} ->> '$sealed', ''), %(text_head)s)",
    "job": "{0} - '{{delivery_id,webhook_id,webhook_owner,run_started_at}}'::text[] <> '{{}}'"
    " AND NOT starts_with(coalesce({0} ->> '$sealed', ''), %(text_head)s)",
    "body": "NOT starts_with(coalesce({0} ->> '$sealed', ''), %(text_head)s)",
    "checkpoint": "jsonb_path_exists({0} -> 'channel_values', '$.* ? (@ != true)')"
    " AND NOT starts_with(coalesce({0} -> 'channel_values' ->> '$sealed', ''), %(text_head)s)",
}


async def move(tx: Transaction, source_id: str, target_id: str) -> None:
    """
    Seal what was copied from a thread for the one that it was copied to, in the copy's transaction.

    Raises:
        UnreadableError: Something of it cannot be opened; then there is no copy.
    """
    if not tx.cipher.is_on:
        return
    for table in TABLES:
        if table.thread is None:
            continue
        after: tuple[Any, ...] | None = None
        while rows := await _page(tx, table, after, thread_id=target_id):
            after = tuple(rows[-1][name] for name in table.key)
            if (await _reseal(tx, table, rows, {table.thread: source_id})).unreadable:
                raise UnreadableError(f"Something of thread {source_id} cannot be decrypted")
            if len(rows) < table.page:
                break


async def reseal(db: Database, table: Table) -> Sealed:
    """
    Seal all that a table has by the newest key, page by page, each in a transaction of its own.

    Rows that are written meanwhile keep what was written. Beginning anew, it passes over what is done.
    """
    done = Sealed()
    after: tuple[Any, ...] | None = None
    while True:
        async with db.transaction() as tx:
            rows = await _page(tx, table, after)
            if rows:
                done += await _reseal(tx, table, rows, {})
        if len(rows) < table.page:
            return done
        after = tuple(rows[-1][name] for name in table.key)


async def _page(
    tx: Transaction,
    table: Table,
    after: Sequence[Any] | None,
    *,
    thread_id: str | None = None,
    newest: bool = False,
) -> list[dict[str, Any]]:
    """Rows with something to be sealed, or all of a thread, in the order of their key; or the last ones."""
    query, names = _select(table, is_first=after is None, thread_id=thread_id, newest=newest)
    params: dict[str, Any] = {f"after_{i}": value for i, value in enumerate(after or ())}
    params |= {"thread_id": thread_id, "limit": table.page, **_heads(tx.cipher)}
    return [dict(zip(names, row, strict=True)) for row in await tx.tuples(query, params)]


def _heads(cipher: Cipher) -> dict[str, Any]:
    head, text_head = cipher.heads
    return {"head": head, "text_head": text_head}


def _select(
    table: Table, *, is_first: bool, thread_id: str | None, newest: bool
) -> tuple[LiteralString, list[str]]:
    read = [*table.reads, *table.columns]
    shown = [_text(table, name) for name in read]
    left = [_left(name, column.form) for name, column in table.columns.items()]
    conditions = [SQL("({})").format(SQL(" OR ").join(left))]
    if thread_id is not None:
        conditions = [SQL("{} = %(thread_id)s").format(Identifier(str(table.thread)))]
    if not is_first:
        beyond = SQL(", ").join(
            SQL("%({})s::{}").format(_sql(f"after_{i}"), SQL(table.types.get(name, "text")))
            for i, name in enumerate(table.key)
        )
        conditions.append(SQL("({}) > ({})").format(_names(table.key), beyond))
    if newest:
        conditions = [SQL("true").format()]
    query = SQL("SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT %(limit)s").format(
        SQL(", ").join(shown),
        Identifier(table.name),
        SQL(" AND ").join(conditions),
        SQL(", ").join(
            SQL("{} DESC" if newest else "{}").format(Identifier(name)) for name in table.key
        ),
    )
    return _as_text(query), read


def _left(name: str, form: Form) -> Composed:
    if form not in _LEFT:
        return SQL("{} <> '{{}}'").format(Identifier(name))
    return SQL(_LEFT[form]).format(Identifier(name))


def _text(table: Table, name: str) -> Composed:
    """A column as it is read: what a place is made of, and JSON, as text."""
    column = table.columns.get(name)
    if column is not None and column.form in ("bytes", "text"):
        return SQL("{}").format(Identifier(name))
    return SQL("{}::text").format(Identifier(name))


def _names(names: Sequence[str]) -> Composed:
    return SQL(", ").join([Identifier(name) for name in names])


def _as_text(query: Composed) -> LiteralString:
    return cast("LiteralString", query.as_string())  # type: ignore[redundant-cast]


def _sql(text: str) -> SQL:
    """A piece of a query that is made of this module's own words."""
    return SQL(cast("LiteralString", text))  # type: ignore[redundant-cast]


async def _reseal(
    tx: Transaction,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    was: Mapping[str, Any],
) -> Sealed:
    """
    Seal values of rows by the newest key, for where they are.

    Args:
        was: What was another in the rows that their values were sealed for.
    """
    changed: set[tuple[Any, ...]] = set()
    unreadable = 0
    for name, column in table.columns.items():
        updates = []
        for row in rows:
            if (old := row[name]) is None:
                continue
            place, before = place_of(table, name, row), place_of(table, name, {**row, **was})
            if (new := sealed_anew(tx.cipher, column, old, before, place)) is None:
                unreadable += 1
            elif new != old:
                updates.append((*(row[key] for key in table.key), old, new))
        if updates:
            columns = list(zip(*updates, strict=True))
            params = {f"value_{i}": list(values) for i, values in enumerate(columns)}
            await tx.execute(_update(table, name, column), params)
            changed.update(update[: len(table.key)] for update in updates)
    return Sealed(rows=len(changed), unreadable=unreadable)


def _update(table: Table, name: str, column: Column) -> LiteralString:
    kind = {"bytes": "bytea", "text": "text"}.get(column.form, "jsonb")
    sent = "bytea" if kind == "bytea" else "text"
    names = [*table.key, "old", "new"]
    types = [*("text" for _ in table.key), sent, sent]
    arrays = SQL(", ").join(
        SQL("%({})s::{}[]").format(_sql(f"value_{i}"), _sql(kind_of))
        for i, kind_of in enumerate(types)
    )
    same = [
        SQL("t.{0} = n.{0}::{1}").format(Identifier(key), SQL(table.types.get(key, "text")))
        for key in table.key
    ]
    return _as_text(
        SQL(
            "UPDATE {0} AS t SET {1} = n.new::{2} FROM unnest({3}) AS n ({4})"
            " WHERE {5} AND t.{1} = n.old::{2}"
        ).format(
            Identifier(table.name),
            Identifier(name),
            _sql(kind),
            arrays,
            SQL(", ").join([Identifier(part) for part in names]),
            SQL(" AND ").join(same),
        )
    )
