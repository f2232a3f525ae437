"""What a process counts of the runs and jobs that it does."""

from collections import Counter

from store.meters import LONG_SECONDS, Histogram
from store.models import Run


class RunMeter:
    """
    The runs of a process.

    Attributes:
        begun: By how they came: ``at_once``, ``claimed``, or ``resumed`` after an earlier attempt.
        ended: By status, and ``rollback``.
        given_up: Those whose end was not ours to write, by why: ``lost``, of which nobody knows
            whether it goes on elsewhere, or ``handed_back`` to the queue.
        reaped: Runs of other processes that were taken from them, by what became of them.
        buried: How often PostgreSQL declared this process dead.
        waited: Seconds from when a run was due to when it began; of first attempts.
        first_token: Seconds from the beginning of a run to its first token; of first attempts.
        took: Seconds from the beginning of a run to its end.
    """

    def __init__(self) -> None:
        self.begun = Counter[str]()
        self.ended = Counter[str]()
        self.given_up = Counter[str]()
        self.reaped = Counter[str]()
        self.buried = 0
        self.waited = Histogram(LONG_SECONDS)
        self.first_token = Histogram(LONG_SECONDS)
        self.took = Histogram(LONG_SECONDS)

    def begin(self, run: Run) -> None:
        """Count a run that begins here."""
        if run.attempt != 1:
            self.begun["resumed"] += 1
            return
        # Both times are the database's; of a run that was begun as it came they are the same.
        seconds = (run.updated_at - run.created_at).total_seconds()
        self.begun["claimed" if seconds else "at_once"] += 1
        self.waited.observe(seconds)

    def end(self, status: str, *, seconds: float, first_token_ms: int | None) -> None:
        """Count a run whose end was written here."""
        self.ended[status] += 1
        self.took.observe(seconds)
        if first_token_ms is not None:
            self.first_token.observe(first_token_ms / 1000)
