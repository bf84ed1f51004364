"""Signatures: the YAML files in `signatures/` as compiled patterns, the user's own beside them.

A pattern is written once and used twice: as it stands, and squeezed (blanks and word borders taken out) for
texts whose letters were spaced or glued. Blanks mean "any run of blanks, punctuation and marks"; `{word}` stands
for an entry of words.yaml, `{~3}` for up to three words, `{fill3}` for up to three small words.

Reading the YAML takes 300 ms, so the package carries `signatures.json`, made from it by `python -m
llmshield_plugins.injection`; it is used only while it carries the digest of the YAML files beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson

from .folds import PLAIN

FAMILIES: Final = (
    "instruction_override", "prompt_extraction", "template_breakout", "roleplay_jailbreak", "policy_puppetry",
    "tool_injection", "exfiltration", "encoded_payload",
)  # fmt: skip
# ASCII only on purpose: folded views hold no other punctuation, and a Unicode class would cost 2,000
# instructions for each blank of each pattern.
GAP: Final = r"[\x00-/:-@\[-`{-\x7f]+"
_FOLDER: Final = Path(__file__).parent / "signatures"
_COMPILED: Final = Path(__file__).parent / "signatures.json"


@dataclass(frozen=True, slots=True)
class Signature:
    """One pattern and what it is worth: `score` is the probability that a text with it is an attack.

    `tool_score` replaces it in texts of the role tool. `squeezed` is None for patterns that cannot be squeezed.
    """

    id: str
    family: str
    language: str
    score: float
    tool_score: float
    pattern: str
    squeezed: str | None
    example: str
    counter_example: str


def expand(pattern: str, words: dict[str, str], *, squeezed: bool = False) -> str:
    """A pattern with its words, fillers and blanks written out."""
    pattern = "".join(c if c < "\x80" else PLAIN.apply(c) for c in pattern)
    out: list[str] = []
    index = 0
    bracket = False
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            escape = pattern[index : index + 2]
            index += 2
            if squeezed and not bracket and escape in ("\\b", "\\s"):
                continue
            out.append(escape)
            continue
        if bracket:
            bracket = character != "]"
            out.append(character)
        elif character == "[":
            bracket = True
            out.append(character)
            if pattern[index + 1 : index + 2] == "^":
                out.append("^")
                index += 1
        elif character == "{" and not pattern[index + 1].isdigit():
            end = pattern.index("}", index)
            out.append(_word(pattern[index + 1 : end], words, squeezed))
            index = end
        elif character == " ":
            quantifier = pattern[index + 1 : index + 2]
            if not squeezed:
                out.append(f"(?:{GAP})" if quantifier in ("?", "*", "+", "{") else GAP)
            elif quantifier in ("?", "*", "+"):
                index += 1
        else:
            out.append(character)
        index += 1
    return "".join(out)


def _word(name: str, words: dict[str, str], squeezed: bool) -> str:
    if name.startswith("~"):
        return f"[a-z]{{0,{8 * int(name[1:])}}}" if squeezed else rf"(?:\w+{GAP}){{0,{name[1:]}}}"
    if name.startswith("fill"):
        body = expand(words["small"], words, squeezed=squeezed)
        return f"(?:{body}){{0,{name[4:]}}}" if squeezed else f"(?:(?:{body}){GAP}){{0,{name[4:]}}}"
    return expand(words[name], words, squeezed=squeezed)


def _squeezable(raw: str) -> bool:
    """Only patterns of plain words are: a class, an anchor or a bounded "anything" loses its meaning."""
    return not any(mark in raw for mark in ("[", "^", "$", r"\n", r"\S", r"\w", "|>", "<", "(?-i", ".{"))


def _from_yaml() -> list[dict[str, Any]]:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    words: dict[str, str] = yaml.load((_FOLDER / "words.yaml").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = []
    for path in sorted(_FOLDER.glob("*.yaml")):
        if path.stem == "words":
            continue
        for row in yaml.load(path.read_text(encoding="utf-8")):
            raw = row["pattern"]
            rows.append(
                {
                    "id": row["id"],
                    "family": row.get("family", path.stem),
                    "language": row.get("language", "en"),
                    "score": float(row["score"]),
                    "tool_score": float(row.get("tool_score", row["score"])),
                    "pattern": expand(raw, words),
                    "squeezed": expand(raw, words, squeezed=True)
                    if row["score"] >= 0.85 and _squeezable(raw)
                    else None,
                    "example": row["example"],
                    "counter_example": row["counter_example"],
                }
            )
    return rows


def _digest() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(_FOLDER.glob("*.yaml")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def refresh() -> Path:
    """Write `signatures.json` from the YAML files; run it after a change to them."""
    data = orjson.dumps({"digest": _digest(), "signatures": _from_yaml()}, option=orjson.OPT_INDENT_2)
    _COMPILED.write_bytes(data + b"\n")
    return _COMPILED


@lru_cache(maxsize=1)
def builtin() -> tuple[Signature, ...]:
    """The signatures of the package, in the order of their files.

    Raises: KeyError or ValueError when a YAML file was edited into something that is no signature.
    """
    rows: list[dict[str, Any]] | None = None
    if _COMPILED.exists():
        stored = orjson.loads(_COMPILED.read_bytes())
        if stored["digest"] == _digest():
            rows = stored["signatures"]
    if rows is None:
        rows = _from_yaml()
    return tuple(Signature(**row) for row in rows)
