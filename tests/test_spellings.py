"""The spellings of a secret: whatever encoder wrote it, one expression finds it."""

import base64
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.spellings import HIDDEN, coded, edges, expression, substitute

KEYS = st.text(string.ascii_letters + string.digits + "+/_-", min_size=16, max_size=80)


@given(KEYS, st.binary(max_size=7), st.binary(max_size=7))
def test_base64_is_found_wherever_the_secret_begins(secret, before, after):
    written = base64.b64encode(before + secret.encode() + after).decode()

    assert any(spelling in written for spelling in coded(secret))


@given(KEYS)
def test_one_expression_finds_every_spelling(secret):
    found = expression([secret])

    for written in (secret, secret.upper(), secret[::-1], secret.encode().hex(" "), quote(secret, safe="")):
        assert HIDDEN in substitute(found, HIDDEN, f"<{written}>")


@pytest.mark.parametrize(
    ("secret", "ends"),
    [
        ("sk-1Q2w3e4r5t6y7u8i9", ["sk-1Q2w3", "5t6y7u8i9"[-8:]]),
        ("sk-proj-Qz81xW73LmTTbA0K", ["73LmTTbA0K"[-8:]]),
        ("Provider-names-are-words", []),
        ("short-0123", []),
    ],
)
def test_only_ends_that_tell_something_count(secret, ends):
    assert list(edges(secret)) == ends


def test_a_lone_surrogate_is_no_hindrance():
    assert substitute(expression(["CANARY-0123456789"]), HIDDEN, "\ud800 CANARY-0123456789").endswith(HIDDEN)
