"""The windows of a budget: calendars in every zone, rolling ones, clocks that jump."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield import windows
from llmshield.ledger import iso
from llmshield.windows import (
    ClockWatch,
    Window,
    day_begins,
    day_of,
    length_ms,
    step_ms,
    stops_counting,
    window,
)

# Summer time north and south, by half an hour, at midnight, over midnight; a day left out; odd offsets.
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "America/Sao_Paulo",
    "Africa/Cairo", "Asia/Beirut", "America/Santiago", "America/Asuncion", "Pacific/Apia", "Pacific/Kwajalein",
    "America/Goose_Bay", "Asia/Kathmandu", "Asia/Tehran", "Africa/Casablanca", "America/Scoresbysund",
    "Antarctica/Troll", "Pacific/Kiritimati", "America/St_Johns",
]  # fmt: skip
MONEY = ("minute", "hour", "day", "week", "month")
HOUR, DAY = 3_600, 86_400


def at(text: str, zone: str = "UTC") -> float:
    """A moment in seconds since 1970; an offset in the text wins over the zone."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).timestamp()


WINDOWS = [
    ("minute", "UTC", "2026-11-20T23:59:59.999", "minute:2026-11-20T23:59", "2026-11-21T00:00:00Z"),
    ("hour", "UTC", "2026-11-20T00:00:00", "hour:2026-11-20T00", "2026-11-20T01:00:00Z"),
    ("day", "UTC", "2024-02-29T12:00:00", "day:2024-02-29", "2024-03-01T00:00:00Z"),
    ("day", "UTC", "2026-12-31T23:59:59.999", "day:2026-12-31", "2027-01-01T00:00:00Z"),
    ("week", "UTC", "2027-01-03T23:59:59", "week:2026-W53", "2027-01-04T00:00:00Z"),
    ("week", "UTC", "2024-12-30T00:00:00", "week:2025-W01", "2025-01-06T00:00:00Z"),
    ("month", "UTC", "2026-01-31T23:59:59", "month:2026-01", "2026-02-01T00:00:00Z"),
    ("month", "UTC", "2024-02-29T00:00:00", "month:2024-02", "2024-03-01T00:00:00Z"),
    ("month", "UTC", "2100-02-28T23:59:59", "month:2100-02", "2100-03-01T00:00:00Z"),  # no leap year
    ("day", "Europe/Berlin", "2026-11-20T23:30:00+00:00", "day:2026-11-21@Europe/Berlin", "2026-11-21T23:00:00Z"),
    ("day", "Europe/Berlin", "2025-10-26T02:30:00", "day:2025-10-26@Europe/Berlin", "2025-10-26T23:00:00Z"),
    ("day", "Europe/Berlin", "2025-03-30T12:00:00", "day:2025-03-30@Europe/Berlin", "2025-03-30T22:00:00Z"),
    ("month", "Europe/Berlin", "2025-10-31T23:59:59", "month:2025-10@Europe/Berlin", "2025-10-31T23:00:00Z"),
    ("week", "Europe/Berlin", "2025-10-26T23:59:59", "week:2025-W43@Europe/Berlin", "2025-10-26T23:00:00Z"),
    # The hour that is told twice is two hours.
    ("hour", "Europe/Berlin", "2025-10-26T02:30:00+02:00", "hour:2025-10-26T00", "2025-10-26T01:00:00Z"),
    ("hour", "Europe/Berlin", "2025-10-26T02:30:00+01:00", "hour:2025-10-26T01", "2025-10-26T02:00:00Z"),
    # Half an hour of summer time.
    ("day", "Australia/Lord_Howe", "2026-04-05T12:00:00", "day:2026-04-05@Australia/Lord_Howe", "2026-04-05T13:30:00Z"),
    # Friday, 2011-12-30 was left out.
    ("day", "Pacific/Apia", "2011-12-29T23:59:59", "day:2011-12-29@Pacific/Apia", "2011-12-30T10:00:00Z"),
    ("day", "Pacific/Apia", "2011-12-31T00:00:00", "day:2011-12-31@Pacific/Apia", "2011-12-31T10:00:00Z"),
    # Midnight is left out: the day begins at 1.
    ("day", "America/Sao_Paulo", "2018-11-03T23:59:59", "day:2018-11-03@America/Sao_Paulo", "2018-11-04T03:00:00Z"),
    # Midnight is told twice: the day begins at the first.
    ("day", "America/Havana", "2025-11-01T23:59:59", "day:2025-11-01@America/Havana", "2025-11-02T04:00:00Z"),
    ("day", "America/Havana", "2025-11-02T05:30:00+00:00", "day:2025-11-02@America/Havana", "2025-11-03T05:00:00Z"),
    # Set back from 00:01 to 23:01 of the day before: what has begun goes on.
    ("day", "America/Goose_Bay", "2010-11-07T03:30:00+00:00", "day:2010-11-07@America/Goose_Bay", "2010-11-08T04:00:00Z"),
    ("24h", "UTC", "1970-01-02T00:00:00", "24h:00000000060", "1970-01-02T00:24:00Z"),
    ("1m", "Asia/Kathmandu", "1970-01-01T00:00:25+00:00", "1m:00000000002", "1970-01-01T00:00:30Z"),
]  # fmt: skip


@pytest.mark.parametrize(("period", "zone", "moment", "name", "end"), WINDOWS)
def test_windows(period: str, zone: str, moment: str, name: str, end: str) -> None:
    found = window(period, at(moment, zone), zone)

    assert (name, end) == (found.name, iso(found.ends))


LENGTHS = [
    ("Europe/Berlin", "2025-10-26", 25 * HOUR),
    ("Europe/Berlin", "2025-03-30", 23 * HOUR),
    ("Europe/Berlin", "2025-10-27", 24 * HOUR),
    ("Australia/Lord_Howe", "2026-04-05", 24 * HOUR + 1_800),
    ("Australia/Lord_Howe", "2026-10-04", 23 * HOUR + 1_800),
    ("Pacific/Apia", "2011-12-29", 24 * HOUR),
    ("Pacific/Apia", "2011-12-30", 0),
    ("America/Sao_Paulo", "2018-11-04", 23 * HOUR),
    ("America/Havana", "2025-11-02", 25 * HOUR),
    ("UTC", "2016-12-31", 24 * HOUR),  # a leap second is not told by any computer's clock
]


@pytest.mark.parametrize(("zone", "day", "seconds"), LENGTHS)
def test_how_long_a_day_is(zone: str, day: str, seconds: float) -> None:
    first = date.fromisoformat(day)

    assert seconds == day_begins(first + timedelta(days=1), zone) - day_begins(first, zone)


def fresh(period: str, now: float, zone: str) -> Window:
    """The window, asked for by a process that has asked for none before."""
    windows._LATELY.clear()
    return window(period, now, zone)


@settings(max_examples=800, deadline=None)
@given(
    st.sampled_from(MONEY),
    st.sampled_from(ZONES),
    st.floats(0, 4_000_000_000),
    st.floats(-90_000, 90_000),
)
def test_each_moment_is_in_one_window(period: str, zone: str, now: float, jump: float) -> None:
    """Asked in any order, clocks back and forth: a window is what it was, and the next one begins where it ends."""
    found = fresh(period, now, zone)
    window(period, max(0.0, now + jump), zone)

    assert found == window(period, now, zone)
    assert found.begins <= now < found.ends == found.over
    following = fresh(period, found.ends, zone)
    assert following.begins == found.ends
    assert following.name != found.name
    assert fresh(period, found.ends - 0.001, zone) == found


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(ZONES),
    st.floats(0, 4_000_000_000),
    st.lists(st.floats(-40 * DAY, 40 * DAY), min_size=2, max_size=30),
)
def test_no_name_comes_back_for_another_stretch(
    period: str, zone: str, begin: float, jumps: list[float]
) -> None:
    """A name is one stretch of time without a hole, wherever a clock jumps: so no stretch has a second budget."""
    seen: dict[str, tuple[float, float]] = {}
    for jump in jumps:
        found = window(period, max(0.0, begin + jump), zone)

        assert seen.setdefault(found.name, (found.begins, found.ends)) == (found.begins, found.ends)
    stretches = sorted(seen.values())
    assert all(left[1] <= right[0] for left, right in pairwise(stretches))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ZONES), st.floats(0, 4_000_000_000))
def test_a_day_is_the_date_on_the_wall_unless_that_is_told_twice(zone: str, now: float) -> None:
    wall = datetime.fromtimestamp(now, ZoneInfo(zone)).date()

    assert day_of(now, zone) >= wall
    if day_of(now, zone) != wall:  # the wall shows a day that was over already
        assert any(
            datetime.fromtimestamp(now - back, ZoneInfo(zone)).date() > wall for back in range(0, DAY, 60)
        )


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["1m", "90s", "10m", "1h", "24h", "7d", "366d"]),
    st.floats(100_000_000, 4_000_000_000),
    st.floats(0, 1),
)
def test_a_rolling_window_counts_all_that_lies_within_it(period: str, now: float, share: float) -> None:
    length = length_ms(period) / 1000
    before = fresh(period, now - share * length * 0.999999, "UTC")
    found = fresh(period, now, "UTC")

    assert found.since <= before.name <= found.name
    assert found.begins <= now < found.ends
    assert found.over == pytest.approx(stops_counting(period, found.name))
    # What leaves is at most a step older than the window; at its leaving it does not count any more.
    step = step_ms(period) / 1000
    gone = fresh(period, now - length - 2 * step, "UTC")
    assert gone.name < found.since
    assert fresh(period, before.over + 0.001, "UTC").since > before.name


def test_a_clock_that_is_set_frees_nothing() -> None:
    """Set forth and back again by 6 hours: money goes to the latest moment, steps count from the earliest."""
    noon = at("2026-11-20T12:00:00")
    watch = ClockWatch()
    before = watch.window("24h", noon, 1_000.0)
    assert before == window("24h", noon)
    ahead = watch.window("24h", noon + 6 * HOUR, 1_001.0)
    assert (ahead.name, ahead.since) == (window("24h", noon + 6 * HOUR).name, before.since)
    right = watch.window("24h", noon + HOUR, 1_000.0 + HOUR)
    assert right.name == window("24h", noon + 7 * HOUR - 1).name
    assert right.since == window("24h", noon + HOUR).since
    # Once all of this is longer ago than the window, the clock is believed.
    day_later = 1_000.0 + HOUR + DAY + 2 * step_ms("24h") / 1000

    assert watch.window("24h", noon + day_later - 1_000.0, day_later) == window(
        "24h", noon + day_later - 1_000
    )


@pytest.mark.parametrize("apart", [DAY, -HOUR, 7 * DAY])
def test_of_two_clocks_neither_has_a_window_for_itself(apart: float) -> None:
    """The store's clock is another one: money goes to the later step, steps count from the earlier moment."""
    noon = at("2026-11-20T12:00:00")
    watch = ClockWatch()
    watch.told(noon + 0.9, noon, 1_000.0)
    assert watch.window("24h", noon, 1_000.0) == window("24h", noon)
    watch.told(noon + apart, noon, 1_000.0)

    assert watch.apart_s == apart
    found = watch.window("24h", noon + 60, 1_060.0)
    earlier, later = sorted([noon + 60, noon + 60 + apart])
    assert (found.name, found.since) == (window("24h", later).name, window("24h", earlier).since)
    # Set right: it is minded for as long as the window, and a step.
    watch.told(noon + 120, noon + 120, 1_120.0)
    assert watch.apart_s == 0.0
    assert (
        watch.window("24h", noon + 120, 1_120.0).since
        == window("24h", min(noon + 120, noon + 120 + apart)).since
    )
    later = 1_120.0 + DAY + 2 * step_ms("24h") / 1000
    watch.told(noon + later - 1_000, noon + later - 1_000, later)
    assert watch.window("24h", noon + later - 1_000, later) == window("24h", noon + later - 1_000)


def test_a_clock_that_is_disciplined_is_believed() -> None:
    """NTP moves a clock by milliseconds; a minute is not made longer by that."""
    noon = at("2026-11-20T12:00:00")
    watch = ClockWatch()
    for minute in range(10_000):
        now = noon + minute * 60 * 1.000_01

        assert watch.window("1m", now, 5.0 + minute * 60).since <= window("1m", now).since
    assert len({each[0] for each in watch._settings}) <= 10
    assert int(window("1m", now).since[3:]) - int(watch.window("1m", now, 5.0 + minute * 60).since[3:]) <= 1


UNKNOWN = ["Europe", "Berlin", "", "../../etc/passwd", "/etc/localtime", "Europe/Berlin\x00", "UTC+1"]


@pytest.mark.parametrize("zone", UNKNOWN)
def test_unknown_zones(zone: str) -> None:
    with pytest.raises(ValueError, match="is no time zone such as Europe/Berlin"):
        windows.zone_info(zone)


@pytest.mark.parametrize("period", ["fortnight", "0h", "24", "1.5h", "24 h"])
def test_unknown_periods(period: Any) -> None:
    with pytest.raises(ValueError, match=r"is no (period|length)"):
        window(period, 0.0)


def test_names_are_in_order_of_time() -> None:
    """Stores compare names of steps as text."""
    moments = [at("2026-11-20T12:00:00") + step * 7_777 for step in range(50)]
    names = [fresh("24h", moment, "UTC").name for moment in moments]

    assert names == sorted(names)
    assert datetime.fromtimestamp(stops_counting("24h", names[0]), UTC) > datetime(
        2026, 11, 21, 12, tzinfo=UTC
    )
