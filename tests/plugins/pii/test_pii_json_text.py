"""Whether a text in pieces is JSON and stands inside a string."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield_plugins.pii.json_text import JsonText


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("", False), ('{"a', True), ('{"a"', False), ('{"a\\"', True), ('{"a\\\\"', False), ('  \n["x', True),
        ('```json\n{"x', True), ('``` {"x', True), ('He said "x', False), ('"x', False), ("\u0060" * 80 + '{"x', False),
    ],
)  # fmt: skip
def test_inside_a_string(text: str, inside: bool) -> None:
    for size in (1, 2, 3, 100):
        state = JsonText()
        for start in range(0, len(text), size):
            state.feed(text[start : start + size])

        assert state.in_string == inside, size


@given(
    st.recursive(
        st.text(max_size=5) | st.integers(), lambda inner: st.lists(inner, max_size=4), max_leaves=8
    ),
    st.integers(1, 7),
)
def test_a_whole_json_text_ends_outside(value: object, size: int) -> None:
    text = json.dumps([value])
    state = JsonText()
    for start in range(0, len(text), size):
        state.feed(text[start : start + size])

    assert not state.in_string
