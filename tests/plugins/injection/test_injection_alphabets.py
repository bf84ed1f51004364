"""Letters spelled out."""

from collections.abc import Callable

import pytest

from llmshield_plugins.injection.alphabets import (
    braille_text,
    calls_text,
    dump_text,
    morse_text,
    nato_text,
    points_text,
)


@pytest.mark.parametrize(
    ("decode", "shown", "text"),
    [
        (morse_text, "..-. --- .-. --. . - / .- .-.. .-..", "forget all"),
        (morse_text, "..-. --- .-. --. . -   .- .-.. .-..", "forget all"),
        (morse_text, "__. ___ | __. ___ | __. ___ | __. ___", "go go go go"),
        (nato_text, "foxtrot oscar romeo golf echo tango / alpha lima lima", "forget all"),
        (nato_text, "Foxtrot, Oscar, Romeo, Golf, Echo, Tango, space, Alfa, Lima, Lima", "forget all"),
        (points_text, "U+0066 U+006F, u+0072 U+0067U+0065 U+0074", "forget"),
        (points_text, "U+0066 U+006F U+D800 U+110000", "fo"),
        (calls_text, "chr(102)+CHR( 0x6f ) & String.fromCharCode(114) . char(103)", "forg"),
        (dump_text, "00000000: 666f 7267 6574 2061 6c6c  forget all", "forget all"),
        (dump_text, "0000  66 6f 72 67 65 74 20 61  6c 6c   forget all\n", "forget all"),
        (braille_text, "⠋⠕⠗⠛⠑⠞⠀⠁⠇⠇", "forget all"),
    ],
)
def test_letters_are_read(decode: Callable, shown: str, text: str) -> None:
    (piece,) = decode(f"see:\n{shown}")

    assert " ".join(piece.text.split()) == text
    assert (piece.start, piece.end) == (5, 5 + len(shown))


@pytest.mark.parametrize("decode", [morse_text, nato_text, braille_text, points_text, calls_text, dump_text])
def test_prose_is_none(decode: Callable) -> None:
    assert list(decode("An echo came from the hotel in India... - and then? Mike said so.")) == []
