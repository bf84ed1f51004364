"""Names with wildcards: a table, and the same answers as a slow and simple matcher gives."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.policy.globs import compile_glob, compile_globs

TABLE = [
    ("gpt-4", "gpt-4", True),
    ("gpt-4", "gpt-4o", False),
    ("gpt-4", "GPT-4", False),
    ("gpt-*", "gpt-", True),
    ("gpt-*", "xgpt-", False),
    ("*-preview", "o1-preview", True),
    ("*-preview", "o1-preview-2", False),
    ("*", "", True),
    ("**", "x\ny", True),
    ("o?-mini", "o3-mini", True),
    ("o?-mini", "o33-mini", False),
    ("a*c*e", "abcde", True),
    ("a*c*e", "abcd", False),
    ("a.c", "abc", False),
    ("[ab]*", "[ab]x", True),
    ("[ab]*", "ax", False),
    ("a+*?", "a+b", True),
    ("gpt-*-mini", "gpt-4o\n-mini", True),
    ("é*ü", "éxü", True),
    ("/v1/audio/*", "/v1/audio/a/b", True),
    ("x*y", "x\ud800y", True),
]


@pytest.mark.parametrize(("pattern", "name", "expected"), TABLE)
def test_table(pattern: str, name: str, expected: bool) -> None:
    assert expected is compile_glob(pattern)(name)
    assert expected is compile_globs([pattern])(name)


def test_ignoring_case() -> None:
    denies = compile_globs(["*-Preview", "exact"], ignore_case=True)

    assert denies("O1-PREVIEW")
    assert denies("EXACT")
    assert not denies("o1")
    assert compile_glob("GPT-*", ignore_case=True)("gpt-4")


def _slow(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return _slow(pattern[1:], name) or (bool(name) and _slow(pattern, name[1:]))
    return bool(name) and pattern[0] in ("?", name[0]) and _slow(pattern[1:], name[1:])


@given(st.text("ab*?.\\", max_size=7), st.text("ab*?.\\\n", max_size=7))
def test_like_a_simple_matcher(pattern: str, name: str) -> None:
    assert _slow(pattern, name) is compile_glob(pattern)(name)


def test_linear() -> None:
    matches = compile_glob("*a" * 20 + "b")
    start = time.process_time()
    assert not matches("a" * 100_000)

    assert time.process_time() - start < 0.5
