"""Nationalities, religions and political groups, where a policy names them."""

from __future__ import annotations

import pytest

from llmshield_plugins.pii import Pii
from llmshield_plugins.pii.nrp import recogniser
from llmshield_plugins.pii.settings import widest

SCAN = Pii.scanner(Pii.Settings(entities={"NRP": "replace"}, presidio=False)).scan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("She is a German citizen and a Catholic.", ["German", "Catholic"]),
        ("Two Russians and a Frenchwoman met Tories.", ["Russians", "Frenchwoman", "Tories"]),
        ("Die katholische Kirche und ein türkischer Pole.", ["katholische", "türkischer", "Pole"]),
        ("Paciente marroquí, médico español.", ["marroquí", "español"]),
        ("Please polish the table, it is a liberal estimate of germane things.", []),
        ("Germany and Polishing and Thailand", []),
    ],
)  # fmt: skip
def test_words(text: str, words: list[str]) -> None:
    assert [text[s["start"] : s["end"]] for s in SCAN(text)["spans"]] == words


def test_it_is_broad_and_bounded() -> None:
    assert Pii.scanner(Pii.Settings(presidio=False)).scan("a German Catholic")["action"] == "allow"
    assert all(widest(pattern.regex) <= 32 for pattern in recogniser().patterns)
