"""Tells the webhooks of runs that they have ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import httpcore2
import orjson
import structlog

from graph.encode import dumps
from graph.guard import UNRESOLVED, Guard, GuardedNetwork, Resolve, own_path
from graph.jobs import SLOTS, JobFailedError, Kind
from graph.webhook_config import WebhookConfig
from store.errors import InvalidInputError, UnavailableError
from store.jobs import Job
from store.models import JsonObject, Run
from store.webhooks import Status, delivery

log = structlog.get_logger(__name__)

#: How long a receiver may take: to be connected to, and in all.
CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 30.0
#: Connections at once to all receivers of a process.
CONNECTIONS: Final = 32
#: Runs whose webhooks a process tells at once: what else is to be done has some slots of its own. And of
#: those how many of one user: a receiver may never answer.
AT_ONCE: Final = SLOTS * 3 // 8
OF_USER_AT_ONCE: Final = AT_ONCE // 2
#: Values are told up to this size; in place of larger ones null.
VALUES_MAX_BYTES: Final = 16 * 1024 * 1024
#: What every request says of itself.
OURS: Final = {"content-type": "application/json", "user-agent": "threadwell"}
#: The status of a receiver that wants to hear no more.
GONE: Final = 410


_FAILURES: Final = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    TimeoutError,
    UnavailableError,
)
#: Posts a body with headers to a path of this server, as a stranger would; the answer's status.
PostHere = Callable[[str, Mapping[str, str], bytes], Awaitable[int]]


class Webhooks:
    """
    Checks the webhooks that runs name, and tells them; by `open_webhooks`.

    Args:
        headers: Sent with every request.
        post_here: How those are told whose URL is a path of this server; None if none may be.
    """

    def __init__(
        self,
        config: WebhookConfig,
        *,
        headers: Mapping[str, str],
        guard: Guard,
        client: httpcore2.AsyncConnectionPool,
        post_here: PostHere | None = None,
    ) -> None:
        self._config = config
        self._post_here = post_here
        self._guard = guard
        self._client = client
        given = {name.lower(): value for name, value in headers.items()}
        self._headers = {**OURS, **given}

    @property
    def is_disabled(self) -> bool:
        """Whether langgraph.json has nothing sent."""
        return self._config.is_disabled

    async def check(self, url: str) -> None:
        """
        Refuse a URL that must not be sent to.

        Raises:
            InvalidInputError: It is against the rules, or its name leads nowhere.
        """
        if self._own_path(url) is None:
            await self._guard.check(url)

    async def check_elsewhere(self, url: str) -> None:
        """
        Refuse a URL that must not be sent to, also if it is one of this server.

        Raises:
            InvalidInputError: It is against the rules, or its name leads nowhere.
        """
        await self._guard.check(url)

    def _own_path(self, url: str) -> str | None:
        """The path of this server that a URL is, if such may be told."""
        return own_path(url, self._config.rules) if self._post_here else None

    def kind(self, pauses_seconds: Sequence[float]) -> Kind:
        """How its jobs are done."""
        return Kind(
            work=self.deliver,
            timeout_seconds=REQUEST_SECONDS + CONNECT_SECONDS,
            pauses_seconds=pauses_seconds,
            most=AT_ONCE,
            most_alike={"webhook_owner": OF_USER_AT_ONCE},
            is_apart=True,
        )

    async def deliver(self, job: Job) -> None:
        """
        Tell a webhook what a job made by `store.webhooks.delivery` says.

        Raises:
            JobFailedError: As for `send`.
        """
        if self._config.is_disabled:
            return
        run_id, url = job.payload["run"]["run_id"], job.payload["url"]
        told = await self.send(
            url, self._body(job), about=f"run {run_id}", path=self._own_path(url)
        )
        log.info("webhook told", run_id=run_id, host=told, attempt=job.attempt)

    async def send(
        self,
        url: str,
        body: bytes,
        *,
        about: str,
        path: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """
        Post to a URL that a user gave; its host. A redirect is no answer and is not followed.

        Args:
            about: What is told, for the reason of a failure.
            path: The path of this server that the URL is, if such may be told.
            headers: In place of those of langgraph.json.

        Raises:
            JobFailedError: The receiver is not there, does not take it, or must not be sent to.
        """
        try:
            told = "this server" if path else self._guard.parse(url).authority
            status = await self._post(
                url, path, body, self._headers if headers is None else headers
            )
        except InvalidInputError as exc:
            # What a name leads to may change; the rest of a URL does not.
            again = exc.code == UNRESOLVED
            raise JobFailedError(f"{about}: {exc.message}", for_good=not again) from None
        except _FAILURES as exc:
            raise JobFailedError(f"{about}: {told}: {type(exc).__name__}") from None
        if not 200 <= status < 300:
            reason = f"{about}: {told} answered {status}"
            raise JobFailedError(reason, for_good=status == GONE, status=status)
        return told

    async def _post(self, url: str, path: str | None, body: bytes, sent: Mapping[str, str]) -> int:
        if path is not None and self._post_here is not None:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._post_here(path, sent, body)
        # Whoever connects asks for the name, and checks what it leads to.
        target = self._guard.parse(url)
        headers = [
            ("host", target.authority),
            ("content-length", str(len(body))),
            *sent.items(),
        ]
        timeout = {
            "connect": CONNECT_SECONDS,
            "read": REQUEST_SECONDS,
            "write": REQUEST_SECONDS,
            "pool": REQUEST_SECONDS,
        }
        # The answer's body is of no interest: the connection is closed on it.
        async with self._client.stream(
            "POST",
            target.url,
            headers=headers,
            content=body,
            extensions={"timeout": timeout},
        ) as response:
            return int(response.status)

    def _body(self, job: Job) -> bytes:
        ended_at = _iso(job.created_at)
        run = job.payload["run"]
        told: JsonObject = {
            **run,
            "created_at": _iso(run["created_at"]),
            "updated_at": ended_at,
            "run_started_at": _iso(job.payload.get("run_started_at")),
            "run_ended_at": ended_at,
            "webhook_sent_at": _iso(datetime.now(UTC)),
        }
        allowed = self._config.allowed_fields
        if allowed is not None:
            told = {name: value for name, value in told.items() if name in allowed}
        return dumps(told)


def _iso(time: Any) -> str | None:
    """A time as clients of this server know it; PostgreSQL writes it in its own time zone."""
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return time.astimezone(UTC).isoformat() if time else None


def delivery_of(
    run: Run, *, status: Status, error: JsonObject | None, values: Any
) -> JsonObject | None:
    """What the webhook of a run is sent at its end, if it has one: see `store.webhooks.delivery`."""
    if not run.kwargs.get("webhook"):
        return None
    row = {name: getattr(run, name) for name in Run.__dataclass_fields__}
    encoded = dumps(values)
    if len(encoded) > VALUES_MAX_BYTES:
        log.warning("values are too large for a webhook", run_id=run.run_id, size=len(encoded))
        encoded = b"null"
    return delivery(row, status=status, error=error, values=orjson.loads(encoded))


@asynccontextmanager
async def open_webhooks(
    config: WebhookConfig,
    *,
    environment: Mapping[str, str],
    resolve: Resolve | None = None,
    post_here: PostHere | None = None,
) -> AsyncIterator[Webhooks]:
    """
    Open the client that webhooks are told by.

    Args:
        environment: Where the variables of the headers are.
        resolve: Who is asked for names; the system, unless given.
        post_here: As for `Webhooks`.

    Raises:
        InvalidInputError: A header names a variable that is not set.
    """
    headers = config.resolved_headers(environment)
    guard = Guard(config.rules, resolve=resolve)
    async with httpcore2.AsyncConnectionPool(
        # Each is checked as it is opened: none is kept for what its name leads to later.
        max_connections=CONNECTIONS,
        max_keepalive_connections=0,
        network_backend=GuardedNetwork(guard),
    ) as client:
        yield Webhooks(config, headers=headers, guard=guard, client=client, post_here=post_here)
