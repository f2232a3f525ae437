"""Runs for tests that strike their owners, and how they are asked for."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from tests.acceptance.gate import Gate
from tests.acceptance.sse import Frame
from tests.measured import Measured, read

#: A client of each server.
Http = list[httpx.AsyncClient]


async def until(holds: Callable[[], Any]) -> None:
    """Wait for something in PostgreSQL that nobody tells of."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def measured(http: httpx.AsyncClient) -> Measured:
    """What a process tells of itself."""
    return read((await http.get("/metrics")).text)


async def new_thread(http: Http) -> str:
    return str((await http[0].post("/threads", json={})).json()["thread_id"])


def steps(gate: Gate, name: str, **more: Any) -> dict[str, Any]:
    """A run of three steps, each of which comes by at the gate."""
    work = {"gate": gate.port, "name": name}
    return {"assistant_id": "steps", "input": work, "durability": "sync", **more}


async def begin(http: Http, body: dict[str, Any]) -> tuple[str, str]:
    """Queue a run on a new thread; the ids of both."""
    thread_id = await new_thread(http)
    run = (await http[0].post(f"/threads/{thread_id}/runs", json=body)).json()
    return thread_id, run["run_id"]


async def begin_here(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, str]:
    """Start a run on a new thread in the server that is asked; the ids of both."""
    thread_id = await new_thread([http])
    url = f"/threads/{thread_id}/runs/stream"
    async with http.stream("POST", url, json=body) as response:
        return thread_id, response.headers["content-location"].split("/")[-1]


def attempts(received: list[Frame]) -> list[int]:
    """Which attempts of a run a stream told of."""
    return [frame.data["attempt"] for frame in received if frame.name == "metadata"]


async def ended(http: httpx.AsyncClient, thread_id: str, run_id: str) -> tuple[Any, Any]:
    """Wait for a run's end: its output, and its row."""
    url = f"/threads/{thread_id}/runs/{run_id}"
    output = (await http.get(f"{url}/join")).json()
    return output, (await http.get(url)).json()
