"""docs/api.md names every route and every error code, and no route that is not there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute

from api.app import ROUTERS
from api.errors import STATUSES
from graph.registry import UnknownGraphError
from store.errors import Error

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text()
FROM_FASTAPI = {"GET /docs", "GET /openapi.json"}


def _routes() -> Iterator[str]:
    for router in ROUTERS:
        for route in router.routes:
            if isinstance(route, APIWebSocketRoute):
                yield f"WS {route.path}"
                continue
            assert isinstance(route, APIRoute)
            yield from (f"{method} {route.path}" for method in route.methods or ())


def _errors(kind: type[Error] = Error) -> Iterator[type[Error]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _errors(child)


def test_every_route_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"`((?:GET|HEAD|POST|PUT|PATCH|DELETE|WS) /[^`]*)`", PAGE))

    assert documented == set(_routes()) | FROM_FASTAPI


@pytest.mark.parametrize("error", sorted({UnknownGraphError, *STATUSES, *_errors()}, key=str))
def test_every_error_code_is_documented(error: type[Error]) -> None:
    assert f"`{error.default_code}`" in PAGE
