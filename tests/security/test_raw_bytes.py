"""Bytes that no client sends, to streams and sockets: an answer that is documented, or an end."""

import asyncio
import os
import random
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

DEADLINE_SECONDS = 60.0
UNKNOWN = "00000000-0000-7000-8000-000000000000"
STREAMS = [
    f"/threads/{UNKNOWN}/stream", f"/runs/{UNKNOWN}/stream", f"/api/sessions/{UNKNOWN}/stream",
    "/api/events",
]  # fmt: skip
SOCKETS = ["/api/ws", f"/threads/{UNKNOWN}/stream/events"]
#: What uvicorn, and what is before the routes, may answer: nothing of it is a fault.
DOCUMENTED = {
    0,
    101,
    200,
    204,
    400,
    401,
    403,
    404,
    405,
    408,
    411,
    413,
    414,
    415,
    421,
    422,
    426,
    429,
    431,
}
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


def _requests(chance: random.Random) -> list[bytes]:
    """Heads that are nearly right, and then wrong in one place."""
    heads = []
    for path in STREAMS + SOCKETS:
        more = UPGRADE if path in SOCKETS else "Accept: text/event-stream\r\n"
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}"
        heads += [
            f"{head}Last-Event-ID: {'9' * 4000}\r\n\r\n", f"{head}Last-Event-ID: \x00\x01\r\n\r\n",
            f"{head}Content-Length: -1\r\n\r\n", f"{head}Content-Length: 5\r\n\r\n{{}}",
            f"{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", f"{head}X: {'a' * 100_000}\r\n\r\n",
            f"{head}Authorization: Bearer \xff\xfe\r\n\r\n", head, f"{head}\r\n\r\n{'b' * 500}",
            f"{head}Origin: http://[\r\n\r\n", f"{head.replace('Host: localhost', 'Host: [')}\r\n",
            f"{head}Origin: null\r\nSec-WebSocket-Protocol: ,,,\xe9\r\n\r\n",
            f"GET {path}?since=%ff%00%0d%0a HTTP/1.1\r\nHost: localhost\r\n{more}\r\n",
            f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n", f"GET {path} HTTP/9.9\r\n\r\n",
            f"GET {path}\r\n\r\n", f"\x16\x03\x01{path}",
        ]  # fmt: skip
    raw = [head.encode("latin-1") for head in heads]
    for request in list(raw):
        place = chance.randrange(len(request))
        raw.append(request[:place] + chance.randbytes(4) + request[place + 1 :])
    return raw


async def _status(url: str, raw: bytes) -> int:
    """The status that is answered; 0 if the connection just ends, or nothing is said while we wait."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(raw)
        writer.write_eof()
        line = await asyncio.wait_for(reader.readline(), DEADLINE_SECONDS)
        words = line.split(b" ")
        return int(words[1]) if line.startswith(b"HTTP/") and len(words) > 1 else 0
    except ConnectionError:
        return 0
    finally:
        writer.transport.abort()


async def test_bytes_that_are_no_request_are_refused_and_leave_nothing(
    http: httpx.AsyncClient, url: str
) -> None:
    number = random.SystemRandom().randrange(2**32)
    chance = random.Random(number)
    for path in ("/ok", *STREAMS[:1]):
        await http.get(path)
    before = psutil.Process(os.getpid()).num_fds()

    statuses = {raw: await _status(url, raw) for raw in _requests(chance)}

    strange = {raw[:120]: status for raw, status in statuses.items() if status not in DOCUMENTED}
    assert strange == {}, number
    assert {101, 400, 403, 404, 421} <= set(statuses.values())
    assert (await http.get("/ok")).status_code == 200
    async with asyncio.timeout(DEADLINE_SECONDS):
        while psutil.Process(os.getpid()).num_fds() > before + 5:
            await http.get("/ok")


@pytest.mark.parametrize("path", SOCKETS)
async def test_frames_that_make_no_sense_end_no_more_than_their_socket(
    http: httpx.AsyncClient, url: str, path: str
) -> None:
    number = random.SystemRandom().randrange(2**32)
    chance = random.Random(number)
    frames: list[bytes | str] = [
        "", "{", "[]", "null", "1", '"x"', "{}", '{"id": 1}', "[" * 5000, '{"a":' * 5000,
        '{"id": 1e999, "method": "x"}', '{"id": 1, "method": "subscription.subscribe", "params": 5}',
        '{"type": "auth", "token": 5}', '{"type": "subscribe", "session_id": []}', "\x00", b"\xff\xfe",
        '{"id": {"a": []}, "type": "message", "content": [[[[]]]]}', chance.randbytes(200),
    ]  # fmt: skip
    for frame in frames:
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                async with connect(url.replace("http", "ws") + path) as socket:
                    await socket.send(frame)
                    await socket.send('{"id": 7, "method": "nothing", "type": "nothing"}')
                    await socket.recv()
            except WebSocketException as closed:
                code = getattr(getattr(closed, "rcvd", None), "code", 1000)
                # 1011 is a fault of the server.
                assert code != 1011, (frame, number)

    assert (await http.get("/ok")).status_code == 200
