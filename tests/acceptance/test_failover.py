"""A process dies and another one goes on."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.embedded import Servers
from tests.acceptance.conftest import QUICK, Connect
from tests.acceptance.gate import Gate
from tests.acceptance.process import serving
from tests.acceptance.sse import collect, follow


async def test_a_killed_process_is_replaced_and_who_follows_elsewhere_sees_it_through(
    servers: Servers,
    database: str,
    project: Path,
    http: httpx.AsyncClient,
    clients: Connect,
    gate: Gate,
) -> None:
    gate.hold("job:b")
    urls = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
    with serving(project, {**QUICK, **urls}) as doomed:
        thread_id = (await clients(doomed).threads.create())["thread_id"]
        work: dict[str, Any] = {"gate": gate.port, "name": "job"}
        body = {"assistant_id": "steps", "input": work, "durability": "sync"}
        async with httpx.AsyncClient(base_url=doomed.url) as there:
            # A run that is waited for is executed where it was asked for.
            asked = there.post(f"/threads/{thread_id}/runs/stream", json=body)
            asking = asyncio.create_task(asked)
            await gate.arrived("job:b")
            [run] = await clients(doomed).runs.list(thread_id)
            path = f"/threads/{thread_id}/runs/{run['run_id']}/stream"
            follower = await follow(http, path)
            doomed.process.kill()
            doomed.wait()
            with pytest.raises(httpx.RemoteProtocolError):
                await asking

    await gate.arrived("job:b", times=2)
    gate.release("job:b")
    received = await follower

    assert gate.seen == ["job:a", "job:b", "job:b", "job:c"]
    attempts = [frame.data["attempt"] for frame in received if frame.name == "metadata"]
    assert attempts == [1, 2]
    places = [frame.place for frame in received]
    assert places == sorted(set(places))
    assert received[-1].data["log"] == ["job:a", "job:b", "job:c"]
    assert await collect(http, "GET", path) == received
