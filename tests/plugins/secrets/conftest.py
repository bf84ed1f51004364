"""Credentials of every kind, and texts that hold them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1c7\n+9z5Pad7OejecsQ0bhG8n5Pf2qT4yR6vWm\n"
    "-----END RSA PRIVATE KEY-----"
)
VALUES = (
    ("openai", "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"),
    ("github", "ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU"),
    ("aws_access_key", "AKIAZ7VRSQTUPLOWD5NX"),
    ("anthropic", "sk-ant-api03-Zm9vYmFyYmF6cXV4_1234567890abcdefghij"),
    ("slack", "xoxb-123456789012-AbCdEfGhIjKlMnOpQrStUvWx"),
    ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
    ("private_key", PEM),
    ("url_with_credentials", "postgres://app:pw0rd@db.internal:5432/main"),
    ("telegram_bot", "1234567890:AAx8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0Aa"),
)
"""(rule, value) of what stands on its own."""

ANNOUNCED = (
    ("assignment", "DB_PASSWORD=", "hunter2!x9"),
    ("assignment", '"apiKey": "', "q8Zx71Lm02pQ"),
    ("assignment", "my password is now ", "S3cr3t-Pa55"),
    ("assignment", "client_secret  =>  '", "aB3dE5gH7jK9"),
    ("authorization", "Authorization: Bearer  ", "abc123def456ghi789"),
    ("key_header", "x-api-key:  '", "77f9ab2c51e8d0aa"),
    ("service", "DATADOG_API: ", "8f3a9c0d1e2b4f5a6978"),
    ("command_line", 'curl -u "', "admin:Tr0ub4dor3"),
    ("xml_value", '<add key="Password" value="', "s3cr3tpw9"),
)
"""(rule, what stands before, value)."""

WORDS = (
    "the", "quick", "fox,", "jumps", "over", "a", "(really)", "lazy", "dog.", "<b>Hi</b>", "`code`", "我的密码", "谢谢", "née",
    "42", "1.2.3", "api", "key", "token:", "secret", "password", "is", "now", "bearer", "authorization:", "-----BEGIN", "PRIVATE",
    "KEY-----", "-----END", "twitter", "=", "=>", "http://a/b?c=d", "-u", "value=", "x-api-key", '"', "'", "UPPER_CASE", "\ud83d",
)  # fmt: skip
GAPS = (" ", " ", " ", " ", "\n", ", ", "", "\t", ": ", "  ", '"', "'", "<", ">", "=", "\u00a0", "\v", "，")


@pytest.fixture(scope="session")
def values() -> tuple[tuple[str, str, str], ...]:
    """(rule, what stands before, value) of every kind."""
    return (*((rule, "", value) for rule, value in VALUES), *ANNOUNCED)


@pytest.fixture(scope="session")
def make_text() -> Callable[[random.Random], str]:
    """A text of words, credentials and separators, as odd as they come."""

    def make(rng: random.Random) -> str:
        parts: list[str] = []
        for _ in range(rng.randint(1, 16)):
            kind = rng.random()
            if kind < 0.2:
                parts.append(rng.choice(VALUES)[1])
            elif kind < 0.35:
                parts += rng.choice(ANNOUNCED)[1:]
            else:
                parts.append(rng.choice(WORDS))
            parts.append(rng.choice(GAPS))
        return "".join(parts)

    return make
