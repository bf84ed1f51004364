"""The small walks over JSON that all dialects share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.simulator.ask import count, count_tree, pieces, text_of, triggers


@given(st.text())
def test_pieces_are_the_text(text):
    assert "".join(pieces(text)) == text
    assert len(pieces(text)) == count(text)


def test_pictures_have_a_flat_price():
    small = {"type": "image_url", "image_url": {"url": "data:x"}}
    large = {"type": "image_url", "image_url": {"url": "data:" + "x" * 10_000}}

    assert count_tree(small) == count_tree(large) == 85
    assert count_tree([{"role": "user", "content": "12345678"}]) == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a", "a"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, "b"], "a\nb"),
        ([{"type": "tool_result", "content": [{"type": "text", "text": "a"}]}], "a"),
        ({"text": "a"}, "a"),
        (5, ""),
    ],
)
def test_text_of(content, expected):
    assert expected == text_of(content)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("[[call f]]", [("f", None)]),
        ('[[call f {"a": "]]"} ]]', [("f", '{"a": "]]"}')]),
        ("[[call f]][[call g [1, 2]]]", [("f", None), ("g", "[1, 2]")]),
        ("[[call f free text]]", [("f", "free text")]),
        ("[[call f", []),
        ("[[call f {", []),
        ("[[call ]]", []),
    ],
)
def test_triggers(prompt, expected):
    assert expected == [(name, arguments) for name, arguments, _, _ in triggers(prompt)]


@given(st.text(alphabet='[]cal {}"f1:,', max_size=80))
def test_triggers_survive_anything(prompt):
    list(triggers("[[call " + prompt))
