"""Compiling expressions for text in ASCII views: linear time, quiet about errors, offsets in characters."""

from __future__ import annotations

from typing import Any

import re2


def compiled(pattern: str) -> Any:
    """An expression that takes str or ASCII bytes. Raises: re2.error when google-re2 can't read it."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


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


def readable(text: str) -> str:
    """The same characters, lone surrogates replaced one for one: re2 takes UTF-8 only."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text
