"""
`encryption` of langgraph.json: handlers of the user's own, by `langgraph_sdk.Encryption`, keep the keys.

Everything is sealed by `store.cipher`, under a key of the server's making that only the handlers for blobs
can open: they are asked when a process starts, and never on the way of a run. Decision 31 says why.
"""

import asyncio
import secrets
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final

import structlog
from langgraph_sdk.encryption import Encryption
from langgraph_sdk.encryption.types import DecryptResult, EncryptionContext

from graph import custom
from store import data_keys
from store.data_keys import DataKey
from store.database import Database
from store.errors import InvalidInputError

log = structlog.get_logger(__name__)

#: What the handlers are told that a key is.
MODEL: Final = "key"
FIELD: Final = "data_key"
#: How long a handler may take.
HANDLER_SECONDS: Final = 30.0
KEY_BYTES: Final = 32
_ATTEMPTS: Final = 5
_NAME: Final = "encryption.path"


async def keys(db: Database, target: str, root: Path) -> list[bytes]:
    """
    The keys that everything is sealed with, the newest first; one is made if there is none yet.

    What a handler seals anew as it opens it, as after a rotation of its own, is kept.

    Args:
        target: The `Encryption`, as a variable of a file or a module.
        root: Where relative paths begin.

    Raises:
        InvalidInputError: It cannot be loaded, lacks a handler, asks for what is not built, or one of its
            handlers fails.
        UnavailableError: PostgreSQL does not answer.
    """
    async with custom.opened(target, root, Encryption, _NAME) as handlers:
        _check(handlers)
        for _ in range(_ATTEMPTS):
            if held := await data_keys.list_all(db):
                return [await _opened(db, handlers, key) for key in held]
            await _add(db, handlers)
    raise InvalidInputError("No key for encryption could be kept")


def _check(handlers: Encryption) -> None:
    if handlers._blob_encryptor is None or handlers._blob_decryptor is None:
        raise InvalidInputError(
            f"langgraph.json: `{_NAME}` needs handlers for blobs, `encrypt.blob` and `decrypt.blob`: they "
            "seal the key that everything is encrypted with"
        )
    if handlers._context_handler is not None:
        raise InvalidInputError(
            f"langgraph.json: `{_NAME}` has a handler for contexts, which is not supported: what it is to "
            "encrypt by the caller's key would be encrypted by everybody's"
        )
    if handlers.get_json_encryptor() is not None:
        log.info("handlers for JSON are not asked: all JSON is encrypted under the key for blobs")


async def _add(db: Database, handlers: Encryption) -> None:
    secret = secrets.token_bytes(KEY_BYTES)
    wrapped = await _asked("encrypt.blob", handlers._blob_encryptor, secret)
    if not isinstance(wrapped, bytes) or secret in wrapped:
        raise InvalidInputError(f"langgraph.json: `{_NAME}`: `encrypt.blob` does not encrypt")
    await data_keys.add(db, DataKey(number=1, wrapped=wrapped))


async def _opened(db: Database, handlers: Encryption, key: DataKey) -> bytes:
    found = await _asked("decrypt.blob", handlers._blob_decryptor, key.wrapped)
    replacement = None
    if isinstance(found, DecryptResult):
        found, replacement = found.plaintext, found.replacement
    if not isinstance(found, bytes) or len(found) != KEY_BYTES:
        raise InvalidInputError(
            f"langgraph.json: `{_NAME}`: `decrypt.blob` does not give back what `encrypt.blob` was given"
        )
    if replacement is not None:
        await data_keys.replace(db, key, bytes(replacement))
    return found


async def _asked(name: str, handler: Any, data: bytes) -> Any:
    context = EncryptionContext(model=MODEL, field=FIELD)
    try:
        asked: Awaitable[Any] = handler(context, data)
        async with asyncio.timeout(HANDLER_SECONDS):
            return await asked
    except Exception as error:  # a user's handler raises anything, with anything in it
        raise InvalidInputError(
            f"langgraph.json: `{_NAME}`: `{name}` failed: {type(error).__name__}"
        ) from error
