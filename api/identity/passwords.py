"""Passwords of shared links: kept salted and slow, tried beside the event loop and few at a time."""

import asyncio
import hmac
import os
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from hashlib import scrypt
from typing import Final

#: Some 16 MiB and 50 ms for each guess.
_N, _R, _P = 2**14, 8, 1
_SALT_BYTES, _HASH_BYTES = 16, 32
_AT_ONCE: Final = ThreadPoolExecutor(2, thread_name_prefix="password")


async def hashed(password: str) -> str:
    """A password as it may be kept: ``scrypt$n$r$p$salt$hash``."""
    salt = os.urandom(_SALT_BYTES)
    digest = await _scrypt(password, salt, _N, _R, _P)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), _text(salt), _text(digest)))


async def is_right(password: str, kept: str) -> bool:
    """Whether a password is the one that was kept."""
    _, n, r, p, salt, digest = kept.split("$")
    found = await _scrypt(password, b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, b64decode(digest))


async def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    def work() -> bytes:
        return scrypt(password.encode(), salt=salt, n=n, r=r, p=p, dklen=_HASH_BYTES)

    return await asyncio.get_running_loop().run_in_executor(_AT_ONCE, work)


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
