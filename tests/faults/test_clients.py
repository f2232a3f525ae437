"""Clients that are cut off, at any place, any number of times, from any server."""

import asyncio
import random
from typing import Any

import httpx

from tests.acceptance.gate import Gate
from tests.acceptance.sse import Frame, collect, follow, frames
from tests.acceptance.talk import says
from tests.faults.cluster import Cluster
from tests.faults.runs import Http, begin_here
from tests.faults.scissors import open_scissors

MODES = ["messages-tuple", "values", "updates"]
CUT_OFF = (httpx.ReadError, httpx.RemoteProtocolError)


def words(count: int, gate: Gate) -> dict[str, Any]:
    """A run that says so many words, and stops at the gate after the first."""
    text = " ".join(f"word{number}" for number in range(count))
    asked = says(f"hold {gate.port} middle {text}")
    return {"assistant_id": "chat", "input": asked, "stream_mode": MODES}


async def persist(
    url: str, path: str, *, last_event_id: str, frames_wanted: int = 0
) -> list[Frame]:
    """Read a stream to its end, or for so many frames, coming back whenever it is cut off."""
    heard: list[Frame] = []
    async with httpx.AsyncClient(base_url=url, timeout=20) as http:
        while True:
            last = heard[-1].id if heard else last_event_id
            headers = {"Last-Event-ID": last, "Connection": "close"}
            try:
                async with http.stream("GET", path, headers=headers) as response:
                    async for frame in frames(response):
                        heard.append(frame)
                        if len(heard) == frames_wanted:
                            return heard
                return heard
            except (*CUT_OFF, AssertionError):
                continue


async def test_a_client_that_is_cut_off_everywhere_gets_each_event_once(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    gate.hold("middle")
    thread_id, run_id = await begin_here(http[0], words(60, gate))
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    following = await follow(http[0], path)
    rng = random.Random(1)
    ports = [server.port for server in cluster.servers]
    async with open_scissors(ports, (rng.randrange(1, 1500) for _ in range(200))) as scissors:
        persisting = asyncio.create_task(persist(scissors.url, path, last_event_id="-1"))
        await gate.arrived("middle")
        gate.release("middle")
        received = await following
        assert await persisting == received
        assert scissors.count > 20
    assert len(received) > 60
    assert received == await collect(http[1], "GET", path)
