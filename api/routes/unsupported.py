"""
What the LangGraph Server has and this server not yet: 501 with a reason, never a silent no-op.

A route that gets built is deleted here.
"""

from fastapi import APIRouter

from store.errors import UnsupportedError

router = APIRouter(include_in_schema=False)

UNSUPPORTED: dict[str, tuple[str, ...]] = {
    "Generative UI": ("POST /ui/{graph_id}",),
}


def _refuse(what: str, method: str, path: str) -> None:
    async def refuse() -> None:
        raise UnsupportedError(f"{what}: this server does not support {method} {path} yet")

    router.add_api_route(path, refuse, methods=[method])


for _what, _routes in UNSUPPORTED.items():
    for _route in _routes:
        _refuse(_what, *_route.split(" ", 1))
