"""Tasks beside the requests: named, held, and started again when they die."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

#: How long a task that died stays dead.
RESTART_SECONDS = 1.0

logger = structlog.get_logger(__name__)


class SideTasks:
    """The side tasks of one owner; `stop` ends them all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run until it returns; if it raises, log that and run it anew."""
        task = asyncio.create_task(_supervise(name, run), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel all, and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _supervise(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            return await run()
        except Exception:
            # Whatever killed it: what it does must not stop in silence.
            logger.exception("side task died", task=name)
            await asyncio.sleep(RESTART_SECONDS)
