"""
What a process counts of itself as it goes, to be read by whoever asks.

Plain numbers, each written on one event loop only, so that counting costs next to nothing. Nothing
here has a thread's or a user's name: what there is to tell apart is bounded.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

log = structlog.get_logger(__name__)

#: Upper bounds, in seconds: of a statement or a request; and of a run.
SHORT_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
LONG_SECONDS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0,
)  # fmt: skip
#: Upper bounds of how many were done together.
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: Of a query without a name, so much is shown.
SHOWN_CHARACTERS: Final = 120

#: What a query is called, by its text: `store.sql` fills it.
query_names: dict[str, str] = {}


class Histogram:
    """
    How often values were how large.

    Args:
        bounds: The upper bounds, rising; what is larger than all of them is counted too.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        #: By bound, each for itself; the last is of what exceeds them.
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """By bound how many were no larger, as Prometheus has it, and the sum of all values."""
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        seen, found = 0, []
        for name, count in zip(names, list(self.counts), strict=True):
            seen += count
            found.append((name, float(seen)))
        return found, self.total


class QueryMeter:
    """
    How long PostgreSQL takes; what takes long is logged, without its parameters.

    Args:
        slow_seconds: From where on a statement, or a transaction of several, is slow; 0: never.
    """

    def __init__(self, slow_seconds: float = 0.0) -> None:
        self.seconds = Histogram(SHORT_SECONDS)
        self.slow_count = 0
        self._slow_seconds = slow_seconds or float("inf")

    def took(self, seconds: float) -> bool:
        """Count a statement, or a transaction, that was answered; whether it is to be told of."""
        self.seconds.observe(seconds)
        return seconds >= self._slow_seconds

    def tell(self, seconds: float, queries: Iterable[str]) -> None:
        """Log one that was slow."""
        self.slow_count += 1
        names = [query_name(query) for query in queries]
        log.warning("slow query", query=", ".join(names), seconds=round(seconds, 3))


def query_name(query: str) -> str:
    """What a query is called: its module and name, or how its text begins."""
    return query_names.get(query) or " ".join(query.split())[:SHOWN_CHARACTERS]
