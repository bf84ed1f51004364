"""Which addresses are fetched without a click."""

import pytest

from llmshield_plugins.injection.fetched import CONTEXT, broken, ends, is_fetched

BEFORE = [
    ("![words](", True),
    ("![words]( <", True),
    ("![a [b](https://a.example) c](", True),
    (r"![a \] \[ b](", True),
    ("[words](", False),
    (r"![a](b) and [words](", False),
    ("[![a](b)](", False),
    ("a[0](", False),
    ("x" * (CONTEXT - 2) + "](", True),
    ("[1]: ", True),
    ("> 1. [a]: <", True),
    ("as in [1]: ", False),
    ("<img src=", True),
    ("<img src = '", True),
    ('<object data="', True),
    ("<video poster=", True),
    ('<link rel=prefetch href="', True),
    ('<a href="', False),
    ('<area shape=rect href="', False),
    ('<svg xmlns="', False),
    ("<img srcset='a 1x, b 2x, ", True),
    ("div { background: url(", True),
    ("div { background: url('", True),
    ("@import '", True),
    ("see ", False),
    ("", False),
]


@pytest.mark.parametrize(("before", "fetched"), BEFORE)
def test_what_stands_in_front(before: str, fetched: bool) -> None:
    assert is_fetched(before) is fetched


@pytest.mark.parametrize(
    ("before", "fine", "not_fine"),
    [
        ("<img src='", "'", '" )'),
        ("![a](<", ">", ") "),
        ("![a](", ") \n", "(>\"'"),
        ("<img src=", ' >"', "(@"),
    ],
)
def test_what_may_end_a_host(before: str, fine: str, not_fine: str) -> None:
    assert set(fine) <= set(ends(before))
    assert not set(not_fine) & set(ends(before))


@pytest.mark.parametrize(
    ("text", "least", "at"),
    [
        ('<img src="https://a\n.example/">', 0, 5),
        ('<img src="\n  https://a.example/\n">', 0, None),
        ('<img src="https://a\n.example/">', 25, None),
        ("<img src='//a\tb'>", 0, 5),
        ("nothing", 0, None),
    ],
)
def test_a_host_with_a_line_break(text: str, least: int, at: int | None) -> None:
    assert broken(text, least) == at
