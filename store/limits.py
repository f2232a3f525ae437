"""
How much somebody may ask for at a time, counted in Redis for all processes together.

Two things are counted by key: a bucket of tokens, from which every request takes one and which fills at
a rate; and places, each held until it is given back, such as of a stream that is open. A place is a
lease: a process that dies gives its places back within `LEASE_SECONDS`. While Redis is away, or without
it, every process counts what comes to itself.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b, sha1
from itertools import islice
from typing import Any, Final, Literal
from uuid import uuid4

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError

from store.errors import InvalidInputError, UnavailableError
from store.streams import CONNECT_SECONDS, Command, Line

log = structlog.get_logger(__name__)

#: How long a place is somebody's without being renewed; it is, three times as often.
LEASE_SECONDS: Final = 60.0
#: How many places are renewed by one command.
RENEWED_AT_ONCE: Final = 500
#: How long Redis may take, and how long it is not asked after it did not answer.
ANSWER_SECONDS: Final = 0.5
PAUSE_SECONDS: Final = 2.0
#: How many questions are asked in one go.
ASKED_AT_ONCE: Final = 200
#: How many buckets this process remembers.
MAX_KEYS: Final = 10_000

#: A token and a place are had together or not at all. The bucket is the time at which it will be full
#: again (generic cell rate algorithm), by the clock of Redis, in microseconds.
_TAKE: Final = """
local now_at = redis.call('TIME')
local now = now_at[1] * 1000000 + now_at[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local most, member, lease = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local full_at = now
if interval > 0 then
    -- Not trusted beyond an empty bucket: the clock may have been set back, or the limit raised.
    local stored, empty = tonumber(redis.call('GET', KEYS[1]) or '0'), now + burst * interval
    if stored > empty then
        stored = empty
        redis.call('SET', KEYS[1], string.format('%.0f', stored), 'PX', math.ceil(burst * interval / 1000))
    end
    full_at = math.max(now, stored) + interval
    local wait = full_at - burst * interval - now
    if wait > 0 then return {'rate', 0, wait, full_at - interval - now} end
end
if most > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
    if redis.call('ZCARD', KEYS[2]) >= most then
        local left = math.floor((now + burst * interval - full_at + interval) / math.max(interval, 1))
        return {'places', left, 0, full_at - interval - now}
    end
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + lease), member)
    redis.call('PEXPIRE', KEYS[2], math.ceil(lease / 1000))
end
if interval > 0 then
    redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
end
local left = math.floor((now + burst * interval - full_at) / math.max(interval, 1))
return {'', left, 0, full_at - now}
"""

_RENEW: Final = """
local now_at = redis.call('TIME')
local lease = tonumber(ARGV[1])
local until_at = string.format('%.0f', now_at[1] * 1000000 + now_at[2] + lease)
for number = 2, #ARGV do redis.call('ZADD', KEYS[1], until_at, ARGV[number]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(lease / 1000))
"""

#: What was used up.
Refusal = Literal["rate", "places"]


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a bucket fills, in tokens a second (> 0), and how many it holds (>= 1)."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Places:
    """How many of a kind may be held at a time, by one key."""

    kind: str
    most: int


@dataclass(frozen=True, slots=True)
class Place:
    """One that is held, until `Limiter.give_back`."""

    key: str
    kind: str
    member: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What came of asking; without `refused` a token was taken, and the place is the caller's."""

    refused: Refusal | None
    #: Tokens that are left, and the seconds until all are there, and until one is.
    remaining: int
    full_in_seconds: float
    retry_in_seconds: float
    place: Place | None = None


def key_of(identity: str) -> str:
    """Whose it is, in a form that tells nobody who, of one length for all."""
    return blake2b(identity.encode(errors="surrogatepass"), digest_size=16).hexdigest()


@dataclass(slots=True)
class _Buckets:
    """The buckets of this process, for when Redis is away; those used longest ago are forgotten."""

    full_at: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def take(self, key: str, rate: Rate, *, takes: bool) -> Taken:
        now, interval = time.monotonic(), 1 / rate.per_second
        before = max(now, self.full_at.get(key, 0.0))
        full_at = before + interval
        wait = full_at - rate.burst * interval - now
        if wait > 0:
            return Taken(
                refused="rate", remaining=0, full_in_seconds=before - now, retry_in_seconds=wait
            )
        if takes:
            self.full_at[key] = full_at
            self.full_at.move_to_end(key)
            if len(self.full_at) > MAX_KEYS:
                self.full_at.popitem(last=False)
        at = full_at if takes else before
        left = int((now + rate.burst * interval - at) / interval + 1e-9)
        return Taken(refused=None, remaining=left, full_in_seconds=at - now, retry_in_seconds=0.0)


class _Script:
    """A script of Redis, by its hash."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], args: Sequence[Any]) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


TAKE, RENEW = _Script(_TAKE), _Script(_RENEW)


class _Asking:
    """
    Commands of many callers over one connection: those that come while others are under way go together.

    Callers are as many as requests are under way, so what waits is bounded by those.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._waiting: deque[tuple[Command, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, command: Command) -> Any:
        """
        The answer to a command.

        Raises:
            UnavailableError: Redis does not answer.
        """
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask_all(), name="limits")
        return await answer

    async def close(self) -> None:
        """Close the connection; who waits still is told that Redis does not answer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._fail(list(self._waiting), UnavailableError("Redis is not available"))
        await self._line.close()

    async def _ask_all(self) -> None:
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), ASKED_AT_ONCE))]
            try:
                answers = await self._answers([command for command, _ in some])
            except UnavailableError as exc:
                # Whoever waits behind them would wait as long again.
                self._fail([*some, *self._waiting], exc)
                self._waiting.clear()
                return
            except BaseException:
                self._fail(some, UnavailableError("Redis is not available"))
                raise
            for (_, waiting), answer in zip(some, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(answer)

    async def _answers(self, commands: list[Command]) -> list[Any]:
        answers = await self._line.run(commands, ANSWER_SECONDS)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            again = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            known: list[Command] = [("SCRIPT", "LOAD", one.text) for one in (TAKE, RENEW)]
            found = await self._line.run([*known, *(commands[n] for n in again)], ANSWER_SECONDS)
            for place, answer in zip(again, found[len(known) :], strict=True):
                answers[place] = answer
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise UnavailableError("Redis is not available") from answer
        return answers

    def _fail(
        self, some: list[tuple[Command, asyncio.Future[Any]]], error: UnavailableError
    ) -> None:
        for _, waiting in some:
            if not waiting.done():
                waiting.set_exception(UnavailableError(error.message))


class Limiter:
    """
    Counts for one process, and with the others through Redis; for one event loop.

    Args:
        asking: None for a process that is alone.
        prefix: The beginning of all keys.
        lease_seconds: How long a place is held without being renewed.
    """

    def __init__(
        self, asking: _Asking | None, prefix: str, *, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._asking = asking
        self._lease_seconds = lease_seconds
        self._prefix = f"{prefix}:limit"
        self._away_until = 0.0
        self._buckets = _Buckets()
        self._held: dict[tuple[str, str], set[str]] = {}
        #: Until when keys have no token, as Redis said: a flood is answered here.
        self._empty_until: OrderedDict[str, float] = OrderedDict()
        self._giving: set[asyncio.Task[None]] = set()

    async def take(self, key: str, rate: Rate | None, places: Places | None) -> Taken:
        """
        Take a token, and hold a place: both or neither. Never fails for Redis.

        Args:
            key: Of whom, by `key_of`.
            rate: How the bucket fills; None for no bucket.
            places: Which place; None for none.
        """
        if rate is not None and (wait := self._known_empty(key)) > 0:
            return Taken(refused="rate", remaining=0, full_in_seconds=wait, retry_in_seconds=wait)
        member = uuid4().hex
        found = None
        if self._asking is not None and time.monotonic() >= self._away_until:
            found = await self._ask(key, rate, places, member)
        if found is None:
            found = self._alone(key, rate, places)
        if found.refused or places is None:
            return found
        self._held.setdefault((key, places.kind), set()).add(member)
        return Taken(
            refused=None,
            remaining=found.remaining,
            full_in_seconds=found.full_in_seconds,
            retry_in_seconds=0.0,
            place=Place(key, places.kind, member),
        )

    def give_back(self, place: Place) -> None:
        """Give a place back; others know of it soon, and within its lease for certain."""
        held = self._held.get((place.key, place.kind), set())
        held.discard(place.member)
        if not held:
            self._held.pop((place.key, place.kind), None)
        if self._asking is not None and time.monotonic() >= self._away_until:
            task = asyncio.create_task(self._remove(place), name="give a place back")
            self._giving.add(task)
            task.add_done_callback(self._giving.discard)

    async def renew_forever(self) -> None:
        """Keep the places that are held here, until it is cancelled."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            await self.renew()

    async def renew(self) -> None:
        """Keep the places that are held here, also if Redis has forgotten them."""
        if self._asking is None:
            return
        with suppress(UnavailableError):
            for (key, kind), members in list(self._held.items()):
                for some in _portions(set(members)):
                    args = [_micros(self._lease_seconds), *some]
                    await self._asking.ask(RENEW.call([self._key(key, kind)], args))

    def _known_empty(self, key: str) -> float:
        until = self._empty_until.get(key)
        return 0.0 if until is None else until - time.monotonic()

    async def _ask(
        self, key: str, rate: Rate | None, places: Places | None, member: str
    ) -> Taken | None:
        """What Redis says; None if it does not answer."""
        assert self._asking is not None
        args: list[Any] = [
            _micros(1 / rate.per_second) if rate else 0,
            rate.burst if rate else 0,
            places.most if places else 0,
            member,
            _micros(self._lease_seconds),
        ]
        keys = [self._key(key, "rate"), self._key(key, places.kind if places else "none")]
        try:
            refused, left, wait, full_in = await self._asking.ask(TAKE.call(keys, args))
        except UnavailableError:
            self._away_until = time.monotonic() + PAUSE_SECONDS
            log.warning("limits are counted in this process alone: Redis does not answer")
            return None
        if refused == b"rate":
            self._note_empty(key, wait / 1e6)
        what: dict[bytes, Refusal] = {b"rate": "rate", b"places": "places"}
        return Taken(
            refused=what.get(refused),
            remaining=int(left),
            full_in_seconds=full_in / 1e6,
            retry_in_seconds=wait / 1e6,
        )

    def _note_empty(self, key: str, seconds: float) -> None:
        self._empty_until[key] = time.monotonic() + seconds
        self._empty_until.move_to_end(key)
        if len(self._empty_until) > MAX_KEYS:
            self._empty_until.popitem(last=False)

    def _alone(self, key: str, rate: Rate | None, places: Places | None) -> Taken:
        """What this process says by itself."""
        is_full = places is not None and len(self._held.get((key, places.kind), ())) >= places.most
        if rate is None:
            found = Taken(refused=None, remaining=0, full_in_seconds=0.0, retry_in_seconds=0.0)
        else:
            found = self._buckets.take(key, rate, takes=not is_full)
        if found.refused or not is_full:
            return found
        return Taken(
            refused="places",
            remaining=found.remaining,
            full_in_seconds=found.full_in_seconds,
            retry_in_seconds=0.0,
        )

    async def _remove(self, place: Place) -> None:
        assert self._asking is not None
        with suppress(UnavailableError):  # then its lease ends
            await self._asking.ask(("ZREM", self._key(place.key, place.kind), place.member))

    def _key(self, key: str, kind: str) -> str:
        # In braces: a cluster keeps the keys of one script together by what is in them.
        return f"{self._prefix}:{{{key}}}:{kind}"


def _micros(seconds: float) -> int:
    return max(1, round(seconds * 1e6))


def _portions(members: set[str]) -> Iterator[list[str]]:
    left = iter(members)
    while some := list(islice(left, RENEWED_AT_ONCE)):
        yield some


@asynccontextmanager
async def open_limiter(
    redis_url: str, *, prefix: str = "threadwell", lease_seconds: float = LEASE_SECONDS
) -> AsyncIterator[Limiter]:
    """
    Count, for as long as the block lasts; Redis need not answer yet, or ever.

    Args:
        redis_url: Empty for a process that is alone.
        prefix: The beginning of all keys.
        lease_seconds: As for `Limiter`.

    Raises:
        InvalidInputError: The URL is not valid.
    """
    if not redis_url:
        yield Limiter(None, prefix, lease_seconds=lease_seconds)
        return
    try:
        pool = ConnectionPool.from_url(
            redis_url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=CONNECT_SECONDS,
        )
    except ValueError:
        # Its message may hold a part of the password.
        raise InvalidInputError("The Redis URL is not valid") from None
    asking = _Asking(Line(pool))
    limiter = Limiter(asking, prefix, lease_seconds=lease_seconds)
    renewing = asyncio.create_task(limiter.renew_forever(), name="renew places")
    try:
        yield limiter
    finally:
        renewing.cancel()
        await asyncio.wait({renewing})
        await asking.close()
