"""The shapes of credentials, and what only looks like one."""

from __future__ import annotations

import random
import string
import time

import pytest
import re2
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llmshield.secrets_patterns import (
    GROUPS,
    KINDS,
    LOOSE_SHAPES,
    RULES,
    SECRET_NAME,
    TOKEN_SHAPES,
    entropy,
    find_credentials,
    find_secrets,
)

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


def _random(alphabet: str, size: int, seed: int = 7) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(alphabet) for _ in range(size))


# name of the issuer -> a key of its shape, made here
SAMPLES = {
    "llmshield": "llmsk_" + _random(ALNUM, 49),
    "openai": "sk-proj-" + _random(ALNUM + "_-", 120) + "a",
    "openai_legacy": "sk-" + _random(ALNUM, 48),
    "anthropic": "sk-ant-api03-" + _random(ALNUM + "_-", 90) + "AA",
    "openrouter": "sk-or-v1-" + _random(HEX, 64),
    "google_api": "AIza" + _random(ALNUM + "_-", 34) + "Q",
    "google_oauth": "ya29." + _random(ALNUM, 60),
    "aws_access_key": "AKIA" + _random(string.ascii_uppercase + "234567", 16),
    "github": "ghp_" + _random(ALNUM, 36),
    "github_fine_grained": "github_pat_" + _random(ALNUM + "_", 81) + "z",
    "gitlab": "glpat-" + _random(ALNUM, 20),
    "slack": "xoxb-" + _random(string.digits, 12) + "-" + _random(ALNUM, 24),
    "stripe": "sk_live_" + _random(ALNUM, 24),
    "huggingface": "hf_" + _random(string.ascii_letters, 34),
    "npm": "npm_" + _random(ALNUM, 36),
    "pypi": "pypi-AgEIcHlwaS5vcmc" + _random(ALNUM + "_-", 120) + "b",
    "sendgrid": "SG." + _random(ALNUM, 22) + "." + _random(ALNUM, 43),
    "twilio": "SK" + _random(HEX, 32),
    "telegram_bot": _random("123456789", 10) + ":AA" + _random(ALNUM, 33),
    "discord_bot": "M" + _random(ALNUM, 25) + "." + _random(ALNUM, 6) + "." + _random(ALNUM, 38),
    "azure_client_secret": "abc8Q~" + _random(ALNUM, 34),
    "digitalocean": "dop_v1_" + _random(HEX, 64),
    "databricks": "dapi" + _random(HEX, 32),
    "groq": "gsk_" + _random(ALNUM, 52),
    "hashicorp_vault": "hvs." + _random(ALNUM, 90),
}


@pytest.mark.parametrize("issuer", SAMPLES)
@pytest.mark.parametrize("frame", ["{}", "my key is {}.", '{{"key":"{}"}}', "héllo ({})", "x={}\n"])
def test_every_issuers_key_is_found(issuer: str, frame: str) -> None:
    key = SAMPLES[issuer]
    text = frame.format(key)

    start = text.index(key)

    assert [(start, start + len(key), "API_KEY")] == [
        (a, min(b, start + len(key)), kind) for a, b, kind in find_secrets(text)
    ]
    assert issuer in {**TOKEN_SHAPES, **LOOSE_SHAPES}


@pytest.mark.parametrize(
    ("text", "secret", "kind"),
    [
        ("DB_PASSWORD=hunter2!x9", "hunter2!x9", "API_KEY"),
        ('"apiKey": "q8Zx71Lm02pQ"', "q8Zx71Lm02pQ", "API_KEY"),
        ("password: Tr0ub4dor&3", "Tr0ub4dor&3", "API_KEY"),
        ("my password is S3cr3t-Pa55", "S3cr3t-Pa55", "API_KEY"),
        ("client_secret => 'aB3dE5gH7jK9'", "aB3dE5gH7jK9", "API_KEY"),
        ("Authorization: Bearer abc123def456ghi789", "abc123def456ghi789", "API_KEY"),
        ("authorization: basic dXNlcjpwYXNzd29yZDEy", "dXNlcjpwYXNzd29yZDEy", "API_KEY"),
        ("x-api-key: 77f9ab2c51e8d0aa", "77f9ab2c51e8d0aa", "API_KEY"),
        ("see postgres://app:pw0rd@db.internal:5432/main now",
         "postgres://app:pw0rd@db.internal:5432/main", "URL_WITH_CREDENTIALS"),
        ("redis://:s3cretpw@10.0.0.1:6379/0", "redis://:s3cretpw@10.0.0.1:6379/0", "URL_WITH_CREDENTIALS"),
        ("AccountKey=" + "Ab1+" * 21 + "==;Endpoint", "AccountKey=" + "Ab1+" * 21 + "==", "API_KEY"),
        ("t eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl .",
         "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "JWT"),
        ("k\n-----BEGIN RSA PRIVATE KEY-----\nMIIEabcd\nefgh==\n-----END RSA PRIVATE KEY-----\nz",
         "-----BEGIN RSA PRIVATE KEY-----\nMIIEabcd\nefgh==\n-----END RSA PRIVATE KEY-----", "PRIVATE_KEY"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nand words",
         "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n", "PRIVATE_KEY"),
    ],
)  # fmt: skip
def test_secrets_in_their_surroundings(text: str, secret: str, kind: str) -> None:
    start = text.index(secret)

    assert [(start, start + len(secret), kind)] == find_secrets(text)
    assert kind in KINDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the token is invalid",
        "password: required",
        "password = os.environ['PASSWORD']",
        "password=${DB_PASSWORD}",
        "token = get_token(user)",
        "secret: {{ vault_secret }}",
        "api_key: your-api-key-here",
        "API_KEY=<your key>",
        "password: ********",
        "max_tokens: 4096",
        "tokenizer_path='gpt-4o-2024-05-13'",
        "tokenizer: transformers.PreTrainedTokenizer",
        "Reisepassnummer: C01234565",
        "tokens: 123456",
        "bearer certificates and bearer instruments",
        "sk-" + "x" * 48,
        "https://example.com:8080/path@v2",
        "http://host/a:b@c",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "550e8400-e29b-41d4-a716-446655440000",
        "eyJ is how it starts",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_look_alikes_stay(text: str) -> None:
    assert find_secrets(text) == []


def test_spans_count_code_points_and_surrogates_do_no_harm() -> None:
    key = SAMPLES["github"]
    text = "né\U0001f600\ud83d " + key + " ü " + key

    assert [key, key] == [text[a:b] for a, b, _ in find_secrets(text)]


def test_time_is_linear() -> None:
    def seconds(size: int) -> float:
        text = ("password=" + "-----BEGIN PRIVATE KEY-----" + "a1:/" * 20) * (size // 100)
        begin = time.process_time()
        find_secrets(text)
        return time.process_time() - begin

    seconds(10_000)

    assert min(seconds(100_000) for _ in range(3)) < 40 * max(min(seconds(10_000) for _ in range(3)), 1e-3)


@pytest.mark.parametrize("issuer", [*TOKEN_SHAPES, *LOOSE_SHAPES])
@settings(max_examples=5, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_shape_is_found_as_its_issuers(issuer: str, data: st.DataObject) -> None:
    regex = TOKEN_SHAPES.get(issuer) or LOOSE_SHAPES[issuer][0]
    key = data.draw(st.from_regex(regex, fullmatch=True, alphabet=st.characters(max_codepoint=126)))
    assume(entropy(key[-16:]) > 1.5)
    rest = data.draw(st.sampled_from(("", " and more", ")", "\n")))

    before = "https://host/x" if key[0] in "?&" else "here: "
    found = find_credentials(before + key + rest)

    whole = len(before + key.rstrip("."))  # a full stop at the end may be the sentence's
    assert any(i.start <= len(before) and i.end >= whole for i in found), key
    assert all(item.rule in RULES and item.kind in KINDS for item in found)


@pytest.mark.parametrize(
    ("text", "value", "rule"),
    [
        ("DATADOG_API=8f3a9c0d1e2b4f5a6978", "8f3a9c0d1e2b4f5a6978", "service"),
        ('"twitterConsumer": "tQ9xK2mZ7vRt5Yw1Nc4Kp9Sd3"', "tQ9xK2mZ7vRt5Yw1Nc4Kp9Sd3", "service"),
        ("curl -u admin:Tr0ub4dor3 https://x", "admin:Tr0ub4dor3", "command_line"),
        ('<add key="ClearTextPassword" value="s3cr3tpw9" />', "s3cr3tpw9", "xml_value"),
        ("DB_PASSWORD=hunter2!x9", "hunter2!x9", "assignment"),
        ("Authorization: Bearer abc123def456ghi789", "abc123def456ghi789", "authorization"),
        ("ghp_" + _random(ALNUM, 36), "ghp_" + _random(ALNUM, 36), "github"),
        ("redis://:s3cretpw@10.0.0.1:6379/0", "redis://:s3cretpw@10.0.0.1:6379/0", "url_with_credentials"),
    ],
)
def test_credentials_by_their_rule(text: str, value: str, rule: str) -> None:
    (found,) = find_credentials(text)

    assert (value, rule) == (text[found.start : found.end], found.rule)


@pytest.mark.parametrize(
    "text",
    [
        "linear: a straight-forward-sentence-without-digits",
        "twitter, which was founded in 2006, is",
        "sentry: 2024-11-20T10:22:33",
        "chown -u root:staff",
        "discord-client: 1111111111111111111",
        "heroku=<your-key-1234567890>",
    ],
)
def test_what_a_name_does_not_make_a_credential(text: str) -> None:
    assert find_credentials(text) == []


def test_groups_name_rules() -> None:
    assert {rule for rules in GROUPS.values() for rule in rules} <= RULES


@pytest.mark.parametrize(
    ("name", "secret"),
    [("password", True), ("DB_PASSWORD", True), ("apiKey", True), ("client_secret", True), ("access-token", True),
     ("text", False), ("max_tokens", False), ("tokenizer", False), ("content", False), ("compass", False)],
)  # fmt: skip
def test_names_of_fields_that_hold_secrets(name: str, secret: bool) -> None:
    assert secret is (re2.search(SECRET_NAME, name) is not None)
