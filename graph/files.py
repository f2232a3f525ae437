"""The files that a run may use: what was sent in its thread, and what is its user's."""

from collections.abc import Sequence

from graph.attachments import Attachment
from store import files
from store.database import Database
from store.files import File


class RunFiles:
    """
    Finds the files of one run; on the event loop that the run is on.

    Args:
        owner: Whose run it is.
    """

    def __init__(self, db: Database, *, thread_id: str, owner: str) -> None:
        self._db, self._thread_id, self._owner = db, thread_id, owner

    async def find(self, file_ids: Sequence[str]) -> dict[str, Attachment]:
        """
        Files by their ids; those are left out that are not there, or that the run may not use.

        Args:
            file_ids: UUIDs, in small letters.
        """
        found = await files.of_run(self._db, file_ids, self._thread_id, owner=self._owner)
        return {file.file_id: self._attachment(file) for file in found}

    def _attachment(self, file: File) -> Attachment:
        return Attachment(
            name=file.name,
            mime_type=file.mime_type,
            size_bytes=file.size_bytes,
            read=lambda: self._read(file),
        )

    async def _read(self, file: File) -> bytes:
        return b"".join([piece async for piece in files.read(self._db, file)])
