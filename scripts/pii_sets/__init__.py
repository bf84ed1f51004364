"""Texts of this project's own for the figures of the `pii` plugin: labelled, made anew from templates and names.

Nothing here trains anything: neither these templates nor, by design, these lists of names are read by
`scripts/train_names.py`. `made("prose", 500)` gives rows as the data sets have them: `{"text", "spans"}`.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from .values import MAKERS

HERE = Path(__file__).resolve().parent


def templates(room: str) -> list[str]:
    """The templates of `prose`, `structured` or `clean`."""
    lines = (HERE / f"{room}.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n") for line in lines if line and not line.startswith("# ")]


def made(room: str, count: int, seed: int = 1) -> list[dict[str, Any]]:
    """So many labelled texts, the same ones for the same seed; the templates take turns."""
    rng, rows = random.Random(seed), templates(room)
    return [filled(rng, rows[number % len(rows)]) for number in range(count)]


def filled(rng: random.Random, template: str) -> dict[str, Any]:
    """A template with values in its rooms, and where they are. The same room twice is the same value."""
    text, spans, given, at = "", [], dict[str, str](), 0
    while at < len(template):
        if template[at : at + 2] in ("{{", "}}"):
            text, at = text + template[at], at + 2
        elif template[at] == "{":
            end = template.index("}", at)
            room = template[at + 1 : end]
            kind, make = MAKERS[room.rstrip("2").removesuffix("_u")]
            value = given.get(room) or given.setdefault(
                room, make(rng).upper() if room.endswith("_u") else make(rng)
            )
            if kind:
                spans.append({"start": len(text), "end": len(text) + len(value), "type": kind})
            text, at = text + value, end + 1
        else:
            text, at = text + template[at], at + 1
    return {"text": text, "spans": spans}
