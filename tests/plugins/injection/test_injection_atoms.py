"""The literals of patterns."""

import pytest

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


@pytest.mark.parametrize("signature", builtin(), ids=lambda signature: signature.id)
def test_an_example_holds_a_literal_of_its_signature(signature) -> None:
    example = PLAIN.apply(signature.example).lower()

    # Burmese has hardly two letters without a mark between them.
    assert any(word in example for word in literals(signature.pattern) if len(word) > 1 or word > "\x7f")
