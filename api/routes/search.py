"""Full-text search over the messages that the caller may see."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Response

from api.deps import CallerDep, ServicesDep
from api.http.responses import json_response
from api.schemas.common import SessionId, Text, Time
from api.schemas.sessions import encode_cursor, search_cursor
from store import search, sessions, terms
from store.errors import InvalidInputError, UnsupportedError
from store.models import JsonObject
from store.search import Filters, Hit, Place

router = APIRouter(prefix="/api/search", tags=["search"])

#: Words of a question: Chinese ones of n characters count as n - 1.
MAX_TERMS: Final = 32

_EXAMPLE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {
            "application/json": {
                "example": {
                    "data": [
                        {
                            "session_id": "0198c2e0-8f5e-7c31-a0f5-0c6a3f0f4f11",
                            "session_name": "向量数据库",
                            "message_id": "lc_run--0198c2e1-3a5f-7d10-8a57-6d1c2b7e9a01",
                            "role": "assistant",
                            "snippet": "…可以用<mark>搜索</mark>引擎，或者 Postgres 的全文索引…",
                            "score": 0.0607927106320858,
                            "create_time": "2026-11-26T09:30:00Z",
                        }
                    ],
                    "next_cursor": None,
                    "has_more": False,
                }
            }
        }
    }
}


@router.get("", responses=_EXAMPLE)
async def search_messages(
    services: ServicesDep,
    caller: CallerDep,
    q: Annotated[Text, Query(min_length=1, max_length=500)],
    role: Literal["user", "assistant", "system", "tool"] | None = None,
    from_: Annotated[Time | None, Query(alias="from")] = None,
    to: Time | None = None,
    session_id: SessionId | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> Response:
    """
    Messages that have every word of ``q``, the best of the newest first.

    Chinese, Japanese and Korean words are found from one character on, English ones in all their
    forms, and what is in double quotes as it stands. ``from`` and ``to`` are about when a message was
    made. Snippets are HTML, with the hits in ``<mark>``.
    """
    if services.graphs.checkpointer is not None:
        raise UnsupportedError("Search: not with the checkpointer that langgraph.json names")
    place = search_cursor(cursor)
    question = terms.query(q)
    if question.size > MAX_TERMS:
        raise InvalidInputError(f"q may have {MAX_TERMS} words at the most")
    access = await caller.may("threads", "search", {"metadata": {}, "limit": limit, "offset": 0})
    if session_id is not None:
        await sessions.get(services.db, session_id, access=access)
    hits: list[Hit] = []
    following: Place | None = None
    if question.phrases:
        hits, following = await search.messages(
            services.db,
            question,
            filters=Filters(role=role, from_time=from_, to_time=to, session_id=session_id),
            place=place,
            limit=limit,
            access=access,
        )
    return json_response(
        {
            "data": [_hit_json(hit, question) for hit in hits],
            "next_cursor": following
            and encode_cursor(following.before, following.rank, following.number),
            "has_more": following is not None,
        }
    )


def _hit_json(hit: Hit, question: terms.Query) -> JsonObject:
    return {
        "session_id": hit.session_id,
        "session_name": hit.session_name,
        "message_id": hit.message_id,
        "role": hit.role,
        "snippet": terms.snippet(hit.content, question),
        "score": hit.rank,
        "create_time": hit.create_time,
    }
