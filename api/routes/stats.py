"""Analytics: what was said, run, spent and thought of it."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response

from api.deps import CallerDep, ServicesDep
from api.http.bodies import JsonRoute
from api.http.responses import json_response
from api.schemas.common import Text
from api.schemas.stats import as_csv, period, rows
from store import stats
from store.models import JsonObject
from store.stats import GroupBy

router = APIRouter(prefix="/api/stats", tags=["analytics"], route_class=JsonRoute)

#: An answer, for the description of the API.
EXAMPLE: JsonObject = {
    "group_by": "day",
    "from": "2026-11-26T00:00:00+08:00",
    "to": "2026-11-27T00:00:00+08:00",
    "timezone": "Asia/Shanghai",
    "user_id": None,
    "currency": "USD",
    "data": [
        {
            "day": "2026-11-26", "sessions": 12, "messages": 96, "answers": 48,
            "tokens": {"input": 51200, "cached": 20480, "output": 9600, "total": 60800},
            "runs": 48, "failed_runs": 1,
            "first_token_ms": {"p50": 310, "p95": 1200}, "latency_ms": {"p50": 2100, "p95": 6400},
            "cost": 0.153, "unpriced_tokens": 0,
            "feedback": {"count": 5, "likes": 4, "dislikes": 1, "score": 80.0},
        }
    ],
    "has_more": False,
}  # fmt: skip


@router.get(
    "",
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}, "text/csv": {}}},
    },
)
async def get_stats(
    services: ServicesDep,
    caller: CallerDep,
    group_by: GroupBy = "day",
    since: Annotated[Text | None, Query(alias="from")] = None,
    until: Annotated[Text | None, Query(alias="to")] = None,
    tz: Text = "UTC",
    user_id: Text | None = None,
    format: Literal["json", "csv"] | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """
    Sessions, messages, runs, tokens, cost, latencies and feedback of the sessions that you may see.

    `from` is in the range, `to` is not; a date is its first moment in `tz`. Without them the last 30
    days are meant; 366 are the most. As CSV with `format=csv` or `Accept: text/csv`.
    """
    meant = period(since, until, tz, now=datetime.now(UTC))
    access = await caller.may("threads", "search", {"metadata": {}, "limit": limit, "offset": 0})
    found = await stats.count(services.db, meant.range(group_by, user_id, access))
    groups = rows(found, meant, services.prices, group_by=group_by)
    if format == "csv" or (format is None and "text/csv" in accept):
        name = f'attachment; filename="stats-by-{group_by}.csv"'
        text = as_csv(groups[:limit], group_by)
        return Response(text, media_type="text/csv", headers={"Content-Disposition": name})
    return json_response(
        {
            "group_by": group_by,
            "from": meant.since.astimezone(meant.zone).isoformat(),
            "to": meant.until.astimezone(meant.zone).isoformat(),
            "timezone": tz,
            "user_id": user_id,
            "currency": services.prices.currency,
            "data": groups[:limit],
            "has_more": len(groups) > limit,
        }
    )
