"""`threadwell serve --workers`: processes that share a port, and what becomes of them."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from api.processes.embedded import Servers
from api.processes.supervisor import listen
from tests.acceptance.conftest import empty_database
from tests.acceptance.gate import Gate
from tests.acceptance.process import READY, STOP_SECONDS, ServerProcess, serving, starting
from tests.acceptance.sse import follow
from tests.bench.servers import working
from tests.faults.cluster import QUICK
from tests.faults.runs import attempts, begin_here, ended, steps, until

#: After so many connections each of two processes has had one, as good as certainly.
CONNECTIONS = 40


class Ledger:
    """What PostgreSQL knows of the processes."""

    def __init__(self, url: str) -> None:
        self._url = url

    def workers(self) -> set[int]:
        """The processes that are on the list, dead ones included that nobody missed yet."""
        return {pid for (pid,) in self._rows("SELECT pid FROM worker")}

    def owner(self, run_id: str) -> int | None:
        """The process that executes a run."""
        query = "SELECT pid FROM worker JOIN run USING (worker_id) WHERE run_id = %s"
        return next((pid for (pid,) in self._rows(query, run_id)), None)

    def status(self, run_id: str) -> str:
        [(status,)] = self._rows("SELECT status FROM run WHERE run_id = %s", run_id)
        return str(status)

    def _rows(self, query: str, *parameters: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            return connection.execute(query.encode(), parameters).fetchall()


@pytest.fixture(scope="module")
def variables(servers: Servers) -> Iterator[dict[str, str]]:
    with empty_database(servers) as url:
        urls = {"DATABASE_URL": url, "REDIS_URL": servers.redis_url}
        yield {**QUICK, **urls, "THREADWELL_WORKERS": "2"}


@pytest.fixture
def ledger(variables: dict[str, str]) -> Ledger:
    return Ledger(variables["DATABASE_URL"])


@pytest.fixture(scope="module")
def lives(variables: dict[str, str], project: Path) -> Iterator[Callable[[], ServerProcess]]:
    """A server of two processes that is up: the one before, unless that is gone."""
    with ExitStack() as stack:
        started: list[ServerProcess] = []

        def revive() -> ServerProcess:
            if not started or started[-1].process.poll() is not None:
                started.append(stack.enter_context(serving(project, variables)))
            return started[-1]

        yield revive


@pytest.fixture
def pair(lives: Callable[[], ServerProcess]) -> Iterator[ServerProcess]:
    """A server of two processes; what it logs meanwhile is shown if the test fails."""
    server = lives()
    printed = len(server.lines)
    yield server
    print(*server.lines[printed:], sep="")  # noqa: T201


@pytest.fixture
async def http(pair: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the two."""
    async with new_client(pair) as http:
        yield http


def new_client(server: ServerProcess) -> httpx.AsyncClient:
    """A client that opens a connection for each request."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=server.url, timeout=30, limits=limits)


def children(server: ServerProcess, ledger: Ledger) -> set[int]:
    """The server processes that its supervisor keeps."""
    return ledger.workers() & {child.pid for child in psutil.Process(server.process.pid).children()}


async def begin_held(http: httpx.AsyncClient, gate: Gate) -> tuple[str, str]:
    """Start a run that stays where it is, in its second step."""
    gate.hold("job:b")
    ids = await begin_here(http, steps(gate, "job"))
    await gate.arrived("job:b")
    return ids


async def test_two_processes_share_a_port_and_both_answer_and_execute_runs(
    pair: ServerProcess, http: httpx.AsyncClient, ledger: Ledger, gate: Gate
) -> None:
    both = children(pair, ledger)
    assert len(both) == 2
    gate.hold("job:a")
    # A streamed run begins where its connection is.
    runs = [await begin_here(http, steps(gate, "job")) for _ in range(CONNECTIONS)]
    assert {ledger.owner(run_id) for _, run_id in runs} == both
    gate.release("job:a")

    for thread_id, run_id in runs:
        _, row = await ended(http, thread_id, run_id)
        assert row["status"] == "success"
    assert pair.log.count(READY) == 1
    assert all(f"pid={pid}" in pair.log for pid in both)


async def test_a_killed_process_is_replaced_its_run_resumes_and_no_connection_is_refused(
    pair: ServerProcess, http: httpx.AsyncClient, ledger: Ledger, gate: Gate
) -> None:
    thread_id, run_id = await begin_held(http, gate)
    victim = ledger.owner(run_id)
    assert victim in children(pair, ledger)

    os.kill(victim, signal.SIGKILL)
    for _ in range(CONNECTIONS):
        assert (await http.get("/ok")).status_code == 200
    await gate.arrived("job:b", times=2)
    gate.release("job:b")

    output, row = await ended(http, thread_id, run_id)
    assert output["log"] == ["job:a", "job:b", "job:c"]
    assert row["status"] == "success"
    await until(lambda: len(children(pair, ledger)) == 2)
    assert victim not in children(pair, ledger)


@pytest.mark.parametrize("ctrl_c", [False, True])
async def test_sigterm_and_ctrl_c_end_every_process_and_hand_runs_over(
    ctrl_c: bool, pair: ServerProcess, http: httpx.AsyncClient, ledger: Ledger, gate: Gate
) -> None:
    both = children(pair, ledger)
    _, run_id = await begin_held(http, gate)

    if ctrl_c:
        # A terminal tells all of them.
        os.killpg(pair.process.pid, signal.SIGINT)
    else:
        pair.process.terminate()

    assert pair.wait() == 0
    assert not any(psutil.pid_exists(pid) for pid in both)
    assert ledger.status(run_id) == "pending"
    assert ledger.workers() == set()
    assert "KeyboardInterrupt" not in pair.log


async def test_processes_whose_supervisor_is_killed_hand_their_runs_over_and_leave(
    pair: ServerProcess, http: httpx.AsyncClient, ledger: Ledger, gate: Gate
) -> None:
    both = [psutil.Process(pid) for pid in children(pair, ledger)]
    _, run_id = await begin_held(http, gate)

    pair.stop(signal.SIGKILL)

    _, alive = psutil.wait_procs(both, timeout=STOP_SECONDS)
    assert alive == []
    assert ledger.status(run_id) == "pending"
    assert ledger.workers() == set()


async def test_a_server_of_no_workers_streams_what_a_worker_executes(
    variables: dict[str, str], project: Path, ledger: Ledger, gate: Gate
) -> None:
    with serving(project, {**variables, "THREADWELL_WORKERS": "0"}) as server:
        async with new_client(server) as http:
            thread_id, run_id = await begin_here(http, steps(gate, "job"))
            stream = await follow(http, f"/threads/{thread_id}/runs/{run_id}/stream")
            [assistant] = (await http.post("/assistants/search", json={"graph_id": "chat"})).json()
            schemas = await http.get(f"/assistants/{assistant['assistant_id']}/schemas")
            assert "messages" in schemas.json()["input_schema"]["properties"]
            assert (ledger.status(run_id), gate.seen) == ("pending", [])

            with working(project, variables) as worker:
                received = await stream
                assert attempts(received) == [1]
                assert received[-1].data["log"] == ["job:a", "job:b", "job:c"]
                assert ledger.workers() == {server.process.pid, worker.process.pid}
            state = f"/threads/{thread_id}/state"
            changed = await http.post(state, json={"values": {"name": "changed"}})
            assert changed.status_code == 200
            assert (await http.get(state)).json()["values"]["name"] == "changed"


def test_a_server_whose_processes_cannot_start_ends_and_says_why(
    variables: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "langgraph.json"
    config.write_text('{"graphs": 1}')
    with starting(config, variables) as server:
        assert server.wait() == 1
    assert "threadwell: " in server.log
    assert READY not in server.log


def test_a_port_that_somebody_else_shares_out_is_refused() -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(one) for one in listen("127.0.0.1", 0, 2)]
        port = listeners[0].getsockname()[1]
        assert {one.getsockname() for one in listeners} == {("127.0.0.1", port)}
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", port, 2)
