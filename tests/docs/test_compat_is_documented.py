"""docs/existing-project.md names every route of the projects that this one stands in for, and no other."""

import re
from pathlib import Path

from fastapi.routing import APIRoute

from api.compat import COMPAT_ROUTERS

PAGE = (Path(__file__).parents[2] / "docs/existing-project.md").read_text()


def test_every_route_of_other_projects_is_documented_and_no_other() -> None:
    served = {
        f"{method} {route.path_format}"
        for routers in COMPAT_ROUTERS.values()
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    documented = {
        found.partition("?")[0]
        for found in re.findall(
            r"`((?:GET|POST|PUT|DELETE) /(?:api|chat|knowledge_base)/[^`]*|POST /chat[^`]*)`", PAGE
        )
    }

    assert documented == served
