"""
`langgraph_sdk.cache` for graphs, `auth` and `http.app`: the module that it looks for.

Values are JSON. They are kept by `store.cache` on the event loop of HTTP and asked for from any
other; loaders run where they were called, once for all who wait for the same key in this process.
`api.loopback` puts this in place as ``langgraph_api.cache``.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Generic, Literal, TypeVar

import orjson
import structlog

from store.cache import Cache

log = structlog.get_logger(__name__)

T = TypeVar("T")
CacheStatus = Literal["miss", "fresh", "stale", "expired"]
Loader = Callable[[], Awaitable[Any]]

#: How long a value is kept at the most, and unless it is told otherwise.
MAX_TTL: Final = timedelta(days=1)
#: How large a value may be as JSON, and a key as UTF-8.
MAX_VALUE_BYTES: Final = 1 << 20
MAX_KEY_BYTES: Final = 1024

#: Which keys are whose: a value of `swr` has its age beside it.
_PLAIN, _AGED = "v:", "swr:"
_NOTHING: Final[Any] = object()


class _Running:
    """The cache of this process, and the event loop that it is on."""

    cache: Cache | None = None
    home: asyncio.AbstractEventLoop | None = None


@contextmanager
def serving(cache: Cache) -> Iterator[None]:
    """Give the code of this process a cache, which is used on the running event loop."""
    before = _Running.cache, _Running.home
    _Running.cache, _Running.home = cache, asyncio.get_running_loop()
    try:
        yield
    finally:
        _Running.cache, _Running.home = before


async def cache_get(key: str) -> Any | None:
    """The value of a key; None if there is none (any more)."""
    found = await _get(_named(_PLAIN, key))
    return None if found is None else orjson.loads(found)


async def cache_set(key: str, value: Any, ttl: timedelta | None = None) -> None:
    """
    Keep a value.

    Args:
        ttl: For how long: a day, unless given, and at the most.

    Raises:
        TypeError: The value is no JSON.
        ValueError: It is larger than `MAX_VALUE_BYTES`, or the key than `MAX_KEY_BYTES`.
    """
    is_given = ttl is not None and ttl > timedelta(0)
    await _put(
        _named(_PLAIN, key), _json(value), min(ttl, MAX_TTL) if is_given and ttl else MAX_TTL
    )


class SWRResult(Generic[T]):
    """
    What `swr` found.

    Attributes:
        value: The value.
        status: Where it is from: ``fresh`` and ``stale`` were kept, ``miss`` and ``expired`` were
            loaded now.
    """

    __slots__ = ("_entry", "status", "value")

    def __init__(self, entry: "_Entry", value: T, status: CacheStatus) -> None:
        self._entry = entry
        self.value = value
        self.status: CacheStatus = status

    async def mutate(self, value: T = _NOTHING) -> T:
        """Keep another value or, without one, load it again; returns what is kept."""
        if value is _NOTHING:
            self.value = self._entry.as_model(await _loaded(self._entry))
        else:
            await _overrule(self._entry, self._entry.as_json(value))
            self.value = value
        return self.value

    def __repr__(self) -> str:
        return f"SWRResult(value={self.value!r}, status={self.status!r})"


async def swr(
    key: str,
    loader: Callable[[], Awaitable[T]],
    *,
    fresh_for: timedelta = timedelta(0),
    max_age: timedelta | None = None,
    model: type[T] | None = None,
) -> SWRResult[T]:
    """
    A value that may be a little old: kept, and loaded anew behind the caller's back.

    Whoever asks for the same key meanwhile waits for the same load. One that fails behind
    somebody's back is logged; one that is waited for raises what the loader did.

    Args:
        fresh_for: How long it is not loaded again.
        max_age: When it is too old to be given; a day, unless given, and at the most.
        model: A Pydantic model, to keep its values as JSON.

    Raises:
        ValueError: The times contradict each other, or the value is too large.
    """
    fresh_for = min(fresh_for, MAX_TTL)
    max_age = MAX_TTL if max_age is None else min(max_age, MAX_TTL)
    if fresh_for < timedelta(0) or max_age <= timedelta(0) or fresh_for > max_age:
        raise ValueError("swr wants 0 <= fresh_for <= max_age, and max_age > 0")
    entry = _Entry(_named(_AGED, key), loader, max_age, model)
    kept = await _get(entry.key)
    if kept is None:
        return SWRResult(entry, entry.as_model(await _loaded(entry, missed=True)), "miss")
    at, value = orjson.loads(kept)
    age = timedelta(milliseconds=max(0, _now() - at))
    if age >= max_age:
        return SWRResult(entry, entry.as_model(await _loaded(entry)), "expired")
    if age >= fresh_for:
        _load(entry)
    status: CacheStatus = "fresh" if age < fresh_for else "stale"
    return SWRResult(entry, entry.as_model(value), status)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key of `swr`, and how its value comes about."""

    key: str
    loader: Loader
    max_age: timedelta
    model: Any

    def as_json(self, value: Any) -> Any:
        is_model = self.model is not None and hasattr(value, "model_dump")
        return value.model_dump(mode="json") if is_model else value

    def as_model(self, value: Any) -> Any:
        return value if self.model is None else self.model.model_validate(value)


class _Flight:
    """A load under way, which any number wait for, on whichever event loop."""

    def __init__(self) -> None:
        self.landed: concurrent.futures.Future[Any] = concurrent.futures.Future()
        #: Somebody has said since what the value is; or it is too late for that, and they wait.
        self.is_overruled = False
        self.is_keeping = False

    def may_keep(self) -> bool:
        """Whether what was loaded is still wanted; from then on it is waited for."""
        with _GUARD:
            self.is_keeping = not self.is_overruled
        return self.is_keeping


#: By key. Graphs and HTTP are on threads of their own.
_FLIGHTS: dict[str, _Flight] = {}
_GUARD = threading.Lock()
#: An event loop does not hold its tasks.
_TASKS: set[asyncio.Task[None]] = set()


async def _loaded(entry: _Entry, *, missed: bool = False) -> Any:
    # Who is cancelled while it waits does not take the others' value along.
    return await asyncio.shield(asyncio.wrap_future(_load(entry, missed=missed).landed))


def _load(entry: _Entry, *, missed: bool = False) -> _Flight:
    """Begin to load, unless somebody does already."""
    with _GUARD:
        flight = _FLIGHTS.get(entry.key)
        if flight is not None:
            return flight
        flight = _FLIGHTS[entry.key] = _Flight()
    task = asyncio.create_task(_fly(entry, flight, missed=missed), name="cache load")
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)
    return flight


async def _fly(entry: _Entry, flight: _Flight, *, missed: bool) -> None:
    try:
        # Of who missed it, another load may have landed since.
        kept = await _get(entry.key) if missed else None
        value = entry.as_json(await entry.loader()) if kept is None else orjson.loads(kept)[1]
        if kept is None and flight.may_keep():
            await _keep(entry, value)
    except asyncio.CancelledError:
        flight.landed.cancel()
        raise
    except Exception as error:  # noqa: BLE001 - a user's loader raises anything
        # Whoever waits gets it; who does not had an older value.
        log.warning("a value was not loaded into the cache", error=type(error).__name__)
        flight.landed.set_exception(error)
    else:
        flight.landed.set_result(value)
    finally:
        with _GUARD:
            if _FLIGHTS.get(entry.key) is flight:
                del _FLIGHTS[entry.key]


async def _overrule(entry: _Entry, value: Any) -> None:
    """Keep a value that no load under way may replace."""
    with _GUARD:
        flight = _FLIGHTS.pop(entry.key, None)
        if flight is not None:
            flight.is_overruled = True
    if flight is not None and flight.is_keeping:
        with suppress(Exception):
            await asyncio.shield(asyncio.wrap_future(flight.landed))
    await _keep(entry, value)


async def _keep(entry: _Entry, value: Any) -> None:
    await _put(entry.key, _json([_now(), value]), entry.max_age)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _named(kind: str, key: str) -> str:
    if len(key.encode()) > MAX_KEY_BYTES:
        raise ValueError(f"A key of the cache has {MAX_KEY_BYTES} bytes at the most")
    return kind + key


def _json(value: Any) -> bytes:
    text = orjson.dumps(value)
    if len(text) > MAX_VALUE_BYTES:
        raise ValueError(f"A value of the cache has {MAX_VALUE_BYTES} bytes of JSON at the most")
    return text


async def _get(key: str) -> bytes | None:
    found: bytes | None = await _at_home(lambda cache: cache.get(key))
    return found


async def _put(key: str, value: bytes, ttl: timedelta) -> None:
    await _at_home(lambda cache: cache.put(key, value, ttl_seconds=ttl.total_seconds()))


async def _at_home(ask: Callable[[Cache], Any]) -> Any:
    """Ask the cache where it lives."""
    cache, home = _Running.cache, _Running.home
    if cache is None or home is None:
        raise RuntimeError("No server runs in this process, so it has no cache")
    if asyncio.get_running_loop() is home:
        return await ask(cache)

    async def there() -> Any:
        return await ask(cache)

    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), home))
