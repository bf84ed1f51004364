"""Letters spelled out."""

from collections.abc import Callable

import pytest

from llmshield_plugins.injection.alphabets import braille_text, morse_text, nato_text


@pytest.mark.parametrize(
    ("decode", "shown", "text"),
    [
        (morse_text, "..-. --- .-. --. . - / .- .-.. .-..", "forget all"),
        (morse_text, "..-. --- .-. --. . -   .- .-.. .-..", "forget all"),
        (morse_text, "__. ___ | __. ___ | __. ___ | __. ___", "go go go go"),
        (nato_text, "foxtrot oscar romeo golf echo tango / alpha lima lima", "forget all"),
        (nato_text, "Foxtrot, Oscar, Romeo, Golf, Echo, Tango, space, Alfa, Lima, Lima", "forget all"),
        (braille_text, "⠋⠕⠗⠛⠑⠞⠀⠁⠇⠇", "forget all"),
    ],
)
def test_letters_are_read(decode: Callable, shown: str, text: str) -> None:
    (piece,) = decode(f"see: {shown}")

    assert " ".join(piece.text.split()) == text
    assert (piece.start, piece.end) == (5, 5 + len(shown))


@pytest.mark.parametrize("decode", [morse_text, nato_text, braille_text])
def test_prose_is_none(decode: Callable) -> None:
    assert list(decode("An echo came from the hotel in India... - and then? Mike said so.")) == []
