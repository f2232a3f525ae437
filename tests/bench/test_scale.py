"""
Lists, searches, pages and sums of a database of 100,000 sessions and 5 million messages, said in a year.

Every kind of request takes turns with all others, over HTTP, authenticated, one at a time; then PostgreSQL tells
by which plans it has answered them. `BENCH_DATA` names a directory where what is filled in stays for the next time
(that of test_search.py, which this makes a year of), `BENCH_THREADS` makes it smaller, `BENCH_REQUESTS` shorter.

How long a request takes says little on a machine that others use: there its CPU is judged.
"""

import asyncio
import json
import os
import random
import re
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import psutil
import psycopg
import pytest

from api.processes.embedded import embedded_servers
from api.schemas.sessions import encode_cursor
from store import tallies
from store.database import open_database
from store.migrate import migrate
from tests.acceptance.process import serving
from tests.api import auths
from tests.bench import words, year
from tests.bench.servers import (
    cpu_seconds,
    is_quiet,
    load,
    postmaster,
    project,
    quantile,
    size,
)

THREADS, MESSAGES = size("THREADS", 100_000), 50
REQUESTS, ROUNDS = size("REQUESTS", 100), 3
P99_MS, CPU_MS = 20.0, 15.0
#: A plan that reads the whole of a table that is large here; there are hardly any runs, blobs and writes.
BIG = r"Seq Scan on (thread|message|search_message|checkpoints)\b"
#: What looks at each session that there is, and how much CPU it may take: for 100,000 of them.
OF_ALL: Final = {
    "count": 100.0,
    "counts of all": 400.0,
    "counts of a big user": 250.0,
}
#: What compares names, and how much CPU it may take.
OF_NAMES: Final = dict.fromkeys(
    (
        "sessions by a name",
        "sessions by a name of a user",
        "sessions by a name of a big user",
        "sessions by a name that nobody has",
        "sessions by no name of a big user",
    ),
    50.0,
)
#: Analytics: how many days, and how much CPU they may take, in PostgreSQL and the server.
SUMS: Final = {"a day": (1, 600.0), "30 days": (30, 2500.0), "a year": (365, 10_000.0)}
#: Has a session log every statement with its plan as it was carried out: EXPLAIN (ANALYZE, BUFFERS).
EXPLAINED = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": "0",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_timing": "off",
        "auto_explain.log_buffers": "on",
    }.items()
)

#: Method, path, body, and who asks.
Request = tuple[str, str, dict[str, Any] | None, str]
#: Whoever sees everything; and a tenth of all sessions.
EVERYBODY, BIG_USER = "anybody", 'filter:{"user_id": "user-0"}'
#: A thread of very many messages.
LONG: Final = year.LONG


class Requests:
    """Requests of every kind, each for something else."""

    def __init__(self, thread_ids: list[str], of_big_user: list[str]) -> None:
        self._thread_ids = thread_ids
        self._of_big_user = of_big_user
        self._rng = random.Random(1)

    @property
    def kinds(self) -> dict[str, Callable[[], Request]]:
        """What is measured, by its name."""
        return {**self._of_threads(), **self._of_sessions(), **self._of_messages()}

    @property
    def sums(self) -> dict[str, Request]:
        """Analytics, by their names."""
        now = datetime.now(UTC)
        return {
            f"{length} {who}, by {group_by}": _get(
                f"/api/stats?group_by={group_by}&from={now - timedelta(days=days):%Y-%m-%d}", token
            )
            for length, (days, _) in SUMS.items()
            for who, token, groups in (
                ("of everybody", EVERYBODY, ("day", "user", "model", "chat_type")),
                ("of a big user", BIG_USER, ("day",)),
                ("of a user", self._me(), ("day",)),
            )
            for group_by in groups
        }

    def _of_threads(self) -> dict[str, Callable[[], Request]]:
        return {
            "nothing": lambda: _get("/ok"),
            "thread": lambda: _get(f"/threads/{self._thread()}"),
            "thread of one's own": lambda: _get(f"/threads/{self._mine()}", BIG_USER),
            "create a thread": lambda: _post("/threads", {"metadata": {"user_id": self._user()}}),
            "update a thread": lambda: (
                "PATCH", f"/threads/{self._thread()}", {"metadata": {"title": "x"}}, EVERYBODY,
            ),
            "delete a thread": lambda: (
                "DELETE", f"/threads/{self._thread_ids.pop()}", None, EVERYBODY,
            ),
            "search": lambda: _search(),
            "search, no values": lambda: _search(select=["thread_id", "metadata"]),
            "search by user": lambda: _search(metadata={"user_id": self._user()}),
            "search of a user": lambda: _search(self._me()),
            "search of a big user": lambda: _search(BIG_USER),
            "search by graph": lambda: _search(metadata={"graph_id": "echo"}),
            "search by what is old": lambda: _search(metadata={"project": "old"}),
            "search by number": lambda: _search(metadata={"number": self._number()}),
            "search by two of them": lambda: _search(
                metadata={"chat_type": "support", "project": f"project-{self._number() % 40}"}
            ),
            "search by what is not": lambda: _search(metadata={"project": "none"}),
            "search by status": lambda: _search(status="error"),
            "search by rare status": lambda: _search(status="busy"),
            "search by ids": lambda: _search(ids=self._rng.sample(self._thread_ids, 10)),
            "search at an offset": lambda: _search(offset=self._rng.randrange(1000)),
            "search by created_at": lambda: _search(sort_by="created_at"),
            "search by updated_at": lambda: _search(sort_by="updated_at", sort_order="asc"),
            "search by state": lambda: _search(sort_by="state_updated_at"),
            "search by thread_id": lambda: _search(sort_by="thread_id"),
            "search in status order": lambda: _search(sort_by="status", sort_order="asc"),
            "count": lambda: _post("/threads/count", {}),
            "count by user": lambda: _post("/threads/count", {"metadata": {"user_id": self._user()}}),
            "history of a thread": lambda: _get(f"/threads/{self._thread()}/history?limit=5"),
            "state of a thread": lambda: _get(f"/threads/{self._thread()}/state"),
        }  # fmt: skip

    def _of_sessions(self) -> dict[str, Callable[[], Request]]:
        return {
            "session": lambda: _get(f"/api/sessions/{self._thread()}"),
            "sessions": lambda: _sessions(),
            "sessions of a user": lambda: _sessions("", self._me()),
            "sessions of a big user": lambda: _sessions("", BIG_USER),
            "sessions by user": lambda: _sessions(f"user_id={self._user()}"),
            "sessions, archived": lambda: _sessions("status=archived"),
            "sessions, archived, of a big user": lambda: _sessions("status=archived", BIG_USER),
            "sessions, deleted": lambda: _sessions("status=deleted"),
            "sessions, all": lambda: _sessions("status=all"),
            "sessions, pinned": lambda: _sessions("pinned=true"),
            "sessions, pinned, of a big user": lambda: _sessions("pinned=true", BIG_USER),
            "sessions, not pinned": lambda: _sessions("pinned=false"),
            "sessions of a kind": lambda: _sessions("chat_type=support"),
            "sessions of a kind of a big user": lambda: _sessions("chat_type=support", BIG_USER),
            "sessions, page 2": lambda: _sessions(f"cursor={_place()}"),
            "sessions by creation": lambda: _sessions("sort=-create_time"),
            "sessions, oldest first": lambda: _sessions("sort=create_time"),
            "sessions, untouched first": lambda: _sessions("sort=update_time"),
            "sessions by creation of a big user": lambda: _sessions("sort=-create_time", BIG_USER),
            "sessions in a folder": lambda: _sessions("folder=folder-3"),
            "sessions in a folder of a big user": lambda: _sessions("folder=folder-3", BIG_USER),
            "sessions in no folder": lambda: _sessions("folder=none"),
            "sessions of a tag": lambda: _sessions("tag=tag-3"),
            "sessions of a rare tag": lambda: _sessions(f"tag=rare-{self._number() % 20011}"),
            "sessions of two tags": lambda: _sessions(f"tag=tag-3&tag=rare-{self._number() % 20011}"),
            "sessions of a tag of a big user": lambda: _sessions("tag=tag-3", BIG_USER),
            "sessions shared with a user": lambda: _sessions("shared=true", self._user()),
            "sessions not shared with a user": lambda: _sessions("shared=false", self._me()),
            "sessions by a name": lambda: _sessions(f"q=conversation {self._number()}"),
            "sessions by a name of a user": lambda: _sessions("q=conversation", self._me()),
            "sessions by a name of a big user": lambda: _sessions("q=conversation", BIG_USER),
            "sessions by a name that nobody has": lambda: _sessions("q=zzzyyyxxx"),
            "sessions by no name of a big user": lambda: _sessions("q=zzzyyyxxx", BIG_USER),
            "counts of all": lambda: _sessions("counts=true&limit=1"),
            "counts of a big user": lambda: _sessions("counts=true&limit=1", BIG_USER),
            "counts of a user": lambda: _sessions("counts=true&limit=1", self._me()),
        }  # fmt: skip

    def _of_messages(self) -> dict[str, Callable[[], Request]]:
        return {
            "messages": lambda: _messages(self._thread()),
            "messages, newest first": lambda: _messages(self._thread(), "order=desc&limit=20"),
            "messages, the whole tree": lambda: _messages(self._thread(), "branch=all&limit=100"),
            "messages of one's own": lambda: _messages(self._mine(), "limit=20", BIG_USER),
            "messages, deep in a long thread": lambda: _messages(LONG, self._deep()),
            "messages, deep, newest first": lambda: _messages(LONG, f"{self._deep()}&order=desc"),
            "messages, the tree of a long thread": lambda: _messages(
                LONG, f"{self._deep()}&branch=all"
            ),
        }

    def _thread(self) -> str:
        return self._rng.choice(self._thread_ids)

    def _mine(self) -> str:
        return self._rng.choice(self._of_big_user)

    def _deep(self) -> str:
        return (
            f"limit=50&cursor={encode_cursor(self._rng.randrange(100, year.LONG_MESSAGES - 100))}"
        )

    def _user(self) -> str:
        return f"user-{self._rng.randint(1, 5003)}"

    def _me(self) -> str:
        """Somebody with twenty sessions."""
        return f'filter:{{"user_id": "{self._user()}"}}'

    def _number(self) -> int:
        return self._rng.randrange(THREADS)


def _get(path: str, token: str = EVERYBODY) -> Request:
    return "GET", path, None, token


def _post(path: str, body: dict[str, Any], token: str = EVERYBODY) -> Request:
    return "POST", path, body, token


def _search(token: str = EVERYBODY, **asked: Any) -> Request:
    return _post("/threads/search", asked, token)


def _sessions(query: str = "", token: str = EVERYBODY) -> Request:
    return _get(f"/api/sessions?{query}", token)


def _messages(thread_id: str, query: str = "", token: str = EVERYBODY) -> Request:
    return _get(f"/api/sessions/{thread_id}/messages?{query}", token)


def _place() -> str:
    """In a list of sessions, among those that are not pinned, some way down."""
    at = datetime.now(UTC) - timedelta(days=30)
    return encode_cursor(False, at, "f")


@pytest.mark.bench
def test_lists_pages_and_sums_of_a_year_are_read_by_an_index_and_fast(tmp_path: Path) -> None:
    data = Path(os.environ.get("BENCH_DATA", tmp_path))
    config = _project(tmp_path)
    with embedded_servers(data, durable=False) as servers:
        url = servers.database_url
        variables = {"DATABASE_URL": url, "REDIS_URL": servers.redis_url}
        _fill(config, variables)
        requests = Requests(*_thread_ids(url))
        with serving(config, variables) as server:
            processes = [psutil.Process(server.process.pid), postmaster(data)]
            taken, cpu = asyncio.run(_measure(server.url, requests, processes))
            _report(taken, cpu)
            sums = asyncio.run(_measure_sums(server.url, requests, processes))
        log = data / "postgres/run/server.log"
        began = log.stat().st_size
        with serving(
            config, {**variables, "DATABASE_URL": f"{url}&options={quote(EXPLAINED)}"}
        ) as server:
            # Often enough for plans that are made for no parameters in particular.
            found = asyncio.run(_explain(server.url, requests, log, began, count=12))

    _report_sums(sums)
    for name, plans_of in found.items():
        print(f"{name:<42}{len(plans_of):>5} plans  {_by(plans_of)}")
    whole = {
        name: plan
        for name, plans_of in found.items()
        for plan in plans_of
        if re.search(BIG, plan) and name not in OF_ALL
    }
    assert not whole, next(iter(whole.items()))
    bounds = {**dict.fromkeys(cpu, CPU_MS), **OF_NAMES, **OF_ALL}
    assert not [(name, spent) for name, spent in cpu.items() if spent > bounds[name]]
    for length, (_, most) in SUMS.items():
        assert not [
            (name, ms) for name, (ms, _) in sums.items() if name.startswith(length) and ms > most
        ]
    if is_quiet():
        slow = {name: _p99(rounds) for name, rounds in taken.items() if name not in OF_ALL}
        # Twice the target: one pause of the machine is a p99 here.
        assert not [(name, p99) for name, p99 in slow.items() if p99 > 2 * P99_MS]


def _project(directory: Path) -> Path:
    config = project(directory)
    named = json.loads(config.read_text())
    config.write_text(json.dumps({**named, "auth": {"path": f"{auths.__file__}:auth"}}))
    return config


def _fill(config: Path, variables: dict[str, str]) -> None:
    url = variables["DATABASE_URL"]
    asyncio.run(migrate(url))
    with psycopg.connect(url) as connection:
        has = connection.execute("SELECT EXISTS (SELECT FROM search_message)").fetchone()
    if not (has and has[0]):
        words.fill(url, threads=THREADS, messages=MESSAGES)
    if not year.is_filled(url):
        with serving(config, variables) as server:
            template = _template(server.url)
        year.fill(url, template)
    seconds, count = asyncio.run(_count(url))
    print(f"\ncounted for analytics in {seconds:.0f} s: {count} parts")


async def _count(database_url: str) -> tuple[float, int]:
    began, parts = time.monotonic(), 0
    async with open_database(database_url) as db:
        while await tallies.count_settled(db):
            parts += 1
    return time.monotonic() - began, parts


def _template(url: str) -> str:
    """A thread on which a real run has left as many messages as all others have."""
    said = [
        {"role": "assistant" if number % 2 else "user", "content": f"{number} of some words" * 8}
        for number in range(MESSAGES - 1)
    ]
    thread_id = str(uuid.uuid4())
    body = {"assistant_id": "echo", "input": {"messages": said}, "if_not_exists": "create"}
    answer = httpx.post(
        f"{url}/threads/{thread_id}/runs/wait",
        json=body,
        headers={"authorization": f"Bearer {EVERYBODY}"},
        timeout=60,
    )
    assert len(answer.json()["messages"]) == MESSAGES
    return thread_id


def _thread_ids(database_url: str) -> tuple[list[str], list[str]]:
    """Sessions that are there: some of all, and some of the big user's."""
    with psycopg.connect(database_url) as connection:
        found = [
            connection.execute(
                "SELECT thread_id FROM thread WHERE session_is_there(metadata, expires_at)"
                " AND (metadata ->> 'user_id' <> 'user-0') = %s AND message_count = %s"
                " ORDER BY md5(thread_id) LIMIT 5000",
                (is_all, MESSAGES),
            ).fetchall()
            for is_all in (True, False)
        ]
    return [id_ for (id_,) in found[0]], [id_ for (id_,) in found[1]]


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
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for make in requests.kinds.values():
            for _ in range(10):
                await _time(http, make())
        for _ in range(ROUNDS):
            for name, make in requests.kinds.items():
                before = cpu_seconds(processes)
                count = REQUESTS if name not in OF_ALL else max(1, REQUESTS // 10)
                taken[name].append([await _time(http, make()) for _ in range(count)])
                cpu[name].append(1000 * (cpu_seconds(processes) - before) / count)
    return taken, {name: statistics.median(rounds) for name, rounds in cpu.items()}


async def _measure_sums(
    url: str, requests: Requests, processes: Sequence[psutil.Process]
) -> dict[str, tuple[float, float]]:
    """Of each question to analytics what it cost in CPU, and how long it took: the better of some."""
    found = {}
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        for name, request in requests.sums.items():
            tried = []
            for _ in range(2 if is_quiet() else 1):
                before = cpu_seconds(processes)
                began = time.perf_counter()
                answer = await http.get(
                    request[1], headers={"authorization": f"Bearer {request[3]}"}
                )
                # On a machine that others keep busy a statement may end before it is done.
                assert answer.is_success or answer.status_code == 503, answer.text
                took = 1000 * (time.perf_counter() - began) if answer.is_success else float("inf")
                tried.append((1000 * (cpu_seconds(processes) - before), took))
            found[name] = min(tried)
    return found


async def _explain(
    url: str, requests: Requests, log: Path, began: int, *, count: int
) -> dict[str, list[str]]:
    """By which plans each kind of request was answered."""
    found = {}
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        for name, make in requests.kinds.items():
            for _ in range(count):
                await _time(http, make())
            with log.open("rb") as lines:
                lines.seek(began)
                written = lines.read()
            began += len(written)
            # What processes do beside requests is in there too.
            found[name] = [plan for plan in plans(written.decode()) if "tally" not in plan]
    return found


async def _time(http: httpx.AsyncClient, request: Request) -> float:
    method, path, body, token = request
    began = time.perf_counter()
    answer = await http.request(
        method, path, json=body, headers={"authorization": f"Bearer {token}"}
    )
    taken = 1000 * (time.perf_counter() - began)
    assert answer.is_success, (path, answer.text)
    return taken


def plans(log: str) -> list[str]:
    """What auto_explain has written: a plan is a line and those indented below it."""
    return re.findall(r"duration: [\d.]+ ms  plan:\n(?:\t.*\n)+", log)


def _by(found: Sequence[str]) -> str:
    """Which indexes of threads and messages plans go by, and what they read the whole of."""
    by = {
        name
        for plan in found
        for name in re.findall(r"(?:using|Index Scan on|Seq Scan on) (\w+)", plan)
        if name.startswith(("thread", "message", "search", "checkpoint", "run", "feedback"))
    }
    return ", ".join(sorted(by))


def _p99(rounds: list[list[float]]) -> float:
    """That of the quietest round."""
    return min(quantile(of_round, 0.99) for of_round in rounds)


def _report(taken: dict[str, list[list[float]]], cpu: dict[str, float]) -> None:
    print(f"\n{THREADS} threads, {THREADS * MESSAGES} messages, {load()}")
    print(f"{'ms':<42}{'CPU':>8}{'p50':>8}{'p99':>8}{'p99 of each round':>30}")
    for name, rounds in taken.items():
        p50 = quantile([each for of_round in rounds for each in of_round], 0.5)
        each_p99 = "".join(f"{quantile(of_round, 0.99):>10.1f}" for of_round in rounds)
        print(f"{name:<42}{cpu[name]:>8.1f}{p50:>8.1f}{_p99(rounds):>8.1f}{each_p99}")


def _report_sums(sums: dict[str, tuple[float, float]]) -> None:
    print(f"\n{'analytics, ms':<42}{'CPU':>8}{'took':>8}")
    for name, (spent, took) in sums.items():
        print(f"{name:<42}{spent:>8.0f}{took:>8.0f}")
