"""
Full-text search: the index of messages is kept up beside the runs, and asked.

The index is a projection of the `message` table, made by whoever looks for threads that changed: a
process does every few seconds, and each search does first for the newest of what its caller can see.
`store.terms` says what the terms of a text are. See docs/decisions/0021-search-is-a-projection.md.
"""

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Final

import structlog

from store import terms
from store.access import Access
from store.cipher import Cipher, at, open_name
from store.database import Database, Transaction
from store.errors import LockedError, UnreadableError
from store.models import JsonObject
from store.sql import load
from store.terms import Name, Query

_SQL: Final = load("search")
log = structlog.get_logger(__name__)

#: How long a transaction that touches a thread may take to be seen, in seconds.
OVERLAP_SECONDS: Final = 60.0
#: How many threads, and messages, one transaction brings into the index.
_THREADS: Final = 50
_MESSAGES: Final = 500
#: The most that a search brings into the index before it looks there, and of how many threads that
#: were touched last it looks whether they are in it.
_FRESH_THREADS: Final = 20
_FRESH_LOOKED_AT: Final = 1_000
#: How long a search waits for who is bringing them into the index, as PostgreSQL writes it.
_PATIENCE: Final = "1s"
#: How much of a message is read, in characters: more than its terms may have, nearly always. What is
#: sealed is read whole, or could not be opened.
_CHARACTERS: Final = 200_000
_SNIPPET_CHARACTERS: Final = 64_000
_WHOLE: Final = 2**31 - 1
#: Of what is sealed, texts that are read together to see whether they have a phrase.
_READ_AT_ONCE: Final = 50
#: How many names of terms are remembered, and how long they are, in bytes before they are written down.
_NAMES: Final = 1 << 16
_NAME_BYTES: Final = 12
#: Hits that are ranked together; of those who see many sessions but not all, who are looked up for
#: each hit, less.
WINDOW: Final = 300
_LOOKED_UP_WINDOW: Final = 100
#: Sessions, and messages in them, that are compared one by one.
_NAMED_SESSIONS: Final = 2_000
_COMPARED_MESSAGES: Final = 10_000
_SEGMENT_BITS: Final = 15
#: Segments that are looked through at once for one term, so that PostgreSQL fetches what it finds side by
#: side. For several terms fewer, by the third power: each message that has one of them is compared with
#: all of them, in all the segments.
_WIDEST: Final = 64
#: At the most where each hit is looked up: a step is not cut short, and all that it reads may be others'.
_LOOKED_UP_WIDEST: Final = 8
#: Beyond all numbers.
_END: Final = 2**63 - 1
#: After so long, in seconds, a page is what has been found; its cursor goes on from there. Of sessions
#: there is no cursor: they are given longer.
_WALK_SECONDS: Final = 0.1
_SESSIONS_SECONDS: Final = 0.3
_NO_ROLE: Final = ""
_NO_LIMIT: Final = datetime.max.replace(tzinfo=UTC)
_NAME_SEQ: Final = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """What hits have to be beside having the words."""

    role: str | None = None
    #: When the message was made: from, and before.
    from_time: datetime | None = None
    to_time: datetime | None = None
    session_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """
    Where a list of hits goes on.

    Attributes:
        before: Hits with lower numbers are ranked together next.
        rank: That of the last hit that was seen of them; None if none was.
        number: That hit's.
    """

    before: int
    rank: float | None = None
    number: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A message that has what was asked for; `content` is as much of it as snippets are made of."""

    number: int
    rank: float
    session_id: str
    message_id: str
    role: str
    create_time: datetime
    content: str
    session_name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionHit:
    """A session that has what was asked for: in a message, or, without one, in its name."""

    session_id: str
    message_id: str | None
    content: str


@dataclass(frozen=True, slots=True)
class Scope:
    """
    The sessions to look in.

    Attributes:
        session_ids: None if they are too many to be named.
        is_small: Whether they are few, and have few messages.
    """

    session_ids: list[str] | None
    is_small: bool


@dataclass(slots=True)
class _Walk:
    """A way through the hits, the newest first."""

    db: Database
    params: JsonObject
    scope: Scope
    #: How many hits are ranked together.
    size: int
    deadline: float
    question: Query
    #: How many segments are looked through at once.
    widest: int

    @property
    def is_to_be_read(self) -> bool:
        """Whether only its text tells if what is found has what was asked for."""
        return self.db.cipher.is_on and self.question.has_places

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    async def window(self, before: int, size: int) -> tuple[list[tuple[int, str]], int | None]:
        """The newest hits below a number, and the number that more are below; None if none are."""
        if self.scope.session_ids == [] or before <= 1 or not self.question.phrases:
            return [], None
        asked = {
            **self.params,
            "session_ids": self.scope.session_ids,
            "before": before,
            "window": size,
            "widest": self.widest,
            "seconds": self.deadline - time.monotonic(),
        }
        if self.scope.is_small:
            hits = await self.db.tuples(_SQL["in_sessions"], asked, prepare=False)
            return hits, hits[-1][0] if len(hits) == size else None
        steps = await self.db.tuples(_SQL["in_segments"], asked, prepare=False)
        hits = [hit for _, *found in steps for hit in zip(*found, strict=True)]
        if len(hits) == size:
            return hits, hits[-1][0]
        oldest = min((segment for segment, *_ in steps), default=0)
        return hits, oldest << _SEGMENT_BITS or None


# --------------------------------------------------------------------------- asked


async def messages(
    db: Database,
    question: Query,
    *,
    filters: Filters,
    place: Place | None = None,
    limit: int,
    access: Access,
) -> tuple[list[Hit], Place | None]:
    """
    A page of the visible messages that have all that was asked for.

    The newest `WINDOW` of them are ranked together, then the next ones: no hit is left out, and none
    comes twice unless its message is changed meanwhile. A page may be short, even empty, after a
    tenth of a second; its place then leads on.

    Args:
        question: Not without phrases.
        place: Where an earlier page ended.
        limit: Hits at the most.

    Returns:
        The hits, and where to go on; None if there are no more.
    """
    walk = await _walk(
        db, question, filters=filters, is_first=place is None, seconds=_WALK_SECONDS, access=access
    )
    at = Place(before=_END) if place is None else place
    page: list[tuple[Hit, int]] = []
    while True:
        found, following = await walk.window(at.before, walk.size)
        if found:
            # What is said from now on is in no later page.
            at = replace(at, before=min(at.before, found[0][0] + 1))
        ranked = await _ranked(walk, found, at, limit=limit + 1 - len(page))
        page += [(hit, at.before) for hit in ranked]
        hits = [hit for hit, _ in page[:limit]]
        if len(page) > limit:
            last, before = page[limit - 1]
            return hits, Place(before=before, rank=last.rank, number=last.number)
        if following is None:
            return hits, None
        at = Place(before=following)
        if walk.is_late:
            return hits, at


async def sessions(
    db: Database,
    question: Query,
    *,
    names: bool = True,
    scope: Scope | None = None,
    access: Access,
    limit: int = 1000,
) -> list[SessionHit]:
    """
    The visible sessions whose names or messages have all that was asked for, in one of them.

    Args:
        question: Without phrases it finds nothing.
        names: Whether they are looked for in names as well.
        scope: That of what is visible, if it is known.
        limit: Sessions at the most: those with the newest hits. Nothing older is found than what
            0.3 seconds of search reach.

    Returns:
        Each with its newest hit; in no order.
    """
    if not question.phrases:
        return []
    walk = await _walk(
        db,
        question,
        filters=Filters(),
        names=names,
        scope=scope,
        is_first=True,
        seconds=_SESSIONS_SECONDS,
        access=access,
    )
    newest: dict[str, int] = {}
    before: int | None = _END
    while before is not None and len(newest) < limit and not walk.is_late:
        found, before = await walk.window(before, 2 * limit)
        if walk.is_to_be_read:
            found = await _with_phrases(walk, [hit for hit in found if hit[1] not in newest])
        for number, session_id in found:
            newest.setdefault(session_id, number)
    numbers = list(newest.values())[:limit]
    params = {
        "numbers": numbers,
        "visible": access.array,
        "characters": _WHOLE if db.cipher.is_on else _SNIPPET_CHARACTERS,
    }
    hits = await db.all(SessionHit, _SQL["best_of_sessions"], params)
    return [_opened_session(db.cipher, hit) for hit in hits]


async def _walk(
    db: Database,
    question: Query,
    *,
    filters: Filters,
    names: bool = False,
    scope: Scope | None = None,
    is_first: bool,
    seconds: float,
    access: Access,
) -> _Walk:
    if is_first:
        await _index_visible(db, access)
    if filters.session_id is not None:
        scope = Scope([filters.session_id], is_small=True)
    elif scope is None:
        scope = await scope_of(db, access)
    is_looked_up = scope.session_ids is None and {} not in access.visible
    names_of_terms = _names(db.cipher)
    params = {
        "query": question.tsquery(*names_of_terms),
        "role": filters.role,
        "from": filters.from_time,
        "to": filters.to_time,
        "names": names,
        "visible": access.array,
    }
    size = _LOOKED_UP_WINDOW if is_looked_up else WINDOW
    deadline = time.monotonic() + seconds
    asked_for = max(1, question.size) * max(1, len(names_of_terms))
    widest = min(max(1, _WIDEST // asked_for**3), _LOOKED_UP_WIDEST if is_looked_up else _WIDEST)
    return _Walk(db, params, scope, size, deadline, question, widest)


async def scope_of(db: Database, access: Access) -> Scope:
    """The sessions that somebody sees."""
    if {} in access.visible:
        return Scope(None, is_small=False)
    params = {"visible": access.array, "limit": _NAMED_SESSIONS + 1}
    rows = await db.tuples(_SQL["scope"], params, prepare=False)
    if len(rows) > _NAMED_SESSIONS:
        return Scope(None, is_small=False)
    messages_count = sum(count for _, count in rows)
    return Scope([id_ for id_, _ in rows], is_small=messages_count <= _COMPARED_MESSAGES)


async def _ranked(
    walk: _Walk, found: Sequence[tuple[int, str]], place: Place, *, limit: int
) -> list[Hit]:
    if not found:
        return []
    params = {
        **walk.params,
        "numbers": [number for number, _ in found],
        "rank": float("inf") if place.rank is None else place.rank,
        "number": 0 if place.number is None else place.number,
        "characters": _WHOLE if walk.db.cipher.is_on else _SNIPPET_CHARACTERS,
        "limit": max(limit, _READ_AT_ONCE) if walk.is_to_be_read else limit,
    }
    hits: list[Hit] = []
    while True:
        rows = await walk.db.all(Hit, _SQL["ranked"], params, prepare=False)
        hits += _opened(walk, rows)
        if not walk.is_to_be_read or len(hits) >= limit or len(rows) < params["limit"]:
            return hits[:limit]
        params |= {"rank": rows[-1].rank, "number": rows[-1].number}


def _opened(walk: _Walk, rows: Sequence[Hit]) -> Iterator[Hit]:
    """Hits without their seals, of those that have what was asked for."""
    cipher = walk.db.cipher
    if not cipher.is_on:
        yield from rows
        return
    for hit in rows:
        content = _text(cipher, hit.session_id, hit.message_id, hit.content)
        if walk.is_to_be_read and not terms.contains(content[:_CHARACTERS], walk.question):
            continue
        name = _text(cipher, hit.session_id, None, hit.session_name)
        yield replace(hit, content=content[:_SNIPPET_CHARACTERS], session_name=name)


async def _with_phrases(walk: _Walk, found: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Those of some hits that have what was asked for as it was asked for, the newest first."""
    cipher, kept = walk.db.cipher, []
    for start in range(0, len(found), _READ_AT_ONCE):
        part = dict(found[start : start + _READ_AT_ONCE])
        rows = await walk.db.tuples(_SQL["texts"], {"numbers": list(part)})
        texts = {
            number: _text(cipher, session_id, message_id, text)
            for number, session_id, message_id, text in rows
        }
        kept += [
            (number, session_id)
            for number, session_id in part.items()
            if terms.contains(texts.get(number, "")[:_CHARACTERS], walk.question)
        ]
        if walk.is_late:
            break
    return kept


def _opened_session(cipher: Cipher, hit: SessionHit) -> SessionHit:
    if not cipher.is_on:
        return hit
    content = _text(cipher, hit.session_id, hit.message_id, hit.content)
    return replace(hit, content=content[:_SNIPPET_CHARACTERS])


def _text(cipher: Cipher, session_id: str, message_id: str | None, text: str) -> str:
    """A message, or a name if none is given; nothing, which the log says, if it cannot be opened."""
    try:
        if message_id is None:
            return open_name(cipher, text)
        return opened_content(cipher, session_id, message_id, text)
    except UnreadableError as error:
        # One text: the index of all the others is not to stand still for it.
        log.warning("text cannot be read", session_id=session_id, message_id=message_id,
                    reason=error.message)  # fmt: skip
        return ""


# --------------------------------------------------------------------------- kept up


async def index_changed(db: Database) -> bool:
    """
    Bring the threads into the index that changed, those touched first first; some of them.

    Safe in any number of processes at once: one of them does it.

    Returns:
        Whether there may be more to do.
    """
    async with db.transaction() as tx:
        held = await tx.tuples(_SQL["progress"], {})
        if not held:
            return False
        params = {"touched_at": held[0][0], "limit": _THREADS}
        changed = await tx.tuples(_SQL["changed"], params, prepare=False)
        thread_ids = [id_ for id_, _ in changed]
        is_whole = await _index(tx, thread_ids)
        touched = [at for _, at in changed if at is not None]
        is_complete = is_whole and len(touched) < _THREADS
        progress = {
            # Up to the last one that was looked at; or to now, if nothing is left.
            "touched_at": _NO_LIMIT if is_complete else max(touched, default=None),
            "overlap_seconds": OVERLAP_SECONDS,
            "is_complete": is_complete,
        }
        if is_whole:
            await tx.execute(_SQL["advance"], progress)
    return not is_complete


async def _index_visible(db: Database, access: Access) -> None:
    """Bring into the index what was touched last of what somebody sees."""
    params = {
        "visible": access.array,
        "looked_at": _FRESH_LOOKED_AT,
        "limit": _FRESH_THREADS,
    }
    rows = await db.tuples(_SQL["changed_visible"], params, prepare=False)
    if not rows:
        return
    thread_ids = [id_ for (id_,) in rows]
    async with db.transaction() as tx:
        is_whole = await _index(tx, thread_ids)
    if not is_whole:
        # Somebody else was at one of them, and what that brings has not committed yet.
        with suppress(LockedError):
            async with db.transaction() as tx:
                await tx.tuples(_SQL["patience"], {"lock_timeout": _PATIENCE})
                await tx.tuples(_SQL["wait"], {"thread_ids": thread_ids})


async def _index(tx: Transaction, thread_ids: Sequence[str]) -> bool:
    """Bring threads up to date in the index; whether all of them are whole now."""
    if not thread_ids:
        return True
    held = await tx.tuples(_SQL["hold"], {"thread_ids": thread_ids})
    ids = [id_ for id_, *_ in held]
    cipher = tx.cipher
    params = {
        "thread_ids": ids,
        "characters": _WHOLE if cipher.is_on else _CHARACTERS,
        "limit": _MESSAGES,
    }
    rows = await tx.tuples(_SQL["unread"], params)
    whole = [row for row in held if row[0] in _whole(rows, ids)]
    rows += [
        (id_, _NAME_SEQ, _NO_ROLE, name or "", created_at, created_at, "")
        for id_, _, name, indexed_name, created_at in held
        if name != indexed_name
    ]
    if rows:
        # Off the event loop: it may be a hundred thousand words.
        await tx.execute(_SQL["put"], await asyncio.to_thread(_columns, cipher, rows))
    await tx.execute(_SQL["forget"], {"thread_ids": ids})
    marked = {
        "thread_id": [id_ for id_, *_ in whole],
        "checkpoint_id": [head for _, head, *_ in whole],
        "name": [name for _, _, name, *_ in whole],
    }
    await tx.execute(_SQL["mark"], marked)
    return len(whole) == len(thread_ids)


def _whole(rows: Sequence[tuple[Any, ...]], thread_ids: Sequence[str]) -> set[str]:
    """The threads all of whose messages were read: where there are too many, not the last one."""
    if len(rows) < _MESSAGES:
        return set(thread_ids)
    return {row[0] for row in rows} - {rows[-1][0]}


def _columns(cipher: Cipher, rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    read = [(*row[:3], *row[4:6], _terms(cipher, row)) for row in rows]
    names = ("conversation_id", "seq", "role", "create_time", "update_time", "terms")
    return dict(zip(names, map(list, zip(*read, strict=True)), strict=True))


def _terms(cipher: Cipher, row: tuple[Any, ...]) -> str:
    """The terms of a message, or of a name."""
    conversation_id, seq, _, text, _, _, message_id = row
    if not cipher.is_on:
        return terms.tsvector(text)
    text = _text(cipher, conversation_id, None if seq == _NAME_SEQ else message_id, text)
    return terms.named_tsvector(text[:_CHARACTERS], _names(cipher)[0])


def _names(cipher: Cipher) -> tuple[Name, ...]:
    """
    What terms are called, by the newest key and by each of the older ones; nothing without keys.

    Names are blind: the same word has the same, so whoever reads the index sees which messages share
    words, and never which words they are.
    """
    count = len(cipher.blinds("", "term")) if cipher.is_on else 0
    return tuple(partial(_name, cipher, number) for number in range(count))


@lru_cache(maxsize=_NAMES)
def _name(cipher: Cipher, number: int, term: str) -> str:
    blind = cipher.blinds(term, "term")[number][:_NAME_BYTES]
    return urlsafe_b64encode(blind).decode()


def opened_content(cipher: Cipher, conversation_id: str, message_id: str, text: str) -> str:
    """The text of a message, also of a copy of it."""
    return cipher.open_text(text, at("message.content", conversation_id, message_id))
