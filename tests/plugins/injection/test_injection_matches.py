"""Matches without re2's wrapper are the same matches."""

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from llmshield_plugins.injection.matches import finditer

PATTERNS = [re2.compile(source) for source in ("a+(b)?", "(x)|(y+)", "", "b*", r"\bword\b", "[^ ]{3}", "é|a")]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: repr(pattern.pattern))
@given(st.text(st.sampled_from("abxy word éß"), max_size=30))
def test_the_same_matches(pattern, text):
    ours = [(m.span(), m.start(), m.end(), m.group(), m.groups()) for m in finditer(pattern, text)]
    theirs = [(m.span(), m.start(), m.end(), m.group(), m.groups()) for m in pattern.finditer(text)]

    assert theirs == ours


def test_groups():
    (match,) = finditer(re2.compile("(a)(z)?(b)"), "xx ab")

    assert ("a", None, "b") == match.groups() == (match.group(1), match.group(2), match.group(3))
    assert (3, 4) == match.span(1)
    assert (4, 5) == (match.start(3), match.end(3))
