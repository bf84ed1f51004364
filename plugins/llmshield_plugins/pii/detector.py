"""All kinds over one text: segments, views, rules, overlaps.

`Detector.whole(text)` is what a text contains. `Detector.segment(text, start, end)` is what one segment contains,
a pure function of the segment and the `CONTEXT` characters before it. `whole` is nothing but all segments in a
row; so is a stream (`guard.py`). That is why both find the same.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, NamedTuple

from llmshield import clock
from llmshield.secrets_patterns import find_secrets, triggers
from llmshield_plugins.pii import views
from llmshield_plugins.pii.addresses import SHAPES, addresses
from llmshield_plugins.pii.expressions import compiled, finder, gate
from llmshield_plugins.pii.numbers import RUN, numbers
from llmshield_plugins.pii.recognisers import RULES, Rule, iban_end
from llmshield_plugins.pii.segments import CONTEXT, Segment, next_segment
from llmshield_plugins.pii.shapes import shape


class Found(NamedTuple):
    """A value: `start` and `end` in code points of the text, `score` 0 to 1."""

    start: int
    end: int
    kind: str
    score: float


Keep = Callable[[Found, str], bool]
"""Whether a policy wants this finding; the string is the value."""

Extra = Callable[[str, int, "list[int]"], "list[Found]"]
"""Another source of findings (presidio's recognisers): an ASCII text, where its context ends, and which of the
source's own patterns matched behind that."""

BLOCK = 65_536
"""Characters that are searched at once; more than any segment may have."""

MAX_DEPTH = 2
"""A carrier inside a carrier is opened, no further."""

_ADDRESSES = [pattern.replace(r"\b", "") for pattern, _ in SHAPES]
_SECRETS = list(triggers())
_CARRIERS = [views.ESCAPE, views.CARRIER, r"(?:[0-9A-Fa-f]{2}[ :]){4}"]
_PATTERNS = [rule.trigger for rule in RULES] + _ADDRESSES + [RUN] + _SECRETS + _CARRIERS
_FIRST_ADDRESS = len(RULES)
_RUN = _FIRST_ADDRESS + len(_ADDRESSES)
_FIRST_SECRET = _RUN + 1
_FIRST_CARRIER = _FIRST_SECRET + len(_SECRETS)
_ESCAPES, _BASE64, _HEX = range(_FIRST_CARRIER, _FIRST_CARRIER + 3)

_NEVER = r"[^\x00-\x{10FFFF}]"
_ANNOUNCED = frozenset(number for number, rule in enumerate(RULES) if rule.needs is not None)
"""Rules that only count behind a word that announces them; what they find has a digit."""
_HINTS = _ANNOUNCED | {_BASE64}
"""What honest prose is full of: words that might announce something, words of twelve letters and more."""
_GLANCE = 4096
"""Characters of a text whose hints are looked into; a longer one may have tokens that are read in windows."""
_DIGIT = finder(compiled("[0-9]"))


class Detector:
    """What a policy's kinds look like in text. Built once at load; holds no text.

    `keep` decides which findings count; kinds that are not `wanted` are not looked for (None: all are); `extra` adds
    findings, its `extra_patterns` join the gate.
    """

    def __init__(
        self,
        keep: Keep,
        *,
        wanted: Container[str] | None = None,
        extra: Extra | None = None,
        extra_patterns: tuple[str, ...] = (),
    ) -> None:
        self._keep = keep
        self._extra = extra
        self._gate = gate([*_wanted(wanted), *extra_patterns])
        # The set in C: every text is asked of it, and its wrapper costs a third of the question.
        self._glance: Callable[[bytes], list[int] | None] = getattr(self._gate, "_set", self._gate).Match
        self._first_extra = len(_PATTERNS)
        self._rules = [compiled(rule.regex) for rule in RULES]

    def suspects(self, text: str) -> bool:
        """Whether `whole` has to look: False is certain, and takes 2 us for 1,000 characters."""
        data = views.fold_bytes(text)
        hits = self._glance(data)
        if not hits:
            return False
        if not _HINTS.issuperset(hits) or len(text) > _GLANCE:
            return True
        if _BASE64 in hits and views.is_carrier(data):
            return True
        return not _ANNOUNCED.isdisjoint(hits) and _DIGIT(data, 0)[0] >= 0

    def whole(self, text: str, deadline: float | None = None) -> list[Found]:
        """Every value in `text`, in order, without overlap. Raises: TimeoutError past the deadline, see `settle`."""
        return self.settle(text, 0, True, deadline)[0] if self.suspects(text) else []

    def settle(
        self, text: str, start: int, final: bool, deadline: float | None = None
    ) -> tuple[list[Found], int]:
        """The values in `text[start:upto]`, and `upto`: what is before it stays so, whatever follows.

        Reads blocks, as a stream would: a search that is asked for one segment must not run through a megabyte.

        Raises: TimeoutError when a block would begin after `deadline` (`clock.monotonic()` seconds).
        """
        size = len(text)
        if start <= CONTEXT and size <= BLOCK and deadline is None:  # as streams ask, event by event
            segment, hold = next_segment(text, shape(text), start, final)
            if segment is None:
                return [], max(start, hold)
        found: list[Found] = []
        while True:
            if clock.overdue(deadline):
                raise TimeoutError
            end = min(size, start + BLOCK)
            base = max(0, start - CONTEXT)
            block = text[base:end] if base or end < size else text
            form = shape(block)
            position = start - base
            while True:
                segment, hold = next_segment(block, form, position, final and end == size)
                if segment is None:
                    break
                more, position = self.judged(block, segment)
                found += (
                    more
                    if base == 0
                    else [Found(f.start + base, f.end + base, f.kind, f.score) for f in more]
                )
            start = base + max(position, hold)
            if end == size:
                return found, start

    def judged(self, text: str, segment: Segment) -> tuple[list[Found], int]:
        """The findings of a segment (or of the part of a window that is decided), and where to go on."""
        found = self.segment(text, segment.start, segment.end)
        cut = segment.cut
        if cut == segment.end:
            return found, cut
        for item in found:
            if item.start < cut < item.end:
                cut = item.start if item.start > segment.start else item.end
        return [item for item in found if item.end <= cut], cut

    def segment(self, text: str, start: int, end: int) -> list[Found]:
        """The values in `text[start:end]`, in order, without overlap."""
        base = max(0, start - CONTEXT)
        first = start - base
        source = text[base:end]
        found = self._in(source, first, 0)
        if not found:
            return []
        clipped = (Found(max(f.start, first), f.end, f.kind, f.score) for f in found if f.end > first)
        wanted = [f for f in clipped if self._keep(f, source[f.start : f.end])]
        return [Found(f.start + base, f.end + base, f.kind, f.score) for f in resolve(wanted)]

    def _in(self, source: str, first: int, depth: int) -> list[Found]:
        """Findings of all views of `source`, overlapping as they may; what is before `first` is context."""
        view = views.plain(source)
        hits = self._gate.Match(view.text)
        if hits is None:
            return []
        found: list[Found] = []
        hits = self._look(view, first, hits, found)
        if _ESCAPES in hits:
            for inner in views.unescaped(view):
                more = self._gate.Match(inner.text)
                if more is not None:
                    view, hits = inner, self._look(inner, first, more, found)
        if depth < MAX_DEPTH and (_BASE64 in hits or _HEX in hits):
            for start, end, text in views.carried(view, view.place(first)):
                # What stands before a carrier announces what is in it.
                before = view.text[max(0, start - CONTEXT) : start]
                text = before + text
                inside = [
                    f
                    for f in self._in(text, len(before), depth + 1)
                    if f.end > len(before) and self._keep(f, text[f.start : f.end])
                ]
                if inside:
                    best = max(inside, key=lambda f: f.score)
                    found.append(Found(*view.source(start, end), best.kind, best.score))
        return found

    def _look(self, view: views.View, first: int, hits: list[int], found: list[Found]) -> list[int]:
        """Run over one view what the gate saw; returns what the gate sees behind `first`.

        Credentials, addresses and what needs an announcement may be begun by words before; all else stands behind
        `first` alone.
        """
        text = view.text
        begin = view.place(first)
        inside: list[int] = hits if begin == 0 else self._gate.Match(text[begin:]) or []
        if any(_FIRST_SECRET <= hit < _FIRST_CARRIER for hit in hits):
            found.extend(
                Found(*view.source(a, b), kind, 1.0) for a, b, kind in find_secrets(text) if b > begin
            )
        streets = [hit - _FIRST_ADDRESS for hit in hits if _FIRST_ADDRESS <= hit < _RUN]
        if streets:
            found.extend(
                Found(*view.source(a, b), kind, score) for a, b, kind, score in addresses(text, streets)
            )
        for hit in hits:
            if hit < _FIRST_ADDRESS and RULES[hit].needs is not None:
                self._rule(RULES[hit], self._rules[hit], view, begin, found)
        others: list[int] = []
        for hit in inside:
            if hit < _FIRST_ADDRESS and RULES[hit].needs is None:
                self._rule(RULES[hit], self._rules[hit], view, begin, found)
            elif hit == _RUN:
                found.extend(
                    Found(*view.source(a, b), kind, score) for a, b, kind, score in numbers(text, begin)
                )
            elif hit >= self._first_extra:
                others.append(hit - self._first_extra)
        if others and self._extra is not None:
            more = self._extra(text, begin, others)
            found.extend(Found(*view.source(f.start, f.end), f.kind, f.score) for f in more)
        return inside

    def _rule(self, rule: Rule, expression: Any, view: views.View, begin: int, found: list[Found]) -> None:
        text = view.text
        data = text.encode("ascii")
        if rule.needs is not None and rule.needs.search(data) is None:
            return
        position = begin
        search = expression.search
        while (match := search(data, position)) is not None:
            start, end = match.span()
            if rule.kind == "IBAN_CODE":
                size = iban_end(text[start:end])
                if size is None:
                    position = start + 1
                    continue
                end = start + size
            if rule.kind == "EMAIL_ADDRESS":
                while start < end and text[start] in ".'!-+%":
                    start += 1
            score = rule.check(text[start:end], text[max(0, start - 64) : start], text[end : end + 16])
            if score is not None:
                found.append(Found(*view.source(start, end), rule.kind, score))
                position = end
            else:
                position = match.start() + 1 if rule.retry else match.end()


def _wanted(kinds: Container[str] | None) -> list[str]:
    """The patterns of the gate; those of kinds that nobody wants match nothing."""
    patterns = list(_PATTERNS)
    if kinds is not None:
        for number, rule in enumerate(RULES):
            if rule.kind not in kinds:
                patterns[number] = _NEVER
        if "STREET_ADDRESS" not in kinds:
            patterns[_FIRST_ADDRESS:_RUN] = [_NEVER] * len(_ADDRESSES)
    return patterns


def resolve(found: list[Found]) -> list[Found]:
    """One finding for each place: the higher score wins, then the longer; what it covers in part goes with it."""
    if len(found) < 2:
        return found
    found = sorted(found)
    out: list[Found] = []
    cluster = [found[0]]
    end = found[0].end
    for item in found[1:]:
        if item.start < end:
            cluster.append(item)
        else:
            out += _best(cluster)
            cluster = [item]
        end = max(end, item.end)
    return out + _best(cluster)


def _best(cluster: list[Found]) -> list[Found]:
    """The findings of a cluster of overlapping ones that stay, in order."""
    if len(cluster) == 1:
        return cluster
    kept: list[Found] = []
    for item in sorted(cluster, key=lambda f: (-f.score, f.start - f.end, f.start, f.kind)):
        over = [k for k in kept if item.start < k.end and k.start < item.end]
        if not over:
            kept.append(item)
        elif any(item.start < k.start or item.end > k.end for k in over):
            first = min(item.start, *(k.start for k in over))
            last = max(item.end, *(k.end for k in over))
            kept = [k for k in kept if k not in over]
            kept.append(Found(first, last, over[0].kind, over[0].score))
    return sorted(kept)
