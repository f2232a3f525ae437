"""What a process counts of the requests that it answers."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from store.meters import SHORT_SECONDS, Histogram

#: The doors by which paths are told apart: how they begin. Others are one.
DOORS: Final = frozenset(
    {
        "a2a", "agui", "api", "assistants", "docs", "info", "mcp", "metrics", "ok", "ready", "runs",
        "store", "threads", "v1",
    }
)  # fmt: skip
OTHER: Final = "other"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMeter:
    """
    The requests of a process.

    Attributes:
        answered: By door, method and status.
        took: Seconds until an answer was whole, by door; streams are not among them.
        open: Under way by kind: ``request``, ``stream`` or ``websocket``.
    """

    def __init__(self) -> None:
        self.answered = Counter[tuple[str, str, int]]()
        self.took: dict[str, Histogram] = {
            door: Histogram(SHORT_SECONDS) for door in (*sorted(DOORS), OTHER)
        }
        self.open = Counter[str](request=0, stream=0, websocket=0)

    @contextmanager
    def under_way(self, kind: str) -> Iterator[None]:
        """Count something as open for as long as the block lasts."""
        self.open[kind] += 1
        try:
            yield
        finally:
            self.open[kind] -= 1

    def end(self, path: str, method: str, status: int, seconds: float, *, is_stream: bool) -> None:
        """Count a request that is over; of one that was broken off before its head, status 0."""
        door = door_of(path)
        self.answered[door, method if method in _METHODS else OTHER, status] += 1
        if not is_stream:
            self.took[door].observe(seconds)


def door_of(path: str) -> str:
    """By which door a request came."""
    first = path[1:].partition("/")[0]
    return first if first in DOORS else OTHER


def is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether an answer is one that goes on for as long as something happens."""
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in headers
    )
