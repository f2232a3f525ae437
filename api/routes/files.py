"""Attachments: uploaded once, named by their ids in messages."""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.datastructures import Headers, UploadFile
from starlette.responses import StreamingResponse
from starlette.types import Message

from api.deps import CallerDep, ServicesDep
from api.errors import BrokenOffError
from api.http.responses import json_response
from api.identity.auth import Caller
from api.uploads import keep_file, too_large
from store import files, media
from store.database import Database
from store.errors import InvalidInputError, NotFoundError, UnavailableError
from store.files import File
from store.models import JsonObject

router = APIRouter(prefix="/api/files", tags=["files"])

#: What a form takes beside its file.
FORM_BYTES: Final = 64 * 1024
_EXAMPLE: Final[JsonObject] = {
    "id": "0198c2e0-8f5e-7c31-a0f5-0c6a3f0f4f11",
    "name": "cat.png",
    "mime": "image/png",
    "type": "image",
    "size": 48213,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "create_time": "2026-11-26T09:30:00Z",
}
_FORM: Final[JsonObject] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            }
        },
    }
}
#: Whatever a file is, a browser takes it for no more than it is said to be, and runs nothing of it.
_SAFE: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",
}


@router.post(
    "",
    openapi_extra=_FORM,
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
async def upload_file(request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """
    Upload a file, as the part ``file`` of a form.

    Of what kind it is is read from what is in it. The same content is kept once, whoever uploads it.
    """
    settings = services.settings
    await caller.may("threads", "create", {"metadata": {}})
    form = await _limited(request, settings.file_max_bytes).form(max_files=1, max_fields=10)
    try:
        given = form.get("file")
        if not isinstance(given, UploadFile):
            raise InvalidInputError("The form has no part `file` that is a file")
        file = await keep_file(services, caller, given)
    finally:
        await form.close()
    return json_response(_file_json(file))


@router.get(
    "/{file_id}",
    responses={
        200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "It is what the client has."},
    },
)
async def get_file(
    file_id: Annotated[UUID, Path()],
    caller: CallerDep,
    services: ServicesDep,
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """What a file holds: for its owner, and for whoever may see a session that it was sent in."""
    access = await caller.may("threads", "search", {"metadata": {}, "limit": 1, "offset": 0})
    file = await files.get(services.db, str(file_id), owner=_identity(caller), access=access)
    headers = {**_SAFE, "ETag": f'"{file.sha256}"'}
    if file.sha256 in if_none_match:
        return Response(status_code=304, headers=headers)
    return StreamingResponse(
        _pieces(services.db, file),
        headers={**headers, **_about(file)},
        media_type=file.mime_type,
    )


def _limited(request: Request, max_bytes: int) -> Request:
    """The request, refused as soon as it is larger than a form with the largest file."""
    limit = max_bytes + FORM_BYTES
    announced = Headers(scope=request.scope).get("content-length", "0")
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large(max_bytes)
        return message

    if int(announced) > limit:
        raise too_large(max_bytes)
    return Request(request.scope, receive)


async def _pieces(db: Database, file: File) -> AsyncIterator[bytes]:
    try:
        async for piece in files.read(db, file):
            yield piece
    except (NotFoundError, UnavailableError) as exc:
        raise BrokenOffError(exc.message) from exc


def _identity(caller: Caller) -> str:
    return caller.user.identity if caller.user else ""


def _about(file: File) -> Mapping[str, str]:
    shown = file.mime_type.startswith(("image/", "audio/"))
    disposition = f"{'inline' if shown else 'attachment'}; filename*=UTF-8''{quote(file.name)}"
    return {"Content-Length": str(file.size_bytes), "Content-Disposition": disposition}


def _file_json(file: File) -> dict[str, Any]:
    return {
        "id": file.file_id,
        "name": file.name,
        "mime": file.mime_type,
        "type": media.block_type(file.mime_type),
        "size": file.size_bytes,
        "sha256": file.sha256,
        "create_time": file.created_at,
    }
