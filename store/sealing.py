"""
Which columns are sealed, and how what lies there comes to be sealed by the newest key.

Every column that may hold what somebody said is in `TABLES`. The place of a value is
``at("table.column", *its place)``, so that rows can be sealed anew without knowing what they are: when
they are copied to another thread, when a key is changed, and when encryption begins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, LiteralString, TypeVar, cast

import orjson
from psycopg.sql import SQL, Composed, Identifier

from store import audit, blinds
from store.cipher import NOT_ENCRYPTED, SEALED, Cipher, KeyRing, at
from store.database import Database, Transaction
from store.errors import AlreadyExistsError, InvalidInputError, UnreadableError
from store.models import CONFIG
from store.projection import Record, Row
from store.sql import load

#: How a column is sealed: by `seal` or `seal_same`, `seal_text`, `seal_json` (an object with ``$sealed``),
#: `seal_checkpoint`, or `seal_values` at the path of a thread's config or at the top, as `metadata`.
#: An ``item`` has marks beside it, of a ``job`` and a ``body`` SQL writes a part.
Form = Literal["bytes", "text", "json", "checkpoint", "config", "metadata", "item", "job", "body"]
#: Rows that are sealed anew in one transaction.
PAGE: Final = 100
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

#: What `Cipher.blind` is told that a file's hash is.
FILE: Final = "file"

_SQL: Final = load("sealing")


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column that is sealed.

    Attributes:
        place: Of which columns its place is made, in their order; those of the key unless given.
        named: What its place begins with, if not with ``table.column``.
        shown: What of a JSON value lies beside it in the clear.
    """

    form: Form
    place: tuple[str, ...] = ()
    named: str = ""
    shown: Callable[[Any], Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table with sealed columns.

    Attributes:
        key: The columns of its primary key, in which order it is gone through.
        thread: The column that says of which thread a row is, if it goes with copies of one.
        page: Rows that are sealed anew in one transaction.
        types: The types of columns of the key that are not text.
    """

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, Column]
    thread: str | None = None
    page: int = PAGE
    types: Mapping[str, LiteralString] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that places are made of, the key first."""
        found = dict.fromkeys(self.key)
        for column in self.columns.values():
            found |= dict.fromkeys(column.place)
        return tuple(found)


_BLOB: Final = ("thread_id", "checkpoint_ns", "channel", "version", "type")
_WRITE: Final = ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel")
_CHECKPOINT: Final = ("thread_id", "checkpoint_ns", "checkpoint_id")
_UUID: Final[Mapping[str, LiteralString]] = dict.fromkeys(
    (
        "assistant_id",
        "content_id",
        "cron_id",
        "delivery_id",
        "file_id",
        "import_id",
        "run_id",
        "share_id",
        "user_job_id",
        "webhook_id",
    ),
    "uuid",
)


def shown_of_message(meta: Any) -> Mapping[str, Any]:
    """What SQL reads of a message's `meta_data`: counts of tokens, a model's name, ids and times."""
    shown: dict[str, Any] = {}
    if usage := meta.get("usage_metadata"):
        shown["usage_metadata"] = usage
    response = meta.get("response_metadata")
    if isinstance(response, dict) and isinstance(name := response.get("model_name"), str):
        shown["response_metadata"] = {"model_name": name}
    more = meta.get("additional_kwargs")
    if isinstance(more, dict) and (kept := {k: more[k] for k in _KEPT if k in more}):
        shown["additional_kwargs"] = kept
    return shown


_KEPT: Final = ("pair_id", "chat_type", "created_at")


def shown_of_kwargs(kwargs: Any) -> Mapping[str, Any]:
    """What SQL reads of a run's `kwargs`: whether it has a webhook, which graph it is of, and whose it is."""
    shown: dict[str, Any] = {}
    if kwargs.get("webhook") is not None:
        shown["webhook"] = True
    configurable = (kwargs.get("config") or {}).get("configurable") or {}
    if kept := {name: configurable[name] for name in _KEPT_OF_RUN if configurable.get(name)}:
        shown["config"] = {"configurable": kept}
    return shown


_KEPT_OF_RUN: Final = ("graph_id", "langgraph_auth_user_id")


def shown_of_job(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What SQL reads of a job's payload: whose the run is that a webhook is told of."""
    run = payload.get("run")
    if not isinstance(run, dict):
        return {}
    metadata = run.get("metadata") or {}
    of = {name: metadata[name] for name in ("owner", "user_id") if name in metadata}
    kwargs = {n: v for n, v in shown_of_kwargs(run.get("kwargs") or {}).items() if n == "config"}
    return {"run": {"metadata": of, "kwargs": kwargs}}


def shown_of_error(error: Any) -> Mapping[str, Any]:
    """What SQL reads of an error: of which kind it is."""
    return {"error": error["error"]} if "error" in error else {}


def shown_of_change(data: Any) -> Mapping[str, Any]:
    """What SQL reads of a change: whom it names as members, who may be erased."""
    return {"members": data["members"]} if "members" in data else {}


#: All of them. What is not here lies in the clear: docs/encryption.md lists it.
TABLES: Final[tuple[Table, ...]] = (
    Table(
        "checkpoint_blobs",
        _BLOB[:4],
        {"blob": Column("bytes", _BLOB)},
        thread="thread_id",
        page=20,
    ),
    Table(
        "checkpoint_writes",
        (*_WRITE[:4], "idx"),
        {
            "blob": Column("bytes", (*_WRITE, "type")),
            "replaced_blob": Column(
                "bytes", (*_WRITE, "replaced_type"), named="checkpoint_writes.blob"
            ),
        },
        thread="thread_id",
        page=20,
        types={"idx": "int"},
    ),
    Table(
        "checkpoints",
        _CHECKPOINT,
        {"checkpoint": Column("checkpoint"), "metadata": Column("metadata")},
        thread="thread_id",
    ),
    Table(
        "message",
        ("conversation_id", "id"),
        {"content": Column("text"), "meta_data": Column("json", shown=shown_of_message)},
        thread="conversation_id",
    ),
    Table(
        "thread",
        ("thread_id",),
        {
            "metadata": Column("metadata"),
            "config": Column("config"),
            "interrupts": Column("json"),
            "error": Column("json"),
        },
        thread="thread_id",
    ),
    Table(
        "run",
        ("run_id",),
        {
            "metadata": Column("metadata"),
            "kwargs": Column("json", shown=shown_of_kwargs),
            "error": Column("json", shown=shown_of_error),
        },
        types=_UUID,
    ),
    Table(
        "assistant",
        ("assistant_id",),
        {
            "description": Column("text"),
            "config": Column("json"),
            "context": Column("json"),
            "metadata": Column("metadata"),
        },
        types=_UUID,
    ),
    Table(
        "assistant_version",
        ("assistant_id", "version"),
        {
            "description": Column("text", ("assistant_id",), named="assistant.description"),
            "config": Column("json", ("assistant_id",), named="assistant.config"),
            "context": Column("json", ("assistant_id",), named="assistant.context"),
            "metadata": Column("metadata"),
        },
        types={**_UUID, "version": "int"},
    ),
    Table(
        "cron",
        ("cron_id",),
        {
            "payload": Column("json"),
            "injected": Column("json"),
            "error": Column("json"),
            "metadata": Column("metadata"),
        },
        types=_UUID,
    ),
    Table(
        "feedback",
        ("conversation_id", "message_id", "user_id"),
        {
            "reason": Column("text", ("conversation_id", "message_id")),
            "tags": Column("json", ("conversation_id", "message_id")),
        },
    ),
    Table("file", ("file_id",), {"name": Column("text")}, types=_UUID),
    Table("file_content", ("content_id",), {"sealed_sha256": Column("text")}, types=_UUID),
    Table(
        "file_chunk",
        ("content_id", "place"),
        {"data": Column("bytes")},
        page=20,
        types={**_UUID, "place": "int"},
    ),
    Table(
        "import",
        ("import_id",),
        {"request": Column("json"), "report": Column("json")},
        types=_UUID,
    ),
    Table(
        "import_part",
        ("import_id", "number"),
        {"content": Column("bytes")},
        page=10,
        types={**_UUID, "number": "int"},
    ),
    Table(
        "idempotency_key",
        ("conversation_id", "caller", "key"),
        {"payload_hash": Column("bytes")},
    ),
    Table("job", ("job_id",), {"payload": Column("job", ("kind",))}, types={"job_id": "bigint"}),
    Table("outbox", ("outbox_id",), {"seen_by": Column("metadata")}, types={"outbox_id": "bigint"}),
    Table(
        "change",
        ("seq",),
        {"data": Column("json", shown=shown_of_change), "seen_by": Column("metadata")},
        types={"seq": "bigint"},
    ),
    Table(
        "webhook",
        ("webhook_id",),
        {"url": Column("text"), "description": Column("text"), "secret": Column("bytes")},
        types=_UUID,
    ),
    Table(
        "webhook_delivery",
        ("delivery_id",),
        {"body": Column("body", ("seq",), named="change.data"), "last_error": Column("text")},
        types=_UUID,
    ),
    Table("share", ("share_id",), {"name": Column("text")}, types=_UUID),
    Table(
        "share_message",
        ("share_id", "seq"),
        {"content": Column("text", ("thread_id", "id"), named="message.content")},
        types={**_UUID, "seq": "int"},
    ),
    Table("store", ("prefix", "key"), {"value": Column("item")}),
    Table(
        "user_job_part",
        ("user_job_id", "number"),
        {"content": Column("bytes", named="user_job_part")},
        page=10,
        types={**_UUID, "number": "int"},
    ),
)

#: Of payloads of jobs, what SQL writes: ids and times.
JOB_SHOWN: Final = frozenset({"delivery_id", "webhook_id", "webhook_owner", "run_started_at"})
#: Of what webhooks are told, the same.
_BODY_SHOWN: Final = frozenset({"type", "seq", "timestamp"})


# ------------------------------------------------------------------ values that are part of others

_Message = TypeVar("_Message", Row, Record)


def message(cipher: Cipher, thread_id: str, row: _Message) -> _Message:
    """The row of a message as it is kept."""
    if not cipher.is_on:
        return row
    return replace(
        row,
        content=cipher.seal_text(row.content, at("message.content", thread_id, row.id)),
        meta_data=_sealed_meta(cipher, thread_id, row),
    )


def _sealed_meta(cipher: Cipher, thread_id: str, row: Row | Record) -> bytes:
    if row.meta_data == b"{}":  # what people say has no more
        return row.meta_data
    place = at("message.meta_data", thread_id, row.id)
    sealed = cipher.seal_text(row.meta_data.decode(), place)
    return orjson.dumps({SEALED: sealed, **shown_of_message(orjson.loads(row.meta_data))})


def seal_checkpoint(cipher: Cipher, checkpoint: Mapping[str, Any], place: bytes) -> dict[str, Any]:
    """A checkpoint as it is kept: of the values in it those are seen that say that a blob has it."""
    values = checkpoint.get("channel_values") or {}
    marks = {name: True for name, value in values.items() if value is True}
    rest = {name: value for name, value in values.items() if value is not True}
    return {**checkpoint, "channel_values": {**marks, **cipher.seal_json(rest, place)}}


def open_checkpoint(cipher: Cipher, checkpoint: Mapping[str, Any], place: bytes) -> dict[str, Any]:
    """A checkpoint without its seals."""
    kept = checkpoint.get("channel_values") or {}
    marks = {name: True for name, value in kept.items() if value is True}
    rest = {name: value for name, value in kept.items() if value is not True}
    return {**checkpoint, "channel_values": {**marks, **cipher.open_json(rest, place)}}


# ------------------------------------------------------------------ what a database is sealed by


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """How many rows were sealed anew, and how many values there are that cannot be opened."""

    rows: int = 0
    unreadable: int = 0

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

    Stopped, it goes on where it was when it is called again: what is done is passed over.

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
        complete = {"key_id": ring.ids[0], "is_all": is_all}
        await tx.execute(_SQL["complete"], complete)
        await _record(tx, "encryption.rotated", ring, rows=done.rows, unreadable=done.unreadable)
    ring.accepts_clear = False
    return done


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
            if any(_is_clear(db.cipher, table, row) for row in rows):
                return True
            if not all_of_it or len(rows) < table.page:
                break
            after = tuple(rows[-1][name] for name in table.key)
    return False


def _is_clear(cipher: Cipher, table: Table, row: Mapping[str, Any]) -> bool:
    for name, column in table.columns.items():
        if row[name] is not None:
            place = _place(table, name, row)
            try:
                _FORMS[column.form](cipher, column, row[name], place, place)
            except UnreadableError as error:
                if error.code == NOT_ENCRYPTED:
                    return True
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
            place, before = _place(table, name, row), _place(table, name, {**row, **was})
            if (new := _sealed_anew(tx.cipher, column, old, before, place)) is None:
                unreadable += 1
            elif new != old:
                updates.append((*(row[key] for key in table.key), old, new))
        if updates:
            columns = list(zip(*updates, strict=True))
            params = {f"value_{i}": list(values) for i, values in enumerate(columns)}
            await tx.execute(_update(table, name, column), params)
            changed.update(update[: len(table.key)] for update in updates)
    return Sealed(rows=len(changed), unreadable=unreadable)


def _place(table: Table, name: str, row: Mapping[str, Any]) -> bytes:
    column = table.columns[name]
    parts = (str(row[part]) for part in column.place or table.key)
    return at(column.named or f"{table.name}.{name}", *parts)


def _sealed_anew(cipher: Cipher, column: Column, old: Any, before: bytes, place: bytes) -> Any:
    """A value sealed by the newest key; the same if it was, None if it cannot be opened."""
    for was in dict.fromkeys((before, place)):
        try:
            return _FORMS[column.form](cipher, column, old, was, place)
        except UnreadableError:
            continue
    return None


def _bytes(cipher: Cipher, column: Column, old: bytes, before: bytes, place: bytes) -> bytes:
    opened = cipher.open(old, before)
    return old if before == place and cipher.is_current(old) else cipher.seal(opened, place)


def _plain_text(cipher: Cipher, column: Column, old: str, before: bytes, place: bytes) -> str:
    return cipher.seal_text(cipher.open_text(old, before), place)


def _json(cipher: Cipher, column: Column, old: str, before: bytes, place: bytes) -> str:
    opened = cipher.open_json(value := orjson.loads(old), before)
    shown = column.shown(opened) if column.shown and isinstance(opened, dict) else None
    return _dumped(old, value, cipher.seal_json(opened, place, shown=shown))


def _checkpoint(cipher: Cipher, column: Column, old: str, before: bytes, place: bytes) -> str:
    opened = open_checkpoint(cipher, value := orjson.loads(old), before)
    return _dumped(old, value, seal_checkpoint(cipher, opened, place))


def _values(cipher: Cipher, column: Column, old: str, before: bytes, place: bytes) -> str:
    path = CONFIG if column.form == "config" else ()
    opened = cipher.open_values(value := orjson.loads(old), path)
    return _dumped(old, value, cipher.seal_values(opened, path))


def _item(cipher: Cipher, column: Column, old: str, before: bytes, place: bytes) -> str:
    opened = cipher.open_json(value := orjson.loads(old), before)
    return _dumped(old, value, blinds.sealed(cipher, opened, place))


def _job(cipher: Cipher, column: Column, old: str, before: bytes, place: bytes) -> str:
    value = orjson.loads(old)
    opened = open_job(cipher, value, before)
    rest = {name: part for name, part in opened.items() if name not in JOB_SHOWN}
    shown = {name: part for name, part in value.items() if name in JOB_SHOWN}
    return _dumped(old, value, {**seal_job(cipher, rest, place), **shown})


def seal_job(cipher: Cipher, payload: Mapping[str, Any], place: bytes) -> dict[str, Any]:
    """A job's payload as it is kept; SQL may write more beside it."""
    kept: dict[str, Any] = cipher.seal_json(payload, place, shown=shown_of_job(payload))
    return kept


def open_job(cipher: Cipher, payload: Mapping[str, Any], place: bytes) -> dict[str, Any]:
    """A job's payload without its seals."""
    shown = {name: part for name, part in payload.items() if name in JOB_SHOWN}
    rest = {name: part for name, part in payload.items() if name not in JOB_SHOWN}
    return {**cipher.open_json(rest, place), **shown}


def _body(cipher: Cipher, column: Column, old: str, before: bytes, place: bytes) -> str:
    value = orjson.loads(old)
    shown = {name: part for name, part in value.items() if name in _BODY_SHOWN}
    data = open_body(cipher, value, before)["data"]
    return _dumped(
        old, value, {**shown, **cipher.seal_json(data, place, shown=shown_of_change(data))}
    )


def open_body(cipher: Cipher, body: Mapping[str, Any], place: bytes) -> dict[str, Any]:
    """What a webhook is told, without its seals: beside a change's sealed data stands the rest."""
    told = {name: part for name, part in body.items() if name in _BODY_SHOWN}
    sealed = body if SEALED in body else body.get("data")
    return {**told, "data": cipher.open_json(sealed, place)}


def _dumped(text: str, old: Any, new: Any) -> str:
    return text if old == new else orjson.dumps(new).decode()


_FORMS: Final[Mapping[Form, Callable[[Cipher, Column, Any, bytes, bytes], Any]]] = {
    "bytes": _bytes,
    "text": _plain_text,
    "json": _json,
    "checkpoint": _checkpoint,
    "config": _values,
    "metadata": _values,
    "item": _item,
    "job": _job,
    "body": _body,
}


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
