"""Who makes a thread under the id of one that was deleted hears nothing of that one's runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.processes.embedded import Servers
from store import readers
from store.errors import UnavailableError
from store.events import START, Event, Gap
from store.streams import Streams
from tests.acceptance.protocol import following, is_end
from tests.acceptance.sse import Frame, frames
from tests.api.test_limits import Process, config, processes
from tests.api.test_session_socket import connected

__all__ = ["config"]

ADA, EVE = {"authorization": "Bearer ada"}, {"authorization": "Bearer eve"}
MARK = "whatadasaid"
DEADLINE_SECONDS = 60.0


@asynccontextmanager
async def as_eve(process: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=process.url, headers=EVE, timeout=30) as http:
        yield http


async def say(process: Process, who: dict[str, str], thread_id: str, text: str) -> str:
    """A run that has ended; its id."""
    body = {"assistant_id": "chat", "input": {"messages": [["user", text]]}}
    body["stream_mode"] = ["values", "messages-tuple"]
    url = f"/threads/{thread_id}/runs/stream"
    async with process.http.stream("POST", url, json=body, headers=who) as response:
        told = [frame async for frame in frames(response)]
    return str(told[0].data["run_id"])


async def make(process: Process, who: dict[str, str], thread_id: str) -> None:
    answer = await process.http.post("/threads", json={"thread_id": thread_id}, headers=who)
    assert answer.status_code == 200, answer.text


async def away(*_: Any) -> None:
    raise UnavailableError("Redis does not answer")


async def heard(http: httpx.AsyncClient, thread_id: str, opened: asyncio.Event) -> list[Frame]:
    """What the stream of a thread tells from the start, through the end of the first run."""
    found = []
    headers = {"Last-Event-ID": "-1"}
    async with http.stream("GET", f"/threads/{thread_id}/stream", headers=headers) as response:
        opened.set()
        async for frame in frames(response):
            found.append(frame)
            if frame.name == "metadata" and frame.data.get("status") == "run_done":
                return found
    raise AssertionError(found)


async def left_by_ada(process: Process, thread_id: str) -> None:
    """Eve's thread, whose id was that of one of Ada's while Redis could not be told to forget it."""
    await make(process, ADA, thread_id)
    await say(process, ADA, thread_id, MARK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Streams, "delete", away)
        await process.http.delete(f"/threads/{thread_id}", headers=ADA)
    await make(process, EVE, thread_id)
    # As an import of something old does.
    await process.services.db.execute("UPDATE thread SET created_at = '2020-01-01'", {})
    async with aclosing(process.services.events.follow(thread_id, START)) as batches:
        assert MARK in str(await anext(batches))


async def test_what_redis_still_has_of_a_deleted_thread_is_told_to_nobody_who_has_its_id_now(
    config: Path, servers: Servers, database_url: str
) -> None:
    thread_id = str(uuid4())
    async with processes(config, servers, database_url, number=1) as [one], as_eve(one) as eve:
        await left_by_ada(one, thread_id)
        async with connected(one.url, EVE) as socket, following(eve, thread_id) as followed:
            await socket.do("session.subscribe", session_id=thread_id, since=-1)
            opened = asyncio.Event()
            hearing = asyncio.create_task(heard(eve, thread_id, opened))
            await opened.wait()
            run_id = await say(one, EVE, thread_id, "hello")
            async with asyncio.timeout(DEADLINE_SECONDS):
                streamed = await hearing
                await socket.until("run.end")
                await followed.until(is_end)
        async with following(eve, thread_id, since=followed.events[0]["seq"]) as again:
            await again.until(is_end)

    told = [frame.data for frame in streamed]
    assert MARK not in str([told, socket.events, followed.events, again.events])
    assert {one["run_id"] for one in told if "run_id" in one} == {run_id}
    assert [one["method"] for one in socket.events].count("run.start") == 1
    # By numbers that JavaScript can hold, whatever the thread says of its age.
    seqs = [event["seq"] for event in followed.events]
    assert seqs == sorted(set(seqs))
    assert 0 < seqs[0] < seqs[-1] < 1 << 53
    assert [event["seq"] for event in again.events] == seqs[1:]
    assert socket.events[-1]["seq"] < 1 << 53


async def test_what_another_process_still_has_of_a_deleted_thread_is_told_to_nobody(
    config: Path, servers: Servers, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PATIENCE_SECONDS", 0.0)
    thread_id = str(uuid4())
    async with processes(config, servers, database_url) as (one, other):
        await make(one, ADA, thread_id)
        await say(one, ADA, thread_id, MARK)
        await other.http.delete(f"/threads/{thread_id}", headers=ADA)
        await make(other, EVE, thread_id)

        follower, found = one.services.follower, list[Event]()

        async def hear() -> None:
            async with aclosing(follower.follow_thread(thread_id, after=START)) as batches:
                async for batch in batches:
                    if isinstance(batch, Gap):  # by the patience that nobody has here
                        continue
                    found.extend(batch)
                    if batch and batch[-1].name == "end":
                        return

        hearing = asyncio.create_task(hear())
        # One that began later has what the process keeps in memory.
        async with aclosing(one.services.events.follow(thread_id, START)) as batches:
            assert MARK in str(await anext(batches))
        run_id = await say(one, EVE, thread_id, "hello")
        async with asyncio.timeout(DEADLINE_SECONDS):
            await hearing

    assert {event.run_id for event in found} == {run_id}
    assert MARK not in str(found)
