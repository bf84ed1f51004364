"""What LLMSHIELD_ENV says: whether this process serves in production.

Rule: a word that nobody knows means production, so that a slip of the pen switches nothing off.
"""

from __future__ import annotations

import os

VARIABLE = "LLMSHIELD_ENV"
ELSEWHERE = frozenset({"", "dev", "development", "local", "test", "testing", "ci", "demo", "staging"})
"""Where the rules of production do not hold."""


def is_production() -> bool:
    """Whether the rules of production hold."""
    return os.environ.get(VARIABLE, "").strip().lower() not in ELSEWHERE
