"""The verdict of a scan, from what was found."""

import time

import pytest

from llmshield.scan_verdicts import Span, scan_verdict


def span(kind: str, score: float = 1.0) -> Span:
    return Span(start=0, end=1, type=kind, score=score)


@pytest.mark.parametrize(
    ("spans", "action", "score", "families"),
    [
        ([], "allow", 0.0, []),
        ([span("MAIL", 0.5)], "flag", 0.5, ["MAIL"]),
        ([span("MAIL", 0.5), span("CARD", 0.9), span("MAIL")], "flag", 1.0, ["CARD", "MAIL"]),
        ([span("MAIL"), span("KEY", 0.4)], "block", 1.0, ["KEY", "MAIL"]),
    ],
)
def test_what_is_blocked_wins(spans: list[Span], action: str, score: float, families: list[str]) -> None:
    verdict = scan_verdict(spans, lambda kind: kind == "KEY", time.perf_counter())

    assert (action, score, families) == (verdict["action"], verdict["score"], verdict["families"])
    assert verdict["spans"] is spans
    assert verdict["ms"] >= 0
