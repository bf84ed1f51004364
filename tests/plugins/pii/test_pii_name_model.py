"""The model's parts: descriptions, scores, and the search for the best row of tags."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield_plugins.pii import name_model
from llmshield_plugins.pii.name_model import AHEAD, BACK, BITS, RUN, TAGS, WIDTH, Model
from llmshield_plugins.pii.name_tokens import tokens

NO_STEPS = np.zeros((len(TAGS),) * 2, np.float32)
EMPTY = Model(np.zeros((1 << BITS, len(TAGS)), np.float32), NO_STEPS, {})
RANDOM = Model(np.random.default_rng(3).normal(size=(1 << BITS, len(TAGS))).astype(np.float32), NO_STEPS, {})
WORDS = [
    "Ann",
    "Lee",
    "met",
    ",",
    "in",
    "Rome",
    "7",
    "\n",
    "name",
    ":",
    "é",
    "\ud83d",
    "NATO",
    '"',
    "=",
    "O'Neill",
]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), st.integers(0, 50))
def test_what_a_token_is_described_by_ends_near_it(words: list[str], cut: int) -> None:
    """`BACK` tokens back, `AHEAD` ahead: what is further away says nothing."""
    row = tokens(" ".join(words))
    if not row:
        return
    described = EMPTY.rows_of(row)
    more = EMPTY.rows_of(tokens(" ".join(words) + "\nx y z Quebec Ltd"))
    sure = max(0, len(row) - AHEAD)

    assert described.min() >= 0
    assert described.max() < 1 << BITS
    assert (described[:sure] == more[:sure]).all()
    if cut + BACK < len(row):
        assert (EMPTY.rows_of(row[cut:])[BACK:] == described[cut + BACK :]).all()


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40))
def test_scores_are_the_sums_of_the_weights(words: list[str]) -> None:
    """Also where what a word says by itself was added up before."""
    row = tokens(" ".join(words))
    if row:
        assert np.allclose(RANDOM.scores(row), RANDOM.rows[RANDOM.rows_of(row)].sum(1), atol=1e-3)


def test_words_are_not_kept() -> None:
    model = Model(RANDOM.rows, NO_STEPS, {})
    model.scores(tokens("Ann Lee met Bob"))

    assert "Ann" not in repr(model._words)
    assert all(isinstance(number, int) for number in model._words.places)


def test_a_full_memory_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """In several threads at once: each gets the right sums."""
    monkeypatch.setattr(name_model, "_REMEMBERED", 50)
    model = Model(RANDOM.rows, NO_STEPS, {})
    rows = [
        tokens(" ".join(f"{chr(97 + n % 26)}{chr(97 + k % 26)}{'x' * (k // 26)}" for k in range(40)))
        for n in range(30)
    ]
    right = [RANDOM.scores(row) for row in rows]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for made, expected in zip(pool.map(model.scores, rows), right, strict=True):
                assert np.allclose(made, expected, atol=1e-3)
    long = tokens(" ".join(f"w{'ab'[n % 2]}{'z' * (n % 40)}{chr(97 + n // 40)}" for n in range(400)))

    assert np.allclose(model.scores(long), RANDOM.scores(long), atol=1e-3)


def brute(scores: np.ndarray, between: np.ndarray) -> float:
    """The best total over every row of tags that may be."""
    return max(
        total(row, scores, between)
        for row in itertools.product(range(len(TAGS)), repeat=len(scores))
        if allowed(row)
    )


def allowed(row: tuple[int, ...]) -> bool:
    return all(
        TAGS[after][0] != "I" or TAGS[before][2:] == TAGS[after][2:]
        for before, after in itertools.pairwise((0, *row))
    )


def total(row: tuple[int, ...], scores: np.ndarray, between: np.ndarray) -> float:
    steps = sum(between[a, b] for a, b in itertools.pairwise((0, *row)))
    return float(steps + sum(scores[i, tag] for i, tag in enumerate(row)))


@pytest.mark.parametrize("seed", range(60))
def test_the_best_row_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = random.Random(seed).randint(1, 4)
    between = rng.normal(0, 2, (len(TAGS),) * 2).astype(np.float32)
    for before, after in itertools.product(range(len(TAGS)), repeat=2):
        if TAGS[after][0] == "I" and TAGS[before][2:] != TAGS[after][2:]:
            between[before, after] = -1e6
    scores = rng.normal(0, 2, (count, len(TAGS))).astype(np.float32)
    model = Model(EMPTY.rows, between, {})

    row = tuple(model.path(scores))
    assert allowed(row)
    assert total(row, scores, between) == pytest.approx(brute(scores, between), abs=1e-3)


def test_tokens_are_searched_in_runs() -> None:
    """Those in a row that are not surely O, of one line, and not more than `RUN` or `WIDTH` characters."""
    model = Model(EMPTY.rows, NO_STEPS, {}, sure=5.0)
    scores = np.zeros((RUN + 9, len(TAGS)), np.float32)
    scores[[0, 3], 0] = 9
    row = tokens("a b c d e\n" + "f " * (RUN + 4))
    wide = tokens(("a" * 40 + " ") * 8)

    assert [(run.start, run.end, run.is_full) for run in model.runs(scores, row)] == [
        (1, 3, False), (4, 5, False), (5, 5 + RUN, True), (5 + RUN, RUN + 9, False),
    ]  # fmt: skip
    assert [(run.start, run.end, run.is_full) for run in model.runs(scores[10:18], wide)] == [
        (0, 6, True),
        (6, 8, False),
    ]
    assert WIDTH == 240
    assert model.runs(scores[:0], []) == []


@pytest.mark.parametrize("seed", range(40))
def test_what_is_skipped_is_empty(seed: int) -> None:
    """Where O leads and no step beats O to O, no name is the best."""
    rng = np.random.default_rng(seed)
    between = rng.normal(0, 2, (len(TAGS),) * 2).astype(np.float32)
    between[0, 0] = between.max() * (1 if seed % 4 else 0.5)
    scores = rng.normal(0, 1, (3, len(TAGS))).astype(np.float32)
    scores[:, 0] += rng.uniform(0, 4)
    model = Model(EMPTY.rows, between, {}, sure=1e9)
    (run,) = model.runs(scores, tokens("a b c"))

    if model.is_empty(run):
        assert model.path(scores) == [0, 0, 0]


def test_the_shipped_weights_are_small_and_whole() -> None:
    model = Model.shipped()

    assert model.rows.shape == (1 << BITS, len(TAGS))
    assert np.isfinite(model.rows).all()
    assert 0 < model.sure < 1e3
    for before, after in itertools.product(range(len(TAGS)), repeat=2):
        if TAGS[after][0] == "I" and TAGS[before][2:] != TAGS[after][2:]:
            assert model.between[before, after] < -1e5  # no name begins inside
