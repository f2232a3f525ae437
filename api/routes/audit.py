"""The audit log: what was done that matters to security."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from api.deps import CallerDep, ServicesDep
from api.http.responses import json_response
from api.schemas.common import Text, Time
from api.schemas.sessions import encode_cursor, number_cursor
from store import audit
from store.audit import Entry, Filter
from store.models import JsonObject

router = APIRouter(prefix="/api/audit", tags=["audit"])

#: What it takes to see what others did to what is not one's own.
PERMISSION: Final = "audit:read"

#: An answer, for the description of the API.
EXAMPLE: Final[JsonObject] = {
    "data": [
        {
            "id": "42",
            "time": "2026-11-26T08:00:00Z",
            "act": "share.created",
            "actor": "ada",
            "owner": "ada",
            "subject": "session:01990000-0000-7000-8000-000000000001",
            "details": {"share_id": "01990000-0000-7000-8000-000000000002", "mode": "live"},
        }
    ],
    "next_cursor": None,
    "has_more": False,
}


@router.get("", responses={200: {"content": {"application/json": {"example": EXAMPLE}}}})
async def list_audit(
    caller: CallerDep,
    services: ServicesDep,
    act: Text | None = None,
    actor: Text | None = None,
    owner: Text | None = None,
    subject: Text | None = None,
    since: Annotated[Time | None, Query(alias="from")] = None,
    until: Annotated[Time | None, Query(alias="to")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: str | None = None,
) -> Response:
    """
    Acts that matter to security, the newest first: who did what to whose what.

    Those that one did oneself, or that were done to what is one's own; with the permission `audit:read`
    all. `actor` is null for the server itself, and empty where nobody is authenticated.
    """
    found, more = await audit.page(
        services.db,
        Filter(
            act=act,
            actor=actor,
            owner=owner,
            subject=subject,
            since=since,
            until=until,
        ),
        before=number_cursor(cursor),
        limit=limit,
        seen_by=None if caller.has(PERMISSION) else caller.identity,
    )
    following = encode_cursor(found[-1].audit_id) if more else None
    return json_response(
        {"data": [entry_json(e) for e in found], "next_cursor": following, "has_more": more}
    )


def entry_json(entry: Entry) -> JsonObject:
    """An entry, as clients see it."""
    return {
        "id": str(entry.audit_id),
        "time": entry.recorded_at,
        "act": entry.act,
        "actor": entry.actor,
        "owner": entry.owner,
        "subject": entry.subject,
        "details": entry.details,
    }
