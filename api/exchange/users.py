"""
All that is a user's as one file: a JSON object a line, each with its `type`.

A durable job that reads pages and keeps each with its place, in one transaction: whoever goes on with it
repeats nothing and leaves nothing out. Of a long session, or a large file, no more than a page is in memory.
"""

import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import structlog
from langgraph.store.base import BaseStore

from api.exchange import native
from api.exchange.exporting import message_json, session_json
from graph.encode import dumps
from graph.jobs import Kind
from graph.user import label_of
from graph.user_jobs import kind_of
from store import (
    assistants,
    audit,
    crons,
    exchanges,
    feedback,
    files,
    subscriptions,
    user_jobs,
)
from store.audit import Filter
from store.database import Database
from store.exchanges import PART_BYTES
from store.models import JsonObject
from store.user_jobs import UserJob

log = structlog.stdlib.get_logger(__name__)

#: Rows of a page.
PAGE: Final = 200

#: Lines, and the place after them in their section; None at its end.
Page = tuple[list[JsonObject], JsonObject | None]


class UserExports:
    """
    Does jobs of the kind ``user_export``.

    Args:
        items: Of the event loop that jobs are done on.
        namespaces: As for `graph.erasure.Erasures`.
    """

    def __init__(
        self,
        *,
        db: Database,
        items: BaseStore,
        namespaces: Sequence[str],
    ) -> None:
        self._db = db
        self._items = items
        self._namespaces = namespaces
        self._sections: dict[str, Callable[[UserJob, JsonObject], Awaitable[Page]]] = {
            "account": self._account,
            "sessions": self._sessions,
            "feedback": self._feedback,
            "files": self._files,
            "items": self._of_store,
            "assistants": self._assistants,
            "crons": self._crons,
            "webhooks": self._webhooks,
            "audit": self._audit,
        }

    def kind(self) -> Kind:
        """How they are done."""
        return kind_of(self._db, self._work)

    async def _work(self, job: UserJob, until: float) -> None:
        names, parts = list(self._sections), job.part_count
        section, place = job.position.get("section", names[0]), job.position.get("place", {})
        while True:
            lines, following = await self._sections[section](job, place)
            place = following or {}
            if following is None:
                last = section == names[-1]
                section = "" if last else names[names.index(section) + 1]
            written = _in_parts(lines)
            counts = _counts(lines)
            position = {"section": section, "place": place}
            if not await user_jobs.advance(
                self._db, job, before=parts, parts=written, position=position, counts=counts
            ):
                return
            parts += len(written)
            if not section:
                break
            if time.monotonic() >= until:
                await user_jobs.go_on(self._db, job)
                return
        await user_jobs.finish(self._db, job, "success")
        log.info("user exported", user_job_id=job.user_job_id)

    async def _account(self, job: UserJob, place: JsonObject) -> Page:
        found = await user_jobs.account(self._db, job.user_id)
        head = {"type": "user", "user_id": job.user_id, "asked_at": job.created_at}
        return [head, *({"type": "account", **row} for row in found)], None

    async def _sessions(self, job: UserJob, place: JsonObject) -> Page:
        """A session, or more messages of one."""
        before = place.get("after")
        after = (datetime.fromisoformat(before[0]), before[1]) if before else None
        found = await exchanges.sessions_of(
            self._db, job.user_id, after=after, limit=1, access=job.access("threads")
        )
        if not found:
            return [], None
        [session] = found
        seq = place["seq"] if place.get("session") == session.id else -1
        messages = await exchanges.messages_page(
            self._db, session.id, after_seq=seq, every_branch=True, limit=PAGE
        )
        head = [] if seq >= 0 else [native.session_line(session_json(session))]
        lines = head + [
            {"type": "message", "session_id": session.id, **message_json(m)} for m in messages
        ]
        if len(messages) == PAGE:
            return lines, {**place, "session": session.id, "seq": messages[-1].seq}
        return lines, {"after": [session.create_time.isoformat(), session.id]}

    async def _feedback(self, job: UserJob, place: JsonObject) -> Page:
        after = place.get("after")
        found = await feedback.of_user(
            self._db, job.user_id, after=after and (after[0], after[1]), limit=PAGE
        )
        lines = [
            {"type": "feedback", "session_id": session_id, **asdict(opinion), "create_time": at}
            for session_id, opinion, at in found
        ]
        if len(found) < PAGE:
            return lines, None
        session_id, opinion, _ = found[-1]
        return lines, {"after": [session_id, opinion.message_id]}

    async def _files(self, job: UserJob, place: JsonObject) -> Page:
        """A file: what is known of it, then what it holds, in pieces."""
        found = await files.next_of(self._db, job.user_id, after=place.get("after"))
        if found is None:
            return [], None
        about = {key: v for key, v in asdict(found).items() if key not in ("content_id", "owner")}
        lines: list[JsonObject] = [{"type": "file", **about}]
        number = 0
        # As large as an attachment may be: `FILE_MAX_BYTES`.
        async for data in files.read(self._db, found):
            text = base64.b64encode(data).decode()
            lines.append(
                {"type": "file_data", "file_id": found.file_id, "number": number, "base64": text}
            )
            number += 1
        return lines, {"after": found.file_id}

    async def _of_store(self, job: UserJob, place: JsonObject) -> Page:
        number, offset = place.get("namespace", 0), place.get("offset", 0)
        if number >= len(self._namespaces):
            return [], None
        text = self._namespaces[number].replace("{user}", label_of(job.user_id))
        found = await self._items.asearch(
            tuple(text.split(".")), limit=PAGE, offset=offset, refresh_ttl=False
        )
        lines = [
            {
                "type": "item",
                "namespace": list(item.namespace),
                "key": item.key,
                "value": item.value,
                "created_at": item.created_at,
                "updated_at": item.updated_at,
            }
            for item in found
            if ".".join(item.namespace).startswith((f"{text}.",))
            or ".".join(item.namespace) == text
        ]
        if len(found) == PAGE:
            return lines, {"namespace": number, "offset": offset + PAGE}
        return lines, {"namespace": number + 1}

    async def _assistants(self, job: UserJob, place: JsonObject) -> Page:
        offset = place.get("offset", 0)
        found = await assistants.search(
            self._db,
            metadata={"owner": job.user_id},
            limit=PAGE,
            offset=offset,
            access=job.access("assistants"),
        )
        return _page("assistant", found, offset)

    async def _crons(self, job: UserJob, place: JsonObject) -> Page:
        offset = place.get("offset", 0)
        found = await crons.search(
            self._db,
            metadata={},
            limit=PAGE,
            offset=offset,
            access=job.access("crons"),
        )
        lines, following = _page("cron", found, offset)
        theirs = [line for line in lines if _owner(line) == job.user_id]
        return [_told_cron(line) for line in theirs], following

    async def _webhooks(self, job: UserJob, place: JsonObject) -> Page:
        found = await subscriptions.list_all(self._db, identity=job.user_id)
        names = ("webhook_id", "url", "events", "description", "enabled", "created_at")
        return [
            {"type": "webhook", **{name: getattr(hook, name) for name in names}} for hook in found
        ], None

    async def _audit(self, job: UserJob, place: JsonObject) -> Page:
        found, more = await audit.page(
            self._db, Filter(), before=place.get("before"), limit=PAGE, seen_by=job.user_id
        )
        lines = [{"type": "audit", **asdict(entry)} for entry in found]
        return lines, {"before": found[-1].audit_id} if more else None


def _page(kind: str, found: Sequence[Any], offset: int) -> Page:
    lines = [{"type": kind, **asdict(row)} for row in found]
    return lines, {"offset": offset + PAGE} if len(found) == PAGE else None


def _owner(cron: JsonObject) -> Any:
    return cron["user_id"] or cron["metadata"].get("owner")


def _told_cron(cron: JsonObject) -> JsonObject:
    """A cron without what decides whom it acts for."""
    left_out = ("injected", "visible_threads", "visible_assistants")
    return {key: value for key, value in cron.items() if key not in left_out}


def _counts(lines: Sequence[JsonObject]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in lines:
        if line["type"] not in ("user", "file_data"):
            counts[line["type"]] = counts.get(line["type"], 0) + 1
    return counts


def _in_parts(lines: Sequence[JsonObject]) -> list[bytes]:
    """The lines as pieces of a file, of about `PART_BYTES` at the most."""
    parts: list[bytes] = []
    kept: list[bytes] = []
    size = 0
    for line in lines:
        text = dumps(line) + b"\n"
        kept.append(text)
        size += len(text)
        if size >= PART_BYTES:
            parts.append(b"".join(kept))
            kept, size = [], 0
    return [*parts, b"".join(kept)] if kept else parts
