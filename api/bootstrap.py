"""The composition root: what a process opens once, in the order in which it needs it."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog
from langchain_core.language_models import BaseChatModel
from langgraph.store.base import BaseStore

from api import loopback, prices, sdk_cache, ui_bundles
from api.backing import add_indexes, admitted, backing_beside, backing_of_graphs, event_log
from api.exchange.importing import Importer
from api.exchange.jobs import ImportJobs
from api.exchange.users import UserExports
from api.http.fresh import Fresh
from api.identity.authority import Authority, load_authority
from api.identity.owners import open_owners
from api.limits import Limits, open_limits
from api.new_sessions import NewSessions
from api.observability.health import Health
from api.observability.http_meter import HttpMeter
from api.observability.traces import open_tracing
from api.presence import Presence, open_presence
from api.prices import Prices
from api.processes.peers import Peers
from api.quotas import Quotas
from api.schemas.crons import cron_request
from api.settings import Settings, environment, environment_sections, set_environment
from api.ui_bundles import Bundle
from graph import priorities
from graph.agents import chat
from graph.branches import Branches
from graph.changes import Changes
from graph.checkpointer import CustomSaver
from graph.config import GraphConfig, load_config
from graph.crons import Crons
from graph.deliveries import Deliveries
from graph.endings import Endings
from graph.erasure import Erasures
from graph.executor import Executor
from graph.fairness import FairShares, QueueRoom
from graph.following import Follower
from graph.histories import Histories
from graph.imports import Imports
from graph.jobs import Jobs, Kind
from graph.loop import Backing, Place, open_graph_loop
from graph.priorities import Priorities
from graph.registry import Registry
from graph.requests import system_assistant_id
from graph.retention import Retention
from graph.runs import Runs
from graph.state import States
from graph.threads import Threads
from graph.titles import Titles
from graph.tracing import Tracing
from graph.value_search import ValueSearch
from graph.webhooks import Webhooks, open_webhooks
from graph.worker import Timing, Worker, registered
from store import assistants, keys, queue
from store.assistants import SystemAssistant
from store.cache import Cache, open_cache
from store.cipher import KeyRing
from store.database import Database
from store.errors import InvalidInputError
from store.events import EventLog
from store.exchanges import KIND as IMPORT
from store.heartbeat import Heartbeat
from store.outbox import KIND as EVENT_WEBHOOK
from store.queue import Stats
from store.rooms import open_rooms
from store.sessions import TITLE_JOB
from store.user_jobs import JOBS as USER_JOBS
from store.webhooks import KIND as WEBHOOK

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """Everything that a process opens once."""

    settings: Settings
    graphs: GraphConfig
    db: Database
    registry: Registry
    place: Place
    items: BaseStore
    events: EventLog
    runs: Runs
    follower: Follower
    states: States
    histories: Histories
    imports: Imports
    threads: Threads
    titles: Titles
    branches: Branches
    value_search: ValueSearch
    importer: Importer
    #: Of runs, and those that users register.
    webhooks: Webhooks
    event_webhooks: Webhooks
    changes: Changes
    presence: Presence
    crons: Crons
    worker: Worker
    authority: Authority | None
    prices: Prices
    #: Of generative UI, by their names in langgraph.json.
    ui: Mapping[str, Bundle]
    limits: Limits | None
    quotas: Quotas
    new_sessions: NewSessions
    health: Health
    #: The queue of all processes.
    queue_stats: Fresh[Stats]
    tracing: Tracing | None
    #: Those that share a port with this process.
    peers: Peers = field(default_factory=Peers)
    http_meter: HttpMeter = field(default_factory=HttpMeter)


@asynccontextmanager
async def open_services(
    settings: Settings, *, database_url: str, redis_url: str
) -> AsyncIterator[Services]:
    """
    Open everything on servers that are up and a database that is migrated.

    Args:
        redis_url: Empty for none: then events are kept in this process alone.

    Raises:
        InvalidInputError: The langgraph.json is wrong, or what it names of the user's own code.
        ConflictError: The store's index has vectors of another length.
        UnavailableError: PostgreSQL does not answer.
    """
    async with _opened(settings, database_url=database_url, redis_url=redis_url) as ground:
        yield _services(ground, _engine(ground))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ground:
    """What has to be opened and closed; everything else is made of it."""

    settings: Settings
    graphs: GraphConfig
    registry: Registry
    timing: Timing
    db: Database
    events: EventLog
    heartbeat: Heartbeat
    authority: Authority | None
    tracing: Tracing | None
    place: Place
    backing: Backing
    webhooks: Webhooks
    event_webhooks: Webhooks
    presence: Presence
    limits: Limits | None


@asynccontextmanager
async def _opened(
    settings: Settings, *, database_url: str, redis_url: str
) -> AsyncIterator[_Ground]:
    """Each after what it needs; they close in the reverse order."""
    graphs, registry = await load_graphs(settings)
    timing = _timing(settings, graphs)
    await add_indexes(settings, graphs, database_url)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        db = await enter(admitted(settings, graphs, database_url))
        await _register_graphs(db, registry)
        events = await enter(event_log(settings, redis_url, db.cipher))
        heartbeat = await enter(registered(db, slots=settings.slots, timing=timing))
        # Before `auth` and the graphs, whose code may use it.
        cache = await enter(open_cache(redis_url, cipher=db.cipher))
        stack.enter_context(sdk_cache.serving(cache))
        authority = await enter(_authority(settings, graphs, db, cache))
        tracing = await enter(open_tracing(settings))
        place = await enter(
            open_graph_loop(lambda: backing_of_graphs(settings, graphs, database_url, db.cipher))
        )
        backing = await enter(backing_beside(db, graphs, place))
        webhooks, event_webhooks = await enter(
            _webhooks(graphs, callers_are_known=authority is not None)
        )
        presence = await enter(open_presence(await enter(open_rooms(redis_url, cipher=db.cipher))))
        limits = await enter(open_limits(settings, redis_url))
        yield _Ground(
            settings=settings, graphs=graphs, registry=registry, timing=timing, db=db, events=events,
            heartbeat=heartbeat, authority=authority, tracing=tracing, place=place, backing=backing,
            webhooks=webhooks, event_webhooks=event_webhooks, presence=presence, limits=limits,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Engine:
    """What runs graphs, and keeps what they leave."""

    endings: Endings
    executor: Executor
    titles: Titles
    runs: Runs
    states: States
    threads: Threads
    is_by_priority: bool


def _engine(ground: _Ground) -> _Engine:
    settings, graphs, db, place = ground.settings, ground.graphs, ground.db, ground.place
    registry, events = ground.registry, ground.events
    endings, executor = Endings(db), _executor(ground)
    urgency, room = _shares(settings, graphs, db, callers_are_known=ground.authority is not None)
    titles = Titles(db=db, place=place, model=_title_model(graphs))
    runs = Runs(
        db=db, registry=registry, executor=executor, events=events, endings=endings,
        heartbeat=ground.heartbeat, webhooks=ground.webhooks, life=graphs.ttl.life,
        titles=titles.has_model, priorities=urgency, room=room, tracing=ground.tracing,
    )  # fmt: skip
    states = States(registry=registry, db=db, events=events, backing=ground.backing, place=place)
    return _Engine(
        endings=endings,
        executor=executor,
        titles=titles,
        runs=runs,
        states=states,
        threads=Threads(db=db, runs=runs, states=states, retention=executor.retention),
        is_by_priority=urgency is not None,
    )


def _services(ground: _Ground, engine: _Engine) -> Services:
    settings, graphs, db, place = ground.settings, ground.graphs, ground.db, ground.place
    registry, runs, states = ground.registry, engine.runs, engine.states
    quotas = _quotas(settings, db)
    new_sessions = NewSessions(db, quotas, graphs.ttl.life)
    importer = Importer(
        db=db, registry=registry, states=states, runs=runs, new_sessions=new_sessions
    )
    crons = Crons(db=db, runs=runs, decode=cron_request, most_sessions=settings.limit_sessions)
    changes = Changes(
        db=db, place=place, endings=engine.endings,
        keep_count=settings.events_keep_count, keep_seconds=3600 * settings.events_keep_hours,
    )  # fmt: skip
    worker = _worker(ground, engine, crons, _jobs(ground, engine, importer), changes)
    histories = Histories(db=db, registry=registry, runs=runs, states=states)
    return Services(
        settings=settings,
        graphs=graphs,
        db=db,
        registry=registry,
        place=place,
        items=ground.backing.items,
        events=ground.events,
        runs=runs,
        follower=runs.follower,
        states=states,
        histories=histories,
        imports=Imports(db=db, histories=histories, states=states, life=graphs.ttl.life),
        threads=engine.threads,
        titles=engine.titles,
        branches=Branches(db=db, states=states, executor=engine.executor),
        value_search=ValueSearch(db, states),
        importer=importer,
        webhooks=ground.webhooks,
        event_webhooks=ground.event_webhooks,
        changes=changes,
        presence=ground.presence,
        crons=crons,
        worker=worker,
        authority=ground.authority,
        prices=prices.load(settings.prices),
        ui=ui_bundles.load(graphs),
        quotas=quotas,
        new_sessions=new_sessions,
        limits=ground.limits,
        health=Health(db=db, events=ground.events, place=place, worker=worker),
        tracing=ground.tracing,
        queue_stats=Fresh(partial(queue.stats, db)),
    )


def _jobs(ground: _Ground, engine: _Engine, importer: Importer) -> Jobs:
    """Whatever else is to be done beside runs is one more kind."""
    db, webhooks, retry = ground.db, ground.webhooks, ground.settings.webhook_retry_seconds
    return Jobs(
        db=db,
        kinds={
            WEBHOOK: webhooks.kind(retry),
            EVENT_WEBHOOK: Deliveries(db, ground.event_webhooks).kind(retry),
            IMPORT: ImportJobs(db=db, importer=importer, authority=ground.authority).kind(),
            TITLE_JOB: engine.titles.kind(),
            **_of_users(ground, engine),
        },
        lease_seconds=ground.timing.lease_seconds,
        renew_seconds=ground.timing.heartbeat_seconds,
    )


def _of_users(ground: _Ground, engine: _Engine) -> dict[str, Kind]:
    """The jobs that are about all that is a user's."""
    db, namespaces = ground.db, ground.settings.user_namespaces
    erasures = Erasures(
        db=db, runs=engine.runs, threads=engine.threads, retention=engine.executor.retention,
        namespaces=namespaces,
    )  # fmt: skip
    exports = UserExports(db=db, items=ground.backing.items, namespaces=namespaces)
    return {USER_JOBS["erasure"]: erasures.kind(), USER_JOBS["export"]: exports.kind()}


def _worker(ground: _Ground, engine: _Engine, crons: Crons, jobs: Jobs, changes: Changes) -> Worker:
    executor = engine.executor
    return Worker(
        db=ground.db, executor=executor, runs=engine.runs, endings=engine.endings,
        events=ground.events, heartbeat=ground.heartbeat, retention=executor.retention, crons=crons,
        jobs=jobs, changes=changes, timing=ground.timing, by_priority=engine.is_by_priority,
        most_running=ground.settings.limit_runs or None,
    )  # fmt: skip


@asynccontextmanager
async def _webhooks(
    graphs: GraphConfig, *, callers_are_known: bool
) -> AsyncIterator[tuple[Webhooks, Webhooks]]:
    """Those of runs, and those that users register."""
    registered = graphs.webhooks.for_registered(callers_are_known=callers_are_known)
    async with (
        open_webhooks(
            graphs.webhooks, environment=environment(), post_here=loopback.post
        ) as of_runs,
        open_webhooks(registered, environment=environment()) as of_events,
    ):
        yield of_runs, of_events


def _quotas(settings: Settings, db: Database) -> Quotas:
    return Quotas(
        db,
        sessions=settings.limit_sessions,
        crons=settings.limit_crons,
        files=settings.limit_files,
        file_bytes=settings.limit_file_bytes,
    )


def _shares(
    settings: Settings, graphs: GraphConfig, db: Database, *, callers_are_known: bool
) -> tuple[Priorities | FairShares | None, QueueRoom | None]:
    """Who decides which runs begin first, and how many may wait."""
    most, all_together = settings.limit_queued_runs, settings.limit_queued_runs_in_all
    room = QueueRoom(db, all_together, most) if most or all_together else None
    running = settings.limit_runs or None
    if graphs.priority:
        return (
            priorities.load(graphs.priority, graphs.path.parent, db, most_running=running),
            room,
        )
    is_fair = callers_are_known if settings.fair_shares is None else settings.fair_shares
    is_fair = is_fair or running is not None or room is not None
    return (FairShares(db, most_running=running) if is_fair else None), room


def _executor(ground: _Ground) -> Executor:
    settings, db, saver = ground.settings, ground.db, ground.backing.saver
    retention = Retention(
        db=db, registry=ground.registry, place=ground.place, events=ground.events,
        keep=settings.keep_checkpoints, custom=saver if isinstance(saver, CustomSaver) else None,
        audit_seconds=86_400 * settings.audit_keep_days,
    )  # fmt: skip
    return Executor(
        db=db,
        registry=ground.registry,
        backing=ground.backing,
        place=ground.place,
        events=ground.events,
        retention=retention,
        slots=settings.slots,
        run_timeout_seconds=settings.run_timeout_seconds,
        alive=ground.heartbeat.alive,
        tracing=ground.tracing,
        file_bytes=settings.model_files_bytes,
    )


def _title_model(graphs: GraphConfig) -> Callable[[], BaseChatModel | None] | None:
    """
    The model that gives sessions their titles: the bundled agent's, where that is served.

    What is said to graphs of the user's own is sent to it only if they ask for it.
    """
    targets = (entry.target.replace("/", ".") for entry in graphs.graphs.values())
    is_ours = any("graph.agents.chat" in target for target in targets)
    if not (is_ours or environment().get("TITLE_MODEL")) or chat.title_model() is None:
        return None
    return chat.title_model


@asynccontextmanager
async def _authority(
    settings: Settings, graphs: GraphConfig, db: Database, cache: Cache
) -> AsyncIterator[Authority | None]:
    """Who decides who may what: an `Auth` of the user's, or what is built in; None for nobody."""
    if graphs.auth:
        clear_keys = db.cipher.clear_keys if isinstance(db.cipher, KeyRing) else None
        yield load_authority(
            graphs.auth,
            graphs.path.parent,
            clear_keys=clear_keys,
            are_origins_set=are_origins_set(settings, graphs),
        )
        return
    kinds = await identity_kinds(settings, db)
    if not kinds:
        if settings.openwebui_jwt_secret:
            raise InvalidInputError(
                "THREADWELL_OPENWEBUI_JWT_SECRET would do nothing: nobody is asked who they are. Make "
                "a key for Open WebUI: `threadwell keys create --owner open-webui --role service`"
            )
        yield None
        return
    async with open_owners(settings, kinds, db, cache) as owners:
        yield owners


async def identity_kinds(settings: Settings, db: Database) -> frozenset[str]:
    """
    Which built-in identities count, where langgraph.json names no `Auth`: ``keys``, ``jwt``; none.

    Those that the settings name; if they name none, API keys as soon as one was ever made, and tokens
    if there is an issuer: who made a key, or named one, did not mean to serve everybody.
    """
    if settings.auth:
        return frozenset(settings.auth) - {"none"}
    found = {"jwt"} if settings.jwt_issuer else set()
    return frozenset(found | {"keys"} if await keys.any_made(db) else found)


async def load_graphs(settings: Settings) -> tuple[GraphConfig, Registry]:
    """
    Read the langgraph.json and import its graphs, in the environment that it names.

    Raises:
        InvalidInputError: The langgraph.json is wrong or, if that is asked for, cannot be served
            as it is.
    """
    graphs = load_config(settings.config, environment_sections())
    # Before the graphs are imported: they read it then.
    set_environment(graphs.env)
    loopback.install()
    registry = await Registry.load(graphs)
    if settings.strict and (faults := list(_faults(graphs, registry))):
        said = f"{graphs.path} is not served as it is, and THREADWELL_STRICT is set:"
        raise InvalidInputError("\n".join([said, *faults]))
    return graphs, registry


def mount_prefix(settings: Settings, graphs: GraphConfig) -> str:
    """The path below which everything is served; empty for none."""
    given = settings.mount_prefix
    return graphs.http.mount_prefix if given is None else given


def are_origins_set(settings: Settings, graphs: GraphConfig) -> bool:
    """Whether somebody said which origins browsers may call from."""
    cors = graphs.http.cors
    is_in_file = cors.allow_origins is not None or cors.allow_origin_regex is not None
    return is_in_file or "cors_allow_origins" in settings.model_fields_set


def _faults(graphs: GraphConfig, registry: Registry) -> Iterator[str]:
    """What `THREADWELL_STRICT` does not let pass, a line each."""
    yield from (f"graph {graph_id!r}: {why}" for graph_id, why in registry.failures.items())
    yield from (f"key `{key}` is not supported" for key in graphs.unsupported)
    yield from (f"dependency {name!r} is not installed" for name in graphs.missing)
    yield from (
        f"ui {name!r} is not built: {ui_bundles.HOW_TO_BUILD}"
        for name in ui_bundles.missing(graphs)
    )


def _timing(settings: Settings, graphs: GraphConfig) -> Timing:
    return Timing(
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        sweep_seconds=settings.heartbeat_seconds,
        grace_seconds=settings.shutdown_grace_seconds,
        max_attempts=settings.run_max_attempts,
        expiry_seconds=60 * graphs.ttl.sweep_interval_minutes,
        expiry_limit=graphs.ttl.sweep_limit,
        item_expiry_seconds=60 * graphs.store.sweep_interval_minutes,
        index_seconds=settings.search_index_seconds,
        file_unused_seconds=settings.file_unused_seconds,
    )


async def _register_graphs(db: Database, registry: Registry) -> None:
    """Give every graph its assistant."""
    system = []
    for graph_id in registry.graph_ids:
        entry = registry.entry(graph_id)
        system.append(
            SystemAssistant(
                assistant_id=system_assistant_id(graph_id),
                graph_id=graph_id,
                name=entry.name,
                description=entry.description,
            )
        )
    await assistants.register_system(db, system)
