"""Paths are judged in their one canonical form; every path finds its dialect or an error in the right shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.errors import CallError
from llmshield.traffic import Dialects, canonical_path, checked_query


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/v1/chat/completions", "/v1/chat/completions"),
        (b"/", "/"),
        (b"/v1beta/models/gemini-2.5-pro:generateContent", "/v1beta/models/gemini-2.5-pro:generateContent"),
        (b"/v1/models/gemini%3AgenerateContent", "/v1/models/gemini:generateContent"),
    ],
)
def test_canonical(raw: bytes, path: str) -> None:
    assert path == canonical_path(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"//v1/chat/completions",
        b"/v1/%63hat/completions",
        b"/v1/chat%2Dcompletions",
        b"/v1//chat/completions",
        b"/v1/./chat/completions",
        b"/v1/../v1/chat/completions",
        b"/v1/chat/completions/..",
        b"/v1%2fchat/completions",
        b"/v1/chat%2Fcompletions",
        b"/v1/%2e%2e/chat",
        b"/v1/chat\\completions",
        b"/v1/chat%5ccompletions",
        b"/v1/chat/completions%00",
        b"/v1/chat/completions%0d%0a",
        b"/v1/chat/completions%2500",
        b"/v1/chat/completions;x=1",
        b"/v1/chat/completions%3fx",
        b"/v1/chat/completions\xff",
        b"/v1/chat/comple tions",
        b"v1/chat",
        b"",
        b"*",
        b"http://x/v1/chat/completions",
        b"/" + b"a" * 5000,
    ],
)
def test_other_spellings_are_refused(raw: bytes) -> None:
    with pytest.raises(CallError) as caught:
        canonical_path(raw)

    assert "bad_request" == caught.value.kind


@given(st.binary(max_size=60))
def test_any_bytes_are_a_path_or_a_refusal(raw: bytes) -> None:
    try:
        path = canonical_path(b"/" + raw)
    except CallError:
        return

    assert path == canonical_path(path.encode())
    assert "//" not in path
    assert "%" not in path


@pytest.mark.parametrize("raw", [b"a=\xff", b"a=b c", b"a=\n", b"x" * 5000])
def test_queries_are_bounded_ascii(raw: bytes) -> None:
    with pytest.raises(CallError):
        checked_query(raw)


DIALECTS = Dialects()


@pytest.mark.parametrize(
    ("method", "path", "headers", "name", "operation"),
    [
        ("POST", "/v1/chat/completions", {}, "openai_chat", "generate"),
        ("POST", "/chat/completions", {}, "openai_chat", "generate"),
        ("POST", "/v1/responses", {}, "openai_responses", "generate"),
        ("POST", "/v1/embeddings", {}, "openai_embeddings", "embed"),
        ("POST", "/v1/completions", {}, "openai_completions", "generate"),
        ("POST", "/v1/messages", {}, "anthropic_messages", "generate"),
        ("POST", "/v1/messages/count_tokens", {}, "anthropic_messages", "count_tokens"),
        ("POST", "/v1beta/models/g:generateContent", {}, "gemini", "generate"),
        ("POST", "/v1/models/g:streamGenerateContent", {}, "gemini", "generate"),
        ("POST", "/models/g:generateContent", {}, "gemini", "generate"),
        ("POST", "/v1beta/models/g:countTokens", {}, "gemini", "count_tokens"),
        ("POST", "/v1beta/models/g:embedContent", {}, "gemini", "embed"),
        ("GET", "/v1/models", {}, "openai_chat", "models"),
        ("GET", "/v1/models", {"anthropic-version": "2023-06-01"}, "anthropic_messages", "models"),
        ("GET", "/v1/models", {"x-goog-api-key": "k"}, "gemini", "models"),
        ("GET", "/v1beta/models", {}, "gemini", "models"),
    ],
)
def test_every_path_finds_its_dialect(
    method: str, path: str, headers: dict[str, str], name: str, operation: str
) -> None:
    found = DIALECTS.find(method, path, headers)

    assert found is not None
    assert (name, operation) == (found[0].name, found[1])


@pytest.mark.parametrize(
    "path", ["/v1/audio/speech", "/v1/files", "/v1/batches", "/v1/realtime", "/admin", "/v1/images"]
)
def test_unknown_paths_belong_to_nobody(path: str) -> None:
    assert DIALECTS.find("POST", path, {}) is None


@pytest.mark.parametrize(
    ("path", "headers", "family"),
    [
        ("/v1/audio", {}, "openai"),
        ("/v1/messages/batches", {}, "anthropic"),
        ("/x", {"anthropic-version": "1"}, "anthropic"),
        ("/v1beta/files", {}, "gemini"),
        ("/v1/models/x:predict", {}, "gemini"),
    ],
)
def test_refusals_speak_the_dialect_that_the_path_suggests(
    path: str, headers: dict[str, str], family: str
) -> None:
    assert family == DIALECTS.for_errors(path, headers).family
