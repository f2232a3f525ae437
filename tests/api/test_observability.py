"""What operators see: metrics and who may read them, probes, and slow statements."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from operator import eq, ge, gt, lt
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import structlog
from langgraph_sdk.client import LangGraphClient
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from api.app import create_app
from api.bootstrap import Services, open_services
from api.processes.embedded import Servers
from api.settings import Settings
from store.database import open_database
from tests.acceptance.process import free_port, serving as serving_process
from tests.acceptance.talk import says
from tests.faults.stores import Network, network_to, network_to_redis, through
from tests.graph.engines import until
from tests.measured import Labels, Measured, read, value
from tests.serving import serving

TOKEN = "collectors-only-0123"
#: No label may have a value that a client makes: these are all there are.
LABELS = {
    "process", "status", "how", "why", "kind", "outcome", "pool", "door", "method", "le",
    "version", "implementation", "major", "minor", "patchlevel", "generation",
}  # fmt: skip
#: What probes tell of a process that lacks nothing.
SOUND = {
    "postgres": "ok", "migrations": "ok", "redis": "ok", "lease": "ok", "graphs": "ok",
    "process": "ok",
}  # fmt: skip

Bound = tuple[Callable[[Any, Any], bool], float]

#: Of two runs by `chat` and one by `boom`: by how much what grows, and what is so afterwards.
GROWN: dict[tuple[str, Labels], Bound] = {
    ("threadwell_runs_begun_total", (("how", "at_once"),)): (eq, 2),
    ("threadwell_runs_begun_total", (("how", "claimed"),)): (eq, 1),
    ("threadwell_runs_ended_total", (("status", "success"),)): (eq, 2),
    ("threadwell_runs_ended_total", (("status", "error"),)): (eq, 1),
    ("threadwell_run_seconds_count", ()): (eq, 3),
    ("threadwell_run_wait_seconds_count", ()): (eq, 3),
    ("threadwell_run_first_token_seconds_count", ()): (ge, 1),
    ("threadwell_events_written_total", ()): (gt, 10),
    ("threadwell_event_bytes_written_total", ()): (gt, 100),
    ("threadwell_redis_events_sent_total", ()): (gt, 10),
    ("threadwell_redis_bytes_sent_total", ()): (gt, 100),
    ("threadwell_redis_round_trip_seconds_count", ()): (ge, 1),
    ("threadwell_commit_batch_entries_count", ()): (gt, 2),
    ("threadwell_commit_bytes_total", ()): (gt, 100),
    ("threadwell_finish_batch_runs_sum", ()): (eq, 3),
    ("threadwell_postgres_seconds_count", (("pool", "graphs"),)): (gt, 2),
    ("threadwell_postgres_seconds_count", (("pool", "api"),)): (gt, 4),
    (
        "threadwell_http_requests_total",
        (("door", "other"), ("method", "GET"), ("status", "404")),
    ): (eq, 1),
}
NOW: dict[tuple[str, Labels], Bound] = {
    ("threadwell_postgres_connections_max", (("pool", "graphs"),)): (gt, 0),
    ("threadwell_postgres_requests_waiting", (("pool", "api"),)): (eq, 0),
    ("threadwell_redis_lag_seconds", ()): (lt, 5),
    ("threadwell_heartbeat_age_seconds", ()): (lt, 15),
    ("threadwell_http_open", (("kind", "request"),)): (eq, 1),  # the one that asks
    ("threadwell_jobs_total", (("kind", "webhook"), ("outcome", "given_up"))): (eq, 0),
    ("threadwell_runs_given_up_total", (("why", "lost"),)): (eq, 0),
    ("threadwell_graphs_blocked", ()): (eq, 0),
}


def _faults(
    expected: dict[tuple[str, Labels], Bound],
    value_of: Callable[[tuple[str, Labels]], float],
) -> list[tuple[tuple[str, Labels], float]]:
    return [
        (key, value_of(key))
        for key, (holds, bound) in expected.items()
        if not holds(value_of(key), bound)
    ]


async def test_metrics_tell_what_runs_have_done(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    before = read((await http.get("/metrics")).text)
    thread_id = (await client.threads.create())["thread_id"]
    async for _ in client.runs.stream(
        thread_id, "chat", input=says("hello"), stream_mode="messages-tuple"
    ):
        pass
    run = await client.runs.create(thread_id, "chat", input=says("again"))
    await client.runs.join(thread_id, run["run_id"])
    failed = await client.threads.create()
    await client.runs.wait(failed["thread_id"], "boom", input={}, raise_error=False)
    await http.get("/door-of-a-scanner")
    answer = await http.get("/metrics")
    found = read(answer.text)

    assert _faults(GROWN, lambda key: found[key] - before.get(key, 0)) == []
    assert _faults(NOW, lambda key: found[key]) == []
    labels = {label for _, pairs in found for label, _ in pairs}
    assert labels <= LABELS
    assert thread_id not in answer.text


async def test_a_stream_is_counted_for_as_long_as_it_is_open(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    async with http.stream("GET", f"/threads/{thread_id}/stream") as stream:
        assert stream.status_code == 200
        during = read((await http.get("/metrics")).text)
    assert value(during, "threadwell_http_open", kind="stream") == 1
    assert value(during, "threadwell_followers") == 1


@asynccontextmanager
async def guarded(
    tmp_path: Path, servers: Servers, database_url: str, **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A server that knows its callers."""
    config = tmp_path / "langgraph.json"
    auth = {"path": "tests.api.auths:auth"}
    config.write_text(json.dumps({"graphs": {"who": "tests.api.auth_graphs:who"}, "auth": auth}))
    settings = Settings(config=config, **more)
    async with (
        open_services(settings, database_url=database_url, redis_url=servers.redis_url) as services,
        services.worker.working(),
        serving(create_app(services)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        yield http


async def test_strangers_do_not_read_metrics_where_callers_are_known(
    tmp_path: Path, servers: Servers, database_url: str
) -> None:
    async with guarded(tmp_path, servers, database_url, metrics_token=TOKEN) as http:

        async def status(authorization: str | None, path: str = "/metrics") -> int:
            headers = {"authorization": authorization} if authorization else {}
            return (await http.get(path, headers=headers)).status_code

        assert await status(None) == 401
        assert await status("Bearer ada") == 403
        assert await status("Bearer watcher") == 200
        assert await status(f"Bearer {TOKEN}") == 200
        assert await status(f"Bearer {TOKEN}x") == 403  # somebody else's name here
        # The collector's token opens nothing else as nobody: to the `Auth` it is a name like others.
        assert await status(None, "/threads/x") == 401
        assert (await http.get("/ready")).status_code == 200
        refused = (await http.get("/metrics", headers={"authorization": "Bearer ada"})).json()
    assert refused["code"] == "permission_denied"
    async with guarded(tmp_path, servers, database_url, metrics_public=True) as http:
        assert (await http.get("/metrics")).status_code == 200


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValidationError, match="metrics_token"):
        Settings(metrics_token="short")  # type: ignore[arg-type]
    assert TOKEN not in repr(Settings(metrics_token=TOKEN))  # type: ignore[arg-type]


async def test_a_process_is_ready_until_it_goes(
    services: Services, http: httpx.AsyncClient
) -> None:
    up, deep = await http.get("/ready"), await http.get("/ok?deep=1")
    assert up.status_code == 200
    assert up.json() == {"ready": True, "checks": SOUND}
    assert deep.json() == {"ok": True, "services": SOUND}
    assert (await http.get("/ok")).json() == {"ok": True, "services": {}}

    await services.worker.drain(grace_seconds=0)
    services.health.forget()
    going = await http.get("/ready")
    assert going.status_code == 503
    assert going.json()["checks"] == {**SOUND, "process": "draining"}
    assert going.json()["code"] == "unavailable"
    assert going.headers["retry-after"] == "1"


async def test_a_process_is_not_ready_on_a_schema_that_lacks_something(
    services: Services, http: httpx.AsyncClient
) -> None:
    """As a new version is that came before `threadwell migrate`; an old one on a newer is ready."""
    await services.db.execute("INSERT INTO schema_migration VALUES (9999, 'later')", {})
    assert (await http.get("/ready")).status_code == 200
    await services.db.execute("DELETE FROM schema_migration WHERE version = 1", {})
    services.health.forget()
    behind = await http.get("/ready")
    assert behind.status_code == 503
    assert behind.json()["checks"]["migrations"] == "behind"
    # It is alive: to start it again is of no use.
    assert (await http.get("/ok")).status_code == 200


class Watched:
    """A server whose ways to PostgreSQL and to Redis can be closed."""

    def __init__(self, http: httpx.AsyncClient, postgres: Network, redis: Network) -> None:
        self.http = http
        self.postgres = postgres
        self.redis = redis

    async def lose(self, network: Network) -> None:
        network.refuses = True
        await asyncio.to_thread(network.cut)

    async def told(self) -> tuple[int, dict[str, str]]:
        """The status of `/ready`, and what is not as it should be."""
        answer = await self.http.get("/ready")
        checks = answer.json()["checks"]
        return answer.status_code, {k: v for k, v in checks.items() if v != SOUND[k]}

    async def measured(self) -> Measured:
        answer = await self.http.get("/metrics")
        assert answer.status_code == 200, answer.text
        return read(answer.text)

    async def tells(self, status: int, **checks: str) -> None:
        """Return once this is told: it is looked at once a second."""

        async def is_told() -> bool:
            return await self.told() == (status, checks)

        await until(is_told)


@pytest.fixture
async def watched(
    settings: Settings, servers: Servers, database_url: str
) -> AsyncIterator[Watched]:
    quick = settings.model_copy(
        update={
            "lease_seconds": 3.0, "heartbeat_seconds": 0.5, "database_pool_timeout_seconds": 2.0,
        }
    )  # fmt: skip
    with network_to(database_url) as postgres, network_to_redis(servers.redis_url) as redis:
        async with (
            open_services(
                quick,
                database_url=through(postgres, database_url),
                redis_url=f"redis://127.0.0.1:{redis.port}",
            ) as services,
            services.worker.working(),
            serving(create_app(services)) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as http,
        ):
            yield Watched(http, postgres, redis)
            postgres.refuses = redis.refuses = False


async def test_a_process_without_redis_is_ready_and_tells_how_far_it_is_behind(
    watched: Watched,
) -> None:
    await watched.lose(watched.redis)
    await watched.tells(200, redis="away")
    run = {"assistant_id": "chat", "input": says("hello")}
    answer = await watched.http.post("/runs/wait", json=run)
    assert answer.status_code == 200, answer.text

    async def has_failed() -> bool:
        found = await watched.measured()
        lag = value(found, "threadwell_redis_lag_seconds")
        return lag > 1 and value(found, "threadwell_redis_failures_total") > 0

    await until(has_failed)
    deep = await watched.http.get("/ok?deep=1")
    assert (deep.status_code, deep.json()["services"]["redis"]) == (200, "away")
    watched.redis.refuses = False
    await watched.tells(200)

    async def has_caught_up() -> bool:
        return value(await watched.measured(), "threadwell_redis_lag_seconds") == 0

    await until(has_caught_up)


async def test_a_process_without_postgres_is_alive_not_ready_and_measured_all_the_same(
    watched: Watched,
) -> None:
    """An alert on what is not told would never be one."""
    assert value(await watched.measured(), "lg_api_num_pending_runs") == 0
    await watched.lose(watched.postgres)
    away = {"postgres": "away", "migrations": "away"}
    await watched.tells(503, **away, lease="lost")

    for path, status in (
        ("/ok", 200), ("/ok?deep=1", 503), ("/ok?check_db=1", 503), ("/metrics?format=json", 503),
    ):  # fmt: skip
        assert (await watched.http.get(path)).status_code == status, path
    found = await watched.measured()
    assert value(found, "threadwell_heartbeat_age_seconds") > 2
    assert value(found, "lg_api_workers_max") > 0
    # Of all processes: nobody knows, which is not 0.
    assert [name for name, _ in found if name.startswith("lg_api_num")] == []
    watched.postgres.refuses = False
    await watched.tells(200)

    async def is_told_of_the_queue() -> bool:
        return ("lg_api_num_pending_runs", ()) in await watched.measured()

    # That, too, is asked for once a second.
    await until(is_told_of_the_queue)


async def test_a_process_that_has_no_redis_says_so(settings: Settings, database_url: str) -> None:
    async with (
        open_services(settings, database_url=database_url, redis_url="") as services,
        serving(create_app(services)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        assert (await http.get("/ready")).json() == {
            "ready": True,
            "checks": {**SOUND, "redis": "none"},
        }


async def test_a_slow_statement_is_logged_by_name_and_without_what_is_in_it(
    database_url: str,
) -> None:
    async with open_database(database_url, slow_query_seconds=1.0) as db:
        with structlog.testing.capture_logs() as logged:
            await db.tuples("SELECT 1, %(word)s::text", {"word": "secret"})
            await db.tuples(
                "SELECT   pg_sleep(1.1),\n %(word)s::text -- " + 200 * "x", {"word": "secret"}
            )
        slow = [line for line in logged if line["event"] == "slow query"]
        assert len(slow) == db.meter.slow_count == 1
    assert slow[0]["query"].startswith("SELECT pg_sleep(1.1), %(word)s::text --")
    assert len(slow[0]["query"]) == 120
    assert slow[0]["seconds"] >= 1.1
    assert "secret" not in str(slow)


def test_whichever_of_several_processes_is_asked_tells_what_all_of_them_count(
    tmp_path: Path, servers: Servers, database_url: str
) -> None:
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"chat": "tests.graph.sample_graphs:chat"}}))
    port = free_port()
    variables = {
        "DATABASE_URL": f"postgresql:///?{urlencode(conninfo_to_dict(database_url))}",
        "REDIS_URL": servers.redis_url,
        "THREADWELL_WORKERS": "2",
        "N_JOBS_PER_WORKER": "7",
        "METRICS_PORT": str(port),
        "METRICS_TOKEN": TOKEN,
    }
    with serving_process(config, variables) as server:
        ours = f"http://127.0.0.1:{port}"
        for _ in range(8):
            # Each on a connection of its own, so by either process.
            answer = httpx.get(f"{server.url}/metrics", timeout=30)
            found = read(answer.text)
            processes = {
                sample.labels["process"]
                for family in text_string_to_metric_families(answer.text)
                for sample in family.samples
                if sample.name == "process_cpu_seconds_total"
            }
            assert processes == {"0", "1"}
            assert value(found, "lg_api_workers_max") == 14
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"{ours}/metrics", timeout=30).status_code == 401
        assert httpx.get(f"{ours}/metrics", headers=headers, timeout=30).status_code == 200
        assert httpx.get(f"{ours}/ready", timeout=30).json()["ready"] is True
        assert httpx.get(f"{ours}/info", timeout=30).status_code == 404
        assert server.stop() == 0
