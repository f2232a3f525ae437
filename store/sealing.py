"""
Which columns are sealed, and how what is in them is sealed and opened.

Every column that may hold what somebody said is in `TABLES`. The place of a value is
``at("table.column", *its place)``, so that rows can be sealed anew without knowing what they are, by
`store.resealing`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, LiteralString, TypeVar

import orjson

from store import blinds
from store.access import OWNER_KEYS
from store.cipher import NOT_ENCRYPTED, SEALED, Cipher, at
from store.errors import UnreadableError
from store.models import CONFIG
from store.projection import Record, Row

#: How a column is sealed: by `seal` or `seal_same`, `seal_text`, `seal_json` (an object with ``$sealed``),
#: `seal_checkpoint`, or `seal_values` at the path of a thread's config or at the top, as `metadata`.
#: An ``item`` has marks beside it, of a ``job`` and a ``body`` SQL writes a part.
Form = Literal["bytes", "text", "json", "checkpoint", "config", "metadata", "item", "job", "body"]
#: Rows that are sealed anew in one transaction.
PAGE: Final = 100
#: What `Cipher.blind` is told that a file's hash is.
FILE: Final = "file"


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
    of = {name: metadata[name] for name in OWNER_KEYS if name in metadata}
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


# ------------------------------------------------------------------ values of rows


def place_of(table: Table, name: str, row: Mapping[str, Any]) -> bytes:
    """What the value of a row's column is bound to."""
    column = table.columns[name]
    parts = (str(row[part]) for part in column.place or table.key)
    return at(column.named or f"{table.name}.{name}", *parts)


def sealed_anew(cipher: Cipher, column: Column, old: Any, before: bytes, place: bytes) -> Any:
    """
    A value sealed by the newest key; the same if it was, None if it cannot be opened.

    Args:
        before: What it was sealed for, unless for `place`.
    """
    for was in dict.fromkeys((before, place)):
        try:
            return _FORMS[column.form](cipher, column, old, was, place)
        except UnreadableError:
            continue
    return None


def is_clear(cipher: Cipher, table: Table, row: Mapping[str, Any]) -> bool:
    """Whether something of a row is not encrypted."""
    for name, column in table.columns.items():
        if row[name] is not None:
            place = place_of(table, name, row)
            try:
                _FORMS[column.form](cipher, column, row[name], place, place)
            except UnreadableError as error:
                if error.code == NOT_ENCRYPTED:
                    return True
    return False


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
