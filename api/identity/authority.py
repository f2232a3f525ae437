"""
The `Auth` of langgraph.json: who is calling, and what they may do.

Its handlers are an author's code and run on the event loop of HTTP, a sync `authenticate` in a thread.
What they raise is never shown or logged in words unless it was raised to be read: it may hold the
credentials.
"""

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import UUID

import structlog
from langgraph_sdk import Auth
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from api.errors import RefusedError
from api.http.bodies import parse
from api.http.origins import host_of, is_default_origin, is_of_this_machine
from api.identity import filters
from api.identity.identities import Known, user_from
from graph.config import AuthEntry, Cache
from graph.factory import reason, variable
from graph.user import User, studio_user
from store.access import EVERYTHING, Access
from store.errors import (
    BadRequestError,
    Error,
    InvalidInputError,
    PermissionDeniedError,
    UnavailableError,
)
from store.models import JsonObject

log = structlog.stdlib.get_logger(__name__)

Resource = Literal["assistants", "threads", "crons", "store"]
Action = Literal[
    "create", "create_run", "read", "update", "delete", "search", "put", "get", "list_namespaces"
]


class Authority(Protocol):
    """Who is calling, and what they may do: handlers of an author's, or what is built in."""

    #: What the API's description says of it: `securitySchemes`, `security`, `paths`.
    openapi: Mapping[str, Any]

    async def authenticate(
        self, connection: HTTPConnection, *, path_params: Callable[[], Mapping[str, Any]]
    ) -> User:
        """
        Find out who sent a request.

        Args:
            connection: A `Request` if it may have a body; what is read of it is gone.
            path_params: Looks up what the path says.

        Raises:
            Error: It is not known, or refused.
        """
        ...

    async def authorize(
        self, user: User, resource: Resource, action: Action, value: JsonObject
    ) -> Access:
        """
        What somebody may touch.

        Args:
            value: What is to be done; it may be changed.

        Raises:
            PermissionDeniedError: Nothing.
        """
        ...

    async def again(self, connection: HTTPConnection) -> None:
        """
        See that who sent a request, which is still open, would be let in now; where that is asked again.

        Raises:
            Error: They would not, or it is not to be known now (`UnavailableError`).
        """
        ...

    def lasting(self, user: User, access: Access) -> Access:
        """What of the threads that somebody may see is theirs, whatever becomes of their key."""
        ...

    def require(self, user: User, permission: str) -> None:
        """
        Refuse what nobody else is asked about, to who has no permission for it.

        Raises:
            PermissionDeniedError: They have not.
        """
        ...


#: How long a handler may take.
HANDLER_SECONDS = 30.0
#: What `authenticate` may ask for, by name.
PARAMETERS = frozenset(
    {
        "request", "body", "user", "path", "method", "scopes", "path_params", "query_params",
        "headers", "authorization", "scope",
    }
)  # fmt: skip
#: How many calls of a sync `authenticate` go on at a time. One that hangs keeps its place, so that
#: those that are given up do not pile up as threads.
SYNC_AT_ONCE = 32
#: Types of bodies that `authenticate` is not shown.
_FILES = frozenset({"application/octet-stream", "application/zip"})
_HERE = ("127.0.0.1", "::1")
_IDS = ("thread_id", "run_id", "assistant_id", "cron_id")


def load_authority(
    entry: AuthEntry,
    root: Path,
    *,
    clear_keys: frozenset[str] | None = None,
    are_origins_set: bool = False,
) -> Authority:
    """
    Import the `Auth` that langgraph.json names. Runs the author's module.

    Args:
        clear_keys: As for `AuthHandlers`.
        are_origins_set: As for `AuthHandlers`.

    Raises:
        InvalidInputError: It cannot be imported, or is none that could authenticate anybody: a
            server must not be open because of that.
    """
    try:
        return AuthHandlers(
            variable(entry.target, root),
            studio=not entry.disable_studio_auth,
            cache=entry.cache,
            openapi=entry.openapi,
            clear_keys=clear_keys,
            are_origins_set=are_origins_set,
        )
    except (Exception, SystemExit) as exc:
        why = exc.message if isinstance(exc, InvalidInputError) else reason(exc)
        raise InvalidInputError(f"auth: {entry.target} is no usable `Auth`: {why}") from exc


class AuthHandlers:
    """
    Asks the handlers of an `Auth`.

    Args:
        studio: Whether Studio on this machine is let in as a user of its own.
        clear_keys: The keys of metadata that a filter may look at, because they are not encrypted;
            None for all.
        are_origins_set: Somebody said which origins may call, so a request of another does not come here; without it
            Studio is a page of this machine or one of LangChain's.

    Raises:
        InvalidInputError: It is no `Auth`, has no `authenticate`, or one that wants what nobody has.
    """

    def __init__(
        self,
        auth: Any,
        *,
        studio: bool = True,
        cache: Cache | None = None,
        openapi: Mapping[str, Any] | None = None,
        clear_keys: frozenset[str] | None = None,
        are_origins_set: bool = False,
    ) -> None:
        if not isinstance(auth, Auth):
            raise InvalidInputError(f"it is a {type(auth).__name__}")
        authenticate = auth._authenticate_handler
        if authenticate is None:
            raise InvalidInputError("it has no @auth.authenticate handler")
        self.openapi = openapi or {}
        self._auth: Auth = auth
        self._clear_keys = clear_keys
        self._studio = studio
        self._are_origins_set = are_origins_set
        self._authenticate = authenticate
        self._wanted = _wanted(authenticate)
        self._known = Known(cache) if cache else None
        # Threads of its own: whoever waits for one of Starlette's cannot give it up.
        self._threads = ThreadPoolExecutor(SYNC_AT_ONCE, thread_name_prefix="authenticate")

    async def authenticate(
        self, connection: HTTPConnection, *, path_params: Callable[[], Mapping[str, Any]]
    ) -> User:
        """
        Find out who sent a request.

        Args:
            connection: A `Request` if it may have a body; what is read of it is gone.
            path_params: Looks up what the path says.

        Raises:
            RefusedError: The handler refused, with a status of its choice.
            AuthenticationError: It named nobody.
            BadRequestError: It raised a ValueError.
            UnavailableError: It took too long.
        """
        if self._studio and _is_studio(connection, of_any_origin=self._are_origins_set):
            return studio_user()
        if self._known and (user := self._known.find(connection)):
            return user
        with _translated("authenticate"):
            arguments = await self._arguments(connection, path_params)
            async with asyncio.timeout(HANDLER_SECONDS):
                user = user_from(await self._called(arguments))
        if self._known:
            self._known.keep(connection, user)
        return user

    async def _called(self, arguments: dict[str, Any]) -> Any:
        function = partial(self._authenticate, **arguments)
        if inspect.iscoroutinefunction(self._authenticate):
            return await function()
        call = partial(copy_context().run, function)
        result: Any = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        return await result if inspect.isawaitable(result) else result

    async def _arguments(
        self, connection: HTTPConnection, path_params: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        scope = connection.scope
        values: dict[str, Callable[[], Any]] = {
            "request": lambda: connection,
            "user": lambda: scope.get("user"),
            "path": lambda: scope["path"],
            "method": lambda: scope.get("method", "GET"),
            "scopes": list,
            "path_params": lambda: dict(path_params()),
            "query_params": lambda: connection.query_params,
            "headers": lambda: dict(scope["headers"]),
            "authorization": lambda: connection.headers.get("authorization"),
            "scope": lambda: scope,
        }
        found = {name: values[name]() for name in self._wanted if name in values}
        return found | {"body": await _body(connection)} if "body" in self._wanted else found

    async def authorize(
        self, user: User, resource: Resource, action: Action, value: JsonObject
    ) -> Access:
        """
        Ask the handler that is the nearest to an action, if there is one, what may be touched.

        Args:
            value: What is to be done; the handler may change it.

        Raises:
            PermissionDeniedError: Nothing.
            RefusedError: The handler refused, with a status of its choice.
            BadRequestError: It raised a ValueError.
            UnavailableError: It took too long.
            Error: With the code ``invalid_filter``: what it returned means nothing here.
        """
        handler = self._handler(resource, action)
        if handler is None:
            return EVERYTHING
        context = Auth.types.AuthContext(
            permissions=user.permissions, user=user, resource=resource, action=action
        )
        _present(value)
        asked = dict(value.get("metadata") or {})
        with _translated(f"on.{resource}.{action}"):
            async with asyncio.timeout(HANDLER_SECONDS):
                result = await handler(ctx=context, value=value)
        _write_ids(value)
        access = _access(result, resource)
        if action != "search" or resource == "store":
            return self._answerable(access)
        access = self._answerable(_of_search(access, asked, value))
        if resource in ("assistants", "threads"):
            # Only a filter knows that those of the graphs, which have no owner, are everybody's; and
            # which threads of other owners are shared.
            value["metadata"] = asked
        return access

    def _answerable(self, access: Access) -> Access:
        """Refuse a filter that no row could meet because what it looks at is encrypted."""
        looked_at = set().union(*access.visible)
        if self._clear_keys is not None and (sealed := sorted(looked_at - self._clear_keys)):
            raise Error(
                f"The filter of an auth handler looks at {sealed[0]}, which is encrypted: "
                "ENCRYPTION_CLEAR_KEYS is to name it",
                code="invalid_filter",
            )
        return access

    async def again(self, connection: HTTPConnection) -> None:
        """Nothing: `authenticate` is asked once for a request, however long that is open."""

    def lasting(self, user: User, access: Access) -> Access:
        """All of it: only the handlers know what is whose."""
        return access

    def require(self, user: User, permission: str) -> None:
        """Nothing: what a user may is what handlers say."""

    def _handler(self, resource: str, action: str) -> Callable[..., Awaitable[Any]] | None:
        handlers = self._auth._handlers
        for place in ((resource, action), (resource, "*"), ("*", action), ("*", "*")):
            if found := handlers.get(place):
                return found[-1]
        return self._auth._global_handlers[-1] if self._auth._global_handlers else None


def _access(result: Any, resource: Resource) -> Access:
    if result is None or result is True:
        return EVERYTHING
    if result is False:
        raise PermissionDeniedError("Forbidden")
    access = Access(filters.visible(result))
    if resource == "store" and access != EVERYTHING:
        # Items have no metadata: to ignore it would show everybody everything.
        raise PermissionDeniedError(
            "A filter cannot be applied to the store: its auth handler is to rewrite the namespace"
        )
    return access


def _of_search(access: Access, asked: JsonObject, value: JsonObject) -> Access:
    """
    What a handler adds to the metadata that is searched by, as a filter of its own.

    So it counts for every list, also for one that nobody can search by metadata.
    """
    given = value.get("metadata") or {}
    added = {key: given[key] for key in given if key not in asked or given[key] != asked[key]}
    return Access(filters.narrowed(access.visible, added)) if added else access


def _wanted(authenticate: Callable[..., Any]) -> frozenset[str]:
    """The parameters that `authenticate` is given."""
    wanted = set()
    for parameter in inspect.signature(authenticate).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        is_dependency = type(parameter.default).__module__.startswith("fastapi")
        if parameter.kind is parameter.POSITIONAL_ONLY or is_dependency:
            raise InvalidInputError(f"authenticate's {parameter.name!r} cannot be filled")
        if parameter.name in PARAMETERS:
            wanted.add(parameter.name)
        elif parameter.default is parameter.empty:
            raise InvalidInputError(f"authenticate wants {parameter.name!r}; nothing fills it")
    return frozenset(wanted)


async def _body(connection: HTTPConnection) -> Any:
    """
    The body of a request if it is JSON, whatever it calls itself.

    Raises:
        InvalidInputError: It is nested too deep for any route.
        TooLargeError: It is larger, or has more values, than any route takes.
        OverloadedError: There is no room for it.
        StalledError: It does not come.
    """
    if not isinstance(connection, Request):
        return None
    if _is_file(connection):
        # No JSON, and larger than what is read whole. A route that reads it as JSON all the same must not.
        connection.state.body_is_unseen = True
        return None
    try:
        return parse(await connection.body())
    except InvalidInputError as exc:
        if exc.code != "invalid_json":
            raise
        return None


def _is_file(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind.startswith("multipart/") or kind in _FILES


def _is_studio(connection: HTTPConnection, *, of_any_origin: bool) -> bool:
    """
    Whether Studio sends a request: a page that is opened beside the server.

    Its header proves nothing, so it is believed only on this machine. Behind a proxy that is the
    proxy's, which uvicorn knows by what such a one adds. Any page of a browser on this machine may send it too: so
    its origin is to be one of Studio's, and `Host` no name that was led here.
    """
    headers = connection.headers
    if headers.get("x-auth-scheme") != "langsmith":
        return False
    if any(name in headers for name in ("forwarded", "x-forwarded-for")):
        return False
    hosts = headers.getlist("host")
    host = host_of(hosts[0]) if len(hosts) == 1 else None
    if host is None or not is_of_this_machine(host):
        return False
    origin = headers.get("origin")
    is_studios = of_any_origin or origin is None or is_default_origin(origin)
    return is_studios and connection.client is not None and connection.client.host in _HERE


@contextmanager
def _translated(handler: str) -> Iterator[None]:
    """Raise our errors for what a handler raises."""
    try:
        yield
    except Error:
        raise
    except (Auth.exceptions.HTTPException, HTTPException) as exc:
        raise RefusedError(exc.status_code, str(exc.detail), headers=exc.headers) from exc
    except AssertionError as exc:
        if handler == "authenticate":
            raise _fault(handler, exc) from None
        raise PermissionDeniedError(str(exc) or "Forbidden") from exc
    except ValueError as exc:
        _log(handler, exc)
        raise BadRequestError("The request was not understood by its authentication") from None
    except TimeoutError:
        raise UnavailableError("The authentication did not answer in time") from None
    except Exception as exc:  # noqa: BLE001 - an author's handler raises anything
        raise _fault(handler, exc) from None


def _fault(handler: str, exc: Exception) -> Error:
    _log(handler, exc)
    return Error("Internal Server Error", code="internal_error")


def _log(handler: str, exc: Exception) -> None:
    """Where it went wrong; not in which words, which may hold what was being checked."""
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    place = f"{frame.filename}:{frame.lineno}"
    log.error("auth handler failed", handler=handler, error=type(exc).__name__, place=place)


def _present(value: JsonObject) -> None:
    """Handlers know ids as UUIDs, where they are, and no metadata as empty ones to add to."""
    if value.get("metadata", {}) is None:
        value["metadata"] = {}
    for key in _IDS:
        if isinstance(text := value.get(key), str):
            try:
                value[key] = UUID(text)
            except ValueError:
                continue


def _write_ids(value: JsonObject) -> None:
    for key in _IDS:
        if isinstance(value.get(key), UUID):
            value[key] = str(value[key])
