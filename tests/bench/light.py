"""A client that costs little, so that it is the server which is loaded: it reads bytes."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

#: What ends an answer that is sent in chunks.
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Light:
    """
    Asks one server over connections that it keeps; for answers that are sent in chunks.

    Args:
        key: The API key that each request has; empty for none.
    """

    def __init__(self, url: str, *, key: str = "") -> None:
        self._more = f"x-api-key: {key}\r\n".encode() if key else b""
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: dict[str, Any]) -> bytes:
        """The whole answer, headers and all, as it came."""
        if not self._idle:
            self._idle.append(await asyncio.open_connection(self._host, self._port, limit=1 << 20))
        reader, writer = self._idle.pop()
        content = json.dumps(body).encode()
        writer.write(
            b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
            b"%bContent-Length: %d\r\n\r\n%b"
            % (path.encode(), self._host.encode(), self._more, len(content), content)
        )
        answer = b""
        while not answer.endswith(LAST_CHUNK):
            chunk = await reader.read(1 << 16)
            assert chunk, "the server has left"
            answer += chunk
        self._idle.append((reader, writer))
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:500]
        return answer

    async def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()
