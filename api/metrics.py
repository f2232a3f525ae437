"""
What can be measured at this moment: the queue of all processes, and what each has done.

The names of the official server are of all processes together; ours have the `process` that they are of,
among those that share a port. docs/observability.md lists them; no label has a value that a client makes.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import orjson
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.samples import Sample

from api import __version__
from api.bootstrap import Services
from api.observability.health import PROBE_SECONDS
from graph.executor import Executor
from graph.jobs import OUTCOMES
from store.checkpoints import Saver
from store.errors import UnavailableError
from store.flusher import Flusher
from store.meters import Histogram

#: By the names of the official server: the queue's.
_QUEUE = {
    "pending": ("n_pending", "lg_api_num_pending_runs", "Runs that wait"),
    "running": ("n_running", "lg_api_num_running_runs", "Runs under way"),
    "longest_wait_seconds": (
        "pending_runs_wait_time_max_secs",
        "lg_api_pending_runs_wait_time_max",
        "Seconds that the run waits that is due for longest",
    ),
    "median_wait_seconds": (
        "pending_runs_wait_time_med_secs",
        "lg_api_pending_runs_wait_time_med",
        "Seconds that half of the runs that are due wait at least",
    ),
    "longest_unblocked_wait_seconds": (
        "pending_unblocked_runs_wait_time_max_secs",
        "lg_api_pending_unblocked_runs_wait_time_max",
        "Seconds that a run waits for longest whose thread is free",
    ),
}
_WORKERS = {
    "max": ("lg_api_workers_max", "Runs that the processes here take at once"),
    "active": ("lg_api_workers_active", "Runs under way in the processes here"),
    "available": ("lg_api_workers_available", "Runs that the processes here could take now"),
}
#: How a run can end, that a series is there before its first.
_ENDS: Final = ("success", "error", "timeout", "interrupted", "rollback")

Labels = Mapping[str, str]


async def measure(services: Services) -> dict[str, Any]:
    """
    The queue, and the work of this process, as the official server tells them in JSON.

    Raises:
        UnavailableError: PostgreSQL does not answer.
    """
    stats = await services.queue_stats.get()
    slots, active = services.worker.slots
    most, used, waiting = services.db.pool_stats
    return {
        "queue": {_QUEUE[field][0]: value for field, value in asdict(stats).items()},
        "workers": {"max": slots, "active": active, "available": slots - active},
        "postgres": {"max": most, "used": used, "waiting": waiting},
    }


async def exposition(services: Services) -> bytes:
    """
    Everything in Prometheus' text format; of the queue nothing while PostgreSQL does not answer.

    What this process counts by itself tells of such an outage, so it is told then too.
    """
    found = [
        *await _of_queue(services),
        *_together(
            [
                (services.peers.name, snapshot(services)),
                *((name, _read(told)) for name, told in await services.peers.ask()),
            ]
        ),
    ]
    return generate_latest(_Found(found))


async def _of_queue(services: Services) -> list[Metric]:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            stats = asdict(await services.queue_stats.get())
    except (UnavailableError, TimeoutError):
        return []
    return [
        GaugeMetricFamily(name, about, value=stats[field] or 0)
        for field, (_, name, about) in _QUEUE.items()
    ]


def snapshot(services: Services) -> list[Metric]:
    """What this process counts, by itself."""
    return [*_of_workers(services), *_of_process(services), *_of_python()]


def snapshot_json(services: Services) -> bytes:
    """The same as JSON, for another process."""
    return orjson.dumps(
        [
            [m.name, m.documentation, m.type, [[s.name, s.labels, s.value] for s in m.samples]]
            for m in snapshot(services)
        ]
    )


def _read(told: bytes) -> Iterator[Metric]:
    """What another process told."""
    for name, about, kind, samples in orjson.loads(told):
        metric = Metric(name, about, kind)
        metric.samples = [Sample(*sample) for sample in samples]
        yield metric


class _Found:
    """What `generate_latest` writes down."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _together(snapshots: Iterable[tuple[str, Iterable[Metric]]]) -> list[Metric]:
    """One metric of each name: those of the official server summed, ours by process."""
    found: dict[str, Metric] = {}
    for process, metrics in snapshots:
        for metric in metrics:
            kept = found.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            )
            if metric.name.startswith("lg_api_"):
                value = sum(sample.value for sample in (*kept.samples, *metric.samples))
                kept.samples = [Sample(metric.name, {}, value)]
            else:
                kept.samples += [
                    sample._replace(labels={"process": process, **sample.labels})
                    for sample in metric.samples
                ]
    return list(found.values())


def _of_python() -> Iterator[Metric]:
    registry = CollectorRegistry(auto_describe=False)
    for kind in (ProcessCollector, PlatformCollector, GCCollector):
        kind(registry=registry)
    yield from registry.collect()


def _of_workers(services: Services) -> Iterator[Metric]:
    slots, active = services.worker.slots
    values = {"max": slots, "active": active, "available": slots - active}
    for key, (name, about) in _WORKERS.items():
        yield GaugeMetricFamily(name, about, value=values[key])


def _of_process(services: Services) -> Iterator[Metric]:
    yield _gauge("build_info", "1, by the version that runs", [({"version": __version__}, 1)])
    yield from _of_runs(services.worker.executor)
    yield from _of_leases(services)
    yield from _of_jobs(services)
    yield from _of_events(services)
    yield from _of_commits(services)
    yield from _of_postgres(services)
    yield from _of_http(services)


def _of_runs(executor: Executor) -> Iterator[Metric]:
    meter = executor.meter
    yield _counter(
        "runs_begun", "Runs that began here: at once, claimed, or resumed",
        [({"how": how}, meter.begun[how]) for how in ("at_once", "claimed", "resumed")],
    )  # fmt: skip
    yield _counter(
        "runs_ended", "Runs whose end was written here",
        [({"status": status}, meter.ended[status]) for status in _ENDS],
    )  # fmt: skip
    yield _histogram("run_wait_seconds", "From when a run was due to when it began", meter.waited)
    yield _histogram(
        "run_first_token_seconds", "From the beginning of a run to its first token",
        meter.first_token,
    )  # fmt: skip
    yield _histogram("run_seconds", "From the beginning of a run to its end", meter.took)
    yield _histogram(
        "finish_batch_runs", "Runs that a transaction was to end", executor.finisher.batches
    )


def _of_leases(services: Services) -> Iterator[Metric]:
    meter, heartbeat = services.worker.executor.meter, services.worker.heartbeat
    yield _counter(
        "runs_given_up", "Runs that ended here without an end: lost, or handed back to the queue",
        [({"why": why}, meter.given_up[why]) for why in ("lost", "handed_back")],
    )  # fmt: skip
    yield _counter(
        "runs_reaped", "Runs taken from processes that were lost, by what became of them",
        [({"status": status}, meter.reaped[status]) for status in ("pending", *_ENDS[:-1])],
    )  # fmt: skip
    yield _counter("worker_buried", "Times that this process was declared dead", meter.buried)
    yield _gauge(
        "heartbeat_age_seconds", "Since the last heartbeat that PostgreSQL confirmed",
        heartbeat.age_seconds,
    )  # fmt: skip
    yield _gauge("draining", "Whether this process takes no more runs", services.worker.draining)
    yield _gauge(
        "graphs_blocked", "Whether a node keeps all graphs of this process from going on",
        services.place.blocked,
    )  # fmt: skip


def _of_jobs(services: Services) -> Iterator[Metric]:
    jobs = services.worker.jobs
    yield _counter(
        "jobs", "What came of tries to do a job, such as to tell a webhook",
        [
            ({"kind": kind, "outcome": outcome}, jobs.outcomes[kind, outcome])
            for kind in sorted(jobs.kinds)
            for outcome in OUTCOMES
        ],
    )  # fmt: skip
    yield _gauge("jobs_active", "Jobs that are being done", jobs.active_count)


def _of_events(services: Services) -> Iterator[Metric]:
    events = services.events
    count, size = events.written
    yield _counter("events_written", "Events of runs", count)
    yield _counter("event_bytes_written", "Bytes of their data", size)
    yield _gauge("event_log_threads", "Threads with events in memory", events.thread_count)
    yield _gauge("event_log_bytes", "Memory that they take, about", events.memory_bytes)
    yield _gauge("followers", "Readers of a thread's events", events.follower_count)
    if events.redis is not None:
        yield from _of_redis(events.redis)


def _of_redis(redis: Flusher) -> Iterator[Metric]:
    yield _gauge(
        "redis_lag_seconds", "How long the oldest event waits that Redis does not have",
        redis.lag_seconds,
    )  # fmt: skip
    yield _counter("redis_events_sent", "Events that Redis took", redis.sent_events)
    yield _counter("redis_bytes_sent", "Bytes of their data", redis.sent_bytes)
    yield _counter("redis_failures", "Batches that Redis did not answer", redis.failed_count)
    yield _histogram(
        "redis_round_trip_seconds", "Until Redis took a batch of events", redis.round_trips
    )


def _of_commits(services: Services) -> Iterator[Metric]:
    saver = services.place.backing.saver
    if not isinstance(saver, Saver):
        return
    writer = saver.writer
    entries, size = writer.waiting
    yield _histogram(
        "commit_batch_entries", "Checkpoints and writes that a transaction held", writer.batches
    )
    yield _histogram("commit_seconds", "Until such a transaction was on disk", writer.commits)
    yield _counter("commit_bytes", "Bytes that they held", writer.committed_bytes)
    yield _counter(
        "commit_failures", "Transactions that PostgreSQL did not take", writer.failed_count
    )
    yield _counter(
        "commit_refused", "Checkpoints and writes whose lease was lost", writer.refused_count
    )
    yield _gauge("commit_waiting_entries", "Checkpoints and writes that wait", entries)
    yield _gauge("commit_waiting_bytes", "Bytes of those", size)


def _of_postgres(services: Services) -> Iterator[Metric]:
    pools = {"api": services.db, "graphs": services.place.backing.db}
    stats = {name: db.pool_stats for name, db in pools.items()}
    for place, (name, about) in enumerate(
        (
            ("postgres_connections_max", "Connections to PostgreSQL at most, by pool"),
            ("postgres_connections_used", "Connections to PostgreSQL in use"),
            ("postgres_requests_waiting", "Who waits for a connection"),
        )
    ):
        yield _gauge(name, about, [({"pool": pool}, stats[pool][place]) for pool in pools])
    yield _histograms(
        "postgres_seconds", "Until PostgreSQL answered a statement, or a transaction of several",
        [({"pool": pool}, db.meter.seconds) for pool, db in pools.items()],
    )  # fmt: skip
    yield _counter(
        "postgres_slow", "Those that took longer than SLOW_QUERY_SECONDS",
        [({"pool": pool}, db.meter.slow_count) for pool, db in pools.items()],
    )  # fmt: skip


def _of_http(services: Services) -> Iterator[Metric]:
    meter = services.http_meter
    yield _counter(
        "http_requests", "Requests that were answered, by how their path begins",
        [
            ({"door": door, "method": method, "status": str(status)}, count)
            for (door, method, status), count in list(meter.answered.items())
        ],
    )  # fmt: skip
    yield _histograms(
        "http_request_seconds", "Until an answer was whole; streams are not among them",
        [({"door": door}, took) for door, took in meter.took.items() if any(took.counts)],
    )  # fmt: skip
    yield _gauge(
        "http_open", "Requests, streams of events, and WebSockets under way",
        [({"kind": kind}, count) for kind, count in meter.open.items()],
    )  # fmt: skip


Values = float | Sequence[tuple[Labels, float]]


def _gauge(name: str, about: str, values: Values) -> Metric:
    return _family(GaugeMetricFamily, name, about, values)


def _counter(name: str, about: str, values: Values) -> Metric:
    return _family(CounterMetricFamily, name, about, values)


def _family(kind: Any, name: str, about: str, values: Values) -> Metric:
    labelled = [({}, values)] if isinstance(values, int | float) else values
    labels = list(labelled[0][0]) if labelled else []
    family: Metric = kind(f"threadwell_{name}", about, labels=labels)
    for found, value in labelled:
        family.add_metric([found[label] for label in labels], float(value))  # type: ignore[attr-defined]
    return family


def _histogram(name: str, about: str, values: Histogram) -> Metric:
    return _histograms(name, about, [({}, values)])


def _histograms(name: str, about: str, values: Sequence[tuple[Labels, Histogram]]) -> Metric:
    labels = list(values[0][0]) if values else []
    family = HistogramMetricFamily(f"threadwell_{name}", about, labels=labels)
    for found, histogram in values:
        buckets, total = histogram.buckets()
        family.add_metric([found[label] for label in labels], buckets, total)
    return family
