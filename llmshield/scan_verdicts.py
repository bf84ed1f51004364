"""One verdict for one text: what `llmshield scan` prints of detectors that find values, whichever plugin they are of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypedDict


class Span(TypedDict):
    """Where and what, in code points of the text as given; `type` is a kind, or a rule's name."""

    start: int
    end: int
    type: str
    score: float


class ScanVerdict(TypedDict):
    """`action`: block if something was found that is blocked, flag if anything else was, else allow; `families`: the
    types found; `ms`: the time it took."""

    action: str
    score: float
    spans: list[Span]
    families: list[str]
    ms: float


def scan_verdict(spans: list[Span], blocks: Callable[[str], bool], began: float) -> ScanVerdict:
    """The verdict on what was found. `blocks`: whether a type is blocked; `began`: by `time.perf_counter`, in seconds."""
    action = "allow"
    if spans:
        action = "block" if any(blocks(span["type"]) for span in spans) else "flag"
    return ScanVerdict(
        action=action,
        score=max((span["score"] for span in spans), default=0.0),
        spans=spans,
        families=sorted({span["type"] for span in spans}),
        ms=round((time.perf_counter() - began) * 1000, 3),
    )
