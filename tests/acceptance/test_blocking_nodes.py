"""A node that does not await stops the graphs of its process, and nothing else."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.schema import Run

from api.processes.embedded import Servers
from tests.acceptance.conftest import QUICK, Connect, Sql
from tests.acceptance.gate import DEADLINE_SECONDS, Gate
from tests.acceptance.process import ServerProcess, serving
from tests.measured import read, value

KEEP_ALIVE = {"SSE_HEARTBEAT_SECONDS": "0.5"}
#: Longer than the lease.
KEEP_ALIVES = 10
#: The process ends soon after a loop of it is stuck.
STUCK = {"LOOP_STUCK_SECONDS": "6", "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS": "30"}
#: Routes of an author's, one of which does not come back.
ROUTES = """\
import time

from starlette.applications import Starlette


async def stay(request):
    time.sleep(3600)


app = Starlette()
app.add_route("/stay", stay)
"""


@pytest.fixture(scope="module")
def blocked(servers: Servers, database: str, project: Path) -> Iterator[ServerProcess]:
    """A server of whose nodes one may block; it leaves if that is over."""
    urls = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
    with serving(project, {**QUICK, **KEEP_ALIVE, **urls}) as server:
        yield server


@pytest.mark.parametrize("graph_id", ["blocking", "computing"])
async def test_a_process_whose_graphs_are_blocked_answers_and_keeps_its_run(
    graph_id: str, blocked: ServerProcess, server: ServerProcess, clients: Connect, gate: Gate
) -> None:
    client = clients(blocked)
    gate.hold("job:block")
    thread_id = (await client.threads.create())["thread_id"]
    streaming = await _stream(blocked, thread_id, gate.port, "job", graph_id)
    await gate.arrived("job:block")

    async with httpx.AsyncClient(base_url=blocked.url, timeout=30) as http:
        for _ in range(KEEP_ALIVES):
            await streaming.keep_alive()
            assert (await http.get("/ok?check_db=1")).status_code == 200
            # The state is read beside the graphs' loop.
            state = (await http.get(f"/threads/{thread_id}/state")).json()
            assert state["next"] == ["block"]
        # It is told, and the process is sent requests all the same.
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()["checks"]["graphs"]) == (200, "blocked")
        assert value(read((await http.get("/metrics")).text), "threadwell_graphs_blocked") == 1
    gate.release("job:block")

    assert "error" not in (names := await streaming.rest())
    assert names[-1] == "end"
    # Its lease was kept: nobody else took it up.
    assert gate.seen == ["job:block"]


async def test_a_run_that_would_wait_for_a_blocked_graph_is_executed_elsewhere(
    blocked: ServerProcess, server: ServerProcess, clients: Connect, gate: Gate
) -> None:
    client = clients(blocked)
    gate.hold("job:block")
    thread_id = (await client.threads.create())["thread_id"]
    streaming = await _stream(blocked, thread_id, gate.port, "job")
    await gate.arrived("job:block")
    # By its second one the process knows.
    for _ in range(4):
        await streaming.keep_alive()

    other = await client.threads.create()
    work: dict[str, Any] = {"gate": gate.port, "name": "other"}
    result = await client.runs.wait(other["thread_id"], "steps", input=work)

    assert result["log"] == ["other:a", "other:b", "other:c"]  # type: ignore[call-overload]
    gate.release("job:block")
    assert (await streaming.rest())[-1] == "end"


async def test_cancelling_a_run_that_blocks_ends_it_at_the_time_it_may_take(
    blocked: ServerProcess, server: ServerProcess, clients: Connect, gate: Gate
) -> None:
    client = clients(blocked)
    gate.hold("job:block")
    thread_id = (await client.threads.create())["thread_id"]
    streaming = await _stream(blocked, thread_id, gate.port, "job")
    await gate.arrived("job:block")
    [run] = await client.runs.list(thread_id)

    await client.runs.cancel(thread_id, run["run_id"], wait=True)

    assert (await streaming.rest())[-1] == "end"
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "interrupted"
    left = await _checkpoint_ids(client, thread_id)
    gate.release("job:block")
    # What it does from here on counts for nothing.
    again = await client.runs.wait(
        thread_id, "steps", input={"gate": gate.port, "name": "again"}, multitask_strategy="enqueue"
    )
    assert again["log"] == ["again:a", "again:b", "again:c"]  # type: ignore[call-overload]
    kept = await _checkpoint_ids(client, thread_id)
    # Its input, and that of the next run with four steps.
    assert kept[-len(left) :] == left
    assert len(kept) == len(left) + 5


async def test_a_process_whose_graphs_never_come_back_ends_and_its_runs_go_on_elsewhere(
    servers: Servers, database: str, project: Path, server: ServerProcess, clients: Connect,
    gate: Gate, sql: Sql,
) -> None:  # fmt: skip
    urls = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
    with serving(project, {**QUICK, **STUCK, **urls}) as stuck:
        client = clients(stuck)
        gate.hold("other:a", "job:block")
        waits, one = await _begin(stuck, client, gate, "steps", "other")
        await gate.arrived("other:a")
        blocks, other = await _begin(stuck, client, gate, "blocking", "job")
        await gate.arrived("job:block")

        status = await asyncio.to_thread(stuck.wait)

    # Cut off, so that their clients come back elsewhere.
    assert "end" not in [*await one.rest(), *await other.rest()]

    assert status == 70
    [told] = [line for line in stuck.lines if "an event loop is stuck" in line]
    assert "loop=graphs" in told
    assert f"run_id={blocks['run_id']}" in told
    assert "report_and_block" in told
    # Both go on elsewhere, and the one that was not to blame has not lost an attempt by that.
    await gate.arrived("other:a", 2)
    await gate.arrived("job:block", 2)
    gate.release("other:a", "job:block")
    client = clients(server)
    assert await _ended(client, sql, waits) == ("success", 1)
    assert await _ended(client, sql, blocks) == ("success", 2)


def test_a_process_whose_first_loop_never_comes_back_ends(
    servers: Servers, database: str, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "routes.py").write_text(ROUTES)
    config = json.loads(project.read_text()) | {"http": {"app": "./routes.py:app"}}
    config["dependencies"], config["graphs"] = [], {"agent": config["graphs"]["agent"]}
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    variables = {**STUCK, "DATABASE_URL": database, "REDIS_URL": servers.redis_url}
    with serving(tmp_path / "langgraph.json", variables) as stuck:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{stuck.url}/stay", timeout=DEADLINE_SECONDS)

        assert stuck.wait() == 70
    assert "loop=first" in stuck.log
    assert "routes.py:7 stay" in stuck.log


async def _begin(
    server: ServerProcess, client: LangGraphClient, gate: Gate, graph_id: str, name: str
) -> tuple[Run, "_Stream"]:
    """Begin a run on a thread of its own, in this process."""
    thread_id = (await client.threads.create())["thread_id"]
    streaming = await _stream(server, thread_id, gate.port, name, graph_id)
    # It has begun, and begins nowhere else.
    await streaming.begun()
    [run] = await client.runs.list(thread_id)
    return run, streaming


async def _ended(client: LangGraphClient, sql: Sql, run: Run) -> tuple[str, int]:
    """The status of a run once it has ended, and how many attempts it took."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        await client.runs.join(run["thread_id"], run["run_id"])
    [(status, attempts)] = sql("SELECT status, attempt FROM run WHERE run_id = %s", run["run_id"])
    return status, attempts


async def _checkpoint_ids(client: LangGraphClient, thread_id: str) -> list[str | None]:
    history = await client.threads.get_history(thread_id, limit=100)
    return [state["checkpoint"]["checkpoint_id"] for state in history]


class _Stream:
    """A stream whose keep-alives are counted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._lines: list[bytes] = []

    async def keep_alive(self) -> None:
        """Return at the next keep-alive."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (await self._line()).startswith(b":"):
                pass

    async def begun(self) -> None:
        """Return at its first event."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (await self._line()).startswith(b"event: metadata"):
                pass

    async def rest(self) -> list[str]:
        """The names of all events, once the stream has ended."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await self._line():
                pass
        self._writer.close()
        await self._writer.wait_closed()
        names = [line for line in self._lines if line.startswith(b"event: ")]
        return [line.removeprefix(b"event: ").decode().strip() for line in names]

    async def _line(self) -> bytes:
        self._lines.append(await self._reader.readline())
        return self._lines[-1]


async def _stream(
    server: ServerProcess, thread_id: str, port: int, name: str, graph_id: str = "blocking"
) -> _Stream:
    url = httpx.URL(server.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    work = {"gate": port, "name": name}
    body = json.dumps({"assistant_id": graph_id, "input": work, "durability": "sync"})
    lines = [
        f"POST /threads/{thread_id}/runs/stream HTTP/1.1",
        f"Host: {url.host}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    writer.write("\r\n".join([*lines, "", body]).encode())
    await writer.drain()
    return _Stream(reader, writer)
