"""Generative UI: what `LoadExternalComponent` of the JavaScript SDK shows beside what a graph says."""

import json
from html import escape
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import HTMLResponse

from api.deps import ServicesDep
from api.http.bodies import JsonRoute
from api.http.origins import host_of, is_of_this_machine
from api.schemas.ui import ComponentLoad
from api.ui_bundles import SCRIPT, STYLES, Bundle
from store.errors import InvalidInputError, NotFoundError

router = APIRouter(prefix="/ui", tags=["ui"], route_class=JsonRoute)


@router.post("/{graph_id}", response_class=HTMLResponse)
async def load_component(
    graph_id: str, asked: ComponentLoad, request: Request, services: ServicesDep
) -> Response:
    """
    Answer with the HTML that renders a component of `ui` in langgraph.json.

    The name is not looked up: only the script knows which components it has.
    """
    bundle = services.ui.get(graph_id)
    if bundle is None and graph_id in services.graphs.ui:
        raise NotFoundError("This UI is not built: the server's log says what to do")
    if bundle is None:
        raise NotFoundError("langgraph.json names no UI for this graph")
    return HTMLResponse(_html(bundle, asked.name, _base_url(request)))


@router.get(
    "/{graph_id}/{file}",
    response_class=Response,
    responses={
        200: {"content": {"text/javascript": {}, "text/css": {}}},
        304: {"description": "It is what the client has."},
    },
)
async def get_file(
    graph_id: str, file: str, services: ServicesDep, if_none_match: Annotated[str, Header()] = ""
) -> Response:
    """Answer with a file of a bundle. Everybody may: a page loads it by an element of its HTML."""
    bundle = services.ui.get(graph_id)
    found = bundle.files.get(file) if bundle else None
    if found is None:
        raise NotFoundError("There is no such file of a UI")
    # Its name stays when it is built anew.
    headers = {
        "ETag": found.etag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff",
    }  # fmt: skip
    if found.etag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


def _html(bundle: Bundle, component: str, base_url: str) -> str:
    url = escape(f"{base_url}ui/{quote(bundle.name, safe='')}/")
    # The page puts its id in the place of the first {{shadowRootId}} that it finds.
    name = escape(json.dumps(component).replace("{", "\\u007b"))
    styles = [f'<link rel="stylesheet" href="{url}{STYLES}" />'] if STYLES in bundle.files else []
    script = (
        f'<script src="{url}{SCRIPT}" '
        f"onload='{bundle.variable}.render({name}, \"{{{{shadowRootId}}}}\")'></script>"
    )
    return "\n".join([*styles, script])


def _base_url(request: Request) -> str:
    """This server, as the request came to it: the page may be another server's."""
    authority = request.headers.get("host", "")
    host = host_of(authority)
    if host is None:
        raise InvalidInputError("The Host of this request is no host")
    scheme, root_path = request.scope["scheme"], request.scope.get("root_path", "")
    if scheme == "http" and not is_of_this_machine(host):
        # A proxy may have taken TLS away and not said so. The page's own scheme is right then, but not for
        # this machine, which pages with TLS load from without.
        return f"//{authority}{root_path}/"
    return f"{scheme}://{authority}{root_path}/"
