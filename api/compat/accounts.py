"""
The accounts of fufan-chat-api: a name and a password for an id, and no token.

Its front end sends that id as whose the conversations are, and its server believes it. So does this
one where it asks nobody who they are; where it does (`auth` in langgraph.json), who calls is what
counts, and accounts of another kind would only look as if they did. See decision 26.
"""

import asyncio
import hashlib
import hmac
import importlib
import secrets
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field
from uuid_utils.compat import uuid4

from api.deps import CallerDep, ServicesDep
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.schemas.common import Payload
from graph.encode import dumps
from store import users
from store.errors import AlreadyExistsError, BadRequestError, UnsupportedError

router = APIRouter(prefix="/api/users", tags=["fufan"], route_class=JsonRoute)

#: Cost, block size and parallelism of scrypt: 16 MiB and some 50 ms.
_N, _R, _P = 2**14, 8, 1
_SALT_BYTES = 16
#: Two passwords are hashed at once, whoever asks.
_hashers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="scrypt")


class Credentials(Payload):
    """A name and a password."""

    username: Annotated[str, Field(min_length=1, max_length=50)] = Field(examples=["ada"])
    password: Annotated[str, Field(min_length=1, max_length=200)] = Field(examples=["analytical"])


@router.post("/register", status_code=201)
async def register(body: Credentials, caller: CallerDep, services: ServicesDep) -> Response:
    """Keep a new user; a name that is taken is 400."""
    _require_no_auth(caller)
    hashed = await _hashed(body.password, secrets.token_bytes(_SALT_BYTES))
    try:
        made = await users.create(
            services.db, str(uuid4()), username=body.username, password_hash=hashed
        )
    except AlreadyExistsError as exc:
        # As there.
        raise BadRequestError("Username is already taken", code=exc.code) from exc
    content = dumps({"status": 200, "id": made.id, "username": made.username})
    return Response(content, 201, media_type="application/json")


@router.post("/login")
async def login(body: Credentials, caller: CallerDep, services: ServicesDep) -> Response:
    """The id of a user who knows their password; who does not is told so with a `status` of 401."""
    _require_no_auth(caller)
    found = await users.find(services.db, body.username)
    # It takes as long for a name that is not known.
    is_right = await _is_right(body.password, found.password_hash if found else _NOBODY)
    if found is None or not is_right:
        return json_response({"status": 401, "message": "用户名或密码错误。"})
    if not found.password_hash.startswith("scrypt$"):
        hashed = await _hashed(body.password, secrets.token_bytes(_SALT_BYTES))
        await users.rehash(services.db, found.id, hashed)
    about = {"id": found.id, "username": found.username, "message": "Login successful"}
    return json_response({"status": 200, **about})


def _require_no_auth(caller: CallerDep) -> None:
    if caller.authority is not None:
        raise UnsupportedError("Accounts: who calls is found out by `auth` of langgraph.json")


async def _is_right(password: str, kept: str) -> bool:
    if kept.startswith("$2"):
        # Of a user who was imported: what their project hashed with.
        try:
            bcrypt = importlib.import_module("bcrypt")
        except ModuleNotFoundError:
            raise UnsupportedError(
                "bcrypt is not installed: pip install 'threadwell[import]'"
            ) from None
        check = partial(bcrypt.checkpw, password.encode()[:72], kept.encode())
        # A damaged one is nobody's.
        with suppress(ValueError):
            return bool(await asyncio.get_running_loop().run_in_executor(_hashers, check))
        return False
    hashed = await _hashed(password, _salt(kept))
    return hmac.compare_digest(hashed.encode(), kept.encode())


def _salt(kept: str) -> bytes:
    """The salt of a hash of ours; of another kind's, which no password is right for, one of none."""
    try:
        return b64decode(kept.split("$")[-2])
    except (IndexError, ValueError):
        return bytes(_SALT_BYTES)


async def _hashed(password: str, salt: bytes) -> str:
    hashed = partial(
        hashlib.scrypt, password.encode(), salt=salt, n=_N, r=_R, p=_P, maxmem=64 << 20
    )
    key = await asyncio.get_running_loop().run_in_executor(_hashers, hashed)
    return f"scrypt${_N}${_R}${_P}${b64encode(salt).decode()}${b64encode(key).decode()}"


_NOBODY = f"scrypt${_N}${_R}${_P}${b64encode(bytes(_SALT_BYTES)).decode()}$"
