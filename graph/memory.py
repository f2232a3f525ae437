"""The store of items from another event loop than the graphs': where the user's own code is in it."""

import asyncio
from collections.abc import Iterable
from typing import Final

from langgraph.store.base import BaseStore, Op, Result

from graph.loop import Place
from store.errors import UnavailableError

#: How long a store of the user's own may take to answer a request.
ANSWER_SECONDS: Final = 90.0


class DistantStore(BaseStore):
    """
    The store that graphs have, for the event loop that asks.

    Calls raise what that store raises, and UnavailableError when it does not answer in time.

    Args:
        place: Where it is.
        store: What it says of itself; it is not called here.
    """

    def __init__(self, place: Place, store: BaseStore) -> None:
        self._place = place
        self.supports_ttl = store.supports_ttl
        self.ttl_config = store.ttl_config

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do what is asked there."""
        asked = list(ops)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._place.run(lambda backing: backing.items.abatch(asked))
        except TimeoutError as exc:
            raise UnavailableError("The store did not answer in time") from exc

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Never called: what runs here awaits."""
        raise NotImplementedError
