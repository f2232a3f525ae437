"""Long imports: done by whichever process comes to them, gone on with by another if that is lost."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Final, cast

import structlog

from api.exchange.files import Entry, entries
from api.exchange.importing import Importer, Report
from api.identity.auth import Caller
from api.identity.authority import Authority
from graph.jobs import JobFailedError, Kind
from graph.user import user_of
from store import exchanges
from store.database import Database
from store.errors import NotFoundError, UnavailableError
from store.exchanges import Import
from store.jobs import Job
from store.models import JsonObject

log = structlog.stdlib.get_logger(__name__)

SLICE_SECONDS: Final = 240.0
TIMEOUT_SECONDS: Final = 600.0
PAUSES_SECONDS: Final = (5.0, 30.0, 120.0)
TELL_SECONDS: Final = 1.0
#: What is kept in memory of a file; the rest is on disk.
MEMORY_BYTES: Final = 2**20


class ImportJobs:
    """
    Does jobs of the kind `store.exchanges.KIND`.

    Args:
        slice_seconds: How long one works on an import; what is left is the next one's.
        tell_seconds: Between two times that it is written down how far it is.
    """

    def __init__(
        self,
        *,
        db: Database,
        importer: Importer,
        authority: Authority | None,
        slice_seconds: float = SLICE_SECONDS,
        tell_seconds: float = TELL_SECONDS,
    ) -> None:
        self._db = db
        self._importer = importer
        self._authority = authority
        self._slice_seconds = slice_seconds
        self._tell_seconds = tell_seconds

    def kind(self) -> Kind:
        """How they are done."""
        return Kind(
            work=self.work,
            timeout_seconds=TIMEOUT_SECONDS,
            pauses_seconds=PAUSES_SECONDS,
            give_up=self.give_up,
        )

    async def work(self, job: Job) -> None:
        """
        Take in what is left of an import's file.

        Raises:
            JobFailedError: PostgreSQL did not answer.
        """
        try:
            found = await exchanges.get(
                self._db, job.payload["import_id"], owner=None, everybody=True
            )
            if found.status in ("pending", "running"):
                await self._work(found)
        except NotFoundError:
            return
        except UnavailableError as exc:
            raise JobFailedError(exc.message) from exc

    async def give_up(self, job: Job, why: str) -> None:
        """End an import that nobody will go on with; what it took in stays, and is reported."""
        with suppress(NotFoundError):
            found = await exchanges.get(
                self._db, job.payload["import_id"], owner=None, everybody=True
            )
            place = found.position
            await exchanges.advance(
                self._db, found, before=place, position=place, report=found.report, status="error"
            )

    async def _work(self, found: Import) -> None:
        report, position = Report.of(found.report), found.position
        # What is written down last: whoever believes in another place is not the one at work.
        before = position
        caller = self._caller(found)
        began = told = time.monotonic()
        with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as file:
            await self._fetch(found, file)
            source = entries(cast("BinaryIO", file), found.request["format"])
            while (entry := await asyncio.to_thread(_next, source)) is not None:
                if entry.number < position:
                    continue
                dry_run = found.request["dry_run"]
                await self._importer.take(caller, entry, report, dry_run=dry_run)
                position = entry.number + 1
                now = time.monotonic()
                if now - told < self._tell_seconds:
                    continue
                told = now
                again = now - began > self._slice_seconds
                if not await self._tell(found, before, position, report, file, again=again):
                    return
                before = position
                if again:
                    return
        told_all = {**report.json(), "done_bytes": found.size_bytes}
        await exchanges.advance(
            self._db, found, before=before, position=position, report=told_all, status="success"
        )
        log.info("import done", import_id=found.import_id, **report.counts)

    async def _tell(
        self,
        found: Import,
        before: int,
        position: int,
        report: Report,
        file: tempfile.SpooledTemporaryFile[bytes],
        *,
        again: bool,
    ) -> bool:
        return await exchanges.advance(
            self._db,
            found,
            before=before,
            position=position,
            report={**report.json(), "done_bytes": file.tell()},
            status="running",
            again=again,
        )

    async def _fetch(self, found: Import, file: tempfile.SpooledTemporaryFile[bytes]) -> None:
        number = 0
        while (content := await exchanges.part(self._db, found.import_id, number)) is not None:
            await asyncio.to_thread(file.write, content)
            number += 1
        file.seek(0)

    def _caller(self, found: Import) -> Caller:
        """Whoever sent the file, as they were known then; what they may do is asked now."""
        return Caller(
            request_id=found.import_id,
            user=user_of(found.request.get("user")),
            authority=self._authority,
        )


def request_of(caller: Caller, *, form: str, dry_run: bool) -> JsonObject:
    """What is kept of a request to take a file in."""
    user = caller.user.dict() if caller.user else None
    return {"format": form, "dry_run": dry_run, "user": user}


def _next(source: Iterator[Entry]) -> Entry | None:
    return next(source, None)
