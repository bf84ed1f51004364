"""Tokens, and what a word looks like by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield_plugins.pii.name_tokens import fold, listed, shape, tokens


@given(st.text(max_size=60))
def test_tokens_are_where_they_say(text: str) -> None:
    found = tokens(text)

    assert [text[token.start : token.end] for token in found] == [token.word for token in found]
    assert "".join(token.word for token in found) == "".join(text.split())


@pytest.mark.parametrize(
    ("word", "looks"),
    [("7", "9"), ("123456", "99999"), (",", ","), ("x", "y"), ("word", "x"), ("I", "A"), ("US", "XX"), ("NATO", "X"),
     ("Ann", "Xx"), ("iPhone", "xX"), ("McCoy", "XxX")],
)  # fmt: skip
def test_shapes(word: str, looks: str) -> None:
    assert shape(word) == looks


def test_accents_and_case_make_no_other_name() -> None:
    assert fold("Ünal’s") == "unal's"
    assert listed("ÉMILE Zola") == listed("emile zola")


def test_gaps_tell_blanks_from_line_breaks() -> None:
    text = "Dr. O’Neill's\n  e-mail: é_1"
    assert [(t.word, t.gap) for t in tokens(text)] == [
        ("Dr", 2), (".", 0), ("O’Neill", 1), ("'", 0), ("s", 0), ("e", 2), ("-", 0), ("mail", 0), (":", 0), ("é", 1), ("_", 0), ("1", 0),
    ]  # fmt: skip


def test_no_token_is_without_bound() -> None:
    assert max(len(token.word) for token in tokens("a" * 1000 + " " + "9" * 1000 + " " + "a'" * 500)) <= 200
