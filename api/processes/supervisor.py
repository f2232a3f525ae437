"""
Server processes that share a port, and what keeps them up.

Each listens on a socket of its own, among which the system shares the connections out evenly. The
supervisor holds all of them open: who comes while a process is replaced waits for the next one.
"""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection

import structlog

log = structlog.get_logger(__name__)

#: Serves on a socket until it is told to leave; calls back when it can be reached. Can be pickled.
Serve = Callable[[socket.socket, Callable[[], None]], None]

#: How long uvicorn lets connections wait to be accepted.
BACKLOG = 2048

#: A process that lived for so long is replaced at once; after one that did not there is a pause,
#: each time twice as long.
STEADY_SECONDS = 60.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 4.0

# A fork would inherit the threads' locks, and whatever the graphs' libraries hold.
_SPAWN = get_context("spawn")


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """
    Open sockets that listen on one address.

    Args:
        port: 0 for any that is free.

    Raises:
        OSError: Somebody else listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Sockets that share a port would share it with another server's too.
    with socket.create_server((host, port), family=family) as alone:
        address = alone.getsockname()[:2]
    return [
        socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=True)
        for _ in range(count)
    ]


class Supervisor:
    """
    Keeps a process for each socket, until SIGTERM or Ctrl-C.

    Args:
        serve: What each of them does.
        listeners: Closed when the processes are told to leave.
    """

    def __init__(self, serve: Serve, listeners: list[socket.socket]) -> None:
        self._serve = serve
        self._listeners = listeners
        self._children: set[_Child] = set()
        self._starting = len(listeners)
        self._leaving = asyncio.Event()
        #: Of the process that none of them could be up without.
        self._failure = 0

    async def run(self, on_ready: Callable[[], None]) -> int:
        """
        Return when all of them have left: 0, or the exit status of one that left otherwise.

        One that ends before all are up takes the others with it; later ones are replaced.

        Args:
            on_ready: Called once, when all of them can be reached.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._leave, number)

        def started() -> None:
            self._starting -= 1
            if not self._starting:
                on_ready()

        try:
            left = await asyncio.gather(*(self._keep(it, started) for it in self._listeners))
            return self._failure or max(left)
        finally:
            self._leave()

    async def _keep(self, listener: socket.socket, on_start: Callable[[], None]) -> int:
        pause = 0.0
        while True:
            child, began_at = _Child(self._serve, listener, on_start), time.monotonic()
            self._children.add(child)
            status = await child.ended
            self._children.remove(child)
            if self._leaving.is_set():
                return status
            if self._starting > 0:
                self._failure = status or 1
                self._leave()
                return status
            steady = time.monotonic() - began_at > STEADY_SECONDS
            pause = 0.0 if steady else min(2 * pause or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
            log.error("server process ended", process=child.pid, status=status, replaced_in=pause)
            if await self._leaves_within(pause):
                return 0

    async def _leaves_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._leaving.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _leave(self, number: int = signal.SIGTERM) -> None:
        """Have every process drain, once; told to by a second Ctrl-C, hurry them."""
        if not self._leaving.is_set():
            self._leaving.set()
            # Nobody new is to wait for a process that will not come.
            for listener in self._listeners:
                listener.close()
            self._tell(signal.SIGTERM)
        elif number == signal.SIGINT:
            self._tell(signal.SIGINT)

    def _tell(self, number: int) -> None:
        for child in self._children:
            if not child.ended.done():
                os.kill(child.pid, number)


class _Child:
    """
    A server process.

    Attributes:
        ended: Its exit status, as a shell tells it, once it has ended.
    """

    def __init__(self, serve: Serve, listener: socket.socket, on_start: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()
        self._on_start = on_start
        self._started, started = _SPAWN.Pipe(duplex=False)
        self._process = _SPAWN.Process(target=_live, args=(serve, listener, started))
        self._process.start()
        started.close()
        self.pid = self._process.pid or 0
        loop.add_reader(self._started.fileno(), self._hear)
        loop.add_reader(self._process.sentinel, self._end)

    def _hear(self) -> None:
        """It has started, or died before that."""
        asyncio.get_running_loop().remove_reader(self._started.fileno())
        with self._started:
            try:
                self._started.recv()
            except EOFError:
                return
        self._on_start()

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        status = self._process.exitcode or 0
        self.ended.set_result(128 - status if status < 0 else status)


def _live(serve: Serve, listener: socket.socket, started: Connection) -> None:
    threading.Thread(target=_leave_with_the_parent, name="parent", daemon=True).start()
    serve(listener, lambda: started.send(None))


def _leave_with_the_parent() -> None:
    """Nobody would replace this process any more, nor tell it to leave."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
