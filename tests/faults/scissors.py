"""A proxy that cuts connections in the middle of whatever they carry."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress


class Scissors:
    """
    Takes each connection to the next of some servers, and cuts it after so many bytes of its answer.

    Args:
        ports: The servers'.
        cuts: After how many bytes, a connection each; those that come when it is over are whole.
    """

    def __init__(self, ports: Sequence[int], cuts: Iterable[int]) -> None:
        self.url = ""
        #: How many connections were cut.
        self.count = 0
        self._ports = itertools.cycle(ports)
        self._cuts = iter(cuts)
        self._visits: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        task = asyncio.current_task()
        self._visits[task] = writer
        there, back = await asyncio.open_connection("127.0.0.1", next(self._ports))
        asking = asyncio.create_task(_pass(reader, back))
        with suppress(ConnectionError):
            if await self._answer(there, writer, next(self._cuts, None)):
                self.count += 1
                writer.transport.abort()
        writer.close()
        await asking
        del self._visits[task]

    async def close(self) -> None:
        """Cut all connections."""
        while self._visits:
            task, writer = next(iter(self._visits.items()))
            writer.transport.abort()
            if task:
                await task

    async def _answer(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None
    ) -> bool:
        """Pass an answer on; whether it is to be cut now."""
        while data := await there.read(1 << 16):
            writer.write(data[:left])
            await writer.drain()
            if left is not None:
                left -= len(data)
                if left <= 0:
                    return True
        return False


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what a client says, until it leaves; then leave too."""
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.transport.abort()


@asynccontextmanager
async def open_scissors(ports: Sequence[int], cuts: Iterable[int]) -> AsyncIterator[Scissors]:
    """Open the proxy on a free port."""
    scissors = Scissors(ports, cuts)
    server = await asyncio.start_server(scissors.visit, "127.0.0.1", 0)
    scissors.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scissors
    finally:
        server.close()
        await scissors.close()
