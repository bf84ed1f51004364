"""What Gemini's models take about thinking: a budget in tokens until 2.5, a level by word since 3; and signatures.

After https://ai.google.dev/gemini-api/docs/thinking and .../thought-signatures.
"""

from __future__ import annotations

import re

from llmshield.call import Tree
from llmshield.conversation import Conversation
from llmshield.translators._json import note, without_none

_VERSION = re.compile(r"gemini-(\d+)")
_BUDGETS = {"minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
"""Tokens to think in for an effort by word: what Google's OpenAI layer maps
(https://ai.google.dev/gemini-api/docs/openai)."""
_LEVELS = {
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}
_RANGES = (
    ("gemini-2.5-pro", 128, 32768),
    ("gemini-2.5-flash-lite", 512, 24576),
    ("gemini-2.5-flash", 1, 24576),
)
"""Least and largest budgets; only the models of Pro can't be told not to think."""

UNSIGNED = "skip_thought_signature_validator"
"""Stands where Gemini 3 wants the signature of a thought that was not its own: a call that another model made, or
one that a client of another dialect has brought back without it. Such a call is answered with 400 else."""


def version(model: str) -> int:
    """The number of a model's generation; 0 for one that is no Gemini."""
    found = _VERSION.match(model.rpartition("/")[2])
    return int(found[1]) if found is not None else 0


def config(c: Conversation) -> Tree | None:
    """The `thinkingConfig` for what the client wishes; what this model has not is noted."""
    thinking = c.thinking
    if thinking is None:
        return None
    name = c.model.rpartition("/")[2]
    if name.startswith(("gemini-1", "gemini-2.0", "gemma")):
        if not thinking.off:
            note(c.lost, "thinking: this model doesn't think")
        return None
    out: Tree = {"includeThoughts": thinking.shown}
    effort, budget = thinking.effort, thinking.budget
    if version(name) >= 3 and not (budget is not None and effort is None):
        level: str | None
        if thinking.off:
            level = "LOW" if "pro" in name else "MINIMAL"
            note(c.lost, f"thinking: this model thinks at the level {level} at the least")
        else:
            level = _LEVELS.get(effort or "")
            if budget is not None:
                note(c.lost, "thinking: Gemini takes a level or a budget, not both")
            if effort is not None and (level is None or level.lower() != effort):
                note(c.lost, f"thinking: of levels this model has {level or 'its own'} at the nearest")
        out["thinkingLevel"] = level
    else:
        out["thinkingBudget"] = _budget(c, name)
    return without_none(out) or None


def _budget(c: Conversation, name: str) -> int | None:
    assert c.thinking is not None
    effort, budget, off = c.thinking.effort, c.thinking.budget, c.thinking.off
    least, most = next(((low, high) for known, low, high in _RANGES if name.startswith(known)), (1, 1 << 30))
    if off:
        if name.startswith("gemini-2.5-pro"):
            note(c.lost, f"thinking: this model thinks in {least} tokens at the least")
            return least
        return 0
    if budget is None:
        return None if effort is None else max(least, _BUDGETS.get(effort, _BUDGETS["medium"]))
    near = min(max(budget, least), most)
    if near != budget:
        note(c.lost, f"thinking: this model's budgets are {least} to {most} tokens")
    if effort is not None:
        note(c.lost, "thinking: Gemini takes a budget or an effort, not both")
    return near
