"""
Attachments: kept once by what is in them, in pieces, read and written a piece at a time.

A file is visible to its owner, and to whoever may see a session that it was sent in. What nobody sent
anywhere goes after a while, and what was sent when its last session is deleted. See
docs/decisions/0022-files-are-rows.md.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeGuard

from uuid_utils.compat import uuid7

from store.access import Access
from store.cipher import Cipher, KeyRing, at
from store.database import Database
from store.errors import AlreadyExistsError, NotFoundError, UnavailableError
from store.models import JsonObject
from store.sealing import FILE
from store.sql import load

_SQL: Final = load("files")

#: How much of a file is in memory at a time.
CHUNK_BYTES: Final = 256 * 1024
_ATTEMPTS: Final = 5
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """What is known of a file; `mime_type` is by what is in it, `sha256` in hexadecimal."""

    file_id: str
    content_id: str
    name: str
    owner: str
    mime_type: str
    size_bytes: int
    sha256: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """How many files somebody has, and how many bytes are in them: what is kept once, each time."""

    count: int
    bytes: int


class Upload:
    """
    A file on its way in. Nobody sees it before `finish`.

    Args:
        db: Each piece is a statement of its own: no connection waits for a slow client.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._content_id = str(uuid7())
        self._hash = hashlib.sha256()
        self._places = 0
        self.size_bytes = 0

    async def append(self, data: bytes) -> None:
        """Keep the next piece, of `CHUNK_BYTES` at the most; the last one may be shorter."""
        if self._places == 0:
            await self._db.execute(_SQL["begin"], {"content_id": self._content_id})
        sealed = self._db.cipher.seal(data, _chunk_at(self._content_id, self._places))
        params = {"content_id": self._content_id, "place": self._places, "data": sealed}
        await self._db.execute(_SQL["append"], params)
        self._hash.update(data)
        self._places += 1
        self.size_bytes += len(data)

    async def abandon(self) -> None:
        """Forget what has been kept."""
        await self._db.execute(_SQL["abandon"], {"content_id": self._content_id})

    async def finish(self, *, name: str, owner: str, mime_type: str) -> File:
        """
        Make it a file, of the pieces that were kept; of the same that is there already, if it is.

        Args:
            name: What it is called; no path.
            owner: The identity of who uploads it.
        """
        digest, file_id, cipher = self._hash.digest(), str(uuid7()), self._db.cipher
        known_by = _known_by(cipher, digest)
        content = {
            "content_id": self._content_id,
            "sha256": known_by[0],
            "known_by": known_by,
            "sealed_sha256": _sealed_digest(cipher, self._content_id, digest),
            "size_bytes": self.size_bytes,
            "mime_type": mime_type,
        }
        about = {
            "file_id": file_id,
            "owner": owner,
            "name": cipher.seal_text(name, at("file.name", file_id)),
        }
        for _ in range(_ATTEMPTS):
            # Somebody may be at the same content: making it, which is then there, or deleting it.
            with suppress(AlreadyExistsError):
                if await self._settle(content, about):
                    return await get(self._db, file_id, owner=owner, access=Access(()))
        raise UnavailableError("The same file is being uploaded by others")

    async def _settle(self, content: JsonObject, about: JsonObject) -> bool:
        async with self._db.transaction() as tx:
            completed = await tx.tuples(_SQL["complete"], content)
            kept = completed or await tx.tuples(_SQL["same"], content)
            if kept:
                await tx.execute(_SQL["create"], {**about, "content_id": kept[0][0]})
                await tx.execute(_SQL["abandon"], content)
        return bool(kept)


def is_id(value: object) -> TypeGuard[str]:
    """Whether something has the form of a file's id."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


async def get(db: Database, file_id: str, *, owner: str, access: Access) -> File:
    """
    Find a file.

    Args:
        owner: Who asks.
        access: Which sessions they see.

    Raises:
        NotFoundError: There is none with this id that is visible.
    """
    params = {"file_ids": [file_id], "owner": owner, "visible": access.array}
    found = await db.one(File, _SQL["get"], params)
    if found is None:
        raise _not_found(file_id)
    return _opened(db.cipher, found)


async def usage(db: Database, owner: str) -> Usage:
    """What somebody has; costs what it counts."""
    return (await db.all(Usage, _SQL["usage"], {"owner": owner}))[0]


async def send(
    db: Database, file_ids: Sequence[str], thread_id: str, *, owner: str, access: Access
) -> list[File]:
    """
    Let the sessions of a thread's users have files: they are being sent there.

    Args:
        owner: Who sends them.
        access: Which sessions they see.

    Raises:
        NotFoundError: One of them is not visible to who sends it; then none is sent.
    """
    if not file_ids:
        return []
    for file_id in file_ids:
        if not is_id(file_id):
            raise _not_found(file_id)
    params = {"file_ids": list(file_ids), "owner": owner, "visible": access.array}
    async with db.transaction() as tx:
        rows = await tx.all(File, _SQL["get"], params)
        found = {file.file_id: _opened(db.cipher, file) for file in rows}
        for file_id in file_ids:
            if file_id not in found:
                raise _not_found(file_id)
        await tx.execute(_SQL["use"], {"thread_id": thread_id, "file_ids": list(file_ids)})
    return [found[file_id] for file_id in file_ids]


async def of_run(
    db: Database, file_ids: Sequence[str], thread_id: str, *, owner: str
) -> list[File]:
    """
    Those of the files that a run's state names that it may use, for its model, in no order.

    Args:
        owner: Whose run it is: what is theirs counts as sent, once it is asked for.
    """
    params = {"file_ids": list(file_ids), "thread_id": thread_id, "owner": owner}
    return [_opened(db.cipher, file) for file in await db.all(File, _SQL["of_run"], params)]


async def next_of(db: Database, owner: str, *, after: str | None) -> File | None:
    """An owner's file that comes after another one of theirs by its id; None if none does."""
    found = await db.one(File, _SQL["of_owner"], {"owner": owner, "after": after})
    return None if found is None else _opened(db.cipher, found)


async def read(db: Database, file: File) -> AsyncIterator[bytes]:
    """
    What a file holds, piece by piece; no connection waits for who reads.

    Raises:
        NotFoundError: It went meanwhile.
    """
    left, place = file.size_bytes, 0
    while left > 0:
        params = {"content_id": file.content_id, "place": place}
        rows = await db.tuples(_SQL["chunk"], params)
        if not rows:
            raise _not_found(file.file_id)
        data = db.cipher.open(bytes(rows[0][0]), _chunk_at(file.content_id, place))
        yield data
        left, place = left - len(data), place + 1


async def contents(db: Database, *, after: str, limit: int) -> list[File]:
    """
    What is kept once, in the order of `content_id`, each as one of the files that have it; still sealed.

    Args:
        after: Only contents with a greater id.
    """
    return await db.all(File, _SQL["contents"], {"after": after, "limit": limit})


async def is_whole(db: Database, sealed: File) -> bool:
    """
    Whether a file of `contents` holds what was uploaded; all of it is read.

    Raises:
        NotFoundError: Pieces of it are missing.
        UnreadableError: It cannot be opened.
    """
    file, hashed = _opened(db.cipher, sealed), hashlib.sha256()
    async for data in read(db, file):
        hashed.update(data)
    return hashed.hexdigest() == file.sha256


async def collect(db: Database, *, unused_seconds: float, limit: int) -> int:
    """
    Delete files that no session uses, and what was uploaded in part.

    Args:
        unused_seconds: How old they are at least: one is uploaded before it is sent.
        limit: Files to look at, at the most.

    Returns:
        How many were deleted.
    """
    params = {"unused_seconds": unused_seconds, "limit": limit}
    async with db.transaction() as tx:
        file_ids = [id_ for (id_,) in await tx.tuples(_SQL["to_check"], params)]
        # A statement of its own: it sees who sent them before they were locked.
        gone = await tx.tuples(_SQL["delete_unused"], {"file_ids": file_ids})
        await tx.execute(_SQL["checked"], {"file_ids": file_ids})
        contents = {"content_ids": list({id_ for (id_,) in gone})}
        await tx.tuples(_SQL["lock_contents"], contents)
        await tx.execute(_SQL["delete_contents"], contents)
    return len(gone)


def _chunk_at(content_id: str, place: int) -> bytes:
    return at("file_chunk.data", content_id, str(place))


def _known_by(cipher: Cipher, digest: bytes) -> list[bytes]:
    """What the same content is known by; a hash would say to everybody whether it is one they have."""
    if not isinstance(cipher, KeyRing):
        return [digest]
    blinds = cipher.blinds(digest.hex(), FILE)
    # While a database is being encrypted it may be there as it was.
    return [*blinds, digest] if cipher.accepts_clear else blinds


def _sealed_digest(cipher: Cipher, content_id: str, digest: bytes) -> str | None:
    if not cipher.is_on:
        return None
    return cipher.seal_text(digest.hex(), at("file_content.sealed_sha256", content_id))


def _opened(cipher: Cipher, file: File) -> File:
    if not cipher.is_on:
        return file
    return replace(
        file,
        name=cipher.open_text(file.name, at("file.name", file.file_id)),
        sha256=cipher.open_text(file.sha256, at("file_content.sealed_sha256", file.content_id)),
    )


def _not_found(file_id: str) -> NotFoundError:
    return NotFoundError(f"File {file_id} not found")
