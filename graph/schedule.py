"""
When a cron is due: its schedule on the clocks of its time zone.

Clocks that are put forward skip a time, and clocks that are put back show one twice. A time that is
skipped is due when the clocks go on, so that a daily run is not left out; one that is there twice is
due the first time only, so that a daily run is not done twice. Where every hour is due, it is due in
every hour that passes.
"""

from datetime import UTC, datetime, tzinfo
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from croniter import croniter

from store.errors import InvalidInputError

#: Longer ones are no schedules.
MAX_LENGTH: Final = 200

_EXPECTED: Final = (
    "Ensure the schedule uses the standard cron format (minute hour day_of_month month "
    "day_of_week). Example: '*/5 * * * *' for every 5 minutes."
)
_HOUR: Final = 1


def next_time(schedule: str, timezone: str | None, after: datetime) -> datetime:
    """
    The first time of a schedule after a moment, in UTC.

    Args:
        schedule: Five fields; a sixth is seconds, a seventh years; or a name such as ``@daily``.
        timezone: IANA's name of a zone; UTC without one.

    Raises:
        InvalidInputError: There is no such zone, the schedule is none, or it never comes.
    """
    zone = zone_of(timezone)
    if len(schedule) > MAX_LENGTH:
        raise InvalidInputError(f"Invalid cron schedule: longer than {MAX_LENGTH} characters")
    try:
        # It goes by local time from the zone of the moment that it is given.
        times = croniter(schedule, after.astimezone(zone))
        every_hour = times.expanded[_HOUR] == ["*"]
        while True:
            found: datetime = times.get_next(datetime)
            if every_hour or not _is_second(found):
                return found.astimezone(UTC)
    except (ValueError, TypeError, KeyError, OverflowError) as exc:
        raise InvalidInputError(
            f"Invalid cron schedule: '{schedule}'. Reason: {_EXPECTED}"
        ) from exc


def zone_of(timezone: str | None) -> tzinfo:
    """
    The zone of a name.

    Raises:
        InvalidInputError: IANA knows none with this name.
    """
    if timezone is None:
        return UTC
    # The name is not tried as a path.
    if timezone not in _zones():
        raise InvalidInputError(
            f"Invalid timezone: '{timezone}'. Use IANA timezone format (e.g. 'America/New_York')."
        )
    return ZoneInfo(timezone)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _is_second(time: datetime) -> bool:
    """Whether the clocks have shown this time before, an hour ago or so."""
    return time.fold == 1 and time.utcoffset() != time.replace(fold=0).utcoffset()
