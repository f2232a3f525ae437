"""Handlers of `langgraph_sdk.Encryption`, as an author writes them, and some that do not do what they should."""

import warnings
from typing import Any

from cryptography.fernet import Fernet, MultiFernet
from langgraph_sdk.encryption import Encryption
from langgraph_sdk.encryption.types import DecryptResult, EncryptionContext

OLD, NEW = Fernet(b"A" * 43 + b"="), Fernet(b"B" * 42 + b"A=")
#: What the handlers were asked.
ASKED: list[tuple[str, Any, Any]] = []


def _made(seals: Any, opens: Any) -> Encryption:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Encryption()

    @made.encrypt.blob
    async def encrypt(ctx: EncryptionContext, blob: bytes) -> bytes:
        ASKED.append(("encrypt", ctx.model, ctx.field))
        return bytes(seals(blob))

    @made.decrypt.blob
    async def decrypt(ctx: EncryptionContext, blob: bytes) -> Any:
        ASKED.append(("decrypt", ctx.model, ctx.field))
        return opens(blob)

    return made


def _rotated(blob: bytes) -> DecryptResult[bytes]:
    both = MultiFernet([NEW, OLD])
    return DecryptResult(both.decrypt(blob), both.rotate(blob))


old = _made(OLD.encrypt, OLD.decrypt)
rotating = _made(NEW.encrypt, _rotated)
new = _made(NEW.encrypt, NEW.decrypt)
idle = _made(lambda blob: b"x" + blob, lambda blob: blob[1:])
shortened = _made(OLD.encrypt, lambda blob: OLD.decrypt(blob)[:16])

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for_json = Encryption()
contextual = _made(OLD.encrypt, OLD.decrypt)


@for_json.encrypt.json
async def encrypt_json(ctx: EncryptionContext, data: dict[str, Any]) -> dict[str, Any]:
    return data


@contextual.context
async def of_user(user: Any, ctx: EncryptionContext) -> dict[str, Any]:
    return {"tenant": user.identity}
