"""Regular expressions that know their own beginnings.

A stream guard has to hold what *may become* a match. For an expression built from the parts below, `prefix` is
an expression for every beginning of every match, derived and not written by hand, so that the two cannot drift
apart. Both are google-re2 syntax.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """`full` matches all of it, `prefix` any beginning of it, the empty one and (at least nearly) all included."""

    full: str
    prefix: str
    plain: bool = False
    """Every beginning of it but the empty one is it as well: `[0-9]`, `[0-9]+`. Its prefix need not be spelled out."""


def one(char_class: str) -> Part:
    """One character of a class, written as re2 does: `[a-z]`, `\\d`."""
    return Part(char_class, f"(?:{char_class})?", plain=True)


def word(literal: str) -> Part:
    """These characters, none of them special, in either case."""
    return seq(*(one(f"[{c.lower()}{c.upper()}]" if c.isalpha() else f"[{c}]") for c in literal))


def seq(*parts: Part) -> Part:
    """One after the other."""
    prefix = parts[-1].prefix
    for part in reversed(parts[:-1]):
        prefix = f"(?:{part.full}{prefix})?" if part.plain else f"(?:{part.full}{prefix}|{part.prefix})"
    return Part("".join(part.full for part in parts), prefix)


def any_of(*parts: Part) -> Part:
    """The first of these that matches."""
    return Part(
        f"(?:{'|'.join(p.full for p in parts)})",
        f"(?:{'|'.join(p.prefix for p in parts)})",
        plain=all(part.plain for part in parts),
    )


def repeat(part: Part, least: int, most: int | None = None) -> Part:
    """`least` to `most` times, as often as possible; `most` None: without end."""
    full = f"(?:{part.full})"
    times = "*" if most is None else f"{{0,{most}}}"
    before = "*" if most is None else f"{{0,{most - 1}}}"
    prefix = f"{full}{times}" if part.plain else f"{full}{before}{part.prefix}"
    return Part(f"{full}{{{least},{'' if most is None else most}}}", prefix, plain=part.plain and least <= 1)


def lazily(part: Part) -> Part:
    """Any number of times, as few as what follows allows."""
    return Part(f"(?:{part.full})*?", f"(?:{part.full})*{part.prefix}")


def maybe(part: Part) -> Part:
    """Once or not at all."""
    return Part(f"(?:{part.full})?", f"(?:{part.prefix})", plain=part.plain)


def edge() -> Part:
    """An ASCII word boundary, which has no length."""
    return Part(r"\b", "")
