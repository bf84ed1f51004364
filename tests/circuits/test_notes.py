"""Notes of circuits: what is written is what is read, whatever stands there is no crash."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.circuits.notes import KEPT_CLOSED_MS, KEPT_OPEN_MS, Note, key_of, read_key
from llmshield.testing import FrozenClock

LENGTH = st.floats(0, 1e8)
NAME = st.text(max_size=50)


@given(
    state=st.sampled_from(["closed", "open", "probe"]), name=NAME, wait_s=LENGTH | st.just(math.inf),
    break_s=st.none() | LENGTH, at=st.integers(1, 2**53), id=st.text(min_size=1, max_size=20),
)  # fmt: skip
def test_a_note_comes_back(state, name, wait_s, break_s, at, id) -> None:  # type: ignore[no-untyped-def]
    note = Note(state, name, name, wait_s, break_s, name, at, id)

    assert note == Note.load(note.dump())


@given(provider=NAME, model=st.none() | NAME)
def test_a_key_comes_back(provider: str, model: str | None) -> None:
    assert read_key(key_of(provider, model)) == ((provider,) if model is None else (provider, model))


@given(raw=st.binary(max_size=80), text=st.text(max_size=80))
def test_whatever_stands_there(raw: bytes, text: str) -> None:
    assert Note.load(raw) is None
    key = read_key(text)
    assert key is None or key_of(*key)


def test_no_two_notes_are_alike() -> None:
    note = Note("open", "generation", "me", 60.0)

    assert len({note.dump() for _ in range(100)}) == 100


@pytest.mark.parametrize(("later", "left"), [(0, 60.0), (45, 15.0), (60, 0.0), (9_999, 0.0), (-9_999, 60.0)])
def test_what_is_left_of_a_break(later: float, left: float) -> None:
    with FrozenClock() as time:
        note = Note.load(Note("open", "generation", "me", 60.0).dump())
        time.step(later)
        assert note is not None
        assert left == note.left_s


def test_how_long_the_store_keeps_it() -> None:
    with FrozenClock(1_000.0):
        assert Note("closed", "g", "me").until_ms == 1_000_000 + KEPT_CLOSED_MS
        assert Note("open", "g", "me", 60.0).until_ms == 1_060_000 + KEPT_OPEN_MS
        assert Note("open", "g", "me", math.inf).until_ms == 0, "for ever"
