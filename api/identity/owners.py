"""
Built-in identities: who calls by an API key or a token, and that everything is its maker's.

They go the way of a custom `Auth`: rows are filtered by `owner` of their metadata, in SQL. Where
langgraph.json names an `Auth`, that counts and nothing of this.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, Protocol

import httpcore2
import structlog
from starlette.requests import HTTPConnection

from api.errors import RefusedError
from api.http.addresses import address_of
from api.identity.authority import Action, Resource
from api.identity.forwarded import ForwardedUsers
from api.identity.issuer_keys import SigningKeys, source_of
from api.identity.keys import PREFIX, Found, Keys
from api.identity.permissions import is_granted, is_identity, of_user
from api.identity.tokens import Rules, Tokens
from api.settings import Settings
from graph.user import User, label_of
from store.access import EVERYTHING, ROLES, Access
from store.audit import Act, record
from store.cache import Cache, LocalCache
from store.database import Database
from store.errors import (
    AuthenticationError,
    BadRequestError,
    PermissionDeniedError,
    UnavailableError,
)
from store.models import JsonObject

log = structlog.stdlib.get_logger(__name__)

#: The key of a row's metadata that says whose it is.
OWNER: Final = "owner"
#: The header by which who may act for others says for whom.
ON_BEHALF_OF: Final = "x-on-behalf-of"

#: Who was let in, and addresses that did not get in: of which are known again.
MAX_KNOWN: Final = 10_000
#: Failures of an address are counted for so long from the first on.
FAILURES_SECONDS: Final = 60.0
#: Rows of the audit log about it, in a process and so long, at the most.
MAX_RECORDED: Final = 100
_CONNECTIONS: Final = 4

_REFUSED: Final = {"WWW-Authenticate": "Bearer"}
OPENAPI: Final[Mapping[str, Any]] = {
    "securitySchemes": {
        "bearer": {"type": "http", "scheme": "bearer"},
        "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    },
    "security": [{"bearer": []}, {"api_key": []}],
}


class Kind(Protocol):
    """One way to say who one is."""

    async def authenticate(self, text: str) -> Found:
        """Whose a credential is; raises `AuthenticationError` for nobody's."""
        ...


class Owners:
    """
    Lets in who has a key or a token, and shows them what is theirs.

    Args:
        db: Where it is recorded who was refused.
        keys: None: API keys are not taken.
        tokens: None: tokens are not taken.
        cache: Counts failures, for all processes.
        max_failures: Of an address in `FAILURES_SECONDS`; then only what has let somebody in before does.
        forwarded: Reads for whom a front end asks.
    """

    openapi = OPENAPI

    def __init__(
        self,
        *,
        db: Database,
        keys: Kind | None,
        tokens: Kind | None,
        cache: Cache,
        max_failures: int,
        forwarded: ForwardedUsers,
    ) -> None:
        self._forwarded = forwarded
        self._keys = keys
        self._tokens = tokens
        self._known = _Known()
        self._failures = _Failures(db, cache, max_failures)

    async def authenticate(
        self, connection: HTTPConnection, *, path_params: Callable[[], Mapping[str, Any]]
    ) -> User:
        """
        Find out who sent a request, and on whose behalf.

        Raises:
            RefusedError: It says nobody, or what is not valid; or too much of that came from there. Or
                for whom a front end asks is not to be believed.
            BadRequestError: It names nobody whom it could be on behalf of, or two.
            PermissionDeniedError: They may not act for others.
            UnavailableError: What is needed to know did not answer.
        """
        text = _said(connection)
        user = self._known.find(text)
        if user is None:
            address = address_of(connection)
            # Behind a proxy that is not trusted, an address is everybody's.
            if not self._known.was_right(text):
                self._failures.check(address)
            try:
                user = await self._look_up(text)
            except AuthenticationError as exc:
                await self._failures.note(address, exc.message)
                raise _unknown(exc.message) from None
        return self._acting(user, connection)

    async def again(self, connection: HTTPConnection) -> None:
        """
        See that who has a stream or a socket open would be let in now; no attempt that is counted.

        A token of a forwarded user is for the request that it came with: it may be over by now.

        Raises:
            RefusedError: What was shown is not valid any more.
            PermissionDeniedError: They may not act for others any more.
            UnavailableError: What is needed to know did not answer.
        """
        text = _said(connection)
        try:
            user = self._known.find(text) or await self._look_up(text)
        except AuthenticationError as exc:
            raise _unknown(exc.message) from None
        self._acting(user, connection, is_again=True)

    def _acting(self, user: User, connection: HTTPConnection, *, is_again: bool = False) -> User:
        """
        Who a request is for: who sends it, or whom they act for.

        Args:
            is_again: It was let in, and goes on.

        Raises:
            BadRequestError: That is nobody, or two.
            PermissionDeniedError: They may not act for others.
            RefusedError: A user is forwarded by what is not valid, or not any more.
        """
        name, token = _named(connection), self._forwarded.said(connection)
        if name is None and token is None:
            return user
        # Before anything is said of the token to who could do nothing with a good one.
        if not is_granted(user.permissions, "users:act_for"):
            raise PermissionDeniedError("This needs the permission users:act_for")
        if token is not None:
            try:
                forwarded = self._forwarded.identity(token, may_be_over=is_again)
            except AuthenticationError as exc:
                raise _unknown(exc.message) from None
            if name not in (None, forwarded):
                raise BadRequestError("X-On-Behalf-Of and X-OpenWebUI-User-Jwt name two users")
            name = forwarded
        assert name is not None
        return user.becoming(
            identity=name,
            display_name=name,
            permissions=of_user(user.permissions),
            roles=[],
            actor=user.identity,
        )

    async def _look_up(self, text: str) -> User:
        try:
            found = await self._kind(text).authenticate(text)
        except AuthenticationError:
            self._known.forget(text)
            raise
        self._known.keep(text, found)
        return found.user

    def _kind(self, text: str) -> Kind:
        kind = self._keys if text.startswith(PREFIX) else self._tokens
        if kind is None:
            raise AuthenticationError("What was sent is nothing that this server takes")
        return kind

    async def authorize(
        self, user: User, resource: Resource, action: Action, value: JsonObject
    ) -> Access:
        """
        What of a resource somebody may touch: their own, or what is anybody's for who may that.

        Args:
            value: What is to be done; what is made becomes theirs.

        Raises:
            PermissionDeniedError: Nothing.
        """
        permissions = user.permissions
        self.require(user, f"{resource}:{action}")
        is_for_all = is_granted(permissions, "users:all")
        if resource == "store":
            if not is_for_all:
                _keep_to_own(value, user.identity)
            return EVERYTHING
        if resource == "threads" and action != "search" and not is_for_all:
            _keep_user(value, user.identity)
        _own(value, action, user.identity, is_fixed=not is_for_all)
        return EVERYTHING if is_for_all else Access(({OWNER: user.identity},))

    def lasting(self, user: User, access: Access) -> Access:
        """Their own threads, and those that are shared with them: also of who may see all today."""
        return Access(({OWNER: user.identity},)).of_members(user.identity, ROLES)

    def require(self, user: User, permission: str) -> None:
        """
        Refuse what somebody has no permission for.

        Raises:
            PermissionDeniedError: They have not.
        """
        if not is_granted(user.permissions, permission):
            raise PermissionDeniedError(f"This needs the permission {permission}")


def _own(value: JsonObject, action: Action, identity: str, *, is_fixed: bool) -> None:
    """Make what is made its maker's; and let nobody give away, or take, by changing whose it is."""
    given = value.get("metadata") or {}
    is_said = OWNER in given
    is_made = action in ("create", "create_run")
    if (is_made and not is_said) or (is_fixed and (is_made or (action == "update" and is_said))):
        value["metadata"] = {**given, OWNER: identity}


def _keep_user(value: JsonObject, identity: str) -> None:
    """
    Keep `user_id` of a thread to its maker, as of a session: it is what lists and statistics show.

    Raises:
        PermissionDeniedError: It names another one.
    """
    named = (value.get("metadata") or {}).get("user_id")
    if named not in (None, identity):
        raise PermissionDeniedError("user_id is not yours")


def _keep_to_own(value: JsonObject, identity: str) -> None:
    """
    Keep somebody to the namespaces that begin with who they are; what names none is about all of them.

    Raises:
        PermissionDeniedError: It is another one's.
    """
    label = label_of(identity)
    namespace = list(value.get("namespace") or ())
    if not namespace:
        value["namespace"] = [label]
    elif namespace[0] != label:
        raise PermissionDeniedError("Your namespaces of the store begin with your identity")


def _unknown(message: str) -> RefusedError:
    return RefusedError(401, message, headers=_REFUSED)


def _credential(connection: HTTPConnection) -> str | None:
    """What a request says of who sends it: `Authorization` before `x-api-key`, which SDKs fill alone."""
    scheme, _, text = connection.headers.get("authorization", "").partition(" ")
    if scheme:
        return text.strip() if scheme.lower() == "bearer" and text.strip() else None
    return connection.headers.get("x-api-key", "").strip() or None


def _said(connection: HTTPConnection) -> str:
    """
    What a request says of who sends it.

    Raises:
        RefusedError: Nothing.
    """
    text = _credential(connection)
    if text is None:
        raise _unknown("Say who you are: `Authorization: Bearer …`, or `x-api-key`")
    return text


def _named(connection: HTTPConnection) -> str | None:
    """
    On whose behalf a request says that it is; None if it does not say.

    Raises:
        BadRequestError: That is nobody.
    """
    told = connection.headers.get(ON_BEHALF_OF)
    if told is None:
        return None
    try:
        name = told.encode("latin-1").decode()
    except UnicodeDecodeError:
        name = ""
    if not is_identity(name):
        raise BadRequestError("X-On-Behalf-Of names nobody")
    return name


class _Known:
    """
    Who was let in a short time ago, by the hash of what they showed.

    What they showed is remembered when that time is over, until it is wrong or too many are newer.
    """

    def __init__(self) -> None:
        self._users: OrderedDict[bytes, tuple[float, User]] = OrderedDict()

    def find(self, text: str) -> User | None:
        until, user = self._users.get(_digest(text), (0.0, None))
        return user if time.monotonic() < until else None

    def was_right(self, text: str) -> bool:
        return _digest(text) in self._users

    def forget(self, text: str) -> None:
        self._users.pop(_digest(text), None)

    def keep(self, text: str, found: Found) -> None:
        key = _digest(text)
        self._users[key] = (time.monotonic() + found.seconds, found.user)
        self._users.move_to_end(key)
        while len(self._users) > MAX_KNOWN:
            self._users.popitem(last=False)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class _Failures:
    """
    Counts what did not let anybody in, by where it came from.

    In all processes together while Redis is there, else in each. Who was let in before, here, still is.
    """

    def __init__(self, db: Database, cache: Cache, most: int) -> None:
        self._db = db
        self._cache = cache
        self._here = LocalCache()
        self._most = most
        self._until: OrderedDict[str, float] = OrderedDict()

    def check(self, address: str) -> None:
        left = self._until.get(address, 0.0) - time.monotonic()
        if left > 0:
            raise RefusedError(
                429,
                "Too many attempts from this address: try again later",
                headers={"Retry-After": str(int(left) + 1)},
            )

    async def note(self, address: str, why: str) -> None:
        key = f"auth-failures:{address}"
        here = await self._here.count(key, ttl_seconds=FAILURES_SECONDS)
        everywhere = await self._cache.count(key, ttl_seconds=FAILURES_SECONDS)
        count = max(here or 0, everywhere or 0)
        log.info("login refused", address=address, reason=why, count=count)
        if count == 1:
            await self._record("login.refused", address, {"reason": why})
        if self._most and count >= self._most:
            self._lock(address)
            if count == self._most:
                await self._record("login.locked", address, {"failures": count})

    def _lock(self, address: str) -> None:
        self._until[address] = time.monotonic() + FAILURES_SECONDS
        self._until.move_to_end(address)
        while len(self._until) > MAX_KNOWN:
            self._until.popitem(last=False)

    async def _record(self, act: Act, address: str, details: JsonObject) -> None:
        """Two rows at the most for a minute of an address, whatever it sends; not for any number of them."""
        recorded = await self._here.count("recorded", ttl_seconds=FAILURES_SECONDS)
        if (recorded or 0) > MAX_RECORDED:
            return
        with suppress(UnavailableError):
            await record(
                self._db, act, actor="", owner="", subject=f"address:{address}", details=details
            )


@asynccontextmanager
async def open_owners(
    settings: Settings, kinds: frozenset[str], db: Database, cache: Cache
) -> AsyncIterator[Owners]:
    """
    Open the built-in identities.

    Args:
        kinds: ``keys``, ``jwt`` or both.

    Raises:
        InvalidInputError: What tokens are signed with is somewhere that cannot be trusted.
    """
    async with AsyncExitStack() as stack:
        tokens = None
        if "jwt" in kinds and settings.jwt_issuer:
            client = await stack.enter_async_context(
                httpcore2.AsyncConnectionPool(max_connections=_CONNECTIONS)
            )
            source = source_of(client, issuer=settings.jwt_issuer, place=settings.jwt_jwks or None)
            tokens = Tokens(_rules(settings), SigningKeys(source, settings.jwt_algorithms))
        secret = settings.openwebui_jwt_secret
        yield Owners(
            db=db,
            keys=Keys(db) if "keys" in kinds else None,
            tokens=tokens,
            cache=cache,
            max_failures=settings.auth_failures_per_minute,
            forwarded=ForwardedUsers(
                secret.get_secret_value() if secret else None,
                leeway_seconds=settings.jwt_leeway_seconds,
            ),
        )


def _rules(settings: Settings) -> Rules:
    return Rules(
        issuer=settings.jwt_issuer or "",
        audiences=settings.jwt_audience,
        algorithms=settings.jwt_algorithms,
        identity_claim=settings.jwt_identity_claim,
        roles_claim=settings.jwt_roles_claim,
        permissions_claim=settings.jwt_permissions_claim,
        default_role=settings.jwt_default_role,
        leeway_seconds=settings.jwt_leeway_seconds,
    )
