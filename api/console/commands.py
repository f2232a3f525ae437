"""What the console script's subcommands do; each returns when it is done."""

import asyncio
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from api import metrics, operators, ui_bundles
from api.app import allowed_origins, open_app
from api.backing import admitted, cipher_of, opened_cipher
from api.bootstrap import Services, identity_kinds, load_graphs, mount_prefix, open_services
from api.console import build_ui as ui_builder, check as check_command, keys as keys_command
from api.http.origins import is_loopback_host
from api.observability import logs
from api.processes import sockets as sockets_of_clients
from api.processes.connections import allow_connections
from api.processes.embedded import EmbeddedServerError, Servers, embedded_servers
from api.processes.peers import ALONE, Peers, placed
from api.processes.supervisor import BACKLOG, Supervisor, listen
from api.processes.watchdog import FIRST, GRAPHS, Watchdog, watching
from api.settings import (
    Settings,
    environment,
    environment_sections,
    overridden,
    variables_without_effect,
    without_password,
)
from graph.config import GraphConfig, load_config
from graph.loop import Backing
from store import audit as audit_log, messages, resealing
from store.audit import Filter
from store.checkpoints import open_saver
from store.cipher import KeyRing
from store.database import open_database
from store.errors import Error, InvalidInputError
from store.messages import Rebuilt
from store.migrate import migrate as migrate_database
from store.resealing import Sealed

log = structlog.get_logger(__name__)

#: New objects that may be in cycles before they are looked through; Python's own are 700, 10, 10.
GARBAGE_THRESHOLDS = (50_000, 20, 20)

#: Beyond the grace for runs: what uvicorn waits for its connections to close.
CLOSING_SECONDS = 15

#: Entries of the audit log that are read at a time.
AUDIT_PAGE = 500


class Server(uvicorn.Server):
    """uvicorn, which on its way out lets runs finish or hands them on, and then ends streams."""

    def __init__(
        self, config: uvicorn.Config, services: Services, on_start: Callable[[int], None]
    ) -> None:
        super().__init__(config)
        self._services = services
        self._on_start = on_start

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave on SIGTERM and Ctrl-C, in good order to the end: uvicorn raises them again."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: Any = None) -> None:
        """Say so once it can be reached, and on which port."""
        await super().startup(sockets)
        if self.started:
            self._on_start(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: Any = None) -> None:
        """Drain while the connections of those who wait are still open."""
        draining = asyncio.create_task(self._services.worker.drain())
        await super().shutdown(sockets)
        if self.force_exit:
            draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)


def serve(settings: Settings) -> None:
    """Serve the API and work on runs, in as many processes as set, until SIGTERM or Ctrl-C."""
    graphs = load_config(settings.config, environment_sections())
    prefix = mount_prefix(settings, graphs)
    with _servers(settings) as servers:
        _run(migrate_database(servers.database_url))
        told = {
            "Access": access_of(settings, graphs, servers),
            "Encryption": encryption_of(settings, graphs),
        }
        if settings.workers > 1:
            status = _serve_by_many(settings, servers, prefix, told)
        else:
            on_start = partial(_print_addresses, settings.host, prefix, servers, told)
            status = _run(_serve(settings, servers, on_start))
    if status:
        sys.exit(status)


def access_of(settings: Settings, graphs: GraphConfig, servers: Servers) -> str:
    """
    Who may call, for people.

    Raises:
        InvalidInputError: Everybody might who reaches it, from other machines too, and nobody said
            that this is meant.
    """
    if graphs.auth:
        return f"as {graphs.auth.target} says"
    kinds = _run(_kinds(settings, servers))
    if kinds:
        told = {"keys": "API keys", "jwt": f"tokens of {settings.jwt_issuer}"}
        return " and ".join(told[kind] for kind in ("keys", "jwt") if kind in kinds)
    if is_loopback_host(settings.host):
        return "everybody on this machine: nobody is asked who they are, see docs/auth.md"
    if settings.allow_anybody:
        return "EVERYBODY who reaches this server: nobody is asked who they are"
    raise InvalidInputError(
        f"Nobody would be asked who they are, and {settings.host} can be reached from other machines. "
        "Make a key (`threadwell keys create --owner NAME`), or name an issuer of tokens "
        "(THREADWELL_JWT_ISSUER), or an `auth` in langgraph.json; or listen on 127.0.0.1. If everybody "
        "may do everything: THREADWELL_ALLOW_ANYBODY=true"
    )


def encryption_of(settings: Settings, graphs: GraphConfig) -> str:
    """Whether what is at rest is sealed, and under which key, for people."""
    if graphs.encryption:
        return f"on, {graphs.encryption} keeps the keys"
    cipher = cipher_of(settings)
    if isinstance(cipher, KeyRing):
        return f"on, key {cipher.ids[0]}"
    return "off: LANGGRAPH_AES_KEY is not set, see docs/encryption.md"


async def _kinds(settings: Settings, servers: Servers) -> frozenset[str]:
    async with open_database(servers.database_url) as db:
        return await identity_kinds(settings, db)


def _serve_by_many(
    settings: Settings, servers: Servers, prefix: str, told: Mapping[str, str]
) -> int:
    try:
        listeners = listen(settings.host, settings.port, settings.workers)
    except OSError as exc:
        log.error("cannot listen", host=settings.host, port=settings.port, reason=exc.strerror)  # noqa: TRY400
        return 1
    port = listeners[0].getsockname()[1]

    async def supervise() -> int:
        with TemporaryDirectory(prefix="threadwell-") as directory:
            serve = partial(_serve_as_one_of_many, settings, Path(directory))
            return await Supervisor(serve, listeners).run(
                partial(_print_addresses, settings.host, prefix, servers, told, port)
            )

    return int(_run(supervise()))


def _serve_as_one_of_many(
    settings: Settings, directory: Path, listener: socket.socket, on_start: Callable[[], None]
) -> None:
    """Be one of the processes that a supervisor keeps."""
    logs.configure(
        level=settings.log_level,
        json=settings.log_json,
        pid=os.getpid(),
        error_texts=settings.logs_error_texts,
    )
    signal.signal(signal.SIGINT, _exit)
    try:
        # They are in use for as long as one of the processes is there, whoever of them was killed.
        with _servers(settings) as servers, placed(directory, settings.workers) as peers:
            status = _run(_serve(settings, servers, lambda _: on_start(), [listener], peers))
    except (EmbeddedServerError, Error) as exc:
        sys.exit(f"threadwell: {exc}")
    if status:
        sys.exit(status)


async def _serve(
    settings: Settings,
    servers: Servers,
    on_start: Callable[[int], None],
    sockets: list[socket.socket] | None = None,
    peers: Peers = ALONE,
) -> int:
    """Be a server process on a database that is migrated; on sockets that are open, if given; its status."""
    if settings.workers == 0:
        settings = settings.model_copy(update={"slots": 0})
        log.info("this process only answers: runs, jobs and crons wait for a worker")
    async with (
        _working(settings, servers, peers) as (services, app),
        _not_stuck(settings, services) as watchdog,
    ):
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            backlog=BACKLOG,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # One more is told to come again, 503.
            limit_concurrency=allow_connections(),
            timeout_keep_alive=75,
            timeout_graceful_shutdown=round(settings.shutdown_grace_seconds) + CLOSING_SECONDS,
            **sockets_of_clients.OPTIONS,
        )
        await Server(config, services, on_start).serve(sockets)
    return watchdog.status


def worker(settings: Settings) -> None:
    """Work on runs without serving the API, until SIGTERM or Ctrl-C."""
    with _servers(settings) as servers:
        _run(migrate_database(servers.database_url))
        status = _run(_work(settings, servers))
    if status:
        sys.exit(status)


async def _work(settings: Settings, servers: Servers) -> int:
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave.set)
    async with (
        _working(settings, servers) as (services, _),
        _not_stuck(settings, services) as watchdog,
    ):
        log.info("working", slots=settings.slots, graphs=services.registry.graph_ids)
        await leave.wait()
        await services.worker.drain()
    return watchdog.status


@asynccontextmanager
async def _working(
    settings: Settings, servers: Servers, peers: Peers = ALONE
) -> AsyncIterator[tuple[Services, FastAPI]]:
    async with (
        open_services(
            settings, database_url=servers.database_url, redis_url=servers.redis_url
        ) as opened,
        # In a process that serves nobody else too: its graphs may call it.
        open_app(services := replace(opened, peers=peers)) as app,
    ):
        report(services)
        _collect_seldom()
        async with (
            services.worker.working(),
            services.peers.answering(partial(metrics.snapshot_json, services)),
            operators.listening(settings, app),
        ):
            yield services, app


@asynccontextmanager
async def _not_stuck(settings: Settings, services: Services) -> AsyncIterator[Watchdog]:
    """End this process if an event loop of it is stuck; only here, where the process is all our own."""

    async def of_graphs(_: Backing) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loops = {FIRST: asyncio.get_running_loop(), GRAPHS: await services.place.run(of_graphs)}
    with watching(
        loops,
        worker=services.worker,
        seconds=settings.loop_stuck_seconds,
        exit_seconds=settings.shutdown_grace_seconds + CLOSING_SECONDS,
    ) as watchdog:
        yield watchdog


def _collect_seldom() -> None:
    """
    Look for garbage in cycles seldom: a fifth of what a streamed run costs is looking for it.

    Nearly everything that a run makes is freed by reference counts. What is there now stays.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def migrate(settings: Settings) -> None:
    """Bring the database's schema up to date."""
    index_dims = None
    sections = environment_sections()
    # The database can be prepared where there are no graphs.
    if sections or settings.config.exists():
        index_dims = load_config(settings.config, sections).store.index_dims
    with _servers(settings, valkey=False) as servers:
        applied = _run(migrate_database(servers.database_url, index_dims=index_dims))
    print("\n".join(applied) or "up to date")  # noqa: T201 - the command's answer


def project(settings: Settings, *, rebuild: bool) -> None:
    """Project what was left out from the checkpoints or, with `rebuild`, everything anew."""
    with _servers(settings, valkey=False) as servers:
        done = _run(_project(settings, servers, rebuild=rebuild))
    print(  # noqa: T201 - the command's answer
        f"{done.threads} threads with {done.messages} messages projected, "
        f"{done.skipped} in use, {done.unreadable} without a readable list or a served graph"
    )


async def _project(settings: Settings, servers: Servers, *, rebuild: bool) -> Rebuilt:
    # They say in which channel their messages are.
    graphs, registry = await load_graphs(settings)
    await migrate_database(servers.database_url)
    async with (
        admitted(settings, graphs, servers.database_url) as db,
        open_saver(
            db,
            allowed_types=graphs.serde.msgpack,
            allowed_json_types=graphs.serde.json,
        ) as saver,
    ):
        return await messages.rebuild(
            db,
            saver,
            everything=rebuild,
            channel_of=registry.channel_of,
            fold_of=registry.fold_of,
        )


def audit(settings: Settings, *, limit: int, **which: Any) -> None:
    """Print entries of the audit log, the newest first."""
    with _servers(settings, valkey=False) as servers:
        _run(_audit(servers, Filter(**which), limit))


async def _audit(servers: Servers, which: Filter, limit: int) -> None:
    await migrate_database(servers.database_url)
    before: int | None = None
    async with open_database(servers.database_url) as db:
        while limit > 0:
            found, more = await audit_log.page(
                db, which, before=before, limit=min(limit, AUDIT_PAGE), seen_by=None
            )
            for entry in found:
                print(orjson.dumps(asdict(entry)).decode())  # noqa: T201 - the command's answer
            if not more:
                return
            before = found[-1].audit_id
            limit -= len(found)


def check(settings: Settings, *, repair: bool, json: bool) -> None:
    """Print what does not hold; leave with status 1 if anything is left of it."""
    with _servers(settings) as servers:
        is_clean = _run(
            check_command.run(
                settings,
                database_url=servers.database_url,
                redis_url=servers.redis_url,
                repair=repair,
                json=json,
            )
        )
    if not is_clean:
        sys.exit(1)


def encrypt(settings: Settings, *, accept_clear: bool = False) -> None:
    """Encrypt what the database has with the newest key, while servers run that have it too."""
    with _servers(settings, valkey=False) as servers:
        done = _run(_encrypt(settings, servers, accept_clear=accept_clear))
    print(f"{done.rows} rows encrypted, {done.unreadable} values cannot be read")  # noqa: T201
    if done.older_keys:
        print(  # noqa: T201
            f"{done.older_keys} older keys are still needed: restart what seals by them, then call this again"
        )
    if done.unreadable:
        raise InvalidInputError(
            "Some values cannot be decrypted with any of the keys: they stay as they are"
        )


async def _encrypt(settings: Settings, servers: Servers, *, accept_clear: bool) -> Sealed:
    await migrate_database(servers.database_url)
    sections = environment_sections()
    cipher = cipher_of(settings)
    # The database can be encrypted where there are no graphs.
    if sections or settings.config.exists():
        graphs = load_config(settings.config, sections)
        cipher = await opened_cipher(settings, graphs, servers.database_url)
    async with open_database(servers.database_url, cipher=cipher) as db:
        return await resealing.encrypt(db, _tell_encrypted, accept_clear=accept_clear)


def _tell_encrypted(table: str, done: Sealed) -> None:
    print(f"{table}: {done.rows} rows", flush=True)  # noqa: T201 - what somebody waits for


def import_(settings: Settings, *, source: str, url: str, tz: str, **options: Any) -> None:
    """Import the conversations of an old project's database, and report in JSON."""
    try:
        importer: Any = importlib.import_module(f"api.console.{source}")
    except ModuleNotFoundError as exc:
        raise InvalidInputError(
            f"{exc.name} is not installed: pip install 'threadwell[import]'"
        ) from exc
    try:
        zone = ZoneInfo(tz)
    except (ValueError, ZoneInfoNotFoundError):
        raise InvalidInputError(f"There is no time zone {tz!r}") from None
    plan = importer.Plan(url=url, zone=zone, **options)
    with _servers(settings, valkey=False) as servers:
        report = _run(_import(settings, servers, importer, plan))
    print(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2).decode())  # noqa: T201
    if report.failed:
        raise InvalidInputError(f"{report.failed} sessions could not be imported")


async def _import(settings: Settings, servers: Servers, importer: Any, plan: Any) -> Any:
    await migrate_database(servers.database_url)
    # It writes and runs nothing: nobody has to hear of it live.
    async with open_services(
        settings.model_copy(update={"slots": 1}),
        database_url=servers.database_url,
        redis_url=settings.redis_url or "",
    ) as services:
        return await importer.run(services, plan, tell=importer.show_progress)


def build_ui(settings: Settings) -> None:
    """Bundle the components of generative UI for browsers."""
    graphs = load_config(settings.config, environment_sections())
    print(ui_builder.build(graphs, environment()))  # noqa: T201 - the command's answer


def keys(settings: Settings, *, action: str, key_id: str | None, **options: Any) -> None:
    """Make, list or revoke API keys."""
    plan = keys_command.plan(action, key_id, **options)
    with _servers(settings, valkey=False) as servers:
        print(_run(_keys(servers, plan)))  # noqa: T201 - the command's answer


async def _keys(servers: Servers, plan: keys_command.Plan) -> str:
    await migrate_database(servers.database_url)
    async with open_database(servers.database_url) as db:
        return await plan(db)


def _run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@contextmanager
def _servers(settings: Settings, *, valkey: bool = True) -> Iterator[Servers]:
    """The servers that the settings name; embedded ones for those they do not."""
    # Until something else handles it, SIGTERM unwinds like Ctrl-C, so that nothing is left running.
    signal.signal(signal.SIGTERM, _exit)
    with embedded_servers(
        settings.data_dir,
        postgres=settings.database_url is None,
        valkey=valkey and settings.redis_url is None,
    ) as started:
        if settings.redis_url == "":
            log.warning("no Redis: events are kept in this process alone, start no other")
        yield Servers(
            database_url=settings.database_url or started.database_url,
            redis_url=settings.redis_url or started.redis_url,
        )


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def report(services: Services) -> None:
    """Say what of the configuration is not done, and what it opens."""
    _report_config(services.graphs)
    for name in variables_without_effect():
        log.warning("an environment variable of the official server has no effect here", name=name)
    for graph_id, reason in services.registry.failures.items():
        log.error("graph not loaded", graph_id=graph_id, reason=reason)
    for name in ui_bundles.missing(services.graphs):
        log.error("ui not built", ui=name, reason=ui_bundles.HOW_TO_BUILD)
    auth = services.graphs.auth
    if auth and not auth.disable_studio_auth:
        log.warning(
            "auth.disable_studio_auth is false: whoever reaches this server from this machine, "
            "also through a proxy that adds no header of its own, may be `langgraph-studio-user`"
        )
    if services.graphs.http.cors.allow_credentials and "*" in allowed_origins(services):
        log.warning("http.cors lets every web page use a browser's credentials")
    if services.authority is not None and not services.settings.limits_callers:
        log.info("no limits are set: one caller's flood slows the others, see docs/limits.md")


def _report_config(graphs: GraphConfig) -> None:
    for key in graphs.unsupported:
        log.warning("langgraph.json has a key that is not supported", key=key)
    for key in graphs.ignored:
        log.debug("langgraph.json has a key that is for building an image", key=key)
    if names := overridden(graphs.env):
        log.info("the environment wins over `env` in langgraph.json", names=names)
    for name in graphs.missing:
        log.warning("a dependency in langgraph.json is not installed", dependency=name)


def _print_addresses(
    host: str, prefix: str, servers: Servers, told: Mapping[str, str], port: int
) -> None:
    """Say where everything is, and what else is told at the start."""
    # Nothing is bound here.
    every = "0.0.0.0"  # nosec B104
    everywhere = host in (every, "::")
    base = f"http://{'127.0.0.1' if everywhere else host}:{port}{prefix}"
    lines = {
        "API": base,
        "Docs": f"{base}/docs",
        "Studio": f"https://smith.langchain.com/studio/?baseUrl={quote(base, safe=':/')}",
        "Database": without_password(servers.database_url),
        **told,
    }
    text = "\n".join(f"  {name:<10} {value}" for name, value in lines.items())
    print(f"\n{text}\n", flush=True)  # noqa: T201 - what the one who started it waits for
