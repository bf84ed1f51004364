"""Counters, gauges and histograms in Prometheus' text format, cheap enough for every call and bounded in number.

An increment is one look-up in a dict (0.2 us; a cached child of prometheus_client takes 0.4, an uncached one 1.5).
Each family keeps at most `limit` series; further label values are counted under `other` in every label, so that
no caller can make the exposition grow (CVE-2022-21698). Everything here is written by one thread and may be
rendered in another.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from llmshield.one_line import one_line
from llmshield.redact import redact

OTHER = "other"
LIMIT = 500
"""Series of one family: eight families at the limit make 4,000 series, rendered in about 10 ms."""

LONGEST_LABEL = 100

Labels = tuple[str, ...]


class Family:
    """What all kinds share: name, help text, label names, and the series by their label values."""

    kind = "untyped"

    def __init__(self, name: str, help: str, labels: Sequence[str] = (), *, limit: int = LIMIT) -> None:
        self.name = name
        self.help = help
        self.labels = tuple(labels)
        self.limit = limit
        self._other: Labels = (OTHER,) * len(self.labels)

    def _admit(self, labels: Labels, held: int) -> Labels:
        """Where a value with new labels is kept. Raises: ValueError for a wrong number of them."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, got {len(labels)} values")
        return labels if held < self.limit else self._other

    def lines(self) -> Iterable[str]:
        """The samples, a line each."""
        raise NotImplementedError

    def _text(self, labels: Labels, more: str = "", suffix: str = "") -> str:
        """`name{a="b"}` with values escaped as the format asks."""
        pairs = [f'{name}="{_escaped(value)}"' for name, value in zip(self.labels, labels, strict=True)]
        if more:
            pairs.append(more)
        return f"{self.name}{suffix}{{{','.join(pairs)}}}" if pairs else f"{self.name}{suffix}"


class Counter(Family):
    """A sum that only grows. `scale` is what one unit of `add` means in the exposition (pico-USD: 1e-12)."""

    kind = "counter"

    def __init__(
        self,
        name: str,
        help: str,
        labels: Sequence[str] = (),
        *,
        limit: int = LIMIT,
        scale: float | None = None,
    ) -> None:
        super().__init__(name, help, labels, limit=limit)
        self._scale = scale
        self._values: dict[Labels, list[float]] = {} if labels else {(): [0]}

    def add(self, amount: float, *labels: str) -> None:
        """Add to the series with these label values; negative amounts and NaN are ignored."""
        if amount >= 0:
            held = self._values.get(labels)
            if held is None:
                held = self.child(*labels)
            held[0] += amount

    def child(self, *labels: str) -> list[float]:
        """The series with these label values, for who counts in it again and again: `child[0] += 1`."""
        held = self._values.get(labels)
        if held is None:
            labels = self._admit(labels, len(self._values))
            held = self._values.setdefault(labels, [0])
        return held

    def load(self, values: dict[Labels, float]) -> None:
        """Take over sums that were kept elsewhere."""
        self._values = {labels: [value] for labels, value in values.items()}

    def value(self, *labels: str) -> float:
        """The sum so far, unscaled."""
        held = self._values.get(labels)
        return held[0] if held is not None else 0

    def lines(self) -> Iterable[str]:
        """One sample for each series."""
        for labels, (value,) in list(self._values.items()):
            yield f"{self._text(labels)} {_number(value * self._scale if self._scale else value)}"


class Gauge(Family):
    """A value that is set; with `read`, it is asked for when the exposition is made."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        help: str,
        labels: Sequence[str] = (),
        *,
        limit: int = LIMIT,
        read: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(name, help, labels, limit=limit)
        self._read = read
        self._values: dict[Labels, float] = {}

    def set(self, value: float, *labels: str) -> None:
        """Set the series with these label values."""
        if labels not in self._values:
            labels = self._admit(labels, len(self._values))
        self._values[labels] = value

    def clear(self) -> None:
        """Forget every series."""
        self._values.clear()

    def value(self, *labels: str) -> float:
        """The value now."""
        return self._read() if self._read is not None else self._values.get(labels, 0)

    def lines(self) -> Iterable[str]:
        """One sample for each series."""
        if self._read is not None:
            yield f"{self.name} {_number(self._read())}"
        for labels, value in list(self._values.items()):
            yield f"{self._text(labels)} {_number(value)}"


class Histogram(Family):
    """Counts of observed values below bounds; seconds, unless the name says otherwise."""

    kind = "histogram"

    def __init__(
        self, name: str, help: str, labels: Sequence[str] = (), *, bounds: Sequence[float], limit: int = LIMIT
    ) -> None:
        super().__init__(name, help, labels, limit=limit)
        self.bounds = tuple(bounds)
        self._edges = [f'le="{_number(bound)}"' for bound in self.bounds] + ['le="+Inf"']
        self._values: dict[Labels, list[float]] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count one value in the series with these label values; NaN is ignored."""
        if value != value:
            return
        held = self._values.get(labels)
        if held is None:
            held = self.child(*labels)
        held[bisect_left(self.bounds, value)] += 1
        held[-1] += value

    def child(self, *labels: str) -> list[float]:
        """The series with these label values, for who observes again and again: a count for each of `bounds`, one
        for what is above them, and the sum."""
        held = self._values.get(labels)
        if held is None:
            labels = self._admit(labels, len(self._values))
            held = self._values.setdefault(labels, [0.0] * (len(self.bounds) + 2))
        return held

    def count(self, *labels: str) -> float:
        """How many values the series has seen."""
        return sum(self._values.get(labels, [0.0])[:-1])

    def lines(self) -> Iterable[str]:
        """Cumulative buckets, sum and count for each series."""
        for labels, held in list(self._values.items()):
            total = 0.0
            for edge, count in zip(self._edges, held, strict=False):
                total += count
                yield f"{self._text(labels, edge, '_bucket')} {_number(total)}"
            yield f"{self._text(labels, suffix='_sum')} {_number(held[-1])}"
            yield f"{self._text(labels, suffix='_count')} {_number(total)}"


class Summary(Family):
    """Sum and count of observed values, kept by whoever observes them: a mean and a rate."""

    kind = "summary"

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help, labels)
        self._values: dict[Labels, list[float]] = {}

    def load(self, values: dict[Labels, list[float]]) -> None:
        """Take over [sum, count] that were kept elsewhere."""
        self._values = values

    def lines(self) -> Iterable[str]:
        """Sum and count for each series."""
        for labels, (total, count) in list(self._values.items()):
            yield f"{self._text(labels, suffix='_sum')} {_number(total)}"
            yield f"{self._text(labels, suffix='_count')} {_number(count)}"


class Bounded:
    """The first `limit` values of a label as they are, all later ones as `other`; cleaned once each."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._known: dict[str, str] = {OTHER: OTHER}

    def __call__(self, value: str, *, admit: bool = True) -> str:
        """The label for a value; `admit` False never takes up a new one."""
        known = self._known.get(value)
        if known is not None:
            return known
        if not admit or len(self._known) > self.limit:
            return OTHER
        self._known[value] = label = label_of(value)
        return label


def label_of(value: str) -> str:
    """A value as a label: one line, no key, cut."""
    return one_line(redact(value), LONGEST_LABEL)


def render(families: Iterable[Family]) -> bytes:
    """The text exposition, version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/"""
    out: list[str] = []
    for family in families:
        samples = list(family.lines())
        if samples:
            out.append(f"# HELP {family.name} {family.help}")
            out.append(f"# TYPE {family.name} {family.kind}")
            out += samples
    out.append("")
    return "\n".join(out).encode("utf-8", "backslashreplace")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    """A number as the format writes it."""
    if value == math.inf:
        return "+Inf"
    if value == -math.inf:
        return "-Inf"
    if value != value:
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
