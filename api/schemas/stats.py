"""What `/api/stats` is asked for, and its answer as JSON and as a table."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final

from api.prices import Prices
from graph.schedule import zone_of
from store.access import Access
from store.errors import InvalidInputError
from store.models import JsonObject
from store.stats import GroupBy, Ran, Range, Said, Stats, Thought

#: How long a range may be, and how long it is unless given.
MAX_DAYS: Final = 366
DEFAULT_DAYS: Final = 30

#: What spreadsheets take for the beginning of a formula; some the wide forms, too.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: Has spreadsheets read UTF-8.
_BOM: Final = "\ufeff"


@dataclass(frozen=True, slots=True)
class Period:
    """A range of time in days of a time zone."""

    since: datetime
    until: datetime
    dates: tuple[date, ...]
    zone: tzinfo

    def range(self, group_by: GroupBy, user_id: str | None, access: Access) -> Range:
        """What is to be counted of it."""
        days = [datetime.combine(day, time(), self.zone) for day in self.dates]
        return Range(
            since=self.since,
            until=self.until,
            days=days if group_by == "day" else [],
            group_by=group_by,
            user_id=user_id,
            access=access,
        )


def period(since: str | None, until: str | None, timezone: str, *, now: datetime) -> Period:
    """
    The range that a request means: dates are their first moments in the time zone.

    Raises:
        InvalidInputError: One is no time, the range is empty or too long, or there is no such zone.
    """
    zone = zone_of(timezone)
    end = now if until is None else _moment("to", until, zone)
    first = (end - timedelta(days=DEFAULT_DAYS)).astimezone(zone).date()
    start = datetime.combine(first, time(), zone) if since is None else _moment("from", since, zone)
    if start >= end:
        raise InvalidInputError("`from` must be before `to`", code="invalid_range")
    if end - start > timedelta(days=MAX_DAYS):
        raise InvalidInputError(f"A range has {MAX_DAYS} days at the most", code="invalid_range")
    first, last = (at.astimezone(zone).date() for at in (start, end - timedelta(microseconds=1)))
    dates = tuple(first + timedelta(days=n) for n in range((last - first).days + 1))
    return Period(start, end, dates, zone)


def _moment(name: str, text: str, zone: tzinfo) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        found = found if found.tzinfo else found.replace(tzinfo=zone)
        # Those near the ends of the calendar have no place in other zones.
        found.astimezone(zone) + timedelta(days=MAX_DAYS), found - timedelta(days=MAX_DAYS)
    except (ValueError, OverflowError):
        raise InvalidInputError(
            f"`{name}` must be a date or a time, such as 2026-11-26", code="invalid_range"
        ) from None
    return found


def rows(stats: Stats, period: Period, prices: Prices, *, group_by: GroupBy) -> list[JsonObject]:
    """The groups: days in their order, all of them; others with the most messages first."""
    ran: dict[str | None, Ran] = {row.key: row for row in stats.ran}
    thought: dict[str | None, Thought] = {row.key: row for row in stats.thought}
    sums: dict[str | None, Said] = {row.key: row for row in stats.said if row.is_sum}
    of_models: dict[str | None, list[Said]] = {}
    for row in stats.said:
        if not row.is_sum:
            of_models.setdefault(row.key, []).append(row)
    keys: list[str | None]
    if group_by == "day":
        keys = [str(number) for number in range(1, len(period.dates) + 1)]
    else:
        keys = list({**sums, **ran, **thought})
        keys.sort(key=lambda key: (-(sums[key].messages if key in sums else 0), key or ""))
    return [
        {
            group_by: str(period.dates[int(key) - 1]) if group_by == "day" and key else key,
            **_said(sums.get(key)),
            **_ran(ran.get(key)),
            **_cost(of_models.get(key, []), prices),
            "feedback": _thought(thought.get(key)),
        }
        for key in keys
    ]


def _said(said: Said | None) -> JsonObject:
    found = said or Said(
        key=None, model=None, is_sum=True, sessions=0, messages=0, answers=0, input_tokens=0,
        output_tokens=0, cached_tokens=0,
    )  # fmt: skip
    return {
        "sessions": found.sessions,
        "messages": found.messages,
        "answers": found.answers,
        "tokens": {
            "input": found.input_tokens,
            "cached": found.cached_tokens,
            "output": found.output_tokens,
            "total": found.input_tokens + found.output_tokens,
        },
    }


def _ran(ran: Ran | None) -> JsonObject:
    return {
        "runs": ran.runs if ran else 0,
        "failed_runs": ran.failed if ran else 0,
        "first_token_ms": _quantiles(ran.first_token_ms if ran else None),
        "latency_ms": _quantiles(ran.total_ms if ran else None),
    }


def _quantiles(found: Sequence[float | None] | None) -> JsonObject | None:
    if found is None or found[0] is None or found[1] is None:
        return None
    return {"p50": round(found[0]), "p95": round(found[1])}


def _cost(of_models: Sequence[Said], prices: Prices) -> JsonObject:
    """What the tokens of the models with a price cost; the others' are counted."""
    cost, unpriced = Decimal(0), 0
    for row in of_models:
        price = prices.find(row.model)
        if price is None:
            unpriced += row.input_tokens + row.output_tokens
            continue
        cost += price.of(
            input_tokens=row.input_tokens,
            cached_tokens=row.cached_tokens,
            output_tokens=row.output_tokens,
        )
    known = None if prices.currency is None else round(float(cost), 6)
    return {"cost": known, "unpriced_tokens": unpriced}


def _thought(thought: Thought | None) -> JsonObject:
    if thought is None:
        return {"count": 0, "likes": 0, "dislikes": 0, "score": None}
    return {
        "count": thought.opinions,
        "likes": thought.likes,
        "dislikes": thought.opinions - thought.likes,
        "score": round(thought.score, 1),
    }


def as_csv(found: Sequence[JsonObject], group_by: GroupBy) -> str:
    """The groups as a table for spreadsheets, which finds nothing to execute in it."""
    text = io.StringIO()
    flat = [dict(_flat(row)) for row in found]
    names = list(flat[0]) if flat else [group_by]
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows({**row, group_by: _harmless(row[group_by])} for row in flat)
    return _BOM + text.getvalue()


def _harmless(key: Any) -> str:
    text = "" if key is None else str(key)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _flat(row: JsonObject) -> Iterator[tuple[str, Any]]:
    """One level of names; what has no value keeps its columns."""
    for name, value in row.items():
        if name in ("first_token_ms", "latency_ms"):
            yield from ((f"{name}_{q}", (value or {}).get(q)) for q in ("p50", "p95"))
        elif isinstance(value, dict):
            yield from ((f"{name}_{inner}", found) for inner, found in value.items())
        else:
            yield name, value
