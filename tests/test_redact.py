"""No key in any message, whatever its spelling; no text that forges a second line."""

import base64
import codecs
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield import redact as redact_module
from llmshield.errors import CallError, UpstreamError, WireError
from llmshield.redact import (
    forget,
    redact,
    redact_headers,
    redact_secret,
    remember,
    sanitize_error_message,
    shows_secret,
)
from llmshield.spellings import HIDDEN

SECRET = "sk-proj-Qz81/xW+73LmTTbA0Kd9"


@pytest.fixture(autouse=True)
def _known_secrets():
    """Each test starts and ends with no known secret."""
    before = set(redact_module._known.values)
    remember(SECRET)
    yield
    for secret in redact_module._known.values - before:
        forget(secret)


SPELLINGS = {
    "plain": SECRET,
    "upper case": SECRET.upper(),
    "reversed": SECRET[::-1],
    "hex": SECRET.encode().hex(),
    "hex, upper case": SECRET.encode().hex().upper(),
    "hex with spaces": SECRET.encode().hex(" "),
    "url": quote(SECRET, safe=""),
    "url, slash kept": quote(SECRET),
    "url, form": quote_plus(SECRET),
    "every byte in percent": "".join(f"%{byte:02X}" for byte in SECRET.encode()),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64, url-safe": base64.urlsafe_b64encode(SECRET.encode()).decode(),
    "base64 of user:secret": base64.b64encode(b"user:" + SECRET.encode()).decode(),
    "base64, one byte before, two after": base64.b64encode(b"x" + SECRET.encode() + b"yz").decode(),
    "base64, two bytes before": base64.urlsafe_b64encode(b"xy" + SECRET.encode()).decode(),
    "its last characters": "*****" + SECRET[-8:],
    "JSON, slashes escaped": SECRET.replace("/", "\\/"),
    "its last characters, reversed": "<" + SECRET[-8:][::-1],
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_known_secret_is_hidden_in_every_spelling(name):
    spelling = SPELLINGS[name]

    out = redact(f"provider said: <{spelling}> is wrong")

    assert HIDDEN in out
    assert SECRET[8:] not in out
    if name.startswith("base64"):
        assert spelling[6:-6] not in out
    else:
        assert spelling[-8:] not in out
    assert out.startswith("provider said: <")


@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=12, max_size=60),
    before=st.text(max_size=30),
    after=st.text(max_size=30),
)
def test_any_secret_in_any_text(secret, before, after):
    """Whatever stands around it: plain, hex, base64 at every offset, reversed, percent."""
    remember(secret)
    raw = secret.encode()
    try:
        for text in (
            secret,
            raw.hex(),
            quote(secret, safe=""),
            base64.b64encode(
                before.encode("utf-8", "replace") + raw + after.encode("utf-8", "replace")
            ).decode(),
        ):
            out = redact(before + text + after)

            assert HIDDEN in out
            assert text not in out
        assert redact(before, also=[secret]).count(secret) == 0
    finally:
        forget(secret)


UNKNOWN = [
    ("authorization: Bearer abcdef", "abcdef"),
    ("Authorization: Basic dXNlcjpwdw==", "dXNlcjpwdw"),
    ("{'x-api-key': 'short'}", "short"),
    ('{"x-goog-api-key":"AIzaSy000"}', "AIzaSy000"),
    ("headers: cookie: a=1; session=abcdef; b=2", "abcdef"),
    ("set-cookie: sid=31d4d96e407aad42; Path=/", "31d4d96e407aad42"),
    ("GET https://g.example/v1beta/models?key=AIzaSyD1234567890 failed", "AIzaSyD1234567890"),
    ("GET /x?a=b&sig=abc123def456", "abc123def456"),
    ("redis://:hunter2@10.0.0.1:6379/0 refused", "hunter2"),
    ("postgres://bob:pa55@db/x", "pa55"),
    ("password=correct1horse", "correct1horse"),
    ("client_secret: 'f00dbabe99'", "f00dbabe99"),
    ("LLMSHIELD_ADMIN_TOKEN=8e4c1b7a22", "8e4c1b7a22"),
    ("the key AKIAZ7VRSQTUPLOWD5NX is not known", "AKIAZ7VRSQTUPLOWD5NX"),
    ("got ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU", "ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU"),
    ("Incorrect: sk-ant-api03-Zm9vYmFyYmF6cXV4_1234567890abcdefghij", "Zm9vYmFyYmF6cXV4"),
    ("bearer eyJhbGciOiJIUzI1NiJ9.e30.abc", "eyJhbGciOiJIUzI1NiJ9"),
]


@pytest.mark.parametrize(("message", "secret"), UNKNOWN)
def test_an_unknown_secret_is_found_by_what_stands_before_it(message, secret):
    out = redact(message)

    assert secret not in out
    assert HIDDEN in out


CLEAN = [
    "",
    "Blocked by policy 'pii': US_SSN in messages[2].",
    "Budget of 5 USD/day for tenant acme is spent (5.0012 USD). Resets 2026-11-21T00:00:00Z.",
    "providers.openai.api_key: env://OPENAI_API_KEY is not set",
    "api_key: file:///run/secrets/openai can't be read",
    "token: expected a string, got a list",
    "The key is missing; set the password in LLMSHIELD_SECRET_KEY",
    "max_tokens: 4096 is above the limit of 1024",
    "http://127.0.0.1:8787/v1/chat/completions: connection refused",
    "claude-sonnet-4-5-20250929 is not on the allow list",
    "Ünïcode – 漢字 🙂",
]


@pytest.mark.parametrize("message", CLEAN)
def test_a_clean_message_is_left_as_it_is(message):
    assert redact(message) == message


def test_lone_surrogates_do_not_hide_a_secret():
    out = redact(f"\ud83d {SECRET} \udfff")

    assert SECRET not in out
    assert HIDDEN in out


def test_short_and_plain_words_are_not_remembered():
    """A local server's key is often `ollama` or `none`; hiding that word everywhere helps nobody."""
    for word in ("none", "ollama", "anthropic", "abc1234"):
        remember(word)

    assert redact("ollama, anthropic, none, abc1234") == "ollama, anthropic, none, abc1234"


def test_many_secrets():
    secrets = [f"key-{n:04}-{codecs.encode(str(n * 7919), 'rot13')}-zzzzzzzz" for n in range(400)]
    for secret in secrets:
        remember(secret)

    out = redact(" ".join(secrets))

    assert not any(secret in out for secret in secrets)


def test_a_secret_of_one_call_only():
    client_key = "tenant-key-93f1-aa"

    assert client_key in redact(f"said {client_key}")
    assert client_key not in redact(f"said {client_key}", also=[client_key])


def test_redact_secret_keeps_the_last_four_of_long_ones():
    assert redact_secret("sk-0123456789abcdef") == "****cdef"
    assert redact_secret("short-key") == "****"
    assert redact_secret("") == "****"


def test_headers_for_a_record():
    out = redact_headers({"Authorization": "x", "x-api-key": "y", "accept": "*/*", "x-note": SECRET})

    assert out == {"Authorization": HIDDEN, "x-api-key": HIDDEN, "accept": "*/*", "x-note": HIDDEN}


def test_a_foreign_error_message():
    out = sanitize_error_message(f"Incorrect key {SECRET}\r\n" + "x" * 1000)

    assert out.startswith("Incorrect key [redacted]\\r\\n")
    assert out.endswith("more characters)")
    assert len(out) < 560


@pytest.mark.parametrize(
    "make",
    [WireError, lambda text: UpstreamError("status", text), lambda text: CallError("upstream_error", text)],
    ids=["WireError", "UpstreamError", "CallError"],
)
def test_errors_redact_by_themselves(make):
    assert str(make(f"provider: {SECRET}")) == f"provider: {HIDDEN}"


EDGES = [
    ("sk-proj-Qz81/xW+73LmTTbA0Kd9", "sk-proj-", False),
    ("CANARY-abcdefghijklmnop", "CANARY-a", True),
    ("Provider-of-all-things", "Provider", False),
    ("llmsk_aB3dE5gH7jK9mN1pQ3sT5", "llmsk_aB", True),
    ("anthropic-word-word-word", "word-wor", False),
]


@pytest.mark.parametrize(("secret", "edge", "hidden"), EDGES)
def test_first_characters_are_hidden_where_they_tell_something(secret, edge, hidden):
    remember(secret)

    assert (edge not in redact(f"you sent {edge}******")) is hidden


@pytest.mark.parametrize(
    "secret", ['with"quote-0123456789', "a<b>&c-0123456789abc", "back\\slash-0123456789"]
)
def test_escaped_for_json_and_html(secret):
    remember(secret)

    for spelled in (json.dumps(secret), html.escape(secret)):
        assert redact(f"x {spelled} y") in (f"x {HIDDEN} y", f'x "{HIDDEN}" y')


def test_known_secrets_are_seen_in_any_spelling():
    for spelling in SPELLINGS.values():
        assert shows_secret(f"x: {spelling}")
    assert not shows_secret("x: nothing")


def test_an_upstream_error_hides_in_all_its_parts():
    error = UpstreamError(
        "status", SECRET, code=SECRET, headers={"retry-after": SECRET, "x-request-id": "r1"}
    )

    assert (str(error), error.code, error.headers) == (
        HIDDEN,
        HIDDEN,
        {"retry-after": HIDDEN, "x-request-id": "r1"},
    )
