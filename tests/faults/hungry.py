"""A graph that takes all the memory there is."""

import resource
from typing import Any

from tests.acceptance.graphs import Work, _chain, report

HOARD: list[bytearray] = []


async def _hog(state: Work) -> dict[str, Any]:
    """Take all the memory that its process may have, if that is limited, and keep it."""
    await report(state["gate"], f"{state['name']}:hog")
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    size = 1 << 26
    while limited and size > 8:
        try:
            HOARD.append(bytearray(size))
        except MemoryError:
            size //= 2
    return {"log": ["hog"]}


hog = _chain(Work, ("hog", _hog))
