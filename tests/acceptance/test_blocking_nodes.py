"""A node that does not await stops the graphs of its process, and nothing else."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from api.processes.embedded import Servers
from tests.acceptance.conftest import QUICK, Connect
from tests.acceptance.gate import DEADLINE_SECONDS, Gate
from tests.acceptance.process import ServerProcess, serving
from tests.measured import read, value

KEEP_ALIVE = {"SSE_HEARTBEAT_SECONDS": "0.5"}
#: Longer than the lease.
KEEP_ALIVES = 10


@pytest.fixture(scope="module")
def blocked(servers: Servers, database: str, project: Path) -> Iterator[ServerProcess]:
    """A server of whose nodes one may block; it leaves if that is over."""
    urls = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
    with serving(project, {**QUICK, **KEEP_ALIVE, **urls}) as server:
        yield server


async def test_a_process_whose_graphs_are_blocked_answers_and_keeps_its_run(
    blocked: ServerProcess, server: ServerProcess, clients: Connect, gate: Gate
) -> None:
    client = clients(blocked)
    gate.hold("job:block")
    thread_id = (await client.threads.create())["thread_id"]
    streaming = await _stream(blocked, thread_id, gate.port, "job")
    await gate.arrived("job:block")

    async with httpx.AsyncClient(base_url=blocked.url, timeout=5) as http:
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


async def _stream(server: ServerProcess, thread_id: str, port: int, name: str) -> _Stream:
    url = httpx.URL(server.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    work = {"gate": port, "name": name}
    body = json.dumps({"assistant_id": "blocking", "input": work, "durability": "sync"})
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
