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


def one(char_class: str) -> Part:
    """One character of a class, written as re2 does: `[a-z]`, `\\d`."""
    return Part(char_class, f"(?:{char_class})?")


def word(literal: str) -> Part:
    """These characters, none of them special, in either case."""
    return seq(*(one(f"[{c.lower()}{c.upper()}]" if c.isalpha() else f"[{c}]") for c in literal))


def seq(*parts: Part) -> Part:
    """One after the other."""
    prefix = parts[-1].prefix
    for part in reversed(parts[:-1]):
        prefix = f"(?:{part.full}{prefix}|{part.prefix})"
    return Part("".join(part.full for part in parts), prefix)


def any_of(*parts: Part) -> Part:
    """The first of these that matches."""
    return Part(f"(?:{'|'.join(p.full for p in parts)})", f"(?:{'|'.join(p.prefix for p in parts)})")


def repeat(part: Part, least: int, most: int | None = None) -> Part:
    """`least` to `most` times, as often as possible; `most` None: without end."""
    full = f"(?:{part.full})"
    if most is None:
        return Part(f"{full}{{{least},}}", f"{full}*{part.prefix}")
    return Part(f"{full}{{{least},{most}}}", f"{full}{{0,{most - 1}}}{part.prefix}")


def lazily(part: Part) -> Part:
    """Any number of times, as few as what follows allows."""
    return Part(f"(?:{part.full})*?", f"(?:{part.full})*{part.prefix}")


def maybe(part: Part) -> Part:
    """Once or not at all."""
    return Part(f"(?:{part.full})?", f"(?:{part.prefix})")


def edge() -> Part:
    """An ASCII word boundary, which has no length."""
    return Part(r"\b", "")
