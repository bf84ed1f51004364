"""Names with wildcards: `gpt-*`, `/v1/audio/*`. `*` is any run of characters, `?` is one; nothing else is special.

Matching reads what clients send, so it is linear: plain string comparison for the usual forms, google-re2 for
the rest. The kind of each pattern is decided when the policy is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import re2

Matcher = Callable[[str], bool]


def is_glob(pattern: str) -> bool:
    """Whether the pattern holds a wildcard."""
    return "*" in pattern or "?" in pattern


def compile_glob(pattern: str, *, ignore_case: bool = False) -> Matcher:
    """A predicate over whole names; with `ignore_case`, case twins match as well."""
    if ignore_case:
        inner = compile_glob(pattern.casefold())
        return lambda name: inner(name.casefold())
    if not is_glob(pattern):
        return pattern.__eq__
    if pattern.strip("*") == "":
        return lambda name: True
    body = pattern[:-1]
    if pattern.endswith("*") and not is_glob(body):
        return lambda name: name.startswith(body)
    tail = pattern[1:]
    if pattern.startswith("*") and not is_glob(tail):
        return lambda name: name.endswith(tail)
    parts = [".*" if char == "*" else "." if char == "?" else re2.escape(char) for char in pattern]
    fullmatch = re2.compile(f"(?s){''.join(parts)}").fullmatch
    start = pattern[: min(pattern.find(char) for char in "*?" if char in pattern)]

    def matches(name: str) -> bool:
        if not name.startswith(start):  # 0.05 us, re2 takes 1.5
            return False
        # re2 works on UTF-8: a lone surrogate, which JSON can spell, has none and so matches nothing exactly.
        text = name if name.isascii() else name.encode("utf-8", "replace").decode()
        return fullmatch(text) is not None

    return matches


def compile_globs(patterns: Sequence[str], *, ignore_case: bool = False) -> Matcher:
    """A predicate that holds if any pattern does; exact names are looked up in one set."""
    if ignore_case:
        inner = compile_globs([pattern.casefold() for pattern in patterns])
        return lambda name: inner(name.casefold())
    if len(patterns) == 1:
        return compile_glob(patterns[0])
    exact = frozenset(pattern for pattern in patterns if not is_glob(pattern))
    globs = tuple(compile_glob(pattern) for pattern in patterns if is_glob(pattern))
    if not globs:
        return exact.__contains__

    def matches(name: str) -> bool:
        if name in exact:
            return True
        for glob in globs:  # noqa: SIM110 - a loop, not any(): this runs for every call
            if glob(name):
                return True
        return False

    return matches
