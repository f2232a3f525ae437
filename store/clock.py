"""The clock that LangGraph names checkpoints by: all threads of the process share it."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from langgraph.checkpoint.base import id as checkpoint_ids

#: Where LangGraph keeps the time of the id that it made last: the next one is later.
_CLOCK: Final[Any] = checkpoint_ids


@dataclass(slots=True)
class Clock:
    """
    Has the new checkpoints of one thread sort behind those that it has.

    The newest checkpoint is the one with the greatest id, and an id begins with the time. Whoever
    had the lease before may have had a clock that is ahead of ours, or ours was set back.
    """

    # When the newest checkpoint that is known was made, by the clock of whoever made it.
    _newest_at: int = 0

    def follow(self, checkpoint_id: str | None) -> None:
        """Have checkpoints that are made from here on sort behind this one."""
        with suppress(ValueError):  # an id of somebody else's making
            known = checkpoint_ids.UUID(checkpoint_id or "")
            if known.version == 6:
                self._newest_at = max(self._newest_at, known.time)
        self.wind()

    def wind(self) -> None:
        """Wind the shared clock on to the newest checkpoint that is known."""
        if (_CLOCK._last_v6_timestamp or 0) < self._newest_at:
            _CLOCK._last_v6_timestamp = self._newest_at
