"""The literals of patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield_plugins.injection.atoms import literals, shortest
from llmshield_plugins.injection.folds import PLAIN
from llmshield_plugins.injection.signatures import builtin


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", set()),
        (r"\bignor(?:e|ing) rules\b", {"ignor", "e", "ing", "rules"}),
        (r"rules?", {"rule"}),
        (r"rules*x", {"rule", "x"}),
        (r"colou{0,1}r", {"colo", "r"}),
        (r"rules+", {"rules"}),
        (r"a[bc\]d]e", {"a", "e"}),
        (r"a[^\n]{0,80}b", {"a", "b"}),
        (r"\x41b\.c", {"b", "c"}),
        (r"(?-i:NOW) \w{3}", {"now"}),
        ("забудь все", {"забудь", "все"}),
    ],
)
def test_literals(source: str, words: set[str]) -> None:
    assert literals(source) == words


def test_words_that_hold_others_are_left_out() -> None:
    assert shortest(["rules", "rule", "overrule", "ignore", "rule"]) == ["ignore", "rule"]


@given(st.lists(st.text("abc", min_size=1, max_size=7), max_size=12))
def test_a_word_is_left_out_for_another_in_it_and_for_nothing_else(given_words: list[str]) -> None:
    kept = shortest(given_words)

    assert kept == sorted(
        {word for word in given_words if not any(one != word and one in word for one in given_words)}
    )


@pytest.mark.parametrize("signature", builtin(), ids=lambda signature: signature.id)
def test_an_example_holds_a_literal_of_its_signature(signature) -> None:
    example = PLAIN.apply(signature.example).lower()

    # Burmese has hardly two letters without a mark between them.
    assert any(word in example for word in literals(signature.pattern) if len(word) > 1 or word > "\x7f")
