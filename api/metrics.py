"""What can be measured at this moment: the queue of all processes, and the work of this one."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from api.bootstrap import Services
from store import queue
from store.queue import Stats

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
#: Of this process.
_WORKERS = {
    "max": ("lg_api_workers_max", "Runs that this process takes at once"),
    "active": ("lg_api_workers_active", "Runs under way in this process"),
    "available": ("lg_api_workers_available", "Runs that this process could take now"),
}
_POOL = {
    "max": ("threadwell_postgres_connections_max", "Connections to PostgreSQL at most"),
    "used": ("threadwell_postgres_connections_used", "Connections to PostgreSQL in use"),
    "waiting": ("threadwell_postgres_requests_waiting", "Who waits for a connection"),
}


async def measure(services: Services) -> dict[str, Any]:
    """
    Everything at this moment.

    Raises:
        UnavailableError: PostgreSQL does not answer.
    """
    stats: Stats = await queue.stats(services.db)
    slots, active = services.worker.slots
    most, used, waiting = services.db.pool_stats
    return {
        "queue": {_QUEUE[field][0]: value for field, value in asdict(stats).items()},
        "workers": {"max": slots, "active": active, "available": slots - active},
        "postgres": {"max": most, "used": used, "waiting": waiting},
    }


def exposition(measured: dict[str, Any]) -> bytes:
    """The same in Prometheus' text format, with what is known of the process."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Gauges(measured))
    return generate_latest(registry)


class _Gauges:
    def __init__(self, measured: dict[str, Any]) -> None:
        self._measured = measured

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for key, name, about in _QUEUE.values():
            yield _gauge(name, about, self._measured["queue"][key])
        for section, names in (("workers", _WORKERS), ("postgres", _POOL)):
            for key, (name, about) in names.items():
                yield _gauge(name, about, self._measured[section][key])


def _gauge(name: str, about: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=value or 0)
