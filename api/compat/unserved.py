"""What the old projects serve beside conversations and this server does not: 501 with the reason."""

from fastapi import APIRouter

from store.errors import UnsupportedError

fufan = APIRouter(include_in_schema=False)
chatchat = APIRouter(include_in_schema=False)

_OF_FUFAN = (
    "GET /api/knowledge-bases/{user_id}",
    "POST /api/knowledge_base/create_knowledge_base",
    "DELETE /api/knowledge_base/delete_knowledge_base",
    "GET /api/knowledge_base/list_files",
)
_OF_CHATCHAT = ("GET /knowledge_base/{path:path}", "POST /knowledge_base/{path:path}")


async def refuse() -> None:
    """Say that there are no knowledge bases."""
    raise UnsupportedError("Knowledge bases: a graph of yours looks them up")


for _router, _routes in ((fufan, _OF_FUFAN), (chatchat, _OF_CHATCHAT)):
    for _route in _routes:
        _method, _path = _route.split()
        _router.add_api_route(_path, refuse, methods=[_method])
