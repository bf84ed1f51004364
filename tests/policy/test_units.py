"""Quantities: tables of what is read and refused, and properties: what is written is read back."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from llmshield.policy import units
from llmshield.policy.nodes import Float
from llmshield.policy.units import Budget, HostPort, Range, Rate

READ = [
    (units.duration, "700ms", 0.7),
    (units.duration, "30s", 30.0),
    (units.duration, "5m", 300.0),
    (units.duration, "24h", 86_400.0),
    (units.duration, "1d", 86_400.0),
    (units.duration, "0s", 0.0),
    (units.duration, "1.5s", 1.5),
    (units.duration_range, "200ms..2s", Range(0.2, 2.0)),
    (units.duration_range, "0s..0s", Range(0.0, 0.0)),
    (units.size, "100B", 100),
    (units.size, "512KiB", 524_288),
    (units.size, "10MiB", 10_485_760),
    (units.size, "10MB", 10_000_000),
    (units.budget, "5 USD/day", Budget(5 * 10**12, "day")),
    (units.budget, "0.000000000001 USD/hour", Budget(1, "hour")),
    (units.budget, "50 USD/month", Budget(50 * 10**12, "month")),
    (units.budget, "1 USD/minute", Budget(10**12, "minute")),
    (units.budget, "5 USD/24h", Budget(5 * 10**12, "24h")),
    (units.budget, "5 USD/1d", Budget(5 * 10**12, "24h")),
    (units.budget, "5 USD/1440m", Budget(5 * 10**12, "24h")),
    (units.budget, "5 USD/7d", Budget(5 * 10**12, "7d")),
    (units.budget, "5 USD/90s", Budget(5 * 10**12, "90s")),
    (units.time_zone, "UTC", "UTC"),
    (units.time_zone, "Europe/Berlin", "Europe/Berlin"),
    (units.price, "10 USD/Mtok", 10_000_000),
    (units.price, 0, 0),
    (units.price, 3, 3_000_000),
    (units.price, Float("0.15"), 150_000),
    (units.price, Float("0.000001"), 1),
    (units.fee, "0.01 USD/call", 10**10),
    (units.rate, "20/hour", Rate(20, 3600)),
    (units.rate, "40000 tokens/minute", Rate(40_000, 60, "tokens")),
    (units.percent, "50%", 0.5),
    (units.percent, "12.5%", 0.125),
    (units.percent, "100%", 1.0),
    (units.host_port, "127.0.0.1:8787", HostPort("127.0.0.1", 8787)),
    (units.host_port, "[::1]:80", HostPort("::1", 80)),
    (units.host_port, "localhost:0", HostPort("localhost", 0)),
]

REFUSED = [
    (units.duration, 30, "write 30s or 30ms"),
    (units.duration, "30", "write 30s or 30ms"),
    (units.duration, "30 s", ""),
    (units.duration, "-1s", ""),
    (units.duration, "1h30m", ""),
    (units.duration, "0.1ms", "whole milliseconds"),
    (units.duration, "367d", "366d at the most"),
    (units.duration, "٣s", ""),
    (units.duration, "30s\n", ""),
    (units.duration, "", ""),
    (units.duration, None, ""),
    (units.duration, True, ""),
    (units.duration, ["1s"], ""),
    (units.positive_duration, "0s", "above zero"),
    (units.duration_range, "2s", "a range"),
    (units.duration_range, "2s..", "a range"),
    (units.duration_range, "2s..1s", "write 1s..2s"),
    (units.size, 1024, "write 1024B"),
    (units.size, "1.5MiB", ""),
    (units.size, "10mb", ""),
    (units.budget, "5 USD", ""),
    (units.budget, 5, "write 5 USD/day"),
    (units.budget, "5 EUR/day", ""),
    (units.budget, "-5 USD/day", ""),
    (units.budget, "NaN USD/day", ""),
    (units.budget, "1e3 USD/day", ""),
    (units.budget, "0.0000000000001 USD/day", "twelve decimals"),
    (units.budget, "99999999 USD/day", "4.6 million"),
    (units.budget, "5 USD/59s", "from 1m to 366d"),
    (units.budget, "5 USD/367d", "from 1m to 366d"),
    (units.budget, "5 USD/0h", ""),
    (units.budget, "5 USD/1.5h", ""),
    (units.budget, "5 USD/100ms", ""),
    (units.time_zone, "europe/berlin", ""),
    (units.time_zone, "Europe", ""),
    (units.time_zone, "localtime", ""),
    (units.time_zone, "posix/Europe/Berlin", ""),
    (units.time_zone, "../../etc/passwd", ""),
    (units.time_zone, 1, ""),
    (units.price, Float("0.0000001"), "six decimals"),
    (units.price, -1, "plain digits"),
    (units.price, Float("1e3"), "plain digits"),
    (units.price, float("nan"), "plain digits"),
    (units.price, float("inf"), "plain digits"),
    (units.price, "0.15", ""),
    (units.price, True, ""),
    (units.price, None, ""),
    (units.price, 10**14, "below"),
    (units.fee, Float("0.01"), "write 0.01 USD/call"),
    (units.rate, "0/hour", ""),
    (units.rate, 20, "write 20/minute"),
    (units.rate, "20/week", ""),
    (units.percent, 50, "write 50%"),
    (units.percent, "101%", "from 0% to 100%"),
    (units.host_port, 8787, "write 127.0.0.1:8787"),
    (units.host_port, ":8787", "write 127.0.0.1:8787"),
    (units.host_port, "localhost:70000", "65535"),
    (units.host_port, "http://localhost:80", ""),
    (units.host_port, "::1:80", ""),
]


@pytest.mark.parametrize(("parse", "value", "expected"), READ)
def test_read(parse: Any, value: Any, expected: Any) -> None:
    assert expected == parse(value)


@pytest.mark.parametrize(("parse", "value", "words"), REFUSED)
def test_refused(parse: Any, value: Any, words: str) -> None:
    with pytest.raises(PydanticCustomError) as raised:
        parse(value)

    said = raised.value.message() + str((raised.value.context or {}).get("hint", ""))
    assert "found" in said
    assert "expected" in said
    assert words in said


@given(st.integers(0, 366 * 86_400_000))
def test_durations_round_trip(ms: int) -> None:
    assert ms / 1000 == units.duration(units.write_duration(ms / 1000))


@given(st.integers(0, 10**12 - 1))
def test_sizes_round_trip(size: int) -> None:
    assert size == units.size(units.write_size(size))


@given(
    st.integers(0, units.MAX_PICO_USD),
    st.sampled_from(["minute", "hour", "day", "week", "month", "1m", "90s", "24h", "7d", "366d"]),
)
def test_money_round_trips_exactly(pico: int, per: Any) -> None:
    amount = Budget(pico, per)

    assert amount == units.budget(str(amount))


@given(st.integers(0, 10**12))
def test_prices_and_fees_round_trip(pico: int) -> None:
    assert pico == units.price(units.write_price(pico))
    assert pico == units.fee(units.write_fee(pico))


@given(st.integers(0, 100_000))
def test_percentages_round_trip(thousandths: int) -> None:
    share = thousandths / 100_000

    assert share == units.percent(units.write_percent(share))


@given(st.decimals(0, 4_000_000, places=6, allow_nan=False))
def test_prices_are_exact(usd: Decimal) -> None:
    """A price is the integer that Decimal says, whatever a float would have made of it."""
    assert int(usd * 10**6) == units.price(Float(f"{usd:f}"))


@given(st.text() | st.floats() | st.integers() | st.none() | st.booleans() | st.lists(st.text()))
@pytest.mark.parametrize("parse", list(dict.fromkeys(row[0] for row in READ)))
def test_only_our_own_error(parse: Any, value: Any) -> None:
    try:
        out = parse(value)
    except PydanticCustomError:
        return

    assert out is not None


@given(
    st.integers(1, 10**11), st.sampled_from([1, 60, 3600, 86_400]), st.sampled_from(["requests", "tokens"])
)
def test_rates_round_trip(limit: int, seconds: int, unit: Any) -> None:
    rate = Rate(limit, seconds, unit)

    assert rate == units.rate(str(rate))
