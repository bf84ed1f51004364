"""Long texts in slices: the same as in one go, and work that ends at the deadline."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield import clock
from llmshield_plugins.injection import learned, slices, spellings
from llmshield_plugins.injection.folds import PLAIN
from llmshield_plugins.injection.scan import Scanner
from llmshield_plugins.injection.view import View

LONG = [
    "ab c\n" * 50_000,
    "x" * 200_000,
    f"{'y' * 100_000} {'z' * 100_000}\n",
    "né Ünal, Straße " * 20_000,
    "\t".join(["word"] * 60_000),
]


def in_one_piece(text: str) -> list[bytes]:
    parts = [learned.END]
    learned._add(parts, learned._marked(text.encode()).split(learned.END), long=False)
    return [*parts, learned.END]


@pytest.mark.parametrize("text", LONG, ids=lambda text: repr(text[:12]))
def test_slices_lose_nothing_and_cut_no_word(text: str) -> None:
    parts = list(slices.at_blanks(text))

    assert text == "".join(parts)
    assert text.split() == [word for part in parts for word in part.split()]
    assert slices.characters(text) == set(text)
    assert PLAIN.apply(text) == text.translate(PLAIN)
    assert learned.words(text) == in_one_piece(PLAIN.apply(text))
    assert spellings.word_order_backwards(text) == " ".join(reversed(text.split()))


@given(st.text(st.sampled_from("aB3 ,._-\n'é"), max_size=40))
def test_words_are_mirrored_where_they_stand(text: str) -> None:
    mirrored = "".join(part[::-1] if part.isalnum() else part for part in spellings._parts(text))

    assert mirrored == spellings.words_backwards(text)


def test_many_glued_words_take_no_time_in_their_square(scanner: Scanner) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = "\n".join(f"see\t(conversationinstructions{a}{b}),\x0b x" for a in letters for b in letters)
    began = time.process_time()
    worded, _ = scanner._long_words.views(View("text", text * 4))
    spent = time.process_time() - began

    assert worded.text.startswith("see\t( conversation instructions a")
    assert spent < 5.0


def test_a_long_text_is_left_at_the_deadline(scanner: Scanner) -> None:
    text = "Ünal says: aGVsbG8gd29ybGQgYWdhaW4gYW5kIGFnYWlu " * 1_000

    with pytest.raises(TimeoutError):
        scanner.scan(text, deadline=clock.monotonic() - 100_000)

    assert scanner.scan(text, deadline=clock.monotonic() + 60).action == "allow"
