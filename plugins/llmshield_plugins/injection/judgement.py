"""What a scan says, by which rules, and how several findings make one judgement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from .signatures import Signature

Action = Literal["allow", "flag", "block"]

# Weak signs add up only within this many characters, or every long document would be an attack.
_NEAR: Final = 2_048
_BESIDE: Final = 0.75
# What remains of a score when the pattern stands in quotation marks in a text that talks about attacks.
MENTION: Final = 0.45


@dataclass(frozen=True, slots=True)
class Hit:
    """One signature found: `start` and `end` in code points of the text as given, `view` how it was read."""

    signature: str
    family: str
    score: float
    start: int
    end: int
    view: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a text is: `score` is 0..1, `families` in order of weight, `learned` last, `hits` with their spans."""

    action: Action
    score: float
    families: tuple[str, ...] = ()
    hits: tuple[Hit, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """Characters that all views of one text may have: `base` + `factor` times its length; `score` if it runs out."""

    base: int = 65_536
    factor: int = 24
    score: float = 0.6


@dataclass(frozen=True, slots=True)
class Rules:
    """What a scanner looks for, beside the built-in signatures. `points` are `flag_at` and `block_at` of single roles."""

    block_at: float = 0.90
    flag_at: float = 0.60
    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    own: tuple[Signature, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    monitored: frozenset[str] = frozenset()
    budget: Budget = Budget()
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    canary: str = ""


CLEAN: Final = Judgement("allow", 0.0)


def judge(rules: Rules, hits: Iterable[Hit], role: str = "") -> Judgement:
    """The judgement that these hits make together in a text of a role."""
    hits = sorted(hits, key=lambda hit: (hit.start, hit.end, hit.signature))
    if not hits:
        return CLEAN
    total = together(hits)
    enforced = total
    if rules.monitored and any(hit.family in rules.monitored for hit in hits):
        enforced = together([hit for hit in hits if hit.family not in rules.monitored])
    families: dict[str, float] = {}
    for hit in hits:
        families[hit.family] = max(families.get(hit.family, 0.0), hit.score)
    action: Action = "allow"
    flag_at, block_at = rules.points.get(role, (rules.flag_at, rules.block_at))
    if enforced >= block_at:
        action = "block"
    elif total >= flag_at:
        action = "flag"
    return Judgement(
        action,
        total,
        tuple(sorted(families, key=lambda f: (f == "learned", -families[f], f))),
        tuple(hits),
    )


def together(hits: Sequence[Hit]) -> float:
    """The score of hits near each other, as independent evidence (noisy-or), at the worst place of the text.

    `hits` are in the order of their start. One signature counts once; all mentions together count as one.
    """
    worst = 0.0
    for first, hit in enumerate(hits):
        scores: dict[str, float] = {}
        for other in hits[first:]:
            if other.start > hit.start + _NEAR:
                break
            key = "mention" if other.score == MENTION else other.signature
            scores[key] = max(scores.get(key, 0.0), other.score)
        miss = 1.0
        for key, score in scores.items():
            # The trained scorer reads the same words as the signatures: beside them, it is no witness of its own.
            if key == "learned" and len(scores) > 1 and score < 0.9:
                score *= _BESIDE
            miss *= 1.0 - min(score, 1.0)
        worst = max(worst, 1.0 - miss)
    return round(worst, 4)
