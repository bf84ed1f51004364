"""The model's parts: tokens, descriptions, and the search for the best row of tags."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield_plugins.pii.name_model import BITS, TAGS, Model, fold, listed, shape, tokens

RNG = np.random.default_rng(3)
EMPTY = Model(
    np.zeros((4, len(TAGS)), np.float32),
    np.zeros((len(TAGS),) * 2, np.float32),
    np.zeros(len(TAGS), np.float32),
    {},
)


@given(st.text(max_size=60))
def test_tokens_are_where_they_say(text: str) -> None:
    found = tokens(text)

    assert [text[token.start : token.end] for token in found] == [token.word for token in found]
    assert "".join(token.word for token in found) == "".join(text.split())


@pytest.mark.parametrize(
    ("word", "looks"),
    [("7", "9"), ("123456", "99999"), (",", ","), ("x", "y"), ("word", "x"), ("I", "A"), ("US", "XX"), ("NATO", "X"),
     ("Ann", "Xx"), ("iPhone", "xX"), ("McCoy", "XxX")],
)  # fmt: skip
def test_shapes(word: str, looks: str) -> None:
    assert shape(word) == looks


def test_accents_and_case_make_no_other_name() -> None:
    assert fold("Ünal’s") == "unal's"
    assert listed("ÉMILE Zola") == listed("emile zola")


@given(
    st.lists(
        st.sampled_from(["Ann", "Lee", "met", ",", "in", "Rome", "7", "\n", "name", ":", "é", "\ud83d"]),
        min_size=1,
        max_size=30,
    )
)
def test_what_a_token_is_described_by_ends_near_it(words: list[str]) -> None:
    """Four tokens back, three ahead and the line's beginning: what is further away says nothing."""
    row = tokens(" ".join(words))
    if not row:
        return
    described = EMPTY.rows_of(row)
    more = EMPTY.rows_of(tokens(" ".join(words) + "\nx y z Quebec Ltd"))

    assert described.shape == (len(row), 37)
    assert described.min() >= 0
    assert described.max() < 1 << BITS
    assert (described[: max(0, len(row) - 3)] == more[: max(0, len(row) - 3)]).all()


def brute(scores: np.ndarray, between: np.ndarray, first: np.ndarray) -> float:
    """The best total over every row of tags."""
    return max(
        total(row, scores, between, first) for row in itertools.product(range(len(TAGS)), repeat=len(scores))
    )


def total(row: tuple[int, ...], scores: np.ndarray, between: np.ndarray, first: np.ndarray) -> float:
    steps = sum(between[a, b] for a, b in itertools.pairwise(row))
    return float(first[row[0]] + steps + sum(scores[i, tag] for i, tag in enumerate(row)))


@pytest.mark.parametrize("seed", range(60))
def test_the_best_row_is_the_best_of_all(seed: int) -> None:
    """Also where certain tokens are left out of the search."""
    rng = np.random.default_rng(seed)
    count = random.Random(seed).randint(1, 4)
    between = rng.normal(0, 2, (len(TAGS),) * 2).astype(np.float32)
    first = rng.normal(0, 2, len(TAGS)).astype(np.float32)
    scores = rng.normal(0, 2, (count, len(TAGS))).astype(np.float32)
    scores[rng.random(count) < 0.5, 0] += 60
    model = Model(EMPTY.rows, between, first, {})

    row = tuple(model.best(scores))
    assert total(row, scores, between, first) == pytest.approx(brute(scores, between, first), abs=1e-3)


def test_the_shipped_weights_are_small_and_whole() -> None:
    model = Model.shipped()

    assert model.rows.shape == (1 << BITS, len(TAGS))
    assert np.isfinite(model.rows).all()
    for before, after in itertools.product(range(len(TAGS)), repeat=2):
        if TAGS[after][0] == "I" and TAGS[before][2:] != TAGS[after][2:]:
            assert model.between[before, after] < -1e5  # no name begins inside
