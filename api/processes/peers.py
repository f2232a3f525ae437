"""
The processes that share a port, so that whichever is asked can tell what all of them count.

Each has a place among them, which is free again when it ends, however it does, and a Unix socket in a
directory of the supervisor's, on which it tells the others; see decision 34.
"""

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: How long another one may take to tell, and how much: one that is blocked or gone is left out.
ANSWER_SECONDS: Final = 1.0
MAX_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Peers:
    """
    The processes beside this one.

    Args:
        place: Which this is, from 0.
        count: How many there are.
        directory: Where their sockets are; None for a process that is alone.
    """

    place: int = 0
    count: int = 1
    directory: Path | None = None

    @property
    def name(self) -> str:
        """What this process is called among them."""
        return str(self.place)

    @asynccontextmanager
    async def answering(self, snapshot: Callable[[], bytes]) -> AsyncIterator[None]:
        """Answer whichever of the others asks, by `ask`."""
        if self.directory is None:
            yield
            return
        path = self._path(self.place)
        # Of one that had this place before.
        path.unlink(missing_ok=True)

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    writer.write(snapshot())
                    await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(answer, path):
            yield

    async def ask(self) -> list[tuple[str, bytes]]:
        """What the others tell, by their names; without those that do not answer."""
        if self.directory is None:
            return []
        others = [place for place in range(self.count) if place != self.place]
        told = await asyncio.gather(*(self._ask(place) for place in others))
        return [(str(place), data) for place, data in zip(others, told, strict=True) if data]

    async def _ask(self, place: int) -> bytes:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(
                    self._path(place), limit=MAX_BYTES
                )
                try:
                    data = await reader.read(-1)
                finally:
                    writer.close()
                return data if len(data) <= MAX_BYTES else b""
        return b""

    def _path(self, place: int) -> Path:
        assert self.directory is not None
        return self.directory / f"{place}.sock"


#: Of a process that shares its port with none.
ALONE: Final = Peers()


@contextmanager
def placed(directory: Path, count: int) -> Iterator[Peers]:
    """
    Take a place that is free among so many, for as long as the block or this process lasts.

    Raises:
        OSError: There is none.
    """
    for place in range(count):
        with (directory / f"{place}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if place == count - 1:
                    raise
                continue
            yield Peers(place, count, directory)
            return
