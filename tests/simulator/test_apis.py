"""Which path belongs to whom."""

import pytest

from llmshield.simulator.apis import endpoint, family_of
from llmshield.simulator.record import Received

PREFIX = "/v1beta/models/"


def call(path, *, method="POST", query="", headers=()):
    return Received(1, method, path, query, list(headers), b"", 0.0)


@pytest.mark.parametrize(
    ("path", "headers", "family"),
    [
        ("/v1/chat/completions", (), "openai"),
        ("/v1/unknown", (), "openai"),
        ("/v1/messages/batches", (), "anthropic"),
        ("/v1/unknown", [("anthropic-version", "2023-06-01")], "anthropic"),
        ("/v1beta/unknown", (), "gemini"),
        ("/v1/unknown", [("x-goog-api-key", "k")], "gemini"),
        ("/v1/models/m:unknown", (), "gemini"),
    ],
)
def test_families(path, headers, family):
    assert family == family_of(call(path, headers=headers))


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (PREFIX + "m:generateContent", "", ("gemini", "m", False, False)),
        (PREFIX + "m:streamGenerateContent", "", ("gemini", "m", True, True)),
        (PREFIX + "m:streamGenerateContent", "alt=sse&key=k", ("gemini", "m", True, False)),
        (PREFIX + "ft:a:generateContent", "", ("gemini", "ft:a", False, False)),
    ],
)
def test_gemini(path, query, expected):
    found = endpoint(call(path, query=query))

    assert expected == (found.family, found.model, found.stream, found.array)


@pytest.mark.parametrize(
    "path", [PREFIX + "m", PREFIX + ":generateContent", PREFIX + "m:x", "/v2/messages", "/v1"]
)
def test_nobodys(path):
    assert endpoint(call(path)) is None
