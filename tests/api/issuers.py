"""Somebody who issues tokens, on loopback; and API keys, as `threadwell keys create` makes them."""

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from api.console import keys as keys_command
from store.database import Database
from tests.serving import serving

AUDIENCE = "threadwell"
#: Making one takes long; what a test signs with it is its own.
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


async def make_key(db: Database, owner: str, **options: Any) -> str:
    """A new key, whole."""
    given = {"name": "", "role": None, "permission": None, "expires": "90d", "json": False}
    return await keys_command.plan("create", None, owner=owner, **{**given, **options})(db)


class Issuer:
    """Signs tokens, and says by which keys; `keys` are those that it tells of."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[dict[str, Any]] = [self.described("first")]
        self.answers: Any = None
        self.asked = 0

    @staticmethod
    def described(key_id: str | None, key: Any = RSA_KEY, **more: Any) -> dict[str, Any]:
        """A public key as a key set has it."""
        algorithm = jwt.get_algorithm_by_name(more.get("alg", "RS256"))
        described = json.loads(algorithm.to_jwk(key.public_key()))
        named = {} if key_id is None else {"kid": key_id}
        return {**described, "use": "sig", **named, **more}

    def claims(self, identity: str, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        told = {"iss": self.url, "aud": AUDIENCE, "sub": identity, "iat": now, "exp": now + 300}
        return {name: value for name, value in {**told, **more}.items() if value is not None}

    def token(
        self,
        identity: str,
        *,
        key: Any = RSA_KEY,
        key_id: str | None = "first",
        algorithm: str = "RS256",
        headers: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        named = {} if key_id is None else {"kid": key_id}
        header = {"alg": algorithm, **named, **(headers or {})}
        # Not by the library, which refuses to sign what it would refuse to read.
        text = unsigned(self.claims(identity, **claims), **header).rstrip(".")
        how = jwt.get_algorithm_by_name(algorithm)
        return f"{text}.{_base64(how.sign(text.encode(), how.prepare_key(key)))}"

    async def _answer(self, request: Request) -> JSONResponse:
        self.asked += 1
        if self.answers is not None:
            return JSONResponse(self.answers, status_code=200 if self.answers else 503)
        if request.url.path.startswith("/.well-known"):
            return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})
        return JSONResponse({"keys": self.keys})

    @asynccontextmanager
    async def issuing(self) -> AsyncIterator["Issuer"]:
        """Be there."""
        paths = ("/.well-known/openid-configuration", "/keys")
        async with serving(Starlette(routes=[Route(path, self._answer) for path in paths])) as url:
            self.url = url
            yield self


def unsigned(claims: dict[str, Any], **header: Any) -> str:
    """A token that nobody signed."""
    parts = (json.dumps(part).encode() for part in ({"typ": "JWT", **header}, claims))
    return ".".join(map(_base64, parts)) + "."


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
