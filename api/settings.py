"""
Everything that can be set, its unit and its default.

Only this module reads the environment; what it finds is passed down as values. A flag of the
command line wins over the environment, the environment over the default.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from graph.http_section import checked_prefix
from store.audit import KEEP_DAYS_AT_LEAST
from store.cipher import secret_of
from store.errors import InvalidInputError
from store.urls import check_postgres, check_redis

POSTGRES_SCHEMES = ("postgresql", "postgres")
REDIS_SCHEMES = ("redis", "rediss", "unix")

#: Variables that have a part of langgraph.json, as JSON; images of the official CLI set them.
SECTIONS = {
    "LANGSERVE_GRAPHS": "graphs",
    "LANGGRAPH_AUTH": "auth",
    "LANGGRAPH_CHECKPOINTER": "checkpointer",
    "LANGGRAPH_ENCRYPTION": "encryption",
    "LANGGRAPH_HTTP": "http",
    "LANGGRAPH_PRIORITY": "priority",
    "LANGGRAPH_STORE": "store",
    "LANGGRAPH_THREAD_TTL": "checkpointer.ttl",
    "LANGGRAPH_UI": "ui",
    "LANGGRAPH_UI_CONFIG": "ui_config",
    "LANGGRAPH_WEBHOOKS": "webhooks",
}
#: Settings of the official server that have no counterpart; docs/settings.md says why.
WITHOUT_EFFECT = (
    "BG_JOB_ISOLATED_LOOPS",
    "LANGGRAPH_AES_JSON_KEYS",
    "LANGGRAPH_CONFIG",
)
#: A name, or all below one, or an address; IPv6 without brackets.
_HOST_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
#: A user before a password, in a URL.
_USER = re.compile(r"://[^:/?#@]*:")


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
Pauses = Annotated[
    tuple[Annotated[float, Field(ge=0, le=86_400)], ...],
    Field(max_length=20),
    NoDecode,
    BeforeValidator(_split_commas),
]


def _env(*names: str, default: Any, about: str, **constraints: Any) -> Any:
    """Declare a setting; the first name is the one documented, the others are accepted too."""
    alias = AliasChoices(*names)
    return Field(default=default, validation_alias=alias, description=about, **constraints)


class Settings(BaseSettings):
    """
    The settings of one process; frozen.

    Raises:
        pydantic.ValidationError: A value is wrong. The error names the setting, not the value.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", validate_by_name=True, hide_input_in_errors=True
    )

    # Servers it uses
    database_url: str | None = _env(
        "DATABASE_URL",
        "DATABASE_URI",
        "POSTGRES_URI",
        default=None,
        about="PostgreSQL >= 15 that stores everything durable; unset: the embedded one.",
        repr=False,
    )
    redis_url: str | None = _env(
        "REDIS_URL",
        "REDIS_URI",
        default=None,
        about="Redis >= 7 or Valkey >= 8 for the events of runs; unset: the embedded one; empty: none, "
        "for a single process only.",
        repr=False,
    )
    data_dir: Path = _env(
        "THREADWELL_DATA_DIR",
        default=Path(".threadwell"),
        about="Directory of the embedded servers' data.",
    )
    database_pool_min_size: int = _env(
        "DATABASE_POOL_MIN_SIZE",
        default=2,
        about="Minimum connections of each of a process's two pools to PostgreSQL.",
        ge=0,
    )
    database_pool_max_size: int = _env(
        "DATABASE_POOL_MAX_SIZE",
        default=20,
        about="Maximum connections of each of a process's two pools to PostgreSQL.",
        ge=1,
    )
    database_pool_timeout_seconds: float = _env(
        "DATABASE_POOL_TIMEOUT_SECONDS",
        default=10.0,
        about="Seconds to wait for a free connection to PostgreSQL; then 503.",
        gt=0,
    )
    database_statement_timeout_seconds: float = _env(
        "DATABASE_STATEMENT_TIMEOUT_SECONDS",
        default=30.0,
        about="Seconds that one SQL statement may take.",
        gt=0,
    )

    # HTTP
    host: str = _env("THREADWELL_HOST", default="127.0.0.1", about="Address to listen on.")
    port: int = _env(
        "THREADWELL_PORT", default=2024, about="TCP port to listen on.", ge=0, le=65535
    )
    workers: int = _env(
        "THREADWELL_WORKERS",
        default=1,
        about="Processes of `threadwell serve` on that port. 0: one process that only answers requests; "
        "runs, webhooks, crons and all other background work are left to `threadwell worker`. Any "
        "value other than 1 needs Redis.",
        ge=0,
    )
    allow_anybody: bool = _env(
        "THREADWELL_ALLOW_ANYBODY",
        default=False,
        about="Listen on addresses other than loopback although callers are not authenticated. Whoever "
        "reaches the server may then read and change everything. See docs/auth.md.",
    )
    cors_allow_origins: CommaSeparated = _env(
        "CORS_ALLOW_ORIGINS",
        default=("*",),
        about="Origins that browsers may call from, separated by commas; `*`: all. Takes precedence "
        "over `http.cors.allow_origins` in langgraph.json. If neither is set, and callers are not "
        "authenticated, a server on loopback refuses pages other than those of this machine, of "
        "`HTTP_ALLOWED_HOSTS` and LangChain's hosted front ends. See docs/security.md.",
    )
    http_allowed_hosts: CommaSeparated = _env(
        "HTTP_ALLOWED_HOSTS",
        default=(),
        about="Names of this server that `Host` may have beside those of this machine and IP addresses, separated by commas: "
        "`chat.example.com`, `*.example.com` for all below it, `*` for any. Empty: checked only where callers "
        "are not authenticated and the server listens on loopback. See docs/security.md.",
    )
    mount_prefix: str | None = _env(
        "MOUNT_PREFIX",
        default=None,
        about="Path prefix of the API; unset: `http.mount_prefix` in langgraph.json.",
    )
    compat: Annotated[
        tuple[Literal["fufan", "chatchat"], ...], NoDecode, BeforeValidator(_split_commas)
    ] = _env(
        "THREADWELL_COMPAT",
        default=(),
        about="Older projects whose routes are served too, separated by commas: `fufan`, `chatchat`; "
        "see docs/existing-project.md.",
    )
    default_a2a_assistant_id: str | None = _env(
        "DEFAULT_A2A_ASSISTANT_ID",
        default=None,
        about="Assistant, by its id or a graph's name, whose card `/.well-known/agent-card.json` "
        "returns if the request names none.",
    )
    request_body_max_bytes: int = _env(
        "HTTP_MAX_REQUEST_BODY_BYTES",
        default=300 * 1024 * 1024,
        about="Maximum bytes of a request body; more is 413.",
        ge=1,
    )
    json_body_max_bytes: int = _env(
        "HTTP_MAX_JSON_BODY_BYTES",
        default=64 * 1024 * 1024,
        about="Maximum bytes of a body that is read into memory as a whole, as all JSON is; more is "
        "413. Does not apply to files and imports that are uploaded as such. A file inside JSON "
        "takes four thirds of its size.",
        ge=1,
    )
    json_bodies_max_bytes: int = _env(
        "HTTP_MAX_JSON_BODIES_BYTES",
        default=128 * 1024 * 1024,
        about="Maximum bytes that a process holds at once of such bodies beyond 1 MiB each, until they are "
        "answered; those of one caller half of it, but one alone may have more. Others wait, the smaller ones "
        "first, and are 503 `overloaded` after 10 s. Bodies up to 1 MiB are not counted.",
        ge=1,
    )
    translate_everything: bool = _env(
        "TRANSLATE_EVERYTHING",
        default=False,
        about="Translate the error texts of the LangGraph API, MCP, A2A and `/v1` by `Accept-Language` "
        "too, like those of `/api`.",
    )
    sse_heartbeat_seconds: float = _env(
        "SSE_HEARTBEAT_SECONDS",
        default=5.0,
        about="Seconds of silence on a stream after which a comment is sent to keep it open.",
        gt=0,
    )
    stream_end_event: bool = _env(
        "STREAM_END_EVENT",
        default=True,
        about="End the stream of a run with an `end` event, which saves the SDKs a request.",
    )

    # Who may call
    auth: Annotated[
        tuple[Literal["keys", "jwt", "none"], ...], NoDecode, BeforeValidator(_split_commas)
    ] = _env(
        "THREADWELL_AUTH",
        default=(),
        about="Authentication methods, separated by commas: `keys`, `jwt`; or `none`. Empty: `keys` "
        "once an API key exists, `jwt` if there is an issuer. `auth` in langgraph.json takes "
        "precedence.",
    )
    auth_failures_per_minute: int = _env(
        "THREADWELL_AUTH_FAILURES_PER_MINUTE",
        default=60,
        about="Invalid keys and tokens from one address in a minute. After that the address gets 429 "
        "for a minute, except with a key or token that was valid here before. 0: no limit.",
        ge=0,
    )
    jwt_issuer: str | None = _env(
        "THREADWELL_JWT_ISSUER",
        default=None,
        about="Issuer of the tokens that are accepted: the exact value of their `iss`.",
    )
    jwt_audience: CommaSeparated = _env(
        "THREADWELL_JWT_AUDIENCE",
        default=(),
        about="Accepted audiences, separated by commas: a token's `aud` must contain one of them.",
    )
    jwt_jwks: str | None = _env(
        "THREADWELL_JWT_JWKS",
        default=None,
        about="URL or file of the issuer's public keys (JWKS); unset: taken from the issuer's "
        "`/.well-known/openid-configuration`.",
    )
    jwt_algorithms: Annotated[
        tuple[Literal[
            "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
        ], ...],
        Field(min_length=1),
        NoDecode,
        BeforeValidator(_split_commas),
    ] = _env(
        "THREADWELL_JWT_ALGORITHMS",
        default=("RS256",),
        about="Accepted signature algorithms, separated by commas, whatever a token's header says.",
    )  # fmt: skip
    jwt_identity_claim: str = _env(
        "THREADWELL_JWT_IDENTITY_CLAIM",
        default="sub",
        about="Claim that contains the caller's identity. It must be one that users cannot choose for "
        "themselves, or share.",
        min_length=1,
    )
    jwt_roles_claim: str | None = _env(
        "THREADWELL_JWT_ROLES_CLAIM",
        default=None,
        about="Claim that contains roles, as a list or a string, such as `realm_access.roles`; unset: "
        "none are read.",
    )
    jwt_permissions_claim: str | None = _env(
        "THREADWELL_JWT_PERMISSIONS_CLAIM",
        default=None,
        about="Claim that contains permissions, such as `scope`; unset: none are read.",
    )
    jwt_default_role: Literal["reader", "user", "service", "admin", ""] = _env(
        "THREADWELL_JWT_DEFAULT_ROLE",
        default="user",
        about="Role of callers whose token gives them no role and no permission; empty: none, which "
        "allows nothing.",
    )
    jwt_leeway_seconds: float = _env(
        "THREADWELL_JWT_LEEWAY_SECONDS",
        default=30.0,
        about="Seconds by which the issuer's clock may differ.",
        ge=0,
        le=600,
    )
    openwebui_jwt_secret: SecretStr | None = _env(
        "THREADWELL_OPENWEBUI_JWT_SECRET",
        default=None,
        about="Secret by which Open WebUI signs the users that it forwards (its "
        "`FORWARD_USER_INFO_HEADER_JWT_SECRET`), at least 32 characters. Keys with "
        "`users:act_for` then act for the user that `X-OpenWebUI-User-Jwt` names. Unset: that "
        "header is ignored.",
        repr=False,
        min_length=32,
    )

    caller_look_seconds: float = _env(
        "CALLER_LOOK_SECONDS",
        default=60.0,
        about="Seconds between two checks whether the caller of an open stream or WebSocket would still be "
        "authenticated.",
        gt=0,
        le=3600,
    )
    access_look_seconds: float = _env(
        "ACCESS_LOOK_SECONDS",
        default=30.0,
        about="Seconds between two checks whether the caller of an open stream or WebSocket may still read its "
        "thread or session.",
        gt=0,
        le=3600,
    )

    # Runs
    config: Path = _env(
        "THREADWELL_CONFIG",
        default=Path("langgraph.json"),
        about="File that names the graphs: langgraph.json.",
    )
    strict: bool = _env(
        "THREADWELL_STRICT",
        default=False,
        about="Refuse to start if a graph cannot be loaded, a dependency is missing, or langgraph.json "
        "has an unsupported key.",
    )
    slots: int = _env(
        "N_JOBS_PER_WORKER",
        default=100,
        about="Concurrent runs of each process.",
        ge=1,
    )
    run_timeout_seconds: float = _env(
        "BG_JOB_TIMEOUT_SECS",
        default=86400.0,
        about="Maximum seconds of one run; then it ends as `timeout`.",
        gt=0,
    )
    run_max_attempts: int = _env(
        "BG_JOB_MAX_RETRIES",
        default=3,
        about="Maximum attempts of a run. It is started again each time that its process was lost; "
        "after the last attempt it ends as `error`.",
        ge=1,
    )
    shutdown_grace_seconds: float = _env(
        "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS",
        default=8.0,
        about="Seconds that runs may continue after SIGTERM or Ctrl-C; unfinished runs then return to "
        "the queue and are resumed. Below the 10 seconds that `docker stop` waits.",
        ge=0,
    )
    loop_stuck_seconds: float = _env(
        "LOOP_STUCK_SECONDS",
        default=300.0,
        about="Seconds for which a node, or other code, may keep an event loop of `threadwell serve` or "
        "`threadwell worker` without awaiting; then the process ends with status 70, so that another "
        "is started in its place. 0: never, for a debugger.",
        ge=0,
    )
    lease_seconds: float = _env(
        "LEASE_SECONDS",
        default=20.0,
        about="Seconds without a heartbeat after which a process counts as dead and other processes "
        "resume its runs and background jobs; at least three times HEARTBEAT_SECONDS.",
        gt=0,
    )
    heartbeat_seconds: float = _env(
        "HEARTBEAT_SECONDS",
        default=5.0,
        about="Seconds between two heartbeats of a process.",
        gt=0,
    )

    webhook_retry_seconds: Pauses = _env(
        "WEBHOOK_RETRY_SECONDS",
        default=(5, 30, 120, 600, 3600),
        about="Seconds between the attempts to deliver a webhook, separated by commas. There is one "
        "attempt more than there are numbers; then it is given up.",
    )

    prices: Path | None = _env(
        "THREADWELL_PRICES",
        default=None,
        about="JSON file of model prices, for `GET /api/stats`; unset: no costs are reported.",
    )

    # What is kept of threads
    keep_checkpoints: int = _env(
        "KEEP_CHECKPOINTS",
        default=200,
        about="Newest checkpoints that each thread keeps. Older ones are deleted once there are half as "
        "many more (300 with the default). Messages stay. 0 keeps all.",
        ge=0,
    )
    search_index_seconds: float = _env(
        "SEARCH_INDEX_SECONDS",
        default=2.0,
        about="Seconds between two updates of the search index: a new message is found after about that "
        "time.",
        gt=0,
        le=3600,
    )
    file_max_bytes: int = _env(
        "FILE_MAX_BYTES",
        default=25 * 1024 * 1024,
        about="Maximum bytes of an attachment; more is 413.",
        gt=0,
    )
    model_files_bytes: int = _env(
        "MODEL_FILES_BYTES",
        default=128 * 1024 * 1024,
        about="Bytes of attachments that all model calls of a process hold at once; further calls wait. "
        "During its call an attachment takes three to four times its size in memory.",
        gt=0,
    )
    file_types: CommaSeparated = _env(
        "FILE_TYPES",
        default=("text/*", "image/*", "audio/*"),
        about="Accepted types of attachments, separated by commas, detected from their content; others "
        "are 415. `application/pdf` can be added.",
    )
    file_unused_seconds: float = _env(
        "FILE_UNUSED_SECONDS",
        default=86_400.0,
        about="Seconds after which an attachment that no session uses is deleted.",
        ge=60,
    )
    deleted_session_days: float = _env(
        "DELETED_SESSION_DAYS",
        default=30.0,
        about="Days during which a deleted session can be restored; then it is purged. 0: never purged "
        "by itself.",
        ge=0,
        le=36525,
    )
    audit_keep_days: int = _env(
        "AUDIT_KEEP_DAYS",
        default=365,
        about="Days that entries of the audit log are kept, at least 30; 0 keeps all.",
        ge=0,
        le=36525,
    )
    user_namespaces: CommaSeparated = _env(
        "USER_NAMESPACES",
        default=("{user}",),
        about="Namespaces of the store whose items belong to a user, for erasure and export: labels "
        "separated by dots, namespaces by commas; `{user}` stands for the identity.",
    )
    head_cache_bytes: int = _env(
        "HEAD_CACHE_BYTES",
        default=64 * 1024 * 1024,
        about="Approximate bytes of memory for the newest checkpoints of the threads that this process "
        "ran last; at most 4,096 threads.",
        ge=0,
    )

    # Encryption at rest
    aes_key: str | None = _env(
        "LANGGRAPH_AES_KEY",
        default=None,
        about="Key of encryption at rest: 16, 24 or 32 characters, or as many bytes in Base64 or "
        "hexadecimal; unset: no encryption. See docs/encryption.md.",
        repr=False,
    )
    encryption_old_keys: CommaSeparated = _env(
        "ENCRYPTION_OLD_KEYS",
        default=(),
        about="Other keys that existing data may be encrypted with, separated by commas; write a key "
        "that contains a comma in Base64.",
        repr=False,
    )
    encryption_clear_keys: CommaSeparated = _env(
        "ENCRYPTION_CLEAR_KEYS",
        default=(),
        about="Metadata keys whose values are not encrypted, separated by commas, in addition to those "
        "in docs/encryption.md.",
    )

    # Events of a stream
    event_log_ttl_seconds: int = _env(
        "RESUMABLE_STREAM_TTL_SECONDS",
        default=600,
        about="Seconds after the end of a run during which its events can be replayed.",
        ge=1,
    )
    event_log_max_events: int = _env(
        "EVENT_LOG_MAX_EVENTS",
        default=10_000,
        about="Approximate number of events of one thread that are kept in memory, and in Redis.",
        ge=1,
    )
    event_log_max_bytes: int = _env(
        "EVENT_LOG_MAX_BYTES",
        default=16 * 1024 * 1024,
        about="Approximate bytes of one thread's events that are kept in memory, and in Redis.",
        ge=1,
    )

    # What is told of sessions
    events_keep_count: int = _env(
        "EVENTS_KEEP_COUNT",
        default=100_000,
        about="Events of `/api/events` that are kept for clients that reconnect.",
        ge=1,
    )
    events_keep_hours: float = _env(
        "EVENTS_KEEP_HOURS",
        default=72.0,
        about="Hours that an event of `/api/events` is kept.",
        gt=0,
    )

    # Limits, of each identity unless they say otherwise; 0: none
    limit_requests_per_second: float = _env(
        "LIMIT_REQUESTS_PER_SECOND",
        default=0.0,
        about="Average requests per second of one identity; more is 429. 0: no limit.",
        ge=0,
        le=1_000_000,
    )
    limit_request_burst: int = _env(
        "LIMIT_REQUEST_BURST",
        default=0,
        about="Requests that one identity may send at once after a pause; 0: as many as in ten seconds.",
        ge=0,
        le=1_000_000,
    )
    limit_requests: int = _env(
        "LIMIT_REQUESTS",
        default=0,
        about="Concurrent requests of one identity, streams not counted; more is 429. 0: no limit.",
        ge=0,
    )
    limit_streams: int = _env(
        "LIMIT_STREAMS",
        default=0,
        about="Streams, WebSockets and requests that wait for a run, open for one identity; more is "
        "429. 0: no limit.",
        ge=0,
    )
    limit_streams_per_process: int = _env(
        "LIMIT_STREAMS_PER_PROCESS",
        default=0,
        about="The same for all identities of one process together; more is 503. 0: no limit.",
        ge=0,
    )
    fair_shares: bool | None = _env(
        "FAIR_SHARES",
        default=None,
        about="Schedule runs fairly across identities: one that has many waiting does not delay the "
        "others. Unset: only where callers are authenticated. Setting any of the next three turns it on, too.",
    )
    limit_runs: int = _env(
        "LIMIT_RUNS",
        default=0,
        about="Concurrent runs of one identity, in all processes; more wait. 0: no limit.",
        ge=0,
    )
    limit_queued_runs: int = _env(
        "LIMIT_QUEUED_RUNS",
        default=0,
        about="Waiting runs of one identity; more is 429. 0: no limit.",
        ge=0,
        le=1_000_000,
    )
    limit_queued_runs_in_all: int = _env(
        "LIMIT_QUEUED_RUNS_IN_ALL",
        default=0,
        about="Waiting runs of all identities. At that number, an identity that has its equal share of "
        "the queue gets 503. 0: no limit.",
        ge=0,
        le=1_000_000,
    )
    limit_sessions: int = _env(
        "LIMIT_SESSIONS",
        default=0,
        about="Sessions, or threads, that one identity owns; more is 403. 0: no limit.",
        ge=0,
    )
    limit_crons: int = _env(
        "LIMIT_CRONS",
        default=0,
        about="Crons of one identity; more is 403. 0: no limit.",
        ge=0,
    )
    limit_files: int = _env(
        "LIMIT_FILES",
        default=0,
        about="Attachments of one identity; more is 403. 0: no limit.",
        ge=0,
    )
    limit_file_bytes: int = _env(
        "LIMIT_FILE_BYTES",
        default=0,
        about="Bytes of all attachments of one identity; more is 403. 0: no limit.",
        ge=0,
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = _env(
        "LOG_LEVEL",
        default="info",
        about="Lowest level that is logged: debug, info, warning or error.",
    )
    log_json: bool = _env(
        "LOG_JSON",
        default=False,
        about="Log one JSON object per line instead of text.",
    )
    log_error_texts: bool | None = _env(
        "LOG_ERROR_TEXTS",
        default=None,
        about="Log the texts of exceptions, which may quote what users wrote; unset: only if `LOG_JSON` "
        "is off.",
    )

    # What operators see
    metrics_public: bool = _env(
        "METRICS_PUBLIC",
        default=False,
        about="Let everybody read `/metrics`, also where callers are authenticated.",
    )
    metrics_token: SecretStr | None = _env(
        "METRICS_TOKEN",
        default=None,
        about="Token that a collector sends as `Authorization: Bearer` to read `/metrics` where callers "
        "are authenticated, and on METRICS_PORT; at least 16 characters.",
        repr=False,
        min_length=16,
    )
    metrics_port: int | None = _env(
        "METRICS_PORT",
        default=None,
        about="TCP port that serves `/metrics`, `/ok` and `/ready` and nothing else, without "
        "authentication, but `/metrics` needs METRICS_TOKEN if that is set; of `threadwell worker` as well.",
        ge=1,
        le=65535,
    )
    metrics_host: str = _env(
        "METRICS_HOST", default="127.0.0.1", about="Address that `METRICS_PORT` listens on."
    )
    traces: Literal["none", "otlp"] = _env(
        "OTEL_TRACES_EXPORTER",
        default="none",
        about="Where traces are sent: `otlp` sends them to OTEL_EXPORTER_OTLP_ENDPOINT by HTTP, and "
        "needs `threadwell[otel]`.",
    )
    slow_query_seconds: float = _env(
        "SLOW_QUERY_SECONDS",
        default=1.0,
        about="Seconds after which a PostgreSQL statement is logged as slow, by its name and without "
        "its parameters; 0: never.",
        ge=0,
    )

    @property
    def deleted_session_seconds(self) -> float | None:
        """How long a deleted session can be restored; None for ever."""
        return self.deleted_session_days * 86_400.0 if self.deleted_session_days else None

    @property
    def limits_callers(self) -> bool:
        """Whether a setting bounds what one identity may ask for at a time, or all."""
        return bool(
            self.limit_requests_per_second
            or self.limit_requests
            or self.limit_streams
            or self.limit_runs
            or self.limit_queued_runs
        )

    @property
    def logs_error_texts(self) -> bool:
        """Whether the log has what exceptions say."""
        return not self.log_json if self.log_error_texts is None else self.log_error_texts

    @field_validator("database_url")
    @classmethod
    def _postgres_url(cls, url: str | None) -> str | None:
        # Compose files pass an unset variable on as an empty one.
        return _checked_url(url, POSTGRES_SCHEMES, check_postgres) if url else None

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, url: str | None) -> str | None:
        return _checked_url(url, REDIS_SCHEMES, check_redis) if url else url

    @field_validator("http_allowed_hosts")
    @classmethod
    def _hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(name == "*" or _HOST_NAME.fullmatch(name) for name in names):
            raise ValueError("must be names or addresses, without scheme and port")
        return tuple(name.lower() for name in names)

    @field_validator("mount_prefix")
    @classmethod
    def _prefix(cls, prefix: str | None) -> str | None:
        return None if prefix is None else checked_prefix(prefix)

    @field_validator("aes_key")
    @classmethod
    def _key(cls, text: str | None) -> str | None:
        # Compose files pass an unset variable on as an empty one.
        return _checked_key(text) if text else None

    @field_validator("encryption_old_keys")
    @classmethod
    def _old_keys(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_checked_key(text) for text in texts)

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower_case(cls, level: object) -> object:
        return level.lower() if isinstance(level, str) else level

    @field_validator("audit_keep_days")
    @classmethod
    def _kept(cls, days: int) -> int:
        if 0 < days < KEEP_DAYS_AT_LEAST:
            raise ValueError(f"must be 0, or {KEEP_DAYS_AT_LEAST} at least")
        return days

    @field_validator("user_namespaces")
    @classmethod
    def _of_users(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if not all("{user}" in pattern.split(".") for pattern in patterns):
            raise ValueError("must have the label {user} in each of them")
        return patterns

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("LEASE_SECONDS must be at least three times HEARTBEAT_SECONDS")
        if self.database_pool_max_size < self.database_pool_min_size:
            raise ValueError("DATABASE_POOL_MAX_SIZE is smaller than DATABASE_POOL_MIN_SIZE")
        if self.encryption_old_keys and self.aes_key is None:
            raise ValueError("ENCRYPTION_OLD_KEYS needs LANGGRAPH_AES_KEY, the key to encrypt with")
        if "none" in self.auth and len(self.auth) > 1:
            raise ValueError("THREADWELL_AUTH is none, or something else")
        if (self.jwt_issuer or "jwt" in self.auth) and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("THREADWELL_JWT_ISSUER and THREADWELL_JWT_AUDIENCE go together")
        if self.workers != 1 and self.redis_url == "":
            raise ValueError(
                "THREADWELL_WORKERS other than 1 needs Redis: with REDIS_URL empty, events of a run "
                "stay in the process that executes it"
            )
        return self


def set_environment(values: Mapping[str, str]) -> None:
    """
    Set variables for this process and its graphs; those that are set already stay.

    Whoever starts it, an orchestrator or a shell, has the last word, as for every other setting.
    """
    for name, value in values.items():
        os.environ.setdefault(name, value)


def overridden(values: Mapping[str, str]) -> list[str]:
    """The names of variables that this process has with other values."""
    return [name for name, value in values.items() if os.environ.get(name) != value]


def environment_sections() -> dict[str, Any]:
    """
    The parts of a langgraph.json that the environment has instead, as images of the official CLI do.

    Raises:
        InvalidInputError: One is not JSON.
    """
    sections = {}
    for name, key in SECTIONS.items():
        if text := os.environ.get(name):
            try:
                sections[key] = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise InvalidInputError(f"{name} is not JSON: {error}") from error
    return sections


def variables_without_effect() -> list[str]:
    """The variables of the official server that are set and change nothing here."""
    return [name for name in WITHOUT_EFFECT if os.environ.get(name)]


def environment() -> Mapping[str, str]:
    """The variables of this process, for what langgraph.json says is in them."""
    return dict(os.environ)


def environment_names(field_name: str) -> list[str]:
    """Name the environment variables that set a field of `Settings`, the documented one first."""
    alias = Settings.model_fields[field_name].validation_alias
    if not isinstance(alias, AliasChoices):
        raise TypeError(f"{field_name} has no environment variable")
    return [str(name) for name in alias.choices]


def without_password(url: str) -> str:
    """Render a server's URL, or lines of text with some, for logs and people: a password becomes ``***``."""
    url = "\n".join(map(_hidden, url.split("\n")))
    return re.sub(r"([?&]password=)[^&#]*", r"\1***", url, flags=re.IGNORECASE)


def _hidden(line: str) -> str:
    # Up to the last @: rather too much is hidden than a password that is not escaped shown. That one is
    # looked for once, whatever the text is: it may be a client's, of any length.
    at = line.rfind("@")
    found = _USER.search(line)
    if found is None or at <= found.end():
        return line
    return f"{line[: found.end()]}***{line[at:]}"


def _checked_key(text: str) -> str:
    try:
        secret_of(text)
    except InvalidInputError as error:
        raise ValueError(f"is no key: {error.message}") from None
    return text


def _checked_url(url: str, schemes: Sequence[str], check: Callable[[str], None]) -> str:
    if url.partition("://")[0] not in schemes:
        allowed = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"must be a URL that starts with {allowed}")
    try:
        check(url)
    except InvalidInputError as error:
        raise ValueError(error.message) from None
    return url
