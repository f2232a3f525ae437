"""Streams on the wire: kept alive, and over when their client is gone."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import httpx
import pytest

from api.bootstrap import Services
from api.errors import BrokenOffError
from api.settings import Settings
from api.sse import HEARTBEAT, EventStream, RunStream
from graph.requests import RunRequest
from store.access import EVERYTHING
from tests.serving import serving

SECONDS = 10
SETTINGS = Settings(sse_heartbeat_seconds=0.1)


def _stream(frames: AsyncGenerator[bytes, None]) -> EventStream:
    return EventStream(frames, headers={}, settings=SETTINGS)


async def _read_until(answer: httpx.Response, enough: Callable[[bytes], object]) -> bytes:
    read = b""
    async with asyncio.timeout(SECONDS):
        async for chunk in answer.aiter_raw():
            read += chunk
            if enough(read):
                break
    return read


async def test_a_stream_is_kept_alive_while_it_says_nothing() -> None:
    more = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"first."
        await more.wait()
        yield b"last."

    async with (
        serving(_stream(frames())) as url,
        httpx.AsyncClient(timeout=30) as http,
        http.stream("GET", url) as answer,
    ):
        silent = await _read_until(answer, lambda read: read.count(HEARTBEAT) == 2)
        assert silent == b"first." + 2 * HEARTBEAT
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        more.set()


async def test_a_client_that_leaves_ends_the_stream_wherever_it_waits() -> None:
    closed = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first."
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with serving(_stream(frames())) as url, httpx.AsyncClient(timeout=30) as http:
        async with http.stream("GET", url) as answer:
            await _read_until(answer, lambda read: read == b"first.")
        async with asyncio.timeout(SECONDS):
            await closed.wait()


async def test_a_process_that_goes_breaks_off_what_was_not_read_of_a_run_that_has_ended(
    services: Services,
) -> None:
    # Events of which each is sent by itself.
    request = RunRequest(assistant_id="steps", input={"text": "x" * 1_500_000})
    submitted = await services.runs.submit(
        request, thread_id=None, attached=True, access=EVERYTHING, assistant_access=EVERYTHING
    )
    assert submitted.execution is not None
    await submitted.execution.ended.wait()
    frames = RunStream(services, submitted).frames()
    chunks = [await anext(frames)]

    async def read_on() -> None:
        async for chunk in frames:
            chunks.append(chunk)  # noqa: PERF401 - what came before it is broken off counts

    await services.worker.drain(grace_seconds=0)

    with pytest.raises(BrokenOffError):
        await read_on()
    read = b"".join(chunks)
    assert b"event: metadata" in read
    assert b"gap" not in read
    assert b"event: end" not in read
