"""When schedules are due, on clocks that are put forward and back."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from graph.schedule import next_time
from store.errors import InvalidInputError

NOW = datetime(2026, 11, 26, 11, 3, 7, tzinfo=UTC)


def times(schedule: str, zone: str | None, after: str, count: int) -> list[str]:
    """The next ones, in UTC, to the minute."""
    found, moment = [], datetime.fromisoformat(after).replace(tzinfo=UTC)
    for _ in range(count):
        moment = next_time(schedule, zone, moment)
        found.append(moment.strftime("%m-%d %H:%M"))
    return found


def test_a_schedule_is_in_utc_unless_it_has_a_zone() -> None:
    assert next_time("0 3 * * *", None, NOW) == datetime(2026, 11, 27, 3, tzinfo=UTC)
    assert next_time("0 3 * * *", "Asia/Tokyo", NOW) == datetime(2026, 11, 26, 18, tzinfo=UTC)
    assert next_time("0 3 * * *", "Europe/Berlin", NOW) == datetime(2026, 11, 27, 2, tzinfo=UTC)


def test_a_time_that_is_due_now_is_next_the_time_after() -> None:
    due = datetime(2026, 11, 26, 11, 5, tzinfo=UTC)

    assert next_time("*/5 * * * *", None, due) == datetime(2026, 11, 26, 11, 10, tzinfo=UTC)


def test_a_time_that_does_not_exist_is_due_when_the_clocks_go_on() -> None:
    # From 02:00 to 03:00 on 28 March.
    assert times("30 2 * * *", "Europe/Berlin", "2027-03-26T12:00", 3) == [
        "03-27 01:30",
        "03-28 01:00",
        "03-29 00:30",
    ]


def test_times_that_do_not_exist_are_due_once_together() -> None:
    assert times("0,30 2 * * *", "Europe/Berlin", "2027-03-27T12:00", 3) == [
        "03-28 01:00",
        "03-29 00:00",
        "03-29 00:30",
    ]


def test_a_time_that_is_there_twice_is_due_the_first_time() -> None:
    # From 03:00 to 02:00 on 25 October.
    assert times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 2) == [
        "10-25 00:30",
        "10-26 01:30",
    ]
    assert times("30 1 * * *", "America/New_York", "2026-10-31T12:00", 2) == [
        "11-01 05:30",
        "11-02 06:30",
    ]


def test_a_cron_that_is_made_between_the_two_waits_for_the_next_day() -> None:
    assert times("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45", 1) == ["10-26 01:30"]


@pytest.mark.parametrize("after", ["2026-10-24T20:00", "2027-03-27T20:00"])
def test_what_is_due_every_hour_is_due_in_every_hour_that_passes(after: str) -> None:
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    found = [moment := next_time("0 * * * *", "Europe/Berlin", moment) for _ in range(12)]

    assert {(later - earlier).seconds for earlier, later in pairwise(found)} == {3600}


@pytest.mark.parametrize(
    "schedule", ["@daily", "0 0 L * *", "0 9 * * mon-fri", "*/10 * * * * *", "0 0 29 2 *"]
)
def test_what_the_reference_takes_is_taken(schedule: str) -> None:
    assert next_time(schedule, "America/Sao_Paulo", NOW) > NOW


@pytest.mark.parametrize(
    "schedule",
    [
        "", "foo", "* * * *", "60 * * * *", "* 24 * * *", "*/0 * * * *", "@reboot", "H * * * *",
        "0 0 30 2 *", "* * * * 99999999999999999999", "* * * * * * 2020", "1-", "-1 * * * *",
        "\x00 * * * *", "* * * * mon#9", "* " * 150, "l#1 * * * *", "? ? ? ? ?", "1/2/3 * * * *",
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(InvalidInputError, match="Invalid cron schedule"):
        next_time(schedule, None, NOW)


@pytest.mark.parametrize("zone", ["", "Mars/Base", "../../etc/passwd", "/etc/localtime", "utc+1"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidInputError, match="Invalid timezone"):
        next_time("* * * * *", zone, NOW)
