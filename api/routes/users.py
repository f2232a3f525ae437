"""All that is a user's: erased, or given to them as a file; as jobs that go on by themselves."""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse
from uuid_utils.compat import uuid7

from api.deps import CallerDep, ServicesDep
from api.errors import BrokenOffError
from api.http.responses import json_response
from api.identity.auth import Caller
from api.identity.authority import Action, Resource
from api.schemas.common import RunId, Text
from store import audit, user_jobs
from store.access import EVERYTHING, Access
from store.database import Database
from store.errors import ConflictError, NotFoundError, PermissionDeniedError
from store.models import JsonObject
from store.user_jobs import Kind, UserJob

router = APIRouter(prefix="/api/users", tags=["users"])

#: Of others: what it takes.
PERMISSIONS: Final[Mapping[Kind, str]] = {"erasure": "users:erase", "export": "users:export"}
#: What is asked of an `Auth` about one's own, by resource; it names no row, for all are meant.
_NONE: Final = "00000000-0000-0000-0000-000000000000"
_NAMED: Final[Mapping[Resource, str]] = {
    "threads": "thread_id", "assistants": "assistant_id", "crons": "cron_id",
}  # fmt: skip
_ACTIONS: Final[Mapping[Kind, Action]] = {"erasure": "delete", "export": "read"}
#: And of a scoped key, about one's own that has no rows to ask an `Auth` about.
_ALSO: Final[Mapping[Kind, tuple[str, ...]]] = {
    "erasure": ("store:delete", "webhooks:delete"), "export": ("store:get", "webhooks:read"),
}  # fmt: skip

UserId = Annotated[
    Text, Path(min_length=1, max_length=255, description="An identity, or a session's `user_id`.")
]

#: An answer, for the description of the API.
EXAMPLE: Final[JsonObject] = {
    "id": "01990000-0000-7000-8000-000000000001",
    "kind": "erasure",
    "user_id": "ada",
    "status": "success",
    "report": {"sessions": 12, "messages": 240, "files": 3, "items": 7},
    "error": None,
    "created_at": "2026-11-26T08:00:00Z",
    "updated_at": "2026-11-26T08:00:02Z",
}
_EXAMPLE: Final[dict[str, Any]] = {"content": {"application/json": {"example": EXAMPLE}}}


@router.delete("/{user_id}/data", status_code=202, responses={202: _EXAMPLE})
async def erase(user_id: UserId, caller: CallerDep, services: ServicesDep) -> Response:
    """
    Erase all that is a user's: sessions, files, items, crons, assistants, webhooks and the rest.

    One's own, or with the permission `users:erase` anybody's. It goes on by itself; the answer says where
    its report will be. It cannot be taken back.
    """
    return await _begin(services.db, caller, "erasure", user_id)


@router.post("/{user_id}/export", status_code=202, responses={202: _EXAMPLE})
async def begin_export(user_id: UserId, caller: CallerDep, services: ServicesDep) -> Response:
    """
    Have all that is a user's put into a file, to be fetched by a GET within a day.

    One's own, or with the permission `users:export` anybody's.
    """
    return await _begin(services.db, caller, "export", user_id)


@router.get("/{user_id}/export", response_class=StreamingResponse)
async def get_export(user_id: UserId, caller: CallerDep, services: ServicesDep) -> Response:
    """
    The file of a user's last export, a JSON object a line; 409 while it is being made.

    404 if there is none, or not any more.
    """
    _require(caller, "export", user_id)
    await _visible(caller, "export")
    found = await user_jobs.newest_export(services.db, user_id)
    if found.status == "error":
        raise NotFoundError("There is no export of this user: ask for one")
    if found.status != "success":
        raise ConflictError("The export is being made", code="export_pending")
    await audit.record(
        services.db,
        "export.read",
        actor=caller.actor,
        owner=user_id,
        subject=f"user:{user_id}",
        details={"job_id": found.user_job_id},
    )
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(user_id, safe='')}.jsonl",
        "Cache-Control": "no-store",
    }
    return StreamingResponse(
        _parts(services.db, found), media_type="application/x-ndjson", headers=headers
    )


async def _parts(db: Database, job: UserJob) -> AsyncIterator[bytes]:
    for number in range(job.part_count):
        content = await user_jobs.part(db, job.user_job_id, number)
        if content is None:
            raise BrokenOffError
        yield content


@router.get("/{user_id}/jobs/{job_id}", responses={200: _EXAMPLE})
async def get_user_job(
    user_id: UserId, job_id: RunId, caller: CallerDep, services: ServicesDep
) -> Response:
    """How far an erasure or an export of a user is, and what it came to."""
    found = await user_jobs.get(services.db, job_id, user_id=user_id)
    if not _may(caller, found.kind, user_id):
        raise NotFoundError(f"Job {job_id} not found")
    return json_response(job_json(found))


def job_json(job: UserJob) -> JsonObject:
    """An erasure or an export, as whoever may ask for it sees it."""
    return {
        "id": job.user_job_id,
        "kind": job.kind,
        "user_id": job.user_id,
        "status": job.status,
        "report": job.report,
        "error": job.error,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
    }


def _may(caller: Caller, kind: Kind, user_id: str) -> bool:
    return user_id == caller.identity or caller.has(PERMISSIONS[kind])


def _require(caller: Caller, kind: Kind, user_id: str) -> None:
    # To do what a user may is not to erase them, and their keys.
    acts = kind == "erasure" and caller.actor != caller.identity
    may = caller.sender_has(PERMISSIONS[kind]) if acts else _may(caller, kind, user_id)
    if not may:
        raise PermissionDeniedError(f"Another user's data needs the permission {PERMISSIONS[kind]}")


async def _begin(db: Database, caller: Caller, kind: Kind, user_id: str) -> Response:
    _require(caller, kind, user_id)
    begun = await user_jobs.begin(
        db,
        str(uuid7()),
        kind=kind,
        user_id=user_id,
        actor=caller.actor,
        visible=await _visible(caller, kind),
    )
    answer = json_response(
        job_json(begun),
        headers={"Location": f"/api/users/{quote(user_id, safe='')}/jobs/{begun.user_job_id}"},
    )
    answer.status_code = 202
    return answer


async def _visible(caller: Caller, kind: Kind) -> dict[str, Access]:
    """
    By resource, the rows that the caller may touch.

    Raises:
        PermissionDeniedError: Of one of them, none.
    """
    if caller.has(PERMISSIONS[kind]):
        return dict.fromkeys(_NAMED, EVERYTHING)
    for permission in _ALSO[kind]:
        caller.require(permission)
    return {
        resource: await caller.may(resource, _ACTIONS[kind], {named: _NONE}, shared=False)
        for resource, named in _NAMED.items()
    }
