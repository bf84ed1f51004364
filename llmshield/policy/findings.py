"""Findings: what is wrong with a policy, where, and what to write instead. CODES is the list of all kinds.

Codes are stable: scripts and editors match on them. A code is never reused and never changes its meaning.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning"]
Path: TypeAlias = tuple[str | int, ...]
"""From the root of the policy to a value: names of keys and positions in lists."""

CODES: dict[str, tuple[Severity, str]] = {
    # the text
    "LS101": ("error", "the file is no UTF-8 text: wrong encoding, NUL or another control character"),
    "LS102": ("error", "the policy is too large: bytes, values or aliases"),
    "LS103": ("error", "YAML syntax"),
    "LS104": ("error", "a key stands twice in one mapping"),
    "LS105": ("error", "a YAML tag, which could make something else of a value than what it says"),
    "LS106": ("error", "too many levels inside each other"),
    "LS107": ("error", "more than one YAML document, or a YAML directive"),
    "LS108": ("error", "the policy is empty or no mapping"),
    "LS109": ("error", "a key that is no plain text"),
    "LS110": ("error", "an alias without its anchor, or inside it"),
    "LS111": ("warning", "`${NAME}`: variables are not put into policies"),
    "LS112": ("error", "a number that no computer holds exactly, or holds at all"),
    # the shape
    "LS201": ("error", "an unknown key"),
    "LS202": ("error", "a key is missing"),
    "LS203": ("error", "a word that is not one of the choices"),
    "LS204": ("error", "another kind of value than expected: text, number, list, mapping"),
    "LS205": ("error", "a value outside its limits"),
    "LS206": ("error", "a quantity or text that is not written as expected"),
    "LS207": ("error", "two keys that exclude each other, or one that needs another"),
    # the meaning
    "LS301": ("error", "a route or a plugin names a provider that does not exist"),
    "LS302": ("warning", "a route sends a model to a provider whose `models` deny it"),
    "LS303": ("warning", "a route that no call reaches"),
    "LS304": ("error", "a tier, or a tenant under `identity`, that does not exist"),
    "LS305": ("error", "an entry of `identify` that is not known"),
    "LS306": ("warning", "`base_url` does not end as its dialect wants"),
    "LS307": ("error", "`base_url` is no usable address"),
    "LS308": ("error", "plain http to a provider that is not on this machine"),
    "LS309": ("error", "a literal secret in the policy"),
    "LS310": ("error", "no reference to a secret that can be read"),
    "LS311": ("error", "a client key that is no `sha256:` and 64 hexadecimal digits"),
    "LS312": ("error", "the same client key for two tenants"),
    "LS313": ("warning", "an override whose end has passed"),
    "LS314": ("error", "an override names a plugin that the policy does not use"),
    "LS315": ("error", "a store that does not exist"),
    "LS316": ("error", "a setting that the wrapped app, as a provider, can't have"),
    "LS317": ("error", "a secret that does not resolve (only looked at when asked)"),
    "LS318": ("error", "`admin` and `listen` are the same address"),
    "LS319": ("warning", "a key that has no effect here"),
    "LS320": ("warning", "a key file that others may read"),
    "LS321": ("error", "a route whose `regions` leave nobody to ask"),
    # plugins
    "LS401": ("error", "a plugin that does not exist"),
    "LS402": ("error", "a plugin that can't be loaded"),
    "LS403": ("error", "two plugins of the same name"),
    "LS404": ("error", "a plugin's setting both beside `use` and under `with`"),
    "LS405": ("error", "`on_error: open` for a plugin that must fail closed"),
}


HINTS = {
    "LS102": "leave out what repeats; a policy is a page or two",
    "LS103": "look here and in the line above for a bracket, a quote, a colon or an indent that is missing or too much",
    "LS106": "write it flatter",
    "LS107": "keep one document, and nothing before it",
    "LS109": "write the key as plain text, in quotes if need be",
    "LS110": "put the anchor (&name) before its alias (*name), and not around it",
    "LS202": "add it",
    "LS207": "keep what you mean and leave the other out",
    "LS301": "add it under `providers`, or name one that is there",
    "LS304": "add it under `tiers` or `tenants`, or name one that is there",
    "LS307": "write https://HOST, without user, query or blanks",
    "LS402": "docs/writing-plugins.md shows one that loads",
}
"""What to do where a finding has nothing better to say."""


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing that is wrong with a policy.

    `line` and `column` count from 1, columns in characters; `path` is spelt `plugins[3].entities.EMAIL`;
    `message` says what was found and what was expected; `source` is the line as written, secrets masked;
    `hint` says what to write, or is empty.
    """

    code: str
    message: str
    file: str
    line: int = 1
    column: int = 1
    path: str = ""
    source: str = ""
    hint: str = ""

    @property
    def severity(self) -> Severity:
        """`error`: the policy is not used. `warning`: it is, and this deserves a look."""
        return CODES[self.code][0]

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        lines = [f"{self.file}:{self.line}:{self.column}: {self.severity} {self.code}: {place}{self.message}"]
        if self.source.strip():
            lines.append(f"  {self.source.strip()}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | int]:
        """For JSON: every field, and the severity."""
        return {
            "code": self.code,
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "message": self.message,
            "source": self.source,
            "hint": self.hint,
        }


def write_path(path: Path) -> str:
    """`("plugins", 3, "entities")` as `plugins[3].entities`; a name with dots or blanks is quoted."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        elif step and all(char.isalnum() or char in "_-" for char in step):
            out += f".{step}" if out else step
        else:
            out += f"[{step[:60]!r}]"
    return out


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "did you mean 'injection'?" for a word that is near a known one, or begins just one; else ""."""
    names = {name.lower(): name for name in known}
    short = word.lower()[:80]
    near = difflib.get_close_matches(short, names, n=1, cutoff=0.6)
    if not near and len(short) >= 3:
        begun = [name for name in names if name.startswith(short)]
        near = begun if len(begun) == 1 else []
    return f"did you mean {names[near[0]]!r}?" if near else ""
