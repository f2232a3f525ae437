"""How much each caller may have: sessions, crons and attachments. See docs/limits.md."""

from dataclasses import dataclass

from api.identity.auth import Caller
from store import crons, files, threads
from store.database import Database
from store.errors import QuotaError


@dataclass(frozen=True, slots=True)
class Quotas:
    """
    What may be had by each identity, by all together without authentication; 0 for any number.

    What is made at the same moment does not see one another, so a few more may come to be.
    """

    db: Database
    sessions: int
    crons: int
    files: int
    file_bytes: int

    async def require_session(self, caller: Caller, count: int = 1) -> None:
        """
        See that a caller may have so many sessions more, before they are made.

        Raises:
            QuotaError: They have as many as they may.
        """
        if not (self.sessions and count):
            return
        owner = caller.identity or None
        await threads.require_room(self.db, owner, most=self.sessions, count=count)

    async def require_cron(self, caller: Caller) -> None:
        """
        See that a caller may have a cron more.

        Raises:
            QuotaError: They have as many as they may.
        """
        if self.crons and await crons.count_of_user(self.db, caller.identity) >= self.crons:
            raise QuotaError(f"You may have {self.crons} crons")

    async def file_bytes_left(self, caller: Caller, count: int = 1) -> int | None:
        """
        How many bytes the next attachments of a caller may have together; None for any number.

        Args:
            count: How many there are to be.

        Raises:
            QuotaError: They have as many attachments as they may.
        """
        if not (self.files or self.file_bytes):
            return None
        usage = await files.usage(self.db, caller.identity)
        if self.files and usage.count + count > self.files:
            raise QuotaError(f"You may have {self.files} files")
        return max(0, self.file_bytes - usage.bytes) if self.file_bytes else None

    def full_of_bytes(self) -> QuotaError:
        """The error for an attachment that there is no room for."""
        return QuotaError(f"Your files may have {self.file_bytes} bytes together")
