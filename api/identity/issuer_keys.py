"""
The public keys of whoever issues tokens (JWKS): fetched, kept, and fetched anew when they change.

What keeps signing keys elsewhere may be away for a while: what is known of it is good for a day.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpcore2
import jwt
import orjson
import structlog

from store.errors import AuthenticationError, InvalidInputError, UnavailableError

log = structlog.stdlib.get_logger(__name__)

#: After how long keys are looked for anew, and how long the old ones count if there is no answer.
FRESH_SECONDS: Final = 600.0
STALE_SECONDS: Final = 86_400.0
#: Between two looks, however many tokens name keys that nobody knows.
PAUSE_SECONDS: Final = 10.0
FETCH_SECONDS: Final = 5.0
MAX_BYTES: Final = 512 * 1024
MAX_KEYS: Final = 64

_FAILURES = (
    httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol, TimeoutError, OSError, ValueError,
)  # fmt: skip


class Source(Protocol):
    """Where a key set is; raises one of `_FAILURES` if it is not to be had."""

    async def __call__(self) -> Any:
        """The key set as JSON."""
        ...


class SigningKeys:
    """
    Public keys by their ids.

    Args:
        source: Where they are.
        algorithms: What they may be used with; a key is bound to one of these.
        clock: Tells seconds.
    """

    def __init__(
        self,
        source: Source,
        algorithms: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._source = source
        self._algorithms = tuple(algorithms)
        self._keys: Mapping[tuple[str | None, str], jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def get(self, key_id: str | None, algorithm: str) -> jwt.PyJWK:
        """
        The key that a token names; the only one for its algorithm if it names none.

        Raises:
            AuthenticationError: There is no such key.
            UnavailableError: It is not known, and was never to be had.
        """
        if self._clock() - self._fetched_at > FRESH_SECONDS or not self._find(key_id, algorithm):
            await self._look()
        if found := self._find(key_id, algorithm):
            return found
        if self._clock() - self._fetched_at > STALE_SECONDS:
            raise UnavailableError("The keys that tokens are signed with are not to be had")
        raise AuthenticationError("The token is not valid")

    def _find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        if self._clock() - self._fetched_at > STALE_SECONDS:
            return None
        if key_id is not None:
            return self._keys.get((key_id, algorithm))
        fitting = [key for (_, one), key in self._keys.items() if one == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    async def _look(self) -> None:
        """Look for the keys anew, unless that was tried just now; many who want it wait for one."""
        async with self._looking:
            now = self._clock()
            if now - self._looked_at < PAUSE_SECONDS:
                return
            self._looked_at = now
            try:
                async with asyncio.timeout(FETCH_SECONDS):
                    found = await self._source()
                self._keys = _read(found, self._algorithms)
                self._fetched_at = self._clock()
            except _FAILURES as exc:
                log.warning("the keys of tokens are not to be had", error=type(exc).__name__)


def _read(found: Any, algorithms: Sequence[str]) -> dict[tuple[str | None, str], jwt.PyJWK]:
    """
    The keys of a set that may verify, by their ids and algorithms; others are left out.

    Raises:
        ValueError: It is no key set, or has none.
    """
    listed = found.get("keys") if isinstance(found, dict) else None
    keys: dict[tuple[str | None, str], jwt.PyJWK] = {}
    for one in listed[:MAX_KEYS] if isinstance(listed, list) else ():
        # A secret is nothing to verify with by what is public.
        if not isinstance(one, dict) or one.get("kty") == "oct" or one.get("use", "sig") != "sig":
            continue
        key_id, named = one.get("kid"), one.get("alg")
        for algorithm in (each for each in algorithms if named in (None, each)):
            if key := _key(one, algorithm):
                keys[key_id if isinstance(key_id, str) else None, algorithm] = key
    if not keys:
        raise ValueError("no key set, or one without a key")
    return keys


def _key(described: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    try:
        return jwt.PyJWK({**described, "alg": algorithm})
    except (jwt.PyJWTError, ValueError, TypeError):
        return None


class FileSource:
    """A key set in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __call__(self) -> Any:
        """See `Source`."""
        return orjson.loads(await asyncio.to_thread(self._content))

    def _content(self) -> bytes:
        with self._path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError("too large")
        return content


class UrlSource:
    """
    A key set at a URL, or where an issuer says that it is (OpenID Connect Discovery).

    Args:
        issuer: Who is asked where it is; None if `url` is where.
    """

    def __init__(
        self, client: httpcore2.AsyncConnectionPool, *, url: str | None, issuer: str | None
    ) -> None:
        self._client = client
        self._url = url
        self._issuer = issuer

    async def __call__(self) -> Any:
        """See `Source`."""
        return await self._get(self._url or await self._discovered())

    async def _discovered(self) -> str:
        issuer = str(self._issuer)
        told = await self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        url = told.get("jwks_uri") if isinstance(told, dict) else None
        if not isinstance(url, str) or told.get("issuer") != issuer or not is_safe(url):
            raise ValueError("another issuer")
        return url

    async def _get(self, url: str) -> Any:
        # The set is small; a redirect is no answer.
        content = bytearray()
        async with self._client.stream(
            "GET", url, headers={"accept": "application/json"},
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), FETCH_SECONDS)},
        ) as response:  # fmt: skip
            if response.status != 200:
                raise ValueError(f"answered {response.status}")
            async for part in response.aiter_stream():
                content += part
                if len(content) > MAX_BYTES:
                    raise ValueError("too large")
        return orjson.loads(content)


def is_safe(url: str) -> bool:
    """Whether nobody on the way to a URL can answer in its stead: https, or this machine."""
    parts = urlsplit(url)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and here))


def source_of(client: httpcore2.AsyncConnectionPool, *, issuer: str, place: str | None) -> Source:
    """
    Where the keys of an issuer are.

    Args:
        place: A URL or a file; None for where the issuer says.

    Raises:
        InvalidInputError: Others could answer in its stead, or it is no file.
    """
    is_url = place is not None and "://" in place
    if place is not None and not is_url:
        if not Path(place).is_file():
            raise InvalidInputError(f"THREADWELL_JWT_JWKS: {place} is neither a URL nor a file")
        return FileSource(Path(place))
    url = place or issuer
    if not is_safe(url):
        raise InvalidInputError(
            "THREADWELL_JWT_ISSUER, or THREADWELL_JWT_JWKS, must be https: keys that somebody on the "
            "way could change prove nothing. A file of the keys will do, too"
        )
    return UrlSource(client, url=place, issuer=issuer)
