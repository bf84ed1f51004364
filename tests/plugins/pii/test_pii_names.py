"""Names of persons and places, by the model that is shipped."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield import clock
from llmshield_plugins.pii import Pii, names
from llmshield_plugins.pii.name_model import KINDS, Model
from llmshield_plugins.pii.names import Names

FOUND = [
    ("My name is Marta Kowalska and I live in Gdansk.", {"Marta Kowalska": "PERSON", "Gdansk": "LOCATION"}),
    ('{"first_name": "Tariq", "last_name": "Hosseini", "plan": "Gold"}', {"Tariq": "PERSON", "Hosseini": "PERSON"}),
    ("id,name,city\n1,Ingrid Solberg,Bergen\n2,Paul Okafor,Lagos", {"Ingrid Solberg": "PERSON", "Paul Okafor": "PERSON"}),
    ("2024-03-02 10:22:11 INFO user=\"Emily Carter\" logged in", {"Emily Carter": "PERSON"}),
    ("From: Luca Ferrari <l@x.example>\nSubject: Report\n\nDear Ms. Novak,", {"Luca Ferrari": "PERSON", "Novak": "PERSON"}),
    ("Sehr geehrter Herr Wagner, Ihr Termin in Salzburg", {"Wagner": "PERSON", "Salzburg": "LOCATION"}),
    ("Please call Dr. Anna-Lena Vogt about the results.", {"Anna-Lena Vogt": "PERSON"}),
    ("hi, my name is sofia ramirez and i need help", {"sofia ramirez": "PERSON"}),
    ("Customer: James T. Whitfield\nStatus: Active", {"James T. Whitfield": "PERSON"}),
    ("Assign it to Priya Natarajan and cc Tom Baker.", {"Priya Natarajan": "PERSON", "Tom Baker": "PERSON"}),
    ("We flew from Lisbon to Toronto last week.", {"Lisbon": "LOCATION", "Toronto": "LOCATION"}),
    ("Nora's card was stolen in Lisbon.", {"Nora": "PERSON", "Lisbon": "LOCATION"}),
    ("Evelyn Stone.\nRobert Stone.", {"Evelyn Stone": "PERSON", "Robert Stone": "PERSON"}),
]  # fmt: skip
PLAIN = [
    "How do I reset my password?",
    "SELECT * FROM Orders WHERE Status = 'Open';",
    "def get_user_name(self): return max(self.name, None)",
    "Error: Connection Refused while reading Response Header",
    "What is the fastest way to sort a list in Python?",
    '{"status": "Active", "type": "Premium", "color": "Dark Blue"}',
    "Step 1: Open Settings. Step 2: Click Save.",
    "Write a short story about a dragon and a knight.",
    "INFO  StartupManager - Application started in 3.2 seconds",
    "Please summarize the following article in three bullet points.",
    "",
    "....",
    "\ud83d \u0000 9",
]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.shipped()


@pytest.mark.parametrize(("text", "expected"), FOUND, ids=[text[:30] for text, _ in FOUND])
def test_names_are_found(text: str, expected: dict[str, str], model: Model) -> None:
    said = {text[f.start : f.end]: f.kind for f in Names(("PERSON", "LOCATION"), model).find(text)}

    assert expected.items() <= said.items()


@pytest.mark.parametrize("text", PLAIN)
def test_plain_texts_have_none(text: str, model: Model) -> None:
    assert Names(("PERSON", "LOCATION"), model).find(text) == []


@given(
    st.lists(st.sampled_from([text for text, _ in FOUND] + PLAIN + ["\n", " ", "é", "A.", "Mr"]), max_size=8)
)
def test_a_block_makes_no_difference(parts: list[str]) -> None:
    """Also where a name lies across the border of two blocks."""
    text, shipped = "".join(parts), Model.shipped.__func__  # type: ignore[attr-defined]
    finder = Names(KINDS, _MODEL or shipped(Model))
    whole = finder.find(text)

    assert all(0 <= f.start < f.end <= len(text) and 0.4 <= f.score <= 0.95 for f in whole)
    assert all(a.end <= b.start for a, b in itertools.pairwise(whole))


_MODEL: Model | None = None


@pytest.fixture(scope="module", autouse=True)
def _one_model(model: Model) -> None:
    global _MODEL
    _MODEL = model


@pytest.mark.parametrize("size", [3, 40, 97, 300])
def test_a_long_text_is_read_in_blocks(size: int, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A border between blocks makes no difference."""
    text = "\n".join(text for text, _ in FOUND) * 4
    whole = Names(KINDS, model).find(text)
    monkeypatch.setattr(names, "BLOCK", size)

    assert Names(KINDS, model).find(text) == whole


PIECES = [text for text, _ in FOUND] + PLAIN + ["\n", " ", "'", "’", "é", "A.", "Mr", "a" * 100, "John " * 40]


@given(st.lists(st.sampled_from(PIECES), max_size=6), st.randoms(use_true_random=False))
def test_a_stream_finds_what_the_whole_text_has(parts: list[str], rng: random.Random) -> None:
    """Whatever the cut: what is settled stays, what stands before is needed only as far back as is told."""
    text = "".join(parts)
    finder = Names(KINDS, _MODEL)
    seen, upto, base, at = [], 0, 0, 0
    while at < len(text):
        at = min(len(text), at + rng.randint(1, 40))
        found, settled, needed = finder.settle(text[base:at], upto - base, at == len(text))
        seen += [(f.start + base, f.end + base, f.kind) for f in found]
        upto, base = settled + base, needed + base

    assert seen == [(f.start, f.end, f.kind) for f in finder.find(text)]


def test_work_ends_at_the_deadline(model: Model) -> None:
    with pytest.raises(TimeoutError):
        Names(KINDS, model).find("John Smith " * 50, clock.monotonic() - 1)


async def test_a_call_s_names_go_out_as_placeholders_and_come_back(desk: Callable[..., Any]) -> None:
    at = desk(entities={"*": "replace", "PERSON": "replace", "LOCATION": "replace"})
    nothing: Any = None
    await at.plugin.start(nothing)
    call = at.call(
        "My name is Marta Kowalska, mail marta@corp.example. Greetings from Gdansk, Marta Kowalska"
    )
    (sent,) = at.sent(call)

    assert sent == ("My name is <PERSON_1>, mail <EMAIL_ADDRESS_1>. Greetings from <LOCATION_1>, <PERSON_1>")
    assert at.got(call, ["Dear <PER", "SON_1> in <LOCATION_1>"]) == "Dear Marta Kowalska in Gdansk"


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, set()),
        ({"names": False}, set()),
        ({"entities": {"PERSON": "replace"}}, {"PERSON"}),
        ({"entities": {"*": "replace", "ORGANIZATION": "flag"}}, {"ORGANIZATION"}),
        ({"entities": {"EMAIL_ADDRESS": "replace"}}, set()),
    ],
)
def test_which_kinds_a_policy_means(
    settings: dict[str, Any], kinds: set[str], desk: Callable[..., Any]
) -> None:
    plugin = desk(**settings).plugin

    assert plugin._name_kinds() == kinds
    assert (plugin.long_from < desk(names=False).plugin.long_from < Pii.long_from) == bool(kinds)


def test_members_of_objects_are_no_persons(desk: Callable[..., Any]) -> None:
    plugin = desk().plugin
    plugin._names = Names(("PERSON",), Model.shipped())
    call = desk().call("x")
    text = call.texts[0]
    text.is_name, text._key = True, "John Smith"

    assert plugin._found(text, "John Smith", None) == []
    assert Pii.scanner(Pii.scan_settings()).scan("I am John Smith")["families"] == ["PERSON"]
