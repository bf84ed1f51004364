"""One verdict for one text: what the command `scan` prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from llmshield.scan_verdicts import ScanVerdict, Span, scan_verdict
from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.settings import EntityRule


class Scanner:
    """Made by `Pii.scanner(settings)`."""

    def __init__(self, read: Callable[[str], list[Found]], rules: Mapping[str, EntityRule]) -> None:
        self._read = read
        self._rules = rules

    def scan(self, text: str, role: str = "user") -> ScanVerdict:
        """The verdict for any text, empty and broken ones included; a policy's kinds count the same in each role."""
        began = time.perf_counter()
        spans = [
            Span(start=f.start, end=f.end, type=f.kind, score=round(f.score, 3)) for f in self._read(text)
        ]
        return scan_verdict(spans, lambda kind: self._rules[kind].action == "block", began)
