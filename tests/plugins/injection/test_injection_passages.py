"""Long texts in passages: nothing is lost between two of them."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield_plugins.injection.judgement import Budget, Rules
from llmshield_plugins.injection.passages import LENGTH, OVERLAP, WHOLE, passages
from llmshield_plugins.injection.scan import Scanner
from llmshield_plugins.injection.signatures import Signature

FILLER = "The river flows through three small towns before it meets the sea. "


@given(
    st.lists(st.sampled_from(["word ", "a\n", "x" * 3_000, " ", "y" * 20_000]), max_size=60),
    st.integers(0, 40_000),
)
@settings(max_examples=80, deadline=None)
def test_every_stretch_of_the_overlap_lies_in_one_passage(parts: list[str], at: int) -> None:
    text = FILLER * 200 + "".join(parts) + FILLER * 300
    made = list(passages(text))

    assert made[0][0] == 0
    assert made[-1][0] + len(made[-1][1]) == len(text)
    assert all(text.startswith(passage, start) for start, passage in made)
    # Linear: no more than the text and its overlaps.
    assert sum(len(passage) for _, passage in made) <= len(text) + len(made) * 2 * OVERLAP
    # Every place is in a passage, and a stretch without long words around it is whole in one.
    start = at % len(text)
    stretch = text[start : start + OVERLAP // 2]
    if max(map(len, stretch.split()), default=0) < 100:
        assert any(begin <= start and start + len(stretch) <= begin + len(passage) for begin, passage in made)


def test_short_texts_are_one_passage() -> None:
    assert list(passages("x" * WHOLE)) == [(0, "x" * WHOLE)]


@pytest.mark.parametrize("at", range(LENGTH - 200, LENGTH + 200, 23))
def test_an_attack_on_a_border_is_found_where_it_is(scanner: Scanner, attack: str, at: int) -> None:
    text = f"{(FILLER * 200)[:at]} {attack} {FILLER * 300}"
    found = scanner.scan(text)

    assert found.action == "block"
    assert any(text[hit.start : hit.end].lower().startswith("ignore all previous") for hit in found.hits)


def test_a_long_honest_text_is_not_refused_for_its_length(scanner: Scanner) -> None:
    rng = random.Random(5)
    words = (
        FILLER + "She asked whether anybody had read the letters that were written before the war. "
    ).split()
    text = " ".join(rng.choice(words) for _ in range(60_000))

    assert scanner.scan(text).action == "allow"


def test_own_patterns_reach_over_passages() -> None:
    own = Signature("span", "own", "", 0.95, 0.95, r"alpha[\s\S]*omega", None, "", "")
    text = f"alpha {FILLER * 500} omega"

    assert Scanner(Rules(own=(own,))).scan(text).action == "block"


def test_a_long_denied_literal_on_a_border() -> None:
    literal = " ".join(f"word{n}" for n in range(140))
    scanner = Scanner(Rules(deny=(literal[:1_000],)))

    assert scanner.scan(FILLER * 118 + literal + FILLER * 200).action == "block"


def test_one_passage_that_spends_its_budget_leaves_the_others_theirs(attack: str) -> None:
    scanner = Scanner(Rules(budget=Budget(base=0, factor=1, score=0.60)))
    wild = "&#105;gnore <b>th</b>is for 1nst4nce %41%42 pr*ev*ious " * 300
    found = scanner.scan(f"{wild}{FILLER * 200}{attack}{FILLER * 200}")

    assert "unscanned" in found.families
    assert found.action == "block"
