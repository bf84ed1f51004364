"""How hard a call looks: a plain sum that anybody can check, from 0 (a greeting) to 1.

What counts, each up to its own maximum: the length of what is asked, code in it, words that ask for reasoning, the
tools at hand, the turns so far, and how long an answer is allowed to be. A header may say it instead
(`x-llmshield-quality: high | medium | low`).
"""

from __future__ import annotations

from typing import Literal

import re2

from llmshield.call import Call

Quality = Literal["high", "medium", "low"]
QUALITIES: tuple[Quality, ...] = ("low", "medium", "high")
HEADER = "x-llmshield-quality"

_REASONING = re2.compile(
    r"(?i)\b(analy[sz]e|architect|compare|debug|derive|design|evaluate|explain why|optimi[sz]e|plan|proof|prove|"
    r"refactor|reason|review|root cause|solve|step by step|strategy|trade-?offs?|"
    r"beweise|begründe|analysiere|entwirf|warum|pourquoi|démontre|analise|demuestra|razona)\b"
)
_CODE = re2.compile(
    r"```|\b(def|class|function|import|SELECT|public static|#include|async fn|Traceback)\b|[{};]\s*\n"
)
_LONG = 6_000
"""Characters from which length alone counts in full: about 1,500 tokens."""
_SEEN = 20_000
"""Characters of the last turn that are looked at."""
MEDIUM, HIGH = 0.30, 0.60
"""From which score on a call is medium, and high."""


def score(call: Call) -> float:
    """0 to 1."""
    length = 0
    last = ""
    turns = 0
    for text in call.prompts("user", "tool"):
        if text.place.startswith("/tools"):  # what could be called is counted by its number
            continue
        length += len(text.value)
        if text.role == "user":
            last = text.value
            turns += 1
    last = last[:_SEEN]
    tools = call.body.get("tools")
    points = 0.35 * min(1.0, length / _LONG)
    points += 0.25 if _CODE.search(last) else 0.0
    points += min(0.30, 0.15 * len(_REASONING.findall(last)))
    points += min(0.15, 0.05 * len(tools)) if type(tools) is list else 0.0
    points += min(0.10, 0.02 * (turns - 1)) if turns > 1 else 0.0
    points += 0.05 if (call.output_bound or 0) > 2_000 else 0.0
    return min(1.0, points)


def quality_of(call: Call) -> tuple[Quality, str]:
    """The quality that a call needs, and why."""
    said = call.headers.get(HEADER, "").strip().lower()
    for quality in QUALITIES:
        if said == quality:
            return quality, "the caller's word"
    points = score(call)
    found: Quality = "high" if points >= HIGH else "medium" if points >= MEDIUM else "low"
    return found, f"complexity {points:.2f}"
