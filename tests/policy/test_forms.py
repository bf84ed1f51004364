"""Patterns that whole values have to match."""

import pytest
from pydantic import TypeAdapter, ValidationError

from llmshield.policy.forms import Form, matcher


@pytest.mark.parametrize("form", ["[a-z]+", "(?i)a|b", ""])
def test_re2_expressions(form: str) -> None:
    assert TypeAdapter(Form).validate_python(form) == form


@pytest.mark.parametrize("form", ["(", "(?=a)", r"(a)\1"])
def test_what_is_none(form: str) -> None:
    with pytest.raises(ValidationError, match="is no re2 expression"):
        TypeAdapter(Form).validate_python(form)


@pytest.mark.parametrize(
    ("form", "value", "matches"),
    [
        ("[a-z]+", "abc", True),
        ("[a-z]+", "abc1", False),
        ("a|b", "ab", False),
        ("a.b", "a\nb", True),
        ("Größe", "Größe", True),
        ("..", "a\ud83d", True),
        ("[a-z]*", "\ud83d", False),
    ],
)
def test_the_whole_value_has_the_form(form: str, value: str, matches: bool) -> None:
    found = matcher(form)

    assert found is not None
    assert found(value) is matches


def test_no_form_is_asked_for() -> None:
    assert matcher(None) is None
