"""Sessions as files: out of the server, and into it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Annotated, Any, BinaryIO, Final, cast

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from uuid_utils.compat import uuid7

from api.deps import HAS_MESSAGES, CallerDep, ServicesDep, SessionId
from api.exchange.archives import is_archive, unpack
from api.exchange.exporting import MEDIA, Branch, Export, Format
from api.exchange.files import Form, entries
from api.exchange.importing import Report
from api.exchange.jobs import MEMORY_BYTES, request_of
from api.http.responses import json_response
from api.identity.auth import Caller
from api.schemas.common import RunId
from store import audit, exchanges, sessions
from store.errors import InvalidInputError
from store.exchanges import PART_BYTES, Import
from store.models import JsonObject, Session

router = APIRouter(tags=["exchange"], dependencies=HAS_MESSAGES)

#: A larger file is taken in by a job, unless the request says what it wants.
SOON_BYTES: Final = 2**20
_PAGE = 100

Formats = Annotated[Format, Query(description="`openai` and `sharegpt` have text, and no ids.")]
Branches = Annotated[Branch, Query(description="`all`: with the turns that were left.")]

_FILE = {
    "requestBody": {
        "required": True,
        "description": "A file: as the body itself, or as `file` of a form.",
        "content": {
            "application/json": {
                "schema": {},
                "example": {"messages": [{"role": "user", "content": "Hello"}]},
            },
            "application/x-ndjson": {"schema": {"type": "string"}},
            "text/markdown": {"schema": {"type": "string"}},
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@router.get("/api/sessions/export", response_class=StreamingResponse)
async def export_sessions(
    caller: CallerDep,
    services: ServicesDep,
    format: Formats = "jsonl",
    branch: Branches = "active",
) -> Response:
    """All sessions of the caller's own that are not deleted, the oldest first, as one file."""
    access = await caller.may(
        "threads", "search", {"metadata": {}, "limit": _PAGE, "offset": 0}, shared=False
    )

    async def page(last: Session | None) -> Sequence[Session]:
        after: tuple[datetime, str] | None = (last.create_time, last.id) if last else None
        return await exchanges.sessions_page(services.db, after=after, limit=_PAGE, access=access)

    await audit.record(
        services.db,
        "sessions.exported",
        actor=caller.actor,
        owner=caller.identity,
        subject="sessions",
        details={"format": format},
    )
    export = Export(db=services.db, format=format, branch=branch)
    # What is wrong before the first byte has a status.
    return _file(export.many(await page(None), page), format, "sessions")


@router.get("/api/sessions/{session_id}/export", response_class=StreamingResponse)
async def export_session(
    session_id: SessionId,
    caller: CallerDep,
    services: ServicesDep,
    format: Formats = "json",
    branch: Branches = "active",
) -> Response:
    """A session as a file."""
    access = await caller.may("threads", "read", {"thread_id": session_id})
    session = await sessions.get(services.db, session_id, access=access)
    export = Export(db=services.db, format=format, branch=branch)
    return _file(export.one(session), format, session_id)


def _file(content: AsyncIterator[bytes], format: Format, name: str) -> Response:
    media_type, ending = MEDIA[format]
    disposition = f'attachment; filename="{name}.{ending}"'
    return StreamingResponse(
        _in_pieces(content), media_type=media_type, headers={"Content-Disposition": disposition}
    )


async def _in_pieces(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pieces that are worth being sent."""
    kept: list[bytes] = []
    size = 0
    async for chunk in content:
        kept.append(chunk)
        size += len(chunk)
        if size >= 64 * 1024:
            yield b"".join(kept)
            kept, size = [], 0
    yield b"".join(kept)


@router.post("/api/sessions/import", openapi_extra=_FILE)
async def import_sessions(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    format: Annotated[Form, Query(description="`auto` finds out.")] = "auto",
    dry_run: Annotated[bool, Query(description="Tell what would come of it.")] = False,
    background: Annotated[
        bool | None,
        Query(description="Answer 202 and go on; unless said, for files beyond 1 MiB."),
    ] = None,
) -> Response:
    """
    Take the conversations of a file in: of this server's exports, ChatGPT (its archive too), Open WebUI,
    OpenAI's chat form, ShareGPT, or Markdown.

    Whatever is taken in twice is there once; a longer file of the same conversation adds what is new.
    """
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.SpooledTemporaryFile(MEMORY_BYTES))
        size = await _receive(request, file)
        if is_archive(cast("BinaryIO", file)):
            archive, file = file, stack.enter_context(tempfile.SpooledTemporaryFile(MEMORY_BYTES))
            size = await asyncio.to_thread(
                unpack,
                cast("BinaryIO", archive),
                cast("BinaryIO", file),
                max_bytes=services.settings.request_body_max_bytes,
            )
        if background if background is not None else size > SOON_BYTES:
            begun = await _begin(services, caller, file, size, form=format, dry_run=dry_run)
            return _accepted(begun)
        report = Report()
        source = entries(cast("BinaryIO", file), format)
        while (entry := await asyncio.to_thread(next, source, None)) is not None:
            await services.importer.take(caller, entry, report, dry_run=dry_run)
    if report.fault is not None and sum(report.counts.values()) == 1:
        # There was nothing else in the file.
        raise report.fault
    return json_response({"dry_run": dry_run, **report.json()})


@router.get("/api/imports/{import_id}")
async def get_import(import_id: RunId, caller: CallerDep, services: ServicesDep) -> Response:
    """How far an import is that goes on in the background, and what came of it."""
    found = await exchanges.get(
        services.db,
        import_id,
        owner=caller.user.identity if caller.user else None,
        everybody=caller.user is None,
    )
    return json_response(import_json(found))


def import_json(found: Import) -> JsonObject:
    """An import, as whoever began it sees it."""
    return {
        "id": found.import_id,
        "status": found.status,
        "dry_run": found.request["dry_run"],
        "size_bytes": found.size_bytes,
        "position": found.position,
        **found.report,
        "created_at": found.created_at,
        "updated_at": found.updated_at,
    }


def _accepted(begun: Import) -> Response:
    answer = json_response(
        import_json(begun), headers={"Location": f"/api/imports/{begun.import_id}"}
    )
    answer.status_code = 202
    return answer


async def _receive(request: Request, file: tempfile.SpooledTemporaryFile[bytes]) -> int:
    """
    Take a request's file down; how many bytes it has.

    Raises:
        InvalidInputError: It has none.
        TooLargeError: It is larger than a body may be; raised by what reads it.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        await _receive_form(request, file)
    else:
        async for chunk in request.stream():
            await asyncio.to_thread(file.write, chunk)
    size = file.tell()
    if not size:
        raise InvalidInputError("The request has no file")
    file.seek(0)
    return size


async def _receive_form(request: Request, file: tempfile.SpooledTemporaryFile[bytes]) -> None:
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            given = form.get("file")
            if not isinstance(given, UploadFile):
                raise InvalidInputError("The form has no file named `file`")
            while chunk := await given.read(PART_BYTES):
                await asyncio.to_thread(file.write, chunk)
    except MultiPartException as exc:
        raise InvalidInputError("The form cannot be read") from exc


async def _begin(
    services: ServicesDep,
    caller: Caller,
    file: tempfile.SpooledTemporaryFile[bytes],
    size: int,
    *,
    form: Form,
    dry_run: bool,
) -> Import:
    def parts() -> Iterator[bytes]:
        while content := file.read(PART_BYTES):
            yield content

    report: dict[str, Any] = {**Report().json(), "done_bytes": 0}
    # Whether the caller may create sessions is asked before anything is kept for them.
    await caller.may("threads", "create", {"thread_id": None, "metadata": {}})
    return await exchanges.begin(
        services.db,
        str(uuid7()),
        owner=caller.user.identity if caller.user else None,
        request=request_of(caller, form=form, dry_run=dry_run),
        report=report,
        size_bytes=size,
        parts=parts(),
    )
