"""Names that a model writes: a stream and a whole answer are treated alike, with a bounded hold-back."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.call import Stop
from llmshield.verdicts import Block
from llmshield_plugins.pii.name_guard import LONGEST, NameGuard
from llmshield_plugins.pii.name_model import KINDS, Model
from llmshield_plugins.pii.names import Names

NAMES = Names(KINDS, Model.shipped())
PARTS = [
    "Marta Kowalska", "Dr. James T. Whitfield", "Gdansk", "Globex Corp.", "I spoke to", "in", "and", ".", ",", "\n", "\n\n", " ", "  ",
    "O'Neill", "Nora's", "Nora'", "s", "’", "'", "<EMAIL_ADDRESS_1>", "<PERSON_12>", "<PERSON:9f2c51e8d0aa77b3>", "# Heading", "- item", "| a | b |", "the",
    "{", "}", '"name": "Tariq Hosseini"', "é", "我的", "\ud83d", "A" * 70, "9" * 60, " " * 200, "word " * 12, "Smith " * 40, "a@b.example",
]  # fmt: skip


def guard() -> NameGuard:
    return NameGuard(
        NAMES, ["PERSON", "LOCATION", "ORGANIZATION", "EMAIL_ADDRESS"], lambda found, value: f"[{found.kind}]"
    )


def run(pieces: list[str]) -> str:
    made = guard()
    return "".join(str(made.feed(piece)) for piece in pieces) + str(made.flush())


@given(st.lists(st.sampled_from(PARTS), max_size=14), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_a_stream_is_treated_like_the_whole(parts: list[str], rng: random.Random) -> None:
    text = "".join(part + rng.choice(("", " ")) for part in parts)
    pieces, at = [], 0
    while at < len(text):
        size = rng.choice((1, 2, 3, 7, 40))
        pieces.append(text[at : at + size])
        at += size

    assert run([text]) == run(pieces) == run(list(text))


@given(st.lists(st.sampled_from(PARTS), max_size=60))
@settings(max_examples=100)
def test_what_waits_is_bounded(parts: list[str]) -> None:
    made = guard()
    for char in " ".join(parts):
        made.feed(char)
        assert len(made._held) <= LONGEST


def test_prose_waits_for_some_words_only() -> None:
    text = (
        "the quick brown fox jumps over a lazy dog and then it went home to sleep because it was late again "
        * 5
    )
    made, most = guard(), 0
    for char in text:
        made.feed(char)
        most = max(most, len(made._held))

    assert most <= 64


def test_names_are_replaced_and_placeholders_are_left() -> None:
    text = (
        "Dear <PERSON_1>, please call Marta Kowalska in Gdansk (<EMAIL_ADDRESS_2>, <PERSON:9f2c>, PERSON_3)."
    )

    assert run([text]) == (
        "Dear <PERSON_1>, please call [PERSON] in [LOCATION] (<EMAIL_ADDRESS_2>, <PERSON:9f2c>, PERSON_3)."
    )


def test_a_block_stops_with_what_came_before() -> None:
    made = NameGuard(NAMES, ["PERSON"], lambda found, value: Stop(Block("no")))
    out = made.feed("I called Marta Kowalska yesterday, and then we met.")

    assert isinstance(out, Stop)
    assert out.release == "I called "


async def test_through_the_plugin(desk: Callable[..., Any]) -> None:
    """The caller's own names come back, what the model adds does not; a policy that names no names leaves them."""
    nothing: Any = None
    at = desk(entities={"*": "replace", "PERSON": "replace", "LOCATION": "mask"})
    await at.plugin.start(nothing)
    call = at.call("My name is Marta Kowalska.")
    at.sent(call)
    answer = "Hello <PERSON_1>, I am Ingrid Solberg from Toronto; write to x@corp.example or Ingrid Solberg."
    said = "Hello Marta Kowalska, I am <PERSON_2> from *******; write to <EMAIL_ADDRESS_1> or <PERSON_2>."
    assert at.got(call, [answer]) == said
    assert at.got(call, list(answer)) == said

    silent = desk(entities={"PERSON": "replace"}, scan=["user"])
    await silent.plugin.start(nothing)
    call = silent.call("My name is Marta Kowalska.")
    silent.sent(call)
    assert silent.got(call, ["I am Ingrid Solberg, <PERSON_1>."]) == "I am Ingrid Solberg, Marta Kowalska."


@pytest.mark.parametrize("action", ["block", "flag"])
async def test_block_and_flag(action: str, desk: Callable[..., Any]) -> None:
    nothing: Any = None
    at = desk(entities={"PERSON": action})
    await at.plugin.start(nothing)
    call = at.call("hello")
    at.sent(call)

    assert at.got(call, ["I am Ingrid Solberg, and you?"]) == (
        "I am !STOP" if action == "block" else "I am Ingrid Solberg, and you?"
    )
