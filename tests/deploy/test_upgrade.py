"""Processes of the version before and of this one, on one database, under load: nobody notices."""

import asyncio
import os
import random
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from langgraph_sdk import get_client

from api.processes.embedded import Servers
from tests.acceptance.conftest import QUICK, empty_database
from tests.acceptance.process import ROOT, ServerProcess, environment
from tests.deploy.conftest import build, install, run, serving

#: How many landings the version before is older than this one, at least; and another schema is its own.
LANDINGS = 10
CLIENTS = 3
#: Of each client, before the next process is replaced.
TURNS = 2
PHASE_SECONDS = 240.0
CONFIG = ROOT / "deploy/langgraph.json"
HELLO: Any = {"messages": [{"role": "user", "content": "hello"}]}


def migrations(commit: str) -> set[str]:
    return set(run("git", "ls-tree", "--name-only", f"{commit}:store/migrations").split())


def is_older(commit: str) -> bool:
    """Whether this version has migrations to do on the schema of a commit."""
    now = {path.name for path in (ROOT / "store/migrations").glob("*.sql")}
    return {name for name in migrations(commit) if name.endswith(".sql")} < now


def commit_before() -> str:
    """The newest landing, LANDINGS back or more, on whose schema this one has migrations to do."""
    if named := os.environ.get("UPGRADE_FROM"):
        return named
    landings = run("git", "rev-list", "--first-parent", "HEAD").split()
    for commit in islice(landings, LANDINGS, None):
        if is_older(commit):
            return commit
    pytest.skip("a shallow clone: it has no version before this one")


@pytest.fixture(scope="module")
def programs_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console command of the version before."""
    source, made = (tmp_path_factory.mktemp(name) for name in ("before", "wheel-before"))
    packed = subprocess.run(
        ["git", "archive", commit_before()], cwd=ROOT, capture_output=True, check=True
    )
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(source, filter="data")
    return install(build(source, made, "wheel"), tmp_path_factory.mktemp("installed-before"))


@dataclass
class Load:
    """What clients ask of servers, whichever is up; nothing that they were told may be lost."""

    urls: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    runs: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    async def phase(self, seed: int) -> None:
        """Some turns of every client, all at once."""
        async with asyncio.timeout(PHASE_SECONDS):
            await asyncio.gather(*(self._turns(f"{seed} {n}") for n in range(CLIENTS)))

    async def _turns(self, seed: str) -> None:
        chosen = random.Random(seed)
        for _ in range(TURNS):
            for what in (self._stream, self._background, self._session):
                urls = chosen.choice(self.urls), chosen.choice(self.urls)
                try:
                    await what(*urls)
                    self.done[what.__name__] += 1
                except Exception as exc:  # noqa: BLE001 - told in the end
                    self.wrong.append(f"{what.__name__} by {urls}: {exc!r}")

    async def _stream(self, url: str, other: str) -> None:
        """Two turns of one thread, by two processes."""
        thread_id = ""
        for at in (url, other):
            async with get_client(url=at) as client:
                thread_id = thread_id or (await client.threads.create())["thread_id"]
                parts = [
                    part
                    async for part in client.runs.stream(
                        thread_id, "agent", input=HELLO, stream_mode=["values", "messages-tuple"]
                    )
                ]
                events = {part.event for part in parts}
                assert {"metadata", "messages", "values"} <= events, events
                assert "error" not in events
                self.runs[parts[0].data["run_id"]] = thread_id
        async with get_client(url=url) as client:
            state: Any = await client.threads.get_state(thread_id)
        assert len(state["values"]["messages"]) == 4, state["values"]

    async def _background(self, url: str, other: str) -> None:
        """Asked for at one process, waited for at another."""
        async with get_client(url=url) as client:
            thread = await client.threads.create()
            asked = await client.runs.create(thread["thread_id"], "agent", input=HELLO)
            self.runs[asked["run_id"]] = thread["thread_id"]
        async with get_client(url=other) as client:
            values: Any = await client.runs.join(thread["thread_id"], asked["run_id"])
        assert len(values["messages"]) == 2, values

    async def _session(self, url: str, other: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            session = (await http.post("/api/sessions", json={"name": "upgrade"})).json()["id"]
            said = await http.post(f"/api/sessions/{session}/messages", json={"query": "hello"})
            assert said.status_code == 200, said.text
        async with httpx.AsyncClient(base_url=other, timeout=60) as http:
            page = await http.get(f"/api/sessions/{session}/messages")
            assert len(page.json()["data"]) == 2, page.text
            for path in ("/api/sessions", "/api/search?q=hello", "/metrics", "/info", "/ok"):
                answer = await http.get(path)
                assert answer.status_code == 200, f"{path}: {answer.text}"


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    with empty_database(servers) as url:
        yield url


async def test_processes_are_replaced_one_by_one_and_nobody_notices(
    programs: Path, programs_before: Path, servers: Servers, database: str, tmp_path: Path
) -> None:
    config = Path(shutil.copy(CONFIG, tmp_path))
    variables = {**QUICK, "DATABASE_URL": database, "REDIS_URL": servers.redis_url}
    load = Load()
    with ExitStack() as before, ExitStack() as after:

        def start(programs: Path, stack: ExitStack) -> ServerProcess:
            return stack.enter_context(serving(programs, config, variables))

        old = [await asyncio.to_thread(start, programs_before, before) for _ in range(2)]
        load.urls += [server.url for server in old]
        await load.phase(1)
        schema_before = _schema(database)

        # The first process of the new version migrates under the load of the old ones.
        loading = asyncio.create_task(load.phase(2))
        new = [await asyncio.to_thread(start, programs, after)]
        await loading
        assert (len(_schema(database)) > len(schema_before)) == is_older(commit_before())

        # All of them together: what one begins another goes on with.
        load.urls.append(new[0].url)
        await load.phase(3)

        # As a load balancer does: no request to who is about to leave, whose runs end or are handed on.
        for server in old:
            load.urls.remove(server.url)
            loading = asyncio.create_task(load.phase(4))
            assert await asyncio.to_thread(server.stop) in (0, -15, 143)
            await loading
        new.append(await asyncio.to_thread(start, programs, after))
        load.urls.append(new[1].url)
        await load.phase(5)

        assert load.wrong == [], "\n".join([*load.wrong, *(one.log for one in (*old, *new))])
        assert sum(load.done.values()) == 3 * TURNS * CLIENTS * 6
        logs = "".join(one.log for one in (*old, *new))
        assert "Traceback" not in logs, logs
    _verify(programs, config, variables, load)


def _schema(database: str) -> list[int]:
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT version FROM schema_migration ORDER BY 1").fetchall()
    return [version for (version,) in rows]


def _verify(programs: Path, config: Path, variables: dict[str, str], load: Load) -> None:
    """Every run that was acknowledged is there and a success, and everything holds."""
    with psycopg.connect(variables["DATABASE_URL"]) as connection:
        rows = connection.execute("SELECT run_id::text, status FROM run").fetchall()
    assert {run_id: status for run_id, status in rows if run_id in load.runs} == dict.fromkeys(
        load.runs, "success"
    )
    checked = subprocess.run(
        [programs / "threadwell", "check", "--config", str(config)],
        env=environment(variables), capture_output=True, text=True, check=False, cwd=config.parent,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
