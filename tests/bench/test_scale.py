"""
Lists, searches and pages of a database of 100,000 threads and 5 million messages.

Every kind of request takes turns with all others, over HTTP, one at a time; then PostgreSQL tells by
which plans it has answered them. `BENCH_THREADS` and `BENCH_MESSAGES` (of each) make it smaller.

How long a request takes says little on a machine that others use: there its CPU is judged.
"""

import asyncio
import random
import re
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import psycopg
import pytest

from api.embedded import embedded_servers
from api.session_schemas import encode_cursor
from tests.acceptance.process import serving
from tests.bench.population import fill
from tests.bench.servers import (
    cpu_seconds,
    is_quiet,
    load,
    postmaster,
    project,
    quantile,
    size,
)

THREADS, MESSAGES = size("THREADS", 100_000), size("MESSAGES", 50)
REQUESTS, ROUNDS = size("REQUESTS", 100), 3
P99_MS, CPU_MS = 20.0, 15.0
#: The size of a table, in rows, from which reading all of it is not done by an index.
BIG = r"Seq Scan on (thread|message|run|checkpoints|checkpoint_blobs|checkpoint_writes)\b"
#: Has a session log every statement with its plan as it was carried out: EXPLAIN (ANALYZE, BUFFERS).
EXPLAINED = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": "0",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_buffers": "on",
    }.items()
)

Request = tuple[str, str, dict[str, Any] | None]


class Requests:
    """Requests of every kind, each for something else."""

    def __init__(self, thread_ids: list[str]) -> None:
        self._thread_ids = thread_ids
        self._rng = random.Random(1)

    @property
    def kinds(self) -> dict[str, Callable[[], Request]]:
        """What is measured, by its name."""
        return {
            "nothing": lambda: ("GET", "/ok", None),
            "thread": lambda: ("GET", f"/threads/{self._thread()}", None),
            "create a thread": lambda: (
                "POST",
                "/threads",
                {"metadata": {"user_id": self._user()}},
            ),
            "update a thread": lambda: (
                "PATCH",
                f"/threads/{self._thread()}",
                {"metadata": {"title": "x"}},
            ),
            "delete a thread": lambda: ("DELETE", f"/threads/{self._thread_ids.pop()}", None),
            "search": lambda: self._search(),
            "search, no values": lambda: self._search(select=["thread_id", "metadata"]),
            "search by user": lambda: self._search(metadata={"user_id": self._user()}),
            "search by graph": lambda: self._search(metadata={"graph_id": "echo"}),
            "search by what is old": lambda: self._search(metadata={"project": "old"}),
            "search by number": lambda: self._search(metadata={"number": self._number()}),
            "search by status": lambda: self._search(status="error"),
            "search by rare status": lambda: self._search(status="busy"),
            "search by ids": lambda: self._search(ids=self._rng.sample(self._thread_ids, 10)),
            "search at an offset": lambda: self._search(offset=self._rng.randrange(1000)),
            "search by created_at": lambda: self._search(sort_by="created_at"),
            "search by updated_at": lambda: self._search(sort_by="updated_at", sort_order="asc"),
            "search by state": lambda: self._search(sort_by="state_updated_at"),
            "search by thread_id": lambda: self._search(sort_by="thread_id"),
            "search in status order": lambda: self._search(sort_by="status", sort_order="asc"),
            "count": lambda: ("POST", "/threads/count", {}),
            "count by user": lambda: (
                "POST",
                "/threads/count",
                {"metadata": {"user_id": self._user()}},
            ),
            "sessions": lambda: ("GET", "/api/sessions", None),
            "sessions, archived": lambda: ("GET", "/api/sessions?status=archived", None),
            "sessions of a kind": lambda: ("GET", "/api/sessions?chat_type=support", None),
            "sessions of a user": lambda: ("GET", f"/api/sessions?user_id={self._user()}", None),
            "sessions of a big user": lambda: ("GET", "/api/sessions?user_id=user-0", None),
            "archived of a big user": lambda: (
                "GET",
                "/api/sessions?user_id=user-0&status=archived",
                None,
            ),
            "sessions, deleted": lambda: ("GET", "/api/sessions?status=deleted", None),
            "sessions, pinned": lambda: ("GET", "/api/sessions?pinned=true", None),
            "sessions, page 2": lambda: ("GET", f"/api/sessions?cursor={_place()}", None),
            "sessions by creation": lambda: ("GET", "/api/sessions?sort=-create_time", None),
            "sessions in a folder": lambda: ("GET", "/api/sessions?folder=folder-3", None),
            "sessions of a tag": lambda: ("GET", "/api/sessions?tag=tag-3", None),
            "sessions of a rare tag": lambda: (
                "GET",
                f"/api/sessions?tag=rare-{self._number() % 20011}",
                None,
            ),
            "tag of a big user": lambda: ("GET", "/api/sessions?user_id=user-0&tag=tag-3", None),
            "counts of a user": lambda: (
                "GET",
                f"/api/sessions?user_id={self._user()}&counts=true",
                None,
            ),
            "messages": lambda: ("GET", f"/api/sessions/{self._thread()}/messages", None),
            "messages, newest first": lambda: (
                "GET",
                f"/api/sessions/{self._thread()}/messages?order=desc&limit=20",
                None,
            ),
        }

    def _search(self, **asked: Any) -> Request:
        return "POST", "/threads/search", asked

    def _thread(self) -> str:
        return self._rng.choice(self._thread_ids)

    def _user(self) -> str:
        return f"user-{self._rng.randint(1, 5003)}"

    def _number(self) -> int:
        return self._rng.randrange(THREADS)


def _place() -> str:
    """In a list of sessions, among those that are not pinned, some way down."""
    at = datetime.now(UTC) - timedelta(minutes=3000)
    return encode_cursor(False, at, "f")


@pytest.mark.bench
def test_lists_of_many_threads_are_read_by_an_index_and_fast(tmp_path: Path) -> None:
    config = project(tmp_path)
    with embedded_servers(tmp_path, durable=False) as servers:
        variables = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
        with serving(config, variables) as server:
            fill(servers.database_url, _template(server.url), threads=THREADS, messages=MESSAGES)
            requests = Requests(_thread_ids(servers.database_url))
            processes = [psutil.Process(server.process.pid), postmaster(tmp_path)]
            taken, cpu = asyncio.run(_measure(server.url, requests, processes))
        log = tmp_path / "postgres/run/server.log"
        began = log.stat().st_size
        explained = f"{servers.database_url}&options={quote(EXPLAINED)}"
        with serving(config, {**variables, "DATABASE_URL": explained}) as server:
            # Often enough for plans that are made for no parameters in particular.
            asyncio.run(_ask(server.url, requests, count=12))
        with log.open("rb") as lines:
            lines.seek(began)
            found = plans(lines.read().decode())

    _report(taken, cpu)
    whole = [plan for plan in found if re.search(BIG, plan)]
    assert len(found) > 12 * len(requests.kinds)
    assert not whole, whole[0]
    assert not [name for name, spent in cpu.items() if spent > CPU_MS]
    if is_quiet():
        assert not [name for name, rounds in taken.items() if _p99(rounds) > P99_MS]


def _template(url: str) -> str:
    """A thread on which a real run has left as many messages as all others are to have."""
    said = [
        {"role": "assistant" if number % 2 else "user", "content": f"{number} of some words" * 8}
        for number in range(MESSAGES - 1)
    ]
    thread_id = str(uuid.uuid4())
    body = {"assistant_id": "echo", "input": {"messages": said}, "if_not_exists": "create"}
    answer = httpx.post(f"{url}/threads/{thread_id}/runs/wait", json=body, timeout=60)
    assert len(answer.json()["messages"]) == MESSAGES
    return thread_id


def _thread_ids(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT thread_id FROM thread WHERE session_is_there(metadata, expires_at) "
            "ORDER BY md5(thread_id) LIMIT 5000"
        )
        return [thread_id for (thread_id,) in rows]


async def _measure(
    url: str, requests: Requests, processes: Sequence[psutil.Process]
) -> tuple[dict[str, list[list[float]]], dict[str, float]]:
    """
    How many milliseconds each request took, by kind and round; what one cost in CPU, by kind.

    Args:
        processes: Whose CPU it is.
    """
    taken: dict[str, list[list[float]]] = {name: [] for name in requests.kinds}
    cpu: dict[str, list[float]] = {name: [] for name in requests.kinds}
    await _ask(url, requests, count=10)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for _ in range(ROUNDS):
            for name, make in requests.kinds.items():
                before = cpu_seconds(processes)
                taken[name].append([await _time(http, make()) for _ in range(REQUESTS)])
                cpu[name].append(1000 * (cpu_seconds(processes) - before) / REQUESTS)
    return taken, {name: statistics.median(rounds) for name, rounds in cpu.items()}


async def _ask(url: str, requests: Requests, *, count: int) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for _ in range(count):
            for make in requests.kinds.values():
                await _time(http, make())


async def _time(http: httpx.AsyncClient, request: Request) -> float:
    method, path, body = request
    began = time.perf_counter()
    answer = await http.request(method, path, json=body)
    taken = 1000 * (time.perf_counter() - began)
    assert answer.is_success, (path, answer.text)
    return taken


def plans(log: str) -> list[str]:
    """What auto_explain has written: a plan is a line and those indented below it."""
    return re.findall(r"duration: [\d.]+ ms  plan:\n(?:\t.*\n)+", log)


def _p99(rounds: list[list[float]]) -> float:
    """That of the quietest round."""
    return min(quantile(of_round, 0.99) for of_round in rounds)


def _report(taken: dict[str, list[list[float]]], cpu: dict[str, float]) -> None:
    print(f"\n{THREADS} threads, {THREADS * MESSAGES} messages, {load()}")
    print(f"{'ms':<26}{'CPU':>8}{'p50':>8}{'p99':>8}{'p99 of each round':>30}")
    for name, rounds in taken.items():
        p50 = quantile([each for of_round in rounds for each in of_round], 0.5)
        each_p99 = "".join(f"{quantile(of_round, 0.99):>10.1f}" for of_round in rounds)
        print(f"{name:<26}{cpu[name]:>8.1f}{p50:>8.1f}{_p99(rounds):>8.1f}{each_p99}")
