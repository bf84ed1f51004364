"""No text forges a second line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.one_line import one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("nul\0", "nul\\x00"),
        ("\ud800", "\\ud800"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("no-break\u00a0space", "no-break\u00a0space"),
        ("grüße 🙂", "grüße 🙂"),
    ],
)
def test_one_line_neutralises(text, expected):
    assert one_line(text) == expected


@given(st.text(st.characters()), st.integers(1, 50))
def test_one_line_is_one_line_and_bounded(text, limit):
    out = one_line(text, limit)

    assert out.splitlines() in ([out], [])
    assert len(out) <= 10 * limit + 30
    out.encode("utf-8")
