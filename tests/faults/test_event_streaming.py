"""Clients of the event-streaming protocol, while something befalls the servers."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed

from tests.acceptance.gate import Gate
from tests.acceptance.protocol import (
    ALL,
    Event,
    data,
    following,
    is_end,
    new_id,
    socket,
    start,
)
from tests.acceptance.sse import frames
from tests.faults.cluster import Cluster, kill
from tests.faults.runs import Http
from tests.soak.cluster import Member


async def persist(urls: Callable[[], str], thread_id: str, *, ends: int = 1) -> list[Event]:
    """Follow a thread up to so many ends, coming back with `since` whenever it is cut off."""
    heard: list[Event] = []
    while sum(map(is_end, heard)) < ends:
        with suppress(httpx.TransportError):
            async with aclosing(_read(urls(), thread_id, heard)) as events:
                async for event in events:
                    heard.append(event)
                    if sum(map(is_end, heard)) == ends:
                        break
    return heard


async def _read(url: str, thread_id: str, heard: list[Event]) -> AsyncGenerator[Event]:
    body: dict[str, Any] = {"channels": ALL}
    if heard:
        body["since"] = heard[-1]["seq"]
    async with (
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        http.stream("POST", f"/threads/{thread_id}/stream/events", json=body) as response,
    ):
        if response.status_code == 200:
            async for frame in frames(response):
                yield frame.data


async def replace(server: Member) -> None:
    """Have it leave in good order, and another in its place."""
    await kill(server, signal.SIGTERM)
    server.start()
    await server.up()


def work(gate: Gate, name: str) -> dict[str, Any]:
    return {"input": {"gate": gate.port, "name": name, "log": []}}


def check(events: list[Event]) -> None:
    """Each once, and in order."""
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs))
    assert len({event["event_id"] for event in events}) == len(events)


async def test_a_run_whose_server_is_killed_goes_on_for_those_who_follow_elsewhere(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = new_id()
    gate.hold("killed:b")
    run_id = await start(http[0], thread_id, "steps", **work(gate, "killed"))
    await gate.arrived("killed:b")
    owner = cluster.owner(run_id)
    other = cluster.other_server(owner)
    async with httpx.AsyncClient(base_url=other.url, timeout=30) as elsewhere:
        async with following(elsewhere, thread_id) as told:
            await told.until(lambda event: event["method"] == "values", times=2)
            await kill(owner)
            gate.release("killed:b")
            await told.until(is_end)
        async with following(elsewhere, thread_id) as late:
            await late.until(is_end)

    check(told.events)
    assert [data(e)["event"] for e in told.of("lifecycle")] == ["running", "running", "completed"]
    assert [e["event_id"].split(":")[1] for e in told.of("lifecycle")] == [run_id] * 3
    assert data(told.of("values")[-1])["log"] == ["killed:a", "killed:b", "killed:c"]
    assert gate.seen.count("killed:a") == 1
    assert late.events == told.events


async def test_servers_that_are_replaced_lose_no_event_of_a_client_that_comes_back(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = new_id()
    gate.hold("replaced:b")
    await start(http[0], thread_id, "steps", **work(gate, "replaced"))
    await gate.arrived("replaced:b")
    first, second = cluster.servers
    turn = iter(range(10_000))
    persisting = asyncio.create_task(
        persist(lambda: cluster.servers[next(turn) % 2].url, thread_id)
    )
    closed: list[int] = []
    async with socket(first.url, thread_id) as opened:
        await opened.command("subscription.subscribe", channels=ALL)
        with suppress(ConnectionClosed):
            await replace(first)
            await opened.connection.wait_closed()
        closed.append(opened.connection.close_code or 0)
    await replace(second)
    gate.release("replaced:b")
    events = await persisting
    async with (
        httpx.AsyncClient(base_url=second.url, timeout=30) as again,
        following(again, thread_id) as whole,
    ):
        await whole.until(is_end)

    check(events)
    assert events == whole.events
    assert data(events[-1])["event"] == "completed"
    # Service restart: come back.
    assert closed == [1012]
