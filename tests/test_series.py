"""Prometheus' text: parsed by the reference parser, bounded whatever the callers say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llmshield.series import OTHER, Bounded, Counter, Gauge, Histogram, Summary, render


def parse(*families):
    """name -> {labels: value} of all samples, by the reference parser."""
    out = {}
    for family in text_string_to_metric_families(render(families).decode()):
        for sample in family.samples:
            out.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return out


def test_a_counter():
    counter = Counter("x_total", "Things.", ["a", "b"])
    counter.add(1, "p", "q")
    counter.add(2.5, "p", "q")
    counter.add(1, "p", "r")

    assert parse(counter) == {"x_total": {("p", "q"): 3.5, ("p", "r"): 1}}
    assert counter.value("p", "q") == 3.5


@pytest.mark.parametrize("amount", [-1, math.nan, -math.inf])
def test_a_counter_never_goes_back(amount):
    counter = Counter("x_total", "Things.")
    counter.add(2)
    counter.add(amount)

    assert parse(counter) == {"x_total": {(): 2}}


def test_a_scaled_counter_keeps_whole_units():
    """Money is counted in pico-USD and shown in USD."""
    counter = Counter("cost_usd_total", "Cost.", scale=1e-12)
    for _ in range(1000):
        counter.add(123_456_789)

    assert counter.value() == 123_456_789_000
    assert parse(counter) == {"cost_usd_total": {(): pytest.approx(0.123456789)}}


def test_a_gauge():
    gauge = Gauge("g", "State.", ["a"])
    gauge.set(2, "x")
    gauge.set(-1.5, "x")

    assert parse(gauge) == {"g": {("x",): -1.5}}
    assert parse(Gauge("now", "Asked.", read=lambda: 7)) == {"now": {(): 7}}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 1e-300, 0, -0.0, 1 << 80])
def test_any_number_can_be_written(value):
    gauge = Gauge("g", "State.")
    gauge.set(value)

    (shown,) = parse(gauge)["g"].values()

    assert shown == pytest.approx(float(value), nan_ok=True)


def test_a_histogram_counts_upper_bounds_in():
    histogram = Histogram("h_seconds", "Time.", ["a"], bounds=[0.1, 1])
    for value in (0.05, 0.1, 0.5, 1, 7, math.nan):
        histogram.observe(value, "x")

    out = parse(histogram)

    assert out["h_seconds_bucket"] == {("x", "0.1"): 2, ("x", "1"): 4, ("x", "+Inf"): 5}
    assert out["h_seconds_count"] == {("x",): 5}
    assert out["h_seconds_sum"] == {("x",): pytest.approx(8.65)}
    assert histogram.count("x") == 5


def test_a_summary():
    summary = Summary("s_seconds", "Time.", ["a"])
    summary.load({("x",): [2.0, 2]})

    assert parse(summary) == {"s_seconds_sum": {("x",): 2}, "s_seconds_count": {("x",): 2}}


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=8, unique=True
    )
)
def test_label_values_survive(values):
    """Quotes, backslashes, line ends; the reference parser takes lines apart at `\\n` only."""
    counter = Counter("x_total", "Things.", ["a"])
    for value in values:
        counter.add(1, value)

    assert set(parse(counter)["x_total"]) == {(value,) for value in values}


def test_a_family_is_bounded_and_loses_no_count():
    families = [
        Counter("c_total", "Things.", ["a", "b"], limit=10),
        Gauge("g", "State.", ["a", "b"], limit=10),
        Histogram("h", "Time.", ["a", "b"], bounds=[1], limit=10),
    ]
    for n in range(100_000):
        families[0].add(1, str(n), "x")
        families[1].set(1, str(n), "x")
        families[2].observe(1, str(n), "x")

    out = parse(*families)

    assert len(out["c_total"]) == 11
    assert out["c_total"][(OTHER, OTHER)] == 99_990
    assert len(out["g"]) == 11
    assert out["h_count"][(OTHER, OTHER)] == 99_990


def test_wrong_labels_are_a_mistake_of_the_program():
    with pytest.raises(ValueError, match=r"x_total has the labels \('a',\)"):
        Counter("x_total", "Things.", ["a"]).add(1, "p", "q")


def test_bounded_values():
    bounded = Bounded(3)

    assert [bounded(value) for value in ("a", "b", "a", "c", "d", "b")] == ["a", "b", "a", "c", OTHER, "b"]


def test_bounded_values_may_refuse_newcomers():
    bounded = Bounded(3)

    assert bounded("made-up", admit=False) == OTHER
    assert bounded("real") == "real"
    assert bounded("real", admit=False) == "real"


def test_bounded_values_are_clean():
    bounded = Bounded(10)

    assert bounded("a\nb\x1b") == "a\\nb\\x1b"
    assert len(bounded("x" * 10_000)) < 150
    assert "hunter2secret9" not in bounded("x-api-key: hunter2secret9")


def test_an_empty_exposition():
    assert render([Counter("x_total", "Things.", ["a"])]) == b""
