"""
Whether what must hold does: between runs, threads, checkpoints, messages, search, files and event log.

It looks page by page at a database that is in use. What is wrong at one moment may be put right at the
next, by whoever was about to: a finding is what was there twice, some time apart.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from store import audit, files, messages
from store.checkpoints import Saver
from store.database import Database
from store.errors import CONTENT_ERRORS, NotFoundError, UnreadableError
from store.heads import Fold
from store.projection import identified, row
from store.sql import load
from store.streams import Streams

_SQL: Final = load("check")

#: Threads, and attachments, that are looked at together.
PAGE: Final = 100
#: How long what was seen must last to be a finding, in seconds: longer than a transaction of ours.
SETTLE_SECONDS: Final = 1.0
_NO_CONTENT: Final = "00000000-0000-0000-0000-000000000000"
#: What is asked of each page of threads.
_KINDS: Final = (
    "thread_busy",
    "thread_not_busy",
    "run_malformed",
    "lease_lost",
    "head_moved",
    "messages_behind",
    "messages_misplaced",
    "leftover_blobs",
    "checkpoints_of_nobody",
    "rows_of_nobody",
    "search_behind",
    "name_not_indexed",
)
#: What the rows of messages are made again for.
_REBUILT: Final = frozenset(
    {"head_moved", "messages_behind", "messages_misplaced", "messages_differ"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """
    Something that does not hold.

    Attributes:
        kind: What, as docs/operations.md lists them.
        subject: The id of the thread, or of the attachment's content.
        detail: How it shows; nothing of what anybody said.
        is_repaired: Whether it was put right.
    """

    kind: str
    subject: str
    detail: str
    is_repaired: bool = False


#: Of a message: its id, role, content and type.
Said = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Page:
    """Threads after one and up to another; without `last`, all that follow."""

    after: str
    last: str | None


class Check:
    """
    Looks, and repairs what can be repaired.

    Args:
        saver: Reads checkpoints.
        channel_of: As of `messages.rebuild`.
        fold_of: Likewise.
        streams: The event log in Redis; None if it is not to be looked at.
        log_ttl_seconds: How long the log of a thread without a run is kept.
    """

    def __init__(
        self,
        db: Database,
        saver: Saver,
        *,
        channel_of: Callable[[str | None], str | None] = messages.default_channel,
        fold_of: Callable[[str | None], Fold | None] = messages.no_fold,
        streams: Streams | None = None,
        log_ttl_seconds: float = 600.0,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._db, self._saver, self._streams = db, saver, streams
        self._channel_of, self._fold_of = channel_of, fold_of
        self._log_ttl_seconds = log_ttl_seconds
        self._settle_seconds = settle_seconds
        #: Threads looked at, and those whose messages nobody could compare: their graph is not served.
        self.threads = 0
        self.unknown = 0

    async def findings(self, *, repair: bool = False) -> AsyncIterator[Finding]:
        """
        Everything that does not hold.

        Args:
            repair: Put right what can be; what was is given too.

        Raises:
            UnavailableError: PostgreSQL or Redis does not answer.
        """
        repaired: Counter[str] = Counter()
        async for found in self._found(repair=repair):
            repaired[found.kind] += found.is_repaired
            yield found
        if details := dict(+repaired):
            await audit.record(
                self._db,
                "invariants.repaired",
                actor=None,
                owner="",
                subject="database",
                details=details,
            )

    async def _found(self, *, repair: bool) -> AsyncIterator[Finding]:
        async for page in self._pages():
            found = await self._lasting(partial(self._of_threads, page))
            for one in found:
                yield await self._repaired(one) if repair else one
            for one in await self._hidden(page, found) if repair else ():
                yield await self._repaired(one)
        for one in await self._lasting(self._of_contents):
            yield one
        if self._streams is not None:
            for one in await self._lasting(self._of_streams):
                yield await self._repaired(one) if repair else one

    async def _hidden(self, page: _Page, found: list[Finding]) -> list[Finding]:
        """What could not be told of threads that were said to be busy, until that was put right."""
        settled = [one.subject for one in found if one.kind == "thread_busy"]
        known = {(one.kind, one.subject) for one in found}
        again = await self._of_threads(page, settled) if settled else []
        return [one for one in again if (one.kind, one.subject) not in known]

    async def _lasting(
        self, look: Callable[[list[str] | None], Awaitable[list[Finding]]]
    ) -> list[Finding]:
        """What is there at two looks; the second is only at what the first found."""
        first = await look(None)
        if not first:
            return []
        await asyncio.sleep(self._settle_seconds)
        still = {(one.kind, one.subject): one for one in await look([one.subject for one in first])}
        return [still[key] for one in first if (key := (one.kind, one.subject)) in still]

    async def _pages(self) -> AsyncIterator[_Page]:
        after = ""
        while True:
            rows = await self._db.tuples(_SQL["page"], {"after": after, "limit": PAGE})
            last = rows[0][0]
            yield _Page(after, last)
            if last is None:
                return
            after = last

    # ------------------------------------------------------------------ threads

    async def _of_threads(self, page: _Page, only: list[str] | None) -> list[Finding]:
        params = {"after": page.after, "last": page.last, "only": only}
        found: list[Finding] = []
        for kind in _KINDS:
            rows = await self._db.tuples(_SQL[kind], params, prepare=False)
            found += _findings(kind, rows)
        return found + await self._of_messages(params, is_first=only is None)

    async def _of_messages(self, params: dict[str, Any], *, is_first: bool) -> list[Finding]:
        """Where the rows in context are not the list of the head that they are said to mirror."""
        heads = await self._db.tuples(_SQL["heads"], params)
        found = []
        for thread_id, head, graph_id in heads:
            channel = self._channel_of(graph_id)
            if channel is None:
                self.unknown += is_first
                continue
            differs = await self._difference(thread_id, head, channel, self._fold_of(graph_id))
            if differs is not None:
                kind, detail = differs
                found.append(Finding(kind=kind, subject=thread_id, detail=detail))
        self.threads += len(heads) if is_first else 0
        return found

    async def _difference(
        self, thread_id: str, head: str, channel: str, fold: Fold | None
    ) -> tuple[str, str] | None:
        """The kind and the detail of the finding, if the table is not as the head is."""
        try:
            value = await self._saver.value(thread_id, head, channel, fold)
            rows = await messages.in_context(self._db, thread_id)
        except (*CONTENT_ERRORS, UnreadableError) as exc:
            return "head_unreadable", f"it, or a message, cannot be read: {type(exc).__name__}"
        listed = [row(id_, *at) for id_, at in identified(value).items()]
        if await self._projected(thread_id) != head:
            return None
        return _difference(
            [(r.id, r.role, r.content, r.message_type) for r in listed],
            [(m.id, m.role, m.content, m.message_type) for m in rows],
        )

    async def _projected(self, thread_id: str) -> str | None:
        rows = await self._db.tuples(_SQL["projected"], {"thread_id": thread_id})
        return rows[0][0] if rows else None

    # ------------------------------------------------------------------ attachments

    async def _of_contents(self, only: list[str] | None) -> list[Finding]:
        """Every content that a file has, read from end to end."""
        found, after = [], _NO_CONTENT
        while True:
            page = await files.contents(self._db, after=after, limit=PAGE)
            for file in page:
                after = file.content_id
                if only is not None and file.content_id not in only:
                    continue
                if (detail := await self._damage(file)) is not None:
                    found.append(
                        Finding(kind="file_damaged", subject=file.content_id, detail=detail)
                    )
            if len(page) < PAGE:
                return found

    async def _damage(self, file: files.File) -> str | None:
        try:
            if await files.is_whole(self._db, file):
                return None
            damage = "what it holds is not what was uploaded"
        except NotFoundError:
            damage = "pieces of it are missing"
        except UnreadableError:
            damage = "it cannot be opened"
        return f"{damage}; file {file.file_id} has it"

    # ------------------------------------------------------------------ event log

    async def _of_streams(self, only: list[str] | None) -> list[Finding]:
        assert self._streams is not None
        found: list[Finding] = []
        async for page in self._streams.pages(PAGE):
            known = {one.thread_id: one for one in page if only is None or one.thread_id in only}
            # After the logs: an epoch only rises, so that one which is below a log's was so before.
            rows = await self._db.tuples(_SQL["epochs"], {"thread_ids": list(known)})
            for thread_id, epoch, status in rows:
                one = known.pop(thread_id)
                if one.end[0] > epoch:
                    detail = f"its log is at epoch {one.end[0]}, the thread at {epoch}"
                    found.append(Finding(kind="log_ahead", subject=thread_id, detail=detail))
                elif one.ttl_seconds is None and status != "busy":
                    detail = "its log never expires"
                    found.append(Finding(kind="log_unending", subject=thread_id, detail=detail))
            for one in known.values():
                if one.ttl_seconds is None:
                    detail = "its log never expires, and there is no such thread"
                    found.append(Finding(kind="log_unending", subject=one.thread_id, detail=detail))
        return found

    # ------------------------------------------------------------------ repair

    async def _repaired(self, found: Finding) -> Finding:
        """The finding, put right if that can be done; of what holds by now nothing is changed."""
        params = {"thread_id": found.subject}
        repairs: dict[str, Callable[[], Awaitable[object]]] = {
            "thread_busy": lambda: self._settle(params),
            "thread_not_busy": lambda: self._settle(params),
            "lease_lost": lambda: self._db.execute(_SQL["hand_on"], params),
            "leftover_blobs": lambda: self._locked("delete_leftover_blobs", params),
            "rows_of_nobody": lambda: self._db.execute(_SQL["delete_rows"], params),
            "search_behind": lambda: self._db.execute(_SQL["index_again"], params),
            "name_not_indexed": lambda: self._locked("index_name", params),
            "log_ahead": lambda: self._forget_log(found.subject),
            "log_unending": lambda: self._end_log(found.subject),
        }
        if found.kind in _REBUILT:
            return replace(found, is_repaired=await self._rebuild(found.subject))
        if (work := repairs.get(found.kind)) is None:
            return found
        await work()
        return replace(found, is_repaired=True)

    async def _settle(self, params: dict[str, Any]) -> None:
        await self._locked("settle_thread", params)

    async def _locked(self, name: str, params: dict[str, Any]) -> None:
        """With the thread's row locked first, so that the statement sees its last state."""
        async with self._db.transaction() as tx:
            await tx.tuples(_SQL["lock_thread"], params)
            await tx.execute(_SQL[name], params)

    async def _rebuild(self, thread_id: str) -> bool:
        """Make the rows of messages again, if no message that is in context would be lost by it."""
        newest = await self._db.tuples(_SQL["newest"], {"thread_id": thread_id})
        for head, graph_id in newest:
            channel = self._channel_of(graph_id)
            if channel is None or not await self._has_all(
                thread_id, head, channel, self._fold_of(graph_id)
            ):
                return False
        done = await messages.rebuild(
            self._db,
            self._saver,
            thread_id=thread_id,
            channel_of=self._channel_of,
            fold_of=self._fold_of,
        )
        return done.threads == 1

    async def _has_all(
        self, thread_id: str, head: str | None, channel: str, fold: Fold | None
    ) -> bool:
        try:
            rows = await messages.in_context(self._db, thread_id)
            if head is None or not rows:
                return not rows
            value = await self._saver.value(thread_id, head, channel, fold)
        except (*CONTENT_ERRORS, UnreadableError):
            return False
        return {message.id for message in rows} <= identified(value).keys()

    async def _forget_log(self, thread_id: str) -> None:
        assert self._streams is not None
        await self._streams.delete(thread_id)

    async def _end_log(self, thread_id: str) -> None:
        assert self._streams is not None
        await self._streams.expire(thread_id, self._log_ttl_seconds)


def _findings(kind: str, rows: Iterable[tuple[Any, ...]]) -> list[Finding]:
    return [Finding(kind=kind, subject=subject, detail=detail) for subject, detail in rows]


def _difference(listed: list[Said], rows: list[Said]) -> tuple[str, str] | None:
    """How the table differs from a head, without a word of what was said."""
    if listed == rows:
        return None
    ids, in_table = [one[0] for one in listed], [one[0] for one in rows]
    if missing := set(in_table) - set(ids):
        # Made again from it, the table would lose them.
        return "head_lacks_messages", f"it has not {len(missing)} of the {len(rows)} in context"
    if ids != in_table:
        return "messages_differ", f"its head has {len(ids)} messages, the table {len(in_table)}"
    differing = [one[0] for one, other in zip(listed, rows, strict=True) if one != other]
    detail = f"the table says otherwise than the head for {len(differing)} messages"
    return "messages_differ", f"{detail}, as {differing[0]}"
