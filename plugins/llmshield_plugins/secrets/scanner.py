"""One verdict for one text: what the command `scan` prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from llmshield.scan_verdicts import ScanVerdict, Span, scan_verdict
from llmshield.secrets_patterns import Credential
from llmshield_plugins.secrets.settings import Ruling


class Scanner:
    """Made by `Secrets.scanner(settings)`; the type of a span is the name of a rule."""

    def __init__(
        self, find: Callable[[str], list[Credential]], rulings: Mapping[str, Ruling], roles: frozenset[str]
    ) -> None:
        self._find = find
        self._rulings = rulings
        self._roles = roles

    def scan(self, text: str, role: str = "user") -> ScanVerdict:
        """The verdict for any text, empty and broken ones included; a role that the policy does not read is allowed."""
        began = time.perf_counter()
        found = self._find(text) if role in self._roles else []
        spans = [Span(start=f.start, end=f.end, type=f.rule, score=1.0) for f in found]
        return scan_verdict(spans, lambda rule: self._rulings[rule].action == "block", began)
