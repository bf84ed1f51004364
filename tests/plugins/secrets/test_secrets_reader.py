"""A stream and a whole text: the same findings, the same bytes, at any cut; nothing goes out before it is decided."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.call import Stop
from llmshield.secrets_patterns import Credential, find_credentials
from llmshield.verdicts import Block
from llmshield_plugins.secrets import Secrets
from llmshield_plugins.secrets.guard import Guard
from llmshield_plugins.secrets.reader import WINDOW

PLUGIN = Secrets(Secrets.Settings())


def mark(found: Credential) -> str:
    return f"<{found.rule}>"


def streamed(pieces: list[str]) -> str:
    guard = Guard(PLUGIN._find, mark)
    made = [guard.feed(piece) for piece in pieces] + [guard.flush()]
    assert all(isinstance(part, str) for part in made)
    return "".join(map(str, made))


def oracle(text: str) -> str:
    """The whole text without windows, as the patterns find it."""
    out, position = "", 0
    for found in find_credentials(text, PLUGIN._keep):
        out += text[position : found.start] + mark(found)
        position = found.end
    return out + text[position:]


def whole(text: str) -> str:
    out, position = "", 0
    for found in PLUGIN._whole(text, "", None):
        out += text[position : found.start] + mark(found)
        position = found.end
    return out + text[position:]


def cut(rng: random.Random, text: str) -> list[str]:
    if rng.random() < 0.3:
        size = rng.choice((1, 1, 2, 4, 7))
        return [text[i : i + size] for i in range(0, len(text), size)]
    at = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(1, 12))))
    return [piece for a, b in zip([0, *at], [*at, len(text)], strict=True) if (piece := text[a:b])]


def _run(make_text: Callable[[random.Random], str], seeds: range) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        text = make_text(rng)
        pieces = cut(rng, text)

        assert oracle(text) == whole(text), (seed, text)
        assert oracle(text) == streamed(pieces), (seed, text, pieces)


def test_random_cuts(make_text: Callable[[random.Random], str]) -> None:
    _run(make_text, range(2500))


@pytest.mark.nightly
def test_random_cuts_nightly(make_text: Callable[[random.Random], str]) -> None:
    _run(make_text, range(10_000, 10_000 + int(os.environ.get("LLMSHIELD_SECRETS_CUTS", "100000"))))


ALPHABET = st.sampled_from(
    [
        *"aZ09 @.-+(),:/\\<>&;%=_'\"`\n\t\v\u00a0４é中[]",
        "password", "passwd_x", "api", "key", "apiKey", "client", "secret", "token", " is ", " is now ", "=>", ":=", "bearer ",
        "authorization", "basic ", "x-api-key", "twitter", "okta_", "||", " -u ", "--user=", " value=", "hunter2!x9",
        "abc123def456ghi789", "-----BEGIN ", "RSA ", "PRIVATE ", "KEY-----", "PRIVATE KEY BLOCK-----", "-----END X-----", "QUJDREVGR0hJSktM",
        "ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU", "https://u:pw0rd@h/", "eyJhbGciOiJI", ".eyJzdWIiOiIx",
    ]
)  # fmt: skip


@given(st.lists(st.lists(ALPHABET, max_size=12).map("".join), max_size=8))
@settings(max_examples=1500)
def test_any_text_any_split(pieces: list[str]) -> None:
    text = "".join(pieces)

    assert oracle(text) == whole(text) == streamed([p for p in pieces if p])


@pytest.mark.parametrize("size", [1, 3, 64, 5000])
@pytest.mark.parametrize(
    "text",
    [
        "password: " * 1500 + "hunter2!x9",
        "password: " * 1501 + "hunter2!x9",
        "x" * 9000 + " password=hunter2!x9 ",
        "QUJD" * 3000 + ",ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU",
        "谢" * 3500 + "ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU" + "谢" * 4000,
        "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIx" * 900 + ".c2ln and more",
        "=" * 3580 + "password=hunter2!x9,and,so,on" + "=" * 4000,
        "-----BEGIN PRIVATE KEY-----\n"
        + "QUJDREVGR0hJSktM\n" * 700
        + "-----END PRIVATE KEY----- password=hunter2!x9 a",
        "-----BEGIN PRIVATE KEY-----\n" + "QUJDREVGR0hJSktM\n" * 1400 + " password=hunter2!x9 a",
        "-----BEGIN PRIVATE KEY-----\n" * 900,
        "secret " * 3000,
        "a<b>'c\" " * 2000,
    ],
    ids=lambda text: text[:12] if isinstance(text, str) else str(text),
)
def test_what_is_longer_than_any_window(text: str, size: int) -> None:
    made = streamed([text[i : i + size] for i in range(0, len(text), size)])

    assert whole(text) == made
    for value in ("hunter2", "ghp_x8", "eyJzdWIi", "QUJDREVGR0hJSktM\nQUJDREVGR0hJSktM"):
        if value in text and not (value.startswith("QUJD") and len(text) > 20_000):
            assert value not in made


def test_windows_move_behind_what_they_would_cut() -> None:
    key = "ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU"
    for before in range(3300, WINDOW + 60, 7):
        text = "=" * before + "," + key + "," + "=" * 5000

        assert streamed([text]) == whole(text) == text.replace(key, "<github>"), before


def test_nothing_of_a_credential_goes_out_before_it_is_decided(values: Any) -> None:
    for rule, before, value in values:
        for frame in ("{}", "so it is: {}", "x\n{}"):
            guard = Guard(PLUGIN._find, mark)
            seen = ""
            for char in frame.format(before) + value:
                made = guard.feed(char)
                assert isinstance(made, str)
                seen += made

            assert value[:5] not in seen, (rule, value, seen)
            seen += str(guard.feed(" and")) + str(guard.flush())
            assert f"<{rule}>" in seen, (rule, seen)


def test_prose_waits_for_a_word_only() -> None:
    guard = Guard(PLUGIN._find, mark)
    text = (
        "The quick brown fox jumps over the lazy dog. Anna went to school, and she saw no one there at all. "
        * 3
    )
    released = 0
    for sent, char in enumerate(text, 1):
        released += len(guard.feed(char))  # type: ignore[arg-type]

        assert sent - released <= 24


def test_a_piece_is_not_read_again_and_again() -> None:
    """While a credential is open, each piece costs a look at the piece: places that were refused stay refused."""
    finds = 0

    def counting(text: str) -> list[Credential]:
        nonlocal finds
        finds += len(text)
        return []

    guard = Guard(counting, mark)
    text = "password: " * 4000
    for start in range(0, len(text), 4):
        guard.feed(text[start : start + 4])
    guard.flush()

    assert finds < 3 * len(text)


def test_a_block_stops_with_what_came_before() -> None:
    def treat(found: Credential) -> str | Stop:
        return Stop(Block("no")) if found.rule == "aws_access_key" else mark(found)

    guard = Guard(PLUGIN._find, treat)
    made = guard.feed("pw password=hunter2!x9 and AKIAZ7VRSQTUPLOWD5NX then more words")

    assert isinstance(made, Stop)
    assert made.release == "pw password=<assignment> and "
