"""Whom an `authenticate` names, and who is known from a request before."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from starlette.requests import HTTPConnection

from graph.config import Cache
from graph.encode import plain
from graph.user import User
from store.errors import AuthenticationError
from store.models import JsonObject

_OF_USERS = ("identity", "is_authenticated", "display_name", "permissions")


def user_from(result: Any) -> User:
    """
    Whoever `authenticate` returned: a name, an object of fields, or anything with an identity.

    Raises:
        AuthenticationError: Nobody.
    """
    granted: Any = None
    if isinstance(result, tuple) and len(result) == 2:
        granted, result = result
    if isinstance(result, User):
        return result
    fields, source = _fields(result)
    if granted is not None and "permissions" not in fields:
        fields["permissions"] = list(granted)
    if not isinstance(fields.get("identity"), str) or not fields["identity"]:
        raise AuthenticationError("The authentication told no identity")
    identity = fields["identity"]
    known = {"identity": identity, "is_authenticated": True, "display_name": identity}
    return User(plain({**known, **{k: v for k, v in fields.items() if v is not None}}), source)


def _fields(result: Any) -> tuple[JsonObject, Any]:
    """The fields of a user, and the object they are of unless they are all there is."""
    if isinstance(result, str):
        return {"identity": result}, None
    if isinstance(result, Mapping):
        return dict(result), None
    if is_dataclass(result) and not isinstance(result, type):
        return asdict(result), result
    for name in ("model_dump", "dict"):
        if callable(dump := getattr(result, name, None)):
            return {**_attributes(result), **dump()}, result
    return _attributes(result), result


def _attributes(result: Any) -> JsonObject:
    return {name: getattr(result, name) for name in _OF_USERS if hasattr(result, name)}


class Known:
    """Users that were authenticated a short time ago, by the headers that tell who they are."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._users: OrderedDict[tuple[str | None, ...], tuple[float, User]] = OrderedDict()

    def _key(self, connection: HTTPConnection) -> tuple[str | None, ...] | None:
        values = tuple(connection.headers.get(name) for name in self._cache.keys)
        return values if any(values) else None

    def find(self, connection: HTTPConnection) -> User | None:
        """Who sends it, if that is known still."""
        key = self._key(connection)
        until, user = self._users.get(key, (0.0, None)) if key else (0.0, None)
        return user if time.monotonic() < until else None

    def keep(self, connection: HTTPConnection, user: User) -> None:
        """Know them again, in place of the one known longest where there are too many."""
        if key := self._key(connection):
            self._users[key] = (time.monotonic() + self._cache.ttl_seconds, user)
            self._users.move_to_end(key)
            while len(self._users) > self._cache.max_size:
                self._users.popitem(last=False)
