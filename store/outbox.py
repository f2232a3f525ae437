"""
What happened to sessions, messages, runs and shares: told once it has committed, in one order.

The transaction that changes something writes a row of the outbox, here with `put` or by SQL of its
own. One publisher at a time, in any process, takes what has committed, makes changes of it and
numbers them: so the numbers have no holes, and what commits later has a higher one, however long its
transaction took. Of the messages of a run there is no row: they are found by what is in their own
table when the run has ended, so that a run costs two narrow rows. See decision 23.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from store import sealing
from store.access import Access
from store.cipher import Cipher, at, open_name
from store.database import Database, Transaction
from store.errors import UnreadableError
from store.json import dump_json
from store.models import JsonObject
from store.signals import JOB
from store.sql import load

SQL = load("outbox")
log = structlog.get_logger(__name__)

#: Everything that is told.
NAMES: Final = (
    "session.created",
    "session.updated",
    "session.deleted",
    "session.restored",
    "session.purged",
    "session.shared",
    "session.unshared",
    "message.created",
    "message.updated",
    "message.deleted",
    "feedback.given",
    "feedback.withdrawn",
    "run.started",
    "run.ended",
)
#: The kind of job that tells a webhook of a change.
KIND: Final = "event_webhook"
#: Rows that are published in a transaction.
BATCH: Final = 500
#: How many messages that came with a row are told one by one; more at once are an import.
MESSAGES_TOLD: Final = 200
#: How far one statement reads on, in numbers.
WINDOW: Final = 5_000
#: A webhook for which so many changes wait is switched off.
MAX_PENDING: Final = 5_000
#: How many old changes are deleted in a go.
TRIMMED_AT_ONCE: Final = 5_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Something that happened, as it is told."""

    seq: int
    name: str
    thread_id: str
    data: JsonObject
    created_at: datetime

    @property
    def body(self) -> JsonObject:
        """It as clients get it."""
        at = self.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"type": self.name, "timestamp": at, "seq": self.seq, "data": self.data}


@dataclass(frozen=True, slots=True)
class Look:
    """Whether there is something to do."""

    #: The number of the last change that was published.
    head: int
    #: The first row that is to be published, and the last; None if there is none.
    oldest: int | None
    newest: int | None
    #: Whether somebody waits for it who is in no process.
    has_webhooks: bool

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be published."""
        return self.oldest is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Changes after a place."""

    changes: list[Change]
    #: Up to here there are no others; the place to go on from.
    through: int
    #: The last number that was published.
    head: int
    #: Changes up to this one are not kept any more.
    trimmed_through: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    name: str
    thread_id: str
    run_id: str | None
    run_status: str | None
    data: JsonObject | None
    seen_by: JsonObject | None
    created_at: datetime
    is_there: bool
    user_id: str | None
    session_name: str
    chat_type: str | None
    session_status: str
    error: str | None

    def opened(self, cipher: Cipher) -> "_Row":
        """The row without its seals; one whose session's name cannot be opened is of one without a name."""
        try:
            # None of a thread that is gone.
            name = self.session_name and open_name(cipher, self.session_name)
        except UnreadableError as error:
            # What happened to all others waits behind it.
            log.warning("name cannot be read", thread_id=self.thread_id, reason=error.message)
            name = ""
        return replace(self, session_name=name)

    @property
    def changed(self) -> Sequence[str]:
        return (self.data or {}).get("changed") or ()

    @property
    def has_messages(self) -> bool:
        """Whether messages may have come with it."""
        return self.name == "run.ended" or "state" in self.changed


@dataclass(frozen=True, kw_only=True, slots=True)
class _Message:
    thread_id: str
    is_new: bool
    id: str
    role: str
    seq: int
    run_id: str | None


@dataclass(slots=True)
class _Batch:
    """What is made of rows of the outbox, in their order."""

    #: Those of each thread that were not told yet.
    messages: dict[str, list[_Message]]
    #: The threads that have more than all of their rows may tell: of these the last row sums up.
    crowded: set[str]
    made: list[JsonObject] = field(default_factory=list)

    def add(self, row: _Row, *, is_last: bool) -> None:
        """
        Make the changes that a row means.

        Args:
            is_last: No later row of the batch takes the messages of its thread.
        """
        if row.has_messages and (is_last or row.thread_id not in self.crowded):
            self._add_messages(row, is_last=is_last)
        self._put(row, row.name, _data(row))

    def _add_messages(self, row: _Row, *, is_last: bool) -> None:
        every = self.messages.pop(row.thread_id, [])
        found = [m for m in every if is_last or m.run_id == row.run_id]
        if not is_last:
            self.messages[row.thread_id] = [m for m in every if m.run_id != row.run_id]
        if _most(found) > MESSAGES_TOLD:
            more = {"session_id": row.thread_id, "changed": ["messages"]}
            self._put(row, "session.updated", more)
            found = []
        for message in found:
            data = {
                "session_id": message.thread_id,
                "message_id": message.id,
                "role": message.role,
                "run_id": message.run_id,
            }
            self._put(row, "message.created" if message.is_new else "message.updated", data)

    def _put(self, row: _Row, name: str, data: JsonObject) -> None:
        self.made.append(
            {
                "name": name,
                "thread_id": row.thread_id,
                "data": data,
                "seen_by": row.seen_by,
                "created_at": row.created_at,
            }
        )


async def put(
    tx: Transaction,
    name: str,
    thread_id: str,
    *,
    run_id: str | None = None,
    data: JsonObject | None = None,
) -> None:
    """
    Have a change of a thread told when this transaction has committed.

    The transaction has changed or locked the thread's row, so that changes of one thread are told in
    their order. A thread that is deleted is still there when ``session.purged`` is put.

    Args:
        name: One of `NAMES`.
        data: What is told beside the ids and the session's name; small, and no content of messages.
    """
    params = {"name": name, "thread_id": thread_id, "run_id": run_id, "data": data}
    await tx.execute(SQL["put"], params)


async def look(db: Database) -> Look:
    """Whether there is something to be published, and how far that has come."""
    [row] = await db.tuples(SQL["look"], {})
    return Look(*row)


async def publish(db: Database) -> int:
    """
    Number what has committed, and have webhooks told of it: `BATCH` rows of the outbox at the most.

    Returns:
        How many rows there were; 0 also if somebody else is publishing.
    """
    async with db.transaction() as tx:
        locked = await tx.tuples(SQL["lock"], {})
        if not locked:
            return 0
        rows = await tx.all(_Row, SQL["take"], {"limit": BATCH})
        made = await _made(tx, rows)
        if made:
            [(after,)] = locked
            for seq, change in enumerate(made, after + 1):
                data = change["data"]
                shown = sealing.shown_of_change(data)
                change["data"] = tx.cipher.seal_json(data, _at(seq), shown=shown)
            text = dump_json(made).decode()
            await tx.execute(SQL["publish"], {"after": after, "changes": text})
            await _forget(tx, rows, after)
            await tx.execute(SQL["overrun"], {"max_pending": MAX_PENDING})
            await tx.execute(SQL["fan_out"], {"after": after, "kind": KIND, "signal": JOB})
    return len(rows)


async def _made(tx: Transaction, rows: list[_Row]) -> list[JsonObject]:
    told = list(_told(rows))
    asked = Counter(row.thread_id for row in told if row.has_messages)
    messages: dict[str, list[_Message]] = {}
    if asked:
        limits = [asked[thread_id] * MESSAGES_TOLD + 1 for thread_id in sorted(asked)]
        ended = [row.run_id for row in told if row.name == "run.ended"]
        params = {"thread_ids": sorted(asked), "limits": limits, "ended": ended}
        await tx.tuples(SQL["lock_places"], params)
        for message in await tx.all(_Message, SQL["messages"], params):
            messages.setdefault(message.thread_id, []).append(message)
    last = {row.thread_id: place for place, row in enumerate(told) if row.has_messages}
    crowded = {key for key, found in messages.items() if _most(found) > asked[key] * MESSAGES_TOLD}
    batch = _Batch(messages, crowded)
    for place, row in enumerate(told):
        batch.add(row, is_last=last.get(row.thread_id) == place)
    return batch.made


def _most(found: Iterable[_Message]) -> int:
    """How many there are of those that are new, or of the others, whichever are more."""
    return max(Counter(message.is_new for message in found).values(), default=0)


def _told(rows: Sequence[_Row]) -> Iterator[_Row]:
    """The rows that are anybody's news: of a thread that is gone, that it went."""
    gone = {row.thread_id: place for place, row in enumerate(rows) if row.seen_by is not None}
    for place, row in enumerate(rows):
        if row.seen_by is not None or (row.is_there and place > gone.get(row.thread_id, -1)):
            yield row


def _data(row: _Row) -> JsonObject:
    data: JsonObject = {"session_id": row.thread_id, **(row.data or {})}
    if row.run_id is not None:
        data["run_id"] = row.run_id
    if row.name == "run.started":
        return {"attempt": 1, **data, "status": "running"}
    if row.name == "run.ended":
        data["status"] = row.run_status
        return data | {"error": row.error} if row.error else data
    if row.name in ("session.created", "session.updated", "session.restored"):
        data |= {
            "name": row.session_name,
            "user_id": row.user_id,
            "chat_type": row.chat_type,
            "status": row.session_status,
        }
    return data


async def _forget(tx: Transaction, rows: Iterable[_Row], after: int) -> None:
    gone = [row.thread_id for row in rows if row.seen_by is not None]
    if gone:
        await tx.execute(SQL["forget"], {"thread_ids": gone, "after": after})


async def trim(db: Database, *, keep_count: int, keep_seconds: float) -> None:
    """
    Delete changes beyond `keep_count`, and those older than `keep_seconds`; some at a time.

    The same of rows that nobody wanted to be told of: in their place is a number that has no change.
    """
    params = {
        "keep_count": keep_count,
        "keep_seconds": keep_seconds,
        "limit": TRIMMED_AT_ONCE,
    }
    await db.execute(SQL["trim"], params)
    async with db.transaction() as tx:
        if await tx.tuples(SQL["lock"], {}):
            await tx.execute(SQL["trim_outbox"], params)


async def read(
    db: Database,
    *,
    after: int,
    names: Sequence[str] | None = None,
    thread_id: str | None = None,
    limit: int = 500,
    access: Access,
) -> Page:
    """
    What happened after a place on threads that are visible, in its order.

    What cannot be decrypted of it is left out, which the log says.

    Args:
        names: Names that are wanted, ``session.*`` for all that begin so; None for all.
        thread_id: Only of this thread.
        limit: Changes at the most.
    """
    params: dict[str, Any] = {
        "after": after,
        "names": None if names is None else [name.replace("*", "%") for name in names],
        "thread_id": thread_id,
        "limit": limit,
        "window": WINDOW,
        "visible": access.array,
    }
    rows = await db.tuples(SQL["read"], params)
    head, trimmed_through = rows[0][:2]
    kept = [
        Change(seq=seq, name=name, thread_id=of, data=data, created_at=created_at)
        for _, _, seq, name, of, data, created_at in rows
        if seq is not None
    ]
    through = kept[-1].seq if len(kept) == limit else min(after + WINDOW, head)
    found = [*_opened(db.cipher, kept)] if db.cipher.is_on else kept
    return Page(changes=found, through=through, head=head, trimmed_through=trimmed_through)


def _opened(cipher: Cipher, changes: Sequence[Change]) -> Iterator[Change]:
    for change in changes:
        try:
            yield replace(change, data=cipher.open_json(change.data, _at(change.seq)))
        except UnreadableError as error:
            log.warning("change cannot be read", seq=change.seq, reason=error.message)


def opened_body(cipher: Cipher, body: JsonObject) -> JsonObject:
    """What a webhook is told, as `Change.body`."""
    return sealing.open_body(cipher, body, _at(body["seq"]))


def _at(seq: int) -> bytes:
    return at("change.data", str(seq))


async def concerned(
    db: Database, waiting: Sequence[Access], *, after: int, through: int
) -> set[int]:
    """Which of those who wait, by their places, may see something of what is new."""
    text = dump_json([list(access.visible) for access in waiting]).decode()
    params = {"waiting": text, "after": after, "through": through}
    return {place for (place,) in await db.tuples(SQL["concerned"], params)}


async def hold(db: Database, name: str, *, holder: str, seconds: float) -> int | None:
    """
    Become the one who calls a listener, for some seconds.

    Returns:
        The last change that it was told; None if somebody else calls it.
    """
    params = {"name": name, "holder": holder, "seconds": seconds}
    rows = await db.tuples(SQL["hold"], params)
    return int(rows[0][0]) if rows else None


async def advance(db: Database, name: str, *, seq: int, holder: str, seconds: float) -> bool:
    """Write down how far a listener was told; whether it is still the holder's to call."""
    params = {"name": name, "seq": seq, "holder": holder, "seconds": seconds}
    return bool(await db.execute(SQL["advance"], params))


async def let_go(db: Database, *, holder: str) -> None:
    """Leave one's listeners to others."""
    await db.execute(SQL["let_go"], {"holder": holder})
