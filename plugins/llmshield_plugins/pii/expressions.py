"""Compiling expressions for text in ASCII views: linear time, quiet about errors, offsets in characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import re2

Find: TypeAlias = Callable[[bytes, int], tuple[int, int]]
"""Where an expression matches first in `data[start:]`; (-1, -1): nowhere."""


def compiled(pattern: str) -> Any:
    """An expression that takes str or ASCII bytes. Raises: re2.error when google-re2 can't read it."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def finder(made: Any) -> Find:
    """The search of a compiled expression in C: re2's wrapper around it costs three times what looking for a segment
    in one event of a stream does."""
    inner: Any = getattr(made, "_regexp", None)
    if inner is None:  # another build of re2

        def find(data: bytes, start: int) -> tuple[int, int]:
            found = made.search(data, start)
            return (-1, -1) if found is None else found.span()

        return find
    match, anywhere = inner.Match, type(inner).Anchor.UNANCHORED
    return lambda data, start: match(anywhere, data, start, len(data))[0]


def gate(patterns: list[str]) -> Any:
    """A set that says in one pass which of the patterns occur.

    A pattern whose matches live long in ordinary text (`[a-z]{1,64}@`) costs a state of the automaton for each
    character; give its rare part instead.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 64 << 20
    made = re2.Set.SearchSet(options)
    for pattern in patterns:
        made.Add(pattern)
    made.Compile()
    return made


_WIDE = {0xFF01 + offset: 0x21 + offset for offset in range(94)} | {0x3000: 0x20}


def narrow(text: str) -> str:
    """The same characters, readable, with those of full width as ASCII ones."""
    return text if text.isascii() else readable(text).translate(_WIDE)


def readable(text: str) -> str:
    """The same characters, lone surrogates replaced one for one: re2 takes UTF-8 only."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text
