"""What happens on a thread, run after run, as server-sent events that never end by themselves."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing, suppress
from typing import Literal, get_args

import orjson

from api.bootstrap import Services
from api.errors import BrokenOffError
from api.sse import GOES_ON, frame, gap_frames
from graph.encode import dumps
from graph.protocol_run import PREFIX
from graph.state import STATE_UPDATE
from graph.stream import ASIDE
from store import threads
from store.access import EVERYTHING, Access
from store.errors import InvalidInputError, NotFoundError
from store.events import Event, EventId, Gap

#: ``run_modes``: every event of every run; ``lifecycle``: that one begins, and that it is done;
#: ``state_update``: the state that a client has made.
Mode = Literal["run_modes", "lifecycle", "state_update"]


def modes_of(texts: list[str]) -> set[Mode]:
    """
    Read the modes of a query: repeated, or separated by commas.

    Raises:
        InvalidInputError: One of them is no mode.
    """
    modes = {part.strip() for text in texts for part in text.split(",")}
    for mode in modes:
        if mode not in get_args(Mode):
            expected = ", ".join(get_args(Mode))
            raise InvalidInputError(f"Unknown stream mode {mode!r}. Expected: {expected}")
    return modes  # type: ignore[return-value]


class ThreadStream:
    """
    The frames of one thread for one client.

    Args:
        after: The last event that the client has.
        access: The threads whose states it may read.
    """

    def __init__(
        self,
        services: Services,
        thread_id: str,
        *,
        after: EventId,
        modes: Collection[Mode],
        access: Access,
    ) -> None:
        self._services = services
        self._thread_id = thread_id
        self._after = after
        self._modes = modes
        self._access = access

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """
        Everything after the client's last event, and whatever comes while the thread is visible.

        Raises:
            BrokenOffError: This process goes.
        """
        follow = self._services.follower.follow_thread(self._thread_id, after=self._after)
        async with aclosing(follow):
            async for batch in follow:
                if not await self._may_follow(batch):
                    return
                if isinstance(batch, Gap):
                    chunk = await self._missed(batch)
                else:
                    chunk = b"".join([await self._frame(event) for event in batch])
                if chunk:
                    yield chunk
        raise BrokenOffError(GOES_ON)

    async def _may_follow(self, batch: list[Event] | Gap) -> bool:
        """Asked again whenever a run begins: another's thread may have this one's name by now."""
        begins = isinstance(batch, Gap) or any(event.name == "metadata" for event in batch)
        if self._access == EVERYTHING or not begins:
            return True
        services = self._services
        found = await services.follower.patiently(
            lambda: threads.find(services.db, self._thread_id, access=self._access)
        )
        return found is not None

    async def _frame(self, event: Event) -> bytes:
        if event.name == STATE_UPDATE:
            return await self._state_update(event) if STATE_UPDATE in self._modes else b""
        if event.name == "end":
            done = dumps({"status": "run_done", "run_id": event.run_id})
            return frame("metadata", done, event.id) if self._tells_of_runs else b""
        if event.name.startswith(PREFIX) or event.name == ASIDE:
            return b""
        if "run_modes" in self._modes or (event.name == "metadata" and self._tells_of_runs):
            return frame(event.name, event.data, event.id)
        return b""

    @property
    def _tells_of_runs(self) -> bool:
        return not {"run_modes", "lifecycle"}.isdisjoint(self._modes)

    async def _state_update(self, event: Event) -> bytes:
        """The state that the event names; it may be deleted by now."""
        with suppress(NotFoundError):
            services, checkpoint = self._services, orjson.loads(event.data)
            state = await services.follower.patiently(
                lambda: services.states.get(
                    self._thread_id, checkpoint=checkpoint, access=self._access
                )
            )
            told = {"state": state, "thread_id": self._thread_id}
            return frame(STATE_UPDATE, dumps(told), event.id)
        return b""

    async def _missed(self, gap: Gap) -> bytes:
        """What stands in for events that are gone: word of it, and the thread's state now."""
        told = [("metadata", dumps({"thread_id": self._thread_id, "status": "gap"}))]
        if "run_modes" in self._modes:
            with suppress(NotFoundError):
                services = self._services
                values = await services.follower.patiently(
                    lambda: services.states.values(self._thread_id, access=self._access)
                )
                told += [("values", dumps(values))] if values is not None else []
        return gap_frames(told, gap)
