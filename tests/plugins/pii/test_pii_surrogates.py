"""Surrogates in an answer, wherever it is cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llmshield_plugins.pii.placeholders import Placeholders
from llmshield_plugins.pii.surrogates import Surrogates

VALUES = {"alma.rowan12@example.com": "MAIL", "192.0.2.1": "IP", "alma rowan": "NAME", "alma": "SHORT"}
PIECES = [
    *VALUES,
    "ALMA ROWAN",
    "alma",
    "192.0.2.10",
    "a192.0.2.1",
    "Almanac",
    " ",
    "x",
    ".",
    "\n",
    "é",
    "192",
    "al",
]


def restored(parts: list[str]) -> str:
    """What goes out of a filter that is fed these parts."""
    at = Surrogates(VALUES).restorer()
    return "".join([*(at.feed(part) for part in parts), at.flush()])


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.lists(st.integers(0, 80), max_size=12))
def test_a_cut_makes_no_difference(text: str, cuts: list[int]) -> None:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    parts = [text[a:b] for a, b in itertools.pairwise(places)]

    assert restored(parts) == restored([text])


def test_as_words_of_their_own_and_in_any_case() -> None:
    assert restored(["ALMA ROWAN and alma at 192.0.2.1."]) == "NAME and SHORT at IP."
    assert restored(["Almanac 192.0.2.10 x192.0.2.1"]) == "Almanac 192.0.2.10 x192.0.2.1"
    assert restored(["<alma.rowan12@example.com>"]) == "<MAIL>"


def test_what_can_t_become_one_is_not_held() -> None:
    at = Surrogates(VALUES).restorer()

    assert at.feed("hello ") == "hello "
    assert at.feed("hello a") == "hello "
    assert at.feed("nd") == "and"
    assert Surrogates(VALUES).longest == len("alma.rowan12@example.com") + 1


def test_none_that_the_client_wrote_itself_is_given() -> None:
    """In no case either, since the answer is restored in any."""
    made = Placeholders(lambda: ["who is ALMA ROWAN?"])

    assert made.stand_in("PERSON", "Ann", ("Alma Rowan", "Ida Moss").__getitem__) == "Ida Moss"
    assert made.surrogates == {"ida moss": "Ann"}
