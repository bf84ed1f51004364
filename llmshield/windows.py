"""The windows of a budget: which stretch of time a moment belongs to, by the calendar of a zone or rolling.

Rule 1: a window's name follows from the moment alone. So a clock that is set back finds what it had spent, all
processes agree, and every moment lies in exactly one window.
Rule 2: what the clocks of a zone do (summer time, a day left out, an hour told twice) makes a day longer or
shorter, never two of it. A day begins at the first moment at which its date is reached.
Rule 3: minutes and hours are stretches of real time and are counted in UTC, whatever the zone: the hour that a
zone tells twice in autumn is two hours.

A rolling window is cut into steps, each with an account of its own (`24h:00000824333`). Money goes to the step of
its moment; a limit holds for the sum of all steps that reach into the window, those ahead of this clock
included. So no stretch of 24 hours ever holds more than `5 USD/24h`, and an amount counts for its window and at
most one step longer (1/60 of it, 10 s at the least).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo, available_timezones

Period: TypeAlias = Literal["minute", "hour", "day", "week", "month"]

PERIODS: tuple[Period, ...] = ("minute", "hour", "day", "week", "month")

STEPS = 60
"""Steps of a rolling window, as of a rate limit."""

SHORTEST_STEP_MS = 10_000
"""With shorter ones a minute's window would leave 86,400 accounts a day for each busy tenant."""

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_ROLLING = re.compile(r"^([1-9][0-9]{0,9})(ms|s|m|h|d)$")


class Window(NamedTuple):
    """One window. Times in seconds since 1970: money spent from `begins` to `ends` goes to the account `name`.

    `over` is when nothing of it counts any more: for a rolling one a whole window later than `ends`. `since` is the
    first name whose amounts count beside it (rolling), or empty.
    """

    name: str
    begins: float
    ends: float
    over: float
    since: str = ""


def window(period: str, now: float, zone: str = "UTC") -> Window:
    """The window of this period (`day`, or `24h` for a rolling one) that holds `now`, in this time zone."""
    known = _LATELY.get((period, zone))
    if known is not None and known[1] <= now < known[2]:
        return known
    found = _rolling(period, now) if period[0].isdigit() else _calendar(period, now, zone)
    _LATELY[period, zone] = found
    return found


class ClockWatch:
    """What this process has seen its wall clock do, so that setting it frees no rolling window.

    It compares the wall clock with the monotonic one. Money goes to the step of the latest moment that it can be by
    any setting of the clock within one length of the window, and steps count from the earliest such moment on. So
    after the clock was set, a window is longer for a while, never shorter. A process that is started later believes
    the clock that it finds; nobody can tell a clock set forth from a machine that slept. But where the store has a clock of
    its own, that counts as one more setting: of two machines whose clocks differ, neither has a window for itself.
    """

    def __init__(self) -> None:
        self._settings: list[list[float]] = []
        """How far wall and monotonic clock were apart (least, most), and until when (monotonic), oldest first."""
        self._stores: list[list[float]] = []
        """The same of the store's clock, from when on it was another one."""
        self.apart_s = 0.0
        """How far the store's clock is before ours, when last told; within a second is nothing."""

    def look(self, now: float, monotonic: float) -> None:
        """Take note of both clocks."""
        _note(self._settings, now - monotonic, monotonic)

    def told(self, stores: float, now: float, monotonic: float) -> None:
        """Take note of the store's clock."""
        self.look(now, monotonic)
        apart = stores - now
        self.apart_s = apart if abs(apart) > _SLACK_S else 0.0
        if self.apart_s or self._stores:
            _note(self._stores, stores - monotonic, monotonic)

    def window(self, period: str, now: float, monotonic: float) -> Window:
        """The rolling window that holds `now`."""
        self.look(now, monotonic)
        if len(self._settings) == 1 and not self._stores:
            return window(period, now)
        # A step more: whoever looks on every call need not look twice within one.
        since = monotonic - length_ms(period) / 1000 - step_ms(period) / 1000
        lately = [each for each in (*self._settings, *self._stores) if each[2] >= since]
        earliest = window(period, max(0.0, monotonic + min(each[0] for each in lately)))
        latest = window(period, monotonic + max(each[1] for each in lately))
        return latest._replace(since=earliest.since)


def _note(settings: list[list[float]], apart: float, monotonic: float) -> None:
    last = settings[-1] if settings else None
    if last is None or not last[1] - _SLACK_S <= apart <= last[0] + _SLACK_S:
        settings.append([apart, apart, monotonic])
        del settings[:-_MOST_SETTINGS]
    else:
        last[0], last[1], last[2] = min(last[0], apart), max(last[1], apart), monotonic


_SLACK_S = 1.0
"""Clocks that are disciplined drift apart by less than this between two settings."""

_MOST_SETTINGS = 1_000


_LATELY: dict[tuple[str, str], Window] = {}
"""The window last asked for, per period and zone; both come from a policy, so there are few."""


def step_ms(period: str) -> int:
    """Length of one step of a rolling window."""
    return max(-(-length_ms(period) // STEPS), SHORTEST_STEP_MS)


@lru_cache(maxsize=256)
def length_ms(period: str) -> int:
    """Length of a rolling window. Raises: ValueError for a period that is none."""
    match = _ROLLING.match(period)
    if match is None:
        raise ValueError(f"{period!r} is no length of time such as 24h")
    return int(match[1]) * _UNIT_MS[match[2]]


def stops_counting(period: str, name: str) -> float:
    """When the step of this name leaves the rolling window, in seconds since 1970."""
    return (int(name.rpartition(":")[2]) + 1) * step_ms(period) / 1000 + length_ms(period) / 1000


def is_rolling(window_name: str) -> bool:
    """Whether an account's window is a step of a rolling one."""
    return window_name[:1].isdigit()


def iso(at: float) -> str:
    """A point in time as `2026-11-21T00:00:00Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=64)
def zone_info(zone: str) -> ZoneInfo:
    """The zone's rules, of this system or of the package tzdata. Raises: ValueError for an unknown name."""
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:  # a folder of zones ("Europe") is an OSError
        raise ValueError(f"{zone!r} is no time zone such as Europe/Berlin") from error


@lru_cache(maxsize=1)
def zones() -> frozenset[str]:
    """Every zone's name. It reads a folder tree: for messages only."""
    return frozenset(available_timezones())


def day_of(now: float, zone: str) -> date:
    """The date that counts at this moment: the latest that has begun."""
    if zone == "UTC":
        return datetime.fromtimestamp(now, UTC).date()
    found = datetime.fromtimestamp(now, zone_info(zone)).date()
    # Where clocks were set back over midnight, the old date is told again: its day is over all the same.
    while day_begins(found + timedelta(days=1), zone) <= now:
        found += timedelta(days=1)
    return found


def day_begins(day: date, zone: str) -> float:
    """The first moment at which this date, or a later one, is reached; in seconds since 1970."""
    midnight = datetime(day.year, day.month, day.day)
    if zone == "UTC":
        return midnight.replace(tzinfo=UTC).timestamp()
    rules = zone_info(zone)
    early = midnight.replace(tzinfo=rules).timestamp()
    late = midnight.replace(tzinfo=rules, fold=1).timestamp()
    if early <= late:  # the usual case, or a midnight that comes twice: the first of them
        return early
    # Midnight is left out (clocks go forward over it): the jump lies between the two readings.
    before, after = int(late), int(early)
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, rules).date() >= day:
            after = middle
        else:
            before = middle
    return float(after)


def _calendar(period: str, now: float, zone: str) -> Window:
    if period == "minute" or period == "hour":
        length = 60 if period == "minute" else 3_600
        begins = now // length * length
        form = "%Y-%m-%dT%H:%M" if period == "minute" else "%Y-%m-%dT%H"
        name = f"{period}:{datetime.fromtimestamp(begins, UTC).strftime(form)}"
        return Window(name, begins, begins + length, begins + length)
    today = day_of(now, zone)
    if period == "day":
        first, following, name = today, today + timedelta(days=1), f"day:{today:%Y-%m-%d}"
    elif period == "week":
        first = today - timedelta(days=today.weekday())
        following, name = first + timedelta(days=7), f"week:{first:%G-W%V}"
    elif period == "month":
        first = today.replace(day=1)
        following, name = (first + timedelta(days=32)).replace(day=1), f"month:{first:%Y-%m}"
    else:
        raise ValueError(f"{period!r} is no period: {', '.join(PERIODS)}, or a length such as 24h")
    if zone != "UTC":
        name = f"{name}@{zone}"
    ends = day_begins(following, zone)
    return Window(name, day_begins(first, zone), ends, ends)


def _rolling(period: str, now: float) -> Window:
    length, step = length_ms(period), step_ms(period)
    index = int(now * 1000) // step
    ends_ms = (index + 1) * step
    since = max(0, index - -(-length // step))
    return Window(
        f"{period}:{index:011d}", index * step / 1000, ends_ms / 1000, (ends_ms + length) / 1000,
        f"{period}:{since:011d}",
    )  # fmt: skip
