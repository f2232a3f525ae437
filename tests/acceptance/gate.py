"""Where nodes in a server process report to their test, and wait when it holds them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

DEADLINE_SECONDS = 60.0
CLOSE_SECONDS = 5.0


class Gate:
    """
    A TCP server of the test's. A node says where it is, a line, and goes on once it is answered.

    Attributes:
        port: What the nodes are told.
        seen: All that was said, in order, by whichever process; a node that ran twice is in it twice.
        held: The names that do not pass now.
    """

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[str] = []
        self._left: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()
        self._visits: set[asyncio.Task[None]] = set()

    def hold(self, *names: str) -> None:
        """Let nobody of these names pass until `release`."""
        for name in names:
            self.held[name] = asyncio.Event()

    def release(self, *names: str) -> None:
        """Let those of these names pass, now and later."""
        for name in names:
            self.held.pop(name).set()

    async def arrived(self, name: str, times: int = 1) -> None:
        """Wait until that name was said so often."""
        await self._until(lambda: self.seen.count(name) >= times, f"{name} did not arrive")

    async def left(self, name: str) -> None:
        """Wait until somebody who was held went away: cancelled, or killed."""
        await self._until(lambda: name in self._left, f"{name} did not leave")

    async def _until(self, done: Callable[[], bool], complaint: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS), self._changed:
                await self._changed.wait_for(done)
        except TimeoutError:
            raise AssertionError(f"{complaint}; seen: {self.seen}") from None

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one visitor in."""
        visit = asyncio.current_task()
        assert visit is not None
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)
        # Whoever is killed, or stopped, leaves in the middle of anything.
        with suppress(ConnectionError):
            try:
                await self._receive(reader)
                writer.write(b"go on\n")
            finally:
                writer.close()
                await writer.wait_closed()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        name = (await reader.readline()).decode().strip()
        if not name:  # stopped before it said anything
            return
        self.seen.append(name)
        await self._tell()
        if name in self.held:
            passing = asyncio.create_task(self.held[name].wait())
            leaving = asyncio.create_task(reader.read())
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not passing.done():
                self._left.append(name)
                await self._tell()
            passing.cancel()
            leaving.cancel()

    async def close(self) -> None:
        """Let everybody go who is held, and wait until they have gone."""
        self.release(*list(self.held))
        if self._visits:
            _, late = await asyncio.wait(self._visits, timeout=CLOSE_SECONDS)
            for visit in late:
                visit.cancel()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def open_gate() -> AsyncIterator[Gate]:
    """Open a gate on a free port; on leaving, everybody who is held is let go."""
    gate = Gate()
    server = await asyncio.start_server(gate.visit, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        server.close()
        await gate.close()
