"""Surrogates have the kind and form of what they stand for, are stable under a key, and belong to nobody."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield_plugins.pii import Pii
from llmshield_plugins.pii.checksums import iban, luhn
from llmshield_plugins.pii.fakes import _MAKERS, fake

KEY = b"a key"
FORMS = [
    ("EMAIL_ADDRESS", "john.doe@corp.example", r"[a-z]+\.[a-z]+\d\d@example\.(com|net|org)"),
    ("CREDIT_CARD", "4111 1111 1111 1111", r"4\d{3} \d{4} \d{4} \d{4}"),
    ("CREDIT_CARD", "378282246310005", r"3\d{14}"),
    ("IBAN_CODE", "DE89 3704 0044 0532 0130 00", r"DE\d\d( \d{4}){4} \d\d"),
    ("IBAN_CODE", "GB82WEST12345698765432", r"GB\d\d[A-Z]{4}\d{14}"),
    ("US_SSN", "536-22-8726", r"9\d\d-\d\d-\d{4}"),
    ("PHONE_NUMBER", "+1 (212) 555-0187", r"\+1 \([2-9]\d\d\) 555-01\d\d"),
    ("PHONE_NUMBER", "2125550187", r"[2-9]\d\d55501\d\d"),
    ("PHONE_NUMBER", "+49 30 901820", r"\+49 \d\d \d{6}"),
    ("PHONE_NUMBER", "01 23 45 67 89", r"0\d( \d\d){4}"),
    ("MAC_ADDRESS", "00:1A:2B:3C:4D:5E", r"02(:[0-9A-F]{2}){5}"),
    ("DATE_OF_BIRTH", "1987-03-31", r"19[5-9]\d-(0[1-9]|1[0-2])-(0[1-9]|1[0-2])"),
    ("DATE_OF_BIRTH", "31.3.1987", r"(0[1-9]|1[0-2])\.([1-9]|1[0-2])\.19[5-9]\d"),
    ("API_KEY", "sk-proj-abcdefghijklmnop0123", r"sk-p[a-z]{3}-[a-z]{16}\d{4}"),
    ("STREET_ADDRESS", "Hauptstraße 12, 10115 Berlin", r"\d{1,3} [A-Z][a-z]+ Street"),
    ("URL_WITH_CREDENTIALS", "postgres://app:pw@db:5432/x", r"postgres://user\d{4}:[a-z]{12}@example\.com/"),
    ("ES_NIE", "X1234567L", r"[A-Z]\d{7}[A-Z]"),
]


@pytest.mark.parametrize(
    ("kind", "value", "form"), FORMS, ids=[f"{kind} {value}" for kind, value, _ in FORMS]
)
def test_the_form_stays(kind: str, value: str, form: str) -> None:
    made = {fake(kind, value, KEY, attempt) for attempt in range(40)}

    assert len(made) > 20
    assert all(re.fullmatch(form, each) for each in made), made
    assert value not in made
    assert fake(kind, value, KEY) == fake(kind, value, KEY) != fake(kind, value, b"another")


@pytest.mark.parametrize("attempt", range(50))
def test_checksums_hold_and_networks_are_nobodys(attempt: int) -> None:
    assert luhn(fake("CREDIT_CARD", "4111 1111 1111 1111", KEY, attempt).replace(" ", ""))
    assert iban(fake("IBAN_CODE", "GB82 WEST 1234 5698 7654 32", KEY, attempt).replace(" ", ""))
    networks = [
        ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
    ]
    for address in ("10.1.2.3", "2a00:1450::8"):
        made = ip_address(fake("IP_ADDRESS", address, KEY, attempt))
        assert any(made in net for net in networks if net.version == made.version)


@given(kind=st.sampled_from([*_MAKERS, "SOMETHING_ELSE"]), value=st.text(min_size=1, max_size=80))
def test_whatever_was_found_has_a_surrogate(kind: str, value: str) -> None:
    """Values in disguise reach it as they were written: in other digits, in base64, with invisible characters."""
    made = fake(kind, value, KEY)

    assert isinstance(made, str)
    assert made == fake(kind, value, KEY)


@pytest.mark.parametrize(
    "kind", ["EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "PHONE_NUMBER", "MAC_ADDRESS"]
)
def test_a_surrogate_is_found_as_what_it_stands_for(kind: str) -> None:
    """Of the same kind, also to a detector: what reads the provider's answers sees a value where one was."""
    value = next(value for name, value, _ in FORMS if name == kind) if kind != "IP_ADDRESS" else "10.1.2.3"
    scanner = Pii.scanner(Pii.Settings(presidio=False))
    found = scanner.scan(f"my value: {fake(kind, value, KEY)} ok")

    assert kind in {span["type"] for span in found["spans"]}
