"""What is found, where, and what is left alone. The tables are the specification."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from llmshield_plugins.pii import shapes, views

FRAMES = (
    "{}",
    "x {} y",
    "my: {}, ok",
    "({})",
    '"{}"',
    "邮箱{}谢谢",
    '{{"key":"{}"}}',
    "a\n{}\nb",
    "**{}**",
    "see <b>{}</b>.",
)


@pytest.mark.parametrize("frame", FRAMES)
def test_values_in_their_surroundings(desk: Callable[..., Any], values: Any, frame: str) -> None:
    walker = desk().plugin._walker
    missed = []
    for kind, value in values:
        text = frame.format(value)
        start = text.index(value)
        found = [(f.kind, f.start, f.end) for f in walker.whole(text)]
        if found != [(kind, start, start + len(value))]:
            missed.append((text, found))

    assert missed == []


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("1. 4111 1111 1111 1111", "4111 1111 1111 1111", "CREDIT_CARD"),
        ("2. 536-22-8726 3. none", "536-22-8726", "US_SSN"),
        ("3.  (212) 555-0187", "(212) 555-0187", "PHONE_NUMBER"),
        ("my DOB: 03/12/1980 ok", "03/12/1980", "DATE_OF_BIRTH"),
        ("born on March 12, 1980 in", "March 12, 1980", "DATE_OF_BIRTH"),
        ("geboren am 12. März 1980", "12. März 1980", "DATE_OF_BIRTH"),
        ("date of birth 1980-03-12.", "1980-03-12", "DATE_OF_BIRTH"),
        ("passport number C01234567", "C01234567", "US_PASSPORT"),
        ("driver's license D1234567", "D1234567", "US_DRIVER_LICENSE"),
        ("my ssn is 536228726", "536228726", "US_SSN"),
        ("NHS no. 943 476 5919", "943 476 5919", "UK_NHS"),
        ("BSN 111222333", "111222333", "NL_BSN"),
        ("routing number 121000358", "121000358", "ABA_ROUTING_NUMBER"),
        ("bank account 12345678901", "12345678901", "US_BANK_NUMBER"),
        ("call me: 5551234567", "5551234567", "PHONE_NUMBER"),
        ("tel 555-1234", "555-1234", "PHONE_NUMBER"),
        ("0 532 123 45 67", "0 532 123 45 67", "PHONE_NUMBER"),
        ("mail or 09171234567.", "09171234567", "PHONE_NUMBER"),
        ("sits at 127.16.251.196 now", "127.16.251.196", "IP_ADDRESS"),
        ("We moved to Storgatan 65.", "Storgatan 65", "STREET_ADDRESS"),
        ("ul. Długa 23/20, 88-090 Gdańsk", "ul. Długa 23/20, 88-090 Gdańsk", "STREET_ADDRESS"),
        ("C/ de Alcalá, 663", "C/ de Alcalá, 663", "STREET_ADDRESS"),
        ("to Johans gate 12, 0154 Oslo", "Johans gate 12, 0154 Oslo", "STREET_ADDRESS"),
        ("Budai út 23 is hers", "Budai út 23", "STREET_ADDRESS"),
        ("She lives at 5 Acorn Way.", "5 Acorn Way", "STREET_ADDRESS"),
        ("12 MAIN STREET, BOSTON", "12 MAIN STREET, BOSTON", "STREET_ADDRESS"),
        ("my password is hunter2! now", "hunter2!", "API_KEY"),
        ("Aadhaar 2341 2341 2346", "2341 2341 2346", "IN_AADHAAR"),
        ("id 11010519491231002X ok", "11010519491231002X", "CN_RESIDENT_ID"),
        ("12 rue de la Paix, 75002 Paris", "12 rue de la Paix, 75002 Paris", "STREET_ADDRESS"),
        ("at 221B Baker Street, London.", "221B Baker Street, London", "STREET_ADDRESS"),
        ("IBAN GB29 NWBK 6016 1331 9268 19 AND more", "GB29 NWBK 6016 1331 9268 19", "IBAN_CODE"),
    ],
)
def test_values_that_need_their_context(desk: Callable[..., Any], text: str, value: str, kind: str) -> None:
    found = [(f.kind, text[f.start : f.end]) for f in desk().plugin._walker.whole(text)]

    assert [(kind, value)] == found


LOOK_ALIKES = (
    "order 114-3941689-8772232 shipped",
    "On 2024-01-15 10:22:33 it began, 15.01.2024 it ended",
    "2024-01-15T10:22:33.123456Z INFO pid=8837 took 12.5 ms",
    "version 1.2.3.4, v10.0.19041.1, Chrome/91.0.4472.124",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b",
    "550e8400-e29b-41d4-a716-446655440000",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "ISBN 978-3-16-148410-0, EAN 4006381333931",
    "0.4111111111111111 and 3.141592653589793",
    "1700000000000 ms since 1970, 1700000000 s",
    "pages 100-200, years 2019-2024, 10-20-30",
    "40.7128, -74.0060",
    "total 1,234,567.89 EUR, 1 000 000 people",
    "000-12-3456 and 666-12-3456 and 900-12-3456",
    "4111 1111 1111 1112",
    "DE89370400440532013001",
    "icon@2x.png and actions/checkout@v4 and pkg@1.2.3",
    "git@github.com:org/repo.git",
    "@username said hi @all",
    "std::vector<int> a::b 12:30:45 10:20",
    "aa:bb:cc:dd:ee:ff:00:11:22:33 fingerprint",
    "In 2024 Google Announced 12 New Things",
    "invoice INV-2024-000123, ticket #48213375",
    "the token is invalid; password: required",
    "max_tokens: 4096, temperature: 0.7",
    "internationalization of pneumonoultramicroscopicsilicovolcanoconiosis",
    "https://example.com/a/b?c=d#e-f-g-h-i-j",
    "row 12 34 56 78 90 12 34",
    "#ff00aa rgb(12, 34, 56)",
    "room 12, floor 3, seat 42A",
    "9781234567897 9400100000000000000000",
    "The meeting is on March 12, 2024 at noon",
    "tracking 1Z999AA10123456784",
    "listening on 127.0.0.1:8080 and 0.0.0.0",
    '"contentVersion": "1.0.0.1"',
    "lst = [1,3,109,163,23,2323]",
    "jeder folgende Läufer 3 Runden",
    "his phone was found on 2019-07-14 14",
    "078-05-0000",
    "Boarding gate 12 opens at 5, the team won 2 First Place awards",
    "Der Supermarkt 24 am Bahnhof 3 hat offen; siehe pl. 3, fig. 4",
)


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_look_alikes_stay(desk: Callable[..., Any], text: str) -> None:
    assert [(f.kind, text[f.start : f.end]) for f in desk().plugin._walker.whole(text)] == []


CARRIERS: dict[str, Callable[[str], str]] = {
    "fullwidth": lambda v: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in v),
    "arabic digits": lambda v: "".join(chr(0x660 + int(c)) if c.isdigit() else c for c in v),
    "zero width": lambda v: "\u200b".join(v),
    "soft hyphens": lambda v: v[:3] + "\u00ad" + v[3:6] + "\u200d" + v[6:],
    "json": lambda v: "".join(f"\\u{ord(c):04x}" for c in v),
    "html decimal": lambda v: "".join(f"&#{ord(c)};" for c in v),
    "html hex": lambda v: "".join(f"&#x{ord(c):x};" for c in v),
    "html named": lambda v: html.escape(v).replace("@", "&commat;").replace(".", "&period;"),
    "url": lambda v: quote(v, safe=""),
    "url twice": lambda v: quote(quote(v, safe=""), safe=""),
    "url all": lambda v: "".join(f"%{ord(c):02X}" for c in v),
    "base64": lambda v: base64.b64encode(f"contact {v} today".encode()).decode(),
    "base64 url-safe": lambda v: base64.urlsafe_b64encode(v.encode()).decode().rstrip("="),
    "hex": lambda v: v.encode().hex(),
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("EMAIL_ADDRESS", "john.doe@example.com"),
        ("CREDIT_CARD", "4111111111111111"),
        ("US_SSN", "536-22-8726"),
        ("IBAN_CODE", "DE89370400440532013000"),
        ("PHONE_NUMBER", "+12125550187"),
    ],
)
def test_values_in_disguise(desk: Callable[..., Any], carrier: str, kind: str, value: str) -> None:
    worn = CARRIERS[carrier](value)
    if carrier == "arabic digits" and not any(c.isdigit() for c in value):
        return
    text = f"Here: {worn} - thanks"
    found = [(f.kind, text[f.start : f.end]) for f in desk().plugin._walker.whole(text)]

    assert [kind] == [k for k, _ in found]
    assert worn.strip("=") in found[0][1]


@pytest.mark.parametrize(
    "separator", ["-", ".", " ", "\u00a0", "\u2009", "\u2013", "\u00b7", "_", "/", "|", "*", "\u2011"]
)
def test_cards_with_odd_separators(desk: Callable[..., Any], separator: str) -> None:
    value = separator.join(("4012", "8888", "8888", "1881"))
    text = f"pay {value} now"

    assert [(f.kind, text[f.start : f.end]) for f in desk().plugin._walker.whole(text)] == [
        ("CREDIT_CARD", value)
    ]


def test_overlaps_leave_one_finding(desk: Callable[..., Any]) -> None:
    text = "see https://john:s3cr3t99@mail.example.com/x and john@example.com"
    found = [(f.kind, text[f.start : f.end]) for f in desk().plugin._walker.whole(text)]

    assert found == [
        ("URL_WITH_CREDENTIALS", "https://john:s3cr3t99@mail.example.com/x"),
        ("EMAIL_ADDRESS", "john@example.com"),
    ]


@pytest.mark.parametrize(
    "unit", ["a@b.com ", "1 ", "ab12", "%40", "AAAA1", "12 Main ", "-----BEGIN RSA PRIVATE KEY----- ", "你1"]
)
def test_time_is_linear(desk: Callable[..., Any], unit: str) -> None:
    walker = desk().plugin._walker

    def seconds(size: int) -> float:
        text = (unit * size)[:size]
        best = 1e9
        for _ in range(2):
            begin = time.process_time()
            walker.whole(text)
            best = min(best, time.process_time() - begin)
        return best

    assert seconds(60_000) < 30 * seconds(6_000) + 0.05


def test_broken_text_gets_a_verdict(desk: Callable[..., Any]) -> None:
    walker = desk().plugin._walker
    for text in (
        "",
        "\ud83d",
        "a@b.com \udc00",
        "\x00" * 5000,
        "\ufeff",
        "é" * 10_000,
        "4" * 20_000,
        "@" * 20_000,
    ):
        walker.whole(text)

    assert [(f.start, f.end) for f in walker.whole("mail \ud83d a@b.com")] == [(7, 14)]


HONEST = [
    "Internationalisation of (mis)understandings, acknowledgements: extraordinarily uncharacteristic time-travelling.",
    "She was born in the spring, and her date of birth is nobody's business; so is her passport.",
    "The development environment of the adventurers is interesting.",
]


@pytest.mark.parametrize("text", HONEST)
def test_honest_prose_costs_one_look(desk: Callable[..., Any], text: str) -> None:
    """Long words look like base64, and birthdays are announced that never come: neither is a reason to search."""
    walker = desk().plugin._walker

    assert not walker.suspects(text)
    assert walker.suspects(f"{text} {base64.b64encode(b'mail to john.doe@example.com').decode()}")
    assert walker.suspects(f"{text} It was in March 1980, born on 12 March 1980.")
    assert walker.suspects("a long token. " + "x" * 5_000)


def test_kinds_that_the_policy_does_not_want_are_not_looked_for(desk: Callable[..., Any]) -> None:
    walker = desk(entities={"EMAIL_ADDRESS": "replace"}).plugin._walker

    assert not walker.suspects("RSSMRA85T10A562S, 00-1B-44-11-3A-B7, 12 Main Street, Springfield")
    assert [f.kind for f in walker.whole("RSSMRA85T10A562S, a@example.com")] == ["EMAIL_ADDRESS"]


def test_both_ways_of_folding_agree() -> None:
    """An English text with an accent goes through the error handler, a Russian one through the table."""
    for start in range(0x80, 0x110000, 97):
        other = "".join(map(chr, range(start, min(start + 7, 0x110000))))
        for text in (other, f"{'plain text ' * 90}{other}"):
            assert shapes.shape(text) == text.encode("ascii", "llmshield-shape")
            assert views.fold_bytes(text) == text.encode("ascii", "llmshield-fold")
