"""One verdict for one text: what the command `scan` prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypedDict

from llmshield.secrets_patterns import Credential
from llmshield_plugins.secrets.settings import Ruling


class Span(TypedDict):
    """Where and what, in code points of the text as given; `type` is the rule's name."""

    start: int
    end: int
    type: str
    score: float


class ScanVerdict(TypedDict):
    """`action`: block if a rule that blocks found something, flag if any other did, else allow; `ms`: time it took."""

    action: str
    score: float
    spans: list[Span]
    families: list[str]
    ms: float


class Scanner:
    """Made by `Secrets.scanner(settings)`."""

    def __init__(
        self, find: Callable[[str], list[Credential]], rulings: Mapping[str, Ruling], roles: frozenset[str]
    ) -> None:
        self._find = find
        self._rulings = rulings
        self._roles = roles

    def scan(self, text: str, role: str = "user") -> ScanVerdict:
        """The verdict for any text, empty and broken ones included; a role that the policy does not read is allowed."""
        begin = time.perf_counter()
        found = self._find(text) if role in self._roles else []
        action = "allow"
        if found:
            action = "block" if any(self._rulings[f.rule].action == "block" for f in found) else "flag"
        return ScanVerdict(
            action=action,
            score=1.0 if found else 0.0,
            spans=[Span(start=f.start, end=f.end, type=f.rule, score=1.0) for f in found],
            families=sorted({f.rule for f in found}),
            ms=round((time.perf_counter() - begin) * 1000, 3),
        )
