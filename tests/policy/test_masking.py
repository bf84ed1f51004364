"""No finding shows a secret, however it is written and whatever else is wrong; policy words stay readable."""

from __future__ import annotations

from typing import Any

import pytest

from llmshield.policy import inspect_text
from llmshield.policy.masking import found, is_secret_key, mask_line, mask_tokens

SECRET = "CANARY-7f3a9c"  # no known shape: only its place says what it is
KEYS = [
    "sk-proj-AbCdEfGhIjKlMnOpQrStUvWx",
    "sk-ant-api03-AAAA-bbbb_CCCC",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "gAAAAABmX0x1y2z3Abcdef==",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "AKIAIOSFODNN7EXAMPLE",
    "0123456789abcdef0123456789abcdef",
    "8a6f1b2c-3d4e-5f60-7182-93a4b5c6d7e8",
]

POLICIES = [
    "providers: {a: {dialect: openai, api_key: %s}}",
    "providers: {a: {dialect: openai, api_key: '%s', bad: 1}}",
    'providers:\n  a:\n    dialect: openai\n    api_key: "%s"\n    timeout: 5',
    "providers:\n  a:\n    dialect: openai\n    api_key: |\n      %s\n    timeout: 5",
    "providers:\n  a:\n    api_key: |\n      %s\n   broken: [",
    "providers:\n  a: {api_key: %s, broken",
    "providers:\n  a:\n    api_key: %s: x",
    "providers: {a: {dialect: openai, apikey: %s}}",
    "providers: {a: {dialect: openai, api-key: {value: %s}}}",
    "providers: {a: {dialect: openai, api_key: [%s]}}",
    "providers: {a: {dialect: openai, api_key: !!binary %s}}",
    "providers: {a: {dialect: openai, base_url: 'https://me:%s@h.example/v1'}}",
    "server: {store: 'redis://:%s@h:1/0'}\nserverr: {}",
    "server: {store: 'rdis://:%s@h:1/0'}",
    "tenants: {t: {keys: [%s]}}",
    "tenants: {t: {keys: %s}}",
    "plugins: [{use: ./no_competitors.py, secret: %s, nope: 1}]",
    "plugins: [{use: ./no_competitors.py, secret: [%s]}]",
    "plugins: [{use: ./no_competitors.py, with: {secret: {x: %s}}}]",
    "api_key: %s",
    "audit: {password: %s}",
]


@pytest.mark.parametrize("secret", [SECRET, *KEYS])
@pytest.mark.parametrize("text", POLICIES)
def test_never_shown(text: str, secret: str, folder: Any) -> None:
    policy, findings = inspect_text(f"version: 1\n{text % secret}\nzzz: 1", "policy.yaml", folder)
    said = "\n".join(map(str, findings)) + repr(policy) + repr([item.as_dict() for item in findings])

    assert findings
    assert secret not in said
    assert secret[-8:] not in said


@pytest.mark.parametrize("secret", KEYS)
@pytest.mark.parametrize(
    "text",
    [
        "defaults: {mode: %s}",
        "server: {listen: %s}",
        "routes: [{match: {any: true}, to: ['%s']}]",
        "%s: 1",
        "plugins: [{use: %s}]",
    ],
)
def test_shapes_of_keys_are_masked_anywhere(text: str, secret: str, judge: Any) -> None:
    said = "\n".join(map(str, judge(f"version: 1\n{text % secret}")[1]))

    assert said
    assert secret not in said


@pytest.mark.parametrize(
    "line",
    [
        "  - {provider: anthropic, model: claude-sonnet-4-5-20250929}",
        "    base_url: https://generativelanguage.googleapis.com",
        "    api_key: env://OPENAI_API_KEY",
        "    api_key: file:///run/secrets/openai.env#OPENAI_API_KEY",
        "  limits: {body: 10MiB, depth: 64, head: 10s, receive: 60s}",
        "    missing_max_tokens: clamp",
        "  - match: {model: gpt-4o-2024-08-06-preview}",
        "overrides: [{reason: a_reason_with_underscores_that_is_long}]",
        "      EMAIL_ADDRESS: {action: replace}",
    ],
)
def test_policy_words_stay(line: str) -> None:
    assert line == mask_line(line)


@pytest.mark.parametrize(
    ("line", "spans", "previous", "expected"),
    [
        ("api_key: hunter2", ((9, 16),), "", "api_key: ***"),
        ("api_key: hunter2", (), "", "api_key: ***"),
        ("{a: 1, password: 'x, y'}", (), "", "{a: 1, password: ***"),
        ("      hunter2", (), "    api_key: |", "      ***"),
        ("      hunter2", (), "    api_key: >-", "      ***"),
        ("      hunter2", (), "    secret:", "      ***"),
        ("    other: 1", (), "    api_key:", "    other: 1"),
        ("x: 'Bearer abc'", (), "", "x: 'Bearer ***"),
    ],
)
def test_lines(line: str, spans: tuple[tuple[int, int], ...], previous: str, expected: str) -> None:
    assert expected == mask_line(line, spans, previous)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "nothing"),
        (True, "the word true"),
        (5, "the number 5"),
        ("x", "'x'"),
        ("x" * 10 + " y" * 100, None),
        ({}, "a mapping"),
        ([], "a list"),
        ("a\u202eb", "'a\\u202eb'"),
    ],
)
def test_found(value: Any, expected: str | None) -> None:
    assert found(value) == expected if expected is not None else len(found(value)) < 70


def test_names_of_secrets() -> None:
    assert all(
        map(
            is_secret_key,
            ["api_key", "apikey", "API-KEY", "keys", "client_secret", "access_token", "password"],
        )
    )
    assert not any(
        map(is_secret_key, ["max_tokens", "missing_max_tokens", "keyring_name", "monkey", "model", "tokens"])
    )


def test_tokens_in_the_middle() -> None:
    assert mask_tokens("use sk-AbCdEfGh12345678 now") == "use *** now"


def test_no_line_drives_a_terminal(judge: Any) -> None:
    """Bidi marks and other invisible characters are spelt out, in lines and messages."""
    findings = judge("version: 1\ndefaults: {mode: 'a\u202eb\u200b'}\n")[1]

    assert findings
    assert all(char.isprintable() or char == "\n" for char in str(findings[0]))
