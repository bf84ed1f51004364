"""One verdict for one text: what the command `scan` prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypedDict

from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.settings import EntityRule


class Span(TypedDict):
    """Where and what, in code points of the text as given."""

    start: int
    end: int
    type: str
    score: float


class ScanVerdict(TypedDict):
    """`action`: block if a kind that is blocked was found, flag if any other was, else allow; `ms`: time it took."""

    action: str
    score: float
    spans: list[Span]
    families: list[str]
    ms: float


class Scanner:
    """Made by `Pii.scanner(settings)`."""

    def __init__(self, read: Callable[[str], list[Found]], rules: Mapping[str, EntityRule]) -> None:
        self._read = read
        self._rules = rules

    def scan(self, text: str, role: str = "user") -> ScanVerdict:
        """The verdict for any text, empty and broken ones included; a policy's kinds count the same in each role."""
        begin = time.perf_counter()
        found = self._read(text)
        action = "allow"
        if found:
            action = "block" if any(self._rules[f.kind].action == "block" for f in found) else "flag"
        spans = [Span(start=f.start, end=f.end, type=f.kind, score=round(f.score, 3)) for f in found]
        return ScanVerdict(
            action=action,
            score=round(max((f.score for f in found), default=0.0), 3),
            spans=spans,
            families=sorted({f.kind for f in found}),
            ms=round((time.perf_counter() - begin) * 1000, 3),
        )
