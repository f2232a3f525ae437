"""Sessions that leave as files, and files that become sessions: pages, and imports that go on alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, Self

from store import jobs
from store.access import Access
from store.cipher import Cipher, at
from store.database import Database
from store.errors import ConflictError, NotFoundError
from store.models import JsonObject, Session
from store.sql import load

SQL = load("exchanges")

#: The kind of job that does an import.
KIND: Final = "import"
#: Imports of one owner that are not done, at the most: each keeps its file.
MAX_UNDER_WAY: Final = 5
#: How much of a file a row holds.
PART_BYTES: Final = 2**20
#: Messages of a session that are looked up at the most.
MAX_KNOWN: Final = 100_000

ImportStatus = Literal["pending", "running", "success", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A message as a file has it."""

    id: str
    seq: int
    role: str
    content: str
    message_type: str
    meta_data: JsonObject
    in_context: bool
    on_branch: bool
    create_time: datetime
    #: What it was said after; None at the beginning.
    parent_id: str | None

    def opened_of(self, cipher: Cipher, thread_id: str) -> Self:
        """The row, which is one of a thread, without its seals."""
        content = at("message.content", thread_id, self.id)
        meta_data = at("message.meta_data", thread_id, self.id)
        return replace(
            self,
            content=cipher.open_text(self.content, content),
            meta_data=cipher.open_json(self.meta_data, meta_data),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """A file that is being taken in; `request` is as whom and how, `report` what came of it."""

    import_id: str
    owner: str | None
    request: JsonObject
    status: ImportStatus
    size_bytes: int
    position: int
    report: JsonObject
    created_at: datetime
    updated_at: datetime


async def sessions_page(
    db: Database, *, after: tuple[datetime, str] | None, limit: int, access: Access
) -> list[Session]:
    """Visible sessions that are not deleted, in the order in which they were made."""
    after_time, after_id = after or (None, None)
    params = {
        "after_time": after_time,
        "after_id": after_id,
        "limit": limit,
        "visible": access.array,
    }
    # Planned anew for each filter: a plan for any would be one for none.
    return await db.all(Session, SQL["sessions"], params, prepare=False)


async def sessions_of(
    db: Database,
    user_id: str,
    *,
    after: tuple[datetime, str] | None,
    limit: int,
    access: Access,
) -> list[Session]:
    """A user's sessions, deleted ones too, in the order in which they were made."""
    after_time, after_id = after or (None, None)
    params = {
        "user_id": user_id,
        "after_time": after_time,
        "after_id": after_id,
        "limit": limit,
        "visible": access.array,
    }
    return await db.all(Session, SQL["sessions_of"], params, prepare=False)


async def messages_page(
    db: Database, thread_id: str, *, after_seq: int, every_branch: bool, limit: int
) -> list[Exported]:
    """Messages of a session in the order in which they came, after a place in it."""
    params = {
        "thread_id": thread_id,
        "after_seq": after_seq,
        "every_branch": every_branch,
        "limit": limit,
    }
    rows = await db.all(Exported, SQL["messages"], params)
    return [row.opened_of(db.cipher, thread_id) for row in rows] if db.cipher.is_on else rows


async def head_of(db: Database, thread_id: str) -> str | None:
    """The last message of the branch that a session shows."""
    rows = await db.tuples(SQL["head"], {"thread_id": thread_id})
    return rows[0][0] if rows else None


async def known(db: Database, thread_id: str) -> list[tuple[str, bool]]:
    """The ids of a session's messages in their order, and whether each is on the branch shown."""
    params = {"thread_id": thread_id, "limit": MAX_KNOWN}
    return [(id_, on_branch) for id_, on_branch in await db.tuples(SQL["known"], params)]


async def begin(
    db: Database,
    import_id: str,
    *,
    owner: str | None,
    request: JsonObject,
    report: JsonObject,
    size_bytes: int,
    parts: Iterable[bytes],
) -> Import:
    """
    Keep a file and have it taken in, by whichever process comes to it.

    A transaction for each part of it, so that no large file holds up a connection for long; what
    is left of one that did not come to its end goes after some days.

    Raises:
        ConflictError: The owner has `MAX_UNDER_WAY` imports that are not done.
    """
    params: JsonObject = {
        "import_id": import_id,
        "owner": owner,
        "request": db.cipher.seal_json(request, at("import.request", import_id)),
        "report": db.cipher.seal_json(report, at("import.report", import_id)),
        "size_bytes": size_bytes,
        "most": MAX_UNDER_WAY,
    }
    await db.execute(SQL["forget_old"], {})
    begun = await db.one(Import, SQL["create"], params)
    if begun is None:
        raise ConflictError(f"{MAX_UNDER_WAY} imports are under way: wait for one to end")
    for number, content in enumerate(parts):
        sealed = db.cipher.seal(content, _part_at(import_id, number))
        part: dict[str, Any] = {"import_id": import_id, "number": number, "content": sealed}
        await db.execute(SQL["add_part"], part)
    async with db.transaction() as tx:
        await jobs.enqueue(tx, KIND, {"import_id": import_id})
    return _opened(db.cipher, begun)


async def get(db: Database, import_id: str, *, owner: str | None, everybody: bool) -> Import:
    """
    An import.

    Args:
        everybody: Nobody is authenticated, so it is everybody's; or it is the server that asks.

    Raises:
        NotFoundError: There is none, or it is somebody else's.
    """
    params = {"import_id": import_id, "owner": owner, "everybody": everybody}
    found = await db.one(Import, SQL["get"], params)
    if found is None:
        raise NotFoundError(f"Import {import_id} not found")
    return _opened(db.cipher, found)


async def part(db: Database, import_id: str, number: int) -> bytes | None:
    """A part of an import's file; None beyond its end."""
    rows = await db.tuples(SQL["part"], {"import_id": import_id, "number": number})
    return db.cipher.open(bytes(rows[0][0]), _part_at(import_id, number)) if rows else None


async def advance(
    db: Database,
    found: Import,
    *,
    before: int,
    position: int,
    report: JsonObject,
    status: ImportStatus,
    again: bool = False,
) -> bool:
    """
    Write down how far an import is, and forget its file with its end.

    Args:
        before: Where it was believed to be.
        again: Have it gone on with by another job.

    Returns:
        False if somebody else is at work on it, or it has ended: then nothing was written.
    """
    params = {
        "import_id": found.import_id,
        "before": before,
        "position": position,
        "report": db.cipher.seal_json(report, at("import.report", found.import_id)),
        "status": status,
    }
    async with db.transaction() as tx:
        if not await tx.execute(SQL["advance"], params):
            return False
        if status in ("success", "error"):
            await tx.execute(SQL["forget_parts"], {"import_id": found.import_id})
        if again:
            await jobs.enqueue(tx, KIND, {"import_id": found.import_id})
        return True


def _part_at(import_id: str, number: int) -> bytes:
    return at("import_part.content", import_id, str(number))


def _opened(cipher: Cipher, found: Import) -> Import:
    if not cipher.is_on:
        return found
    id_ = found.import_id
    return replace(
        found,
        request=cipher.open_json(found.request, at("import.request", id_)),
        report=cipher.open_json(found.report, at("import.report", id_)),
    )
