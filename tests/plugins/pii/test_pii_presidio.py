"""presidio's recognisers behind the plugin: same kinds, gated, offline, and a time limit that does not skip."""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest

from llmshield_plugins.pii import Pii
from llmshield_plugins.pii.kinds import BROAD, PRESIDIO, available

pytest.importorskip("presidio_analyzer")

from llmshield_plugins.pii import presidio_bridge
from llmshield_plugins.pii.presidio_bridge import Presidio, twin, without_look_around


@pytest.fixture(scope="module")
def scanner() -> Any:
    return Pii.scanner(Pii.Settings())


@pytest.fixture(scope="module")
def everything() -> Presidio:
    return Presidio(frozenset(PRESIDIO.values()))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("henkilötunnus 131052-308T", "FI_PERSONAL_IDENTITY_CODE"),
        ("my NRIC is S2740116C", "SG_NRIC_FIN"),
        ("driving licence MORGA657054SM9IJ", "UK_DRIVING_LICENCE"),
        ("GSTIN 27ABCDE1234F1Z5 for tax", "IN_GSTIN"),
        ("driver 12-16-123456-02 in Korea, driver license", "KR_DRIVER_LICENSE"),
        ("my TFN tax file number is 876 543 210", "AU_TFN"),
    ],
)
def test_kinds_that_presidio_brings(scanner: Any, text: str, kind: str) -> None:
    assert kind in [span["type"] for span in scanner.scan(text)["spans"]]


def test_every_recogniser_of_the_table_exists_and_has_its_kind(everything: Presidio) -> None:
    kinds = {expression.kind for expression in everything._expressions}

    assert set(PRESIDIO.values()) == kinds
    assert set(PRESIDIO.values()) <= available()


def test_a_twin_finds_wherever_the_original_does(everything: Presidio) -> None:
    """Texts of the recognisers' own alphabet: digits, letters and separators at random."""
    import re2

    twins = [re2.compile(expression.twin) for expression in everything._expressions]
    rng = random.Random(3)
    alphabet = "0123456789" * 4 + "ABCDEFXYZ" + " -./:" + "abz"
    matched = 0
    for _ in range(1500):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(5, 30)))
        for expression, made in zip(everything._expressions, twins, strict=True):
            if expression.regex.search(text) is not None:
                matched += 1
                assert made.search(text) is not None, (expression.kind, expression.regex.pattern, text)

    assert matched > 1000


def test_validators_never_raise(everything: Presidio) -> None:
    rng = random.Random(5)
    every = list(range(len(everything.patterns)))
    for _ in range(1500):
        text = "".join(
            rng.choice("0123456789" * 3 + "ABCDEFKSTXZ -./:abz\x01\x03") for _ in range(rng.randint(5, 40))
        )
        everything.find(text, 0, every)


def test_a_slow_expression_raises(everything: Presidio, monkeypatch: pytest.MonkeyPatch) -> None:
    import regex

    slow = everything._expressions[0]._replace(regex=regex.compile(r"(a|a|aa)+b"))
    monkeypatch.setattr(everything, "_expressions", [slow])
    monkeypatch.setattr(presidio_bridge, "TIMEOUT_S", 0.01)

    with pytest.raises(TimeoutError):
        everything.find("a" * 4000, 0, [0])


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    scanner = Pii.scanner(Pii.Settings(entities={"*": {}, **{kind: {} for kind in BROAD}}))

    assert scanner.scan("see www.example.co.uk or http://foo.example.com, 10115 Berlin, 2024-01-15")["spans"]


async def test_start_loads_presidio_only_where_a_kind_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[frozenset[str]] = []

    class Counted(Presidio):
        def __init__(self, kinds: frozenset[str]) -> None:
            loaded.append(kinds)
            super().__init__(kinds)

    monkeypatch.setattr("llmshield_plugins.pii.plugin.Presidio", Counted)
    nothing: Any = None
    await Pii(Pii.Settings(entities={"EMAIL_ADDRESS": {}})).start(nothing)
    await Pii(Pii.Settings(presidio=False)).start(nothing)

    assert loaded == []
    plugin = Pii(Pii.Settings(entities={"FI_PERSONAL_IDENTITY_CODE": {}}))
    await plugin.start(nothing)

    assert [frozenset({"FI_PERSONAL_IDENTITY_CODE"})] == loaded
    assert plugin._walker.whole("hetu 131052-308T")


@pytest.mark.parametrize(
    ("expression", "without"),
    [
        (r"(?<!\w)[0-9]{4}(?!\w)", "[0-9]{4}"),
        (r"a(?=b(c)[)]\))d", "ad"),
        (r"[(?=x]y", "[(?=x]y"),
        (r"\(?=a", r"\(?=a"),
    ],
)
def test_look_around_is_left_out(expression: str, without: str) -> None:
    assert without == without_look_around(expression)


def test_what_re2_cannot_read_has_a_wider_twin() -> None:
    assert twin(r"(a)\1") == "[0-9]"
