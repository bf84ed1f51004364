"""What every dialect keeps, whichever it is: a new file in the room is tested here the day it appears."""

from __future__ import annotations

import itertools
import json
import os
import random
from typing import Any, get_args

import pytest

from llmshield.call import Call
from llmshield.dialects import Dialect, WireRequest
from llmshield.dialects._tree import dump, parse_body
from llmshield.errors import CallError, ErrorKind, UpstreamError, WireError
from llmshield.registry import find, names
from llmshield.verdicts import Answer

DIALECTS: dict[str, Dialect] = {name: find("dialect", name)() for name in names("dialect")}

PATHS = (
    "/v1/chat/completions",
    "/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1beta/models/gemini-2.5-flash:generateContent",
    "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
    "/v1beta/models/gemini-2.5-flash:countTokens",
    "/v1beta/models/gemini-embedding-001:embedContent",
    "/v1/models/gemini-2.5-flash:generateContent",
    "/models/gemini-2.5-flash:generateContent",
)
UNKNOWN = (
    "/",
    "/v1",
    "/v1/",
    "/v1/audio/speech",
    "/v1/chat/completions/",
    "/v1/chat/completions/x",
    "/v1/Chat/Completions",
    "/v1/responses/resp_1",
    "/v1/responses/input_tokens",
    "/v1/files",
    "/v2/messages",
    "/v1/v1/messages",
    "/healthz",
    "/v1beta/cachedContents",
)
SMALLEST: dict[str, Any] = {
    "model": "m-1",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hi"}],
    "input": "hi",
    "prompt": "hi",
    "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
    "content": {"parts": [{"text": "hi"}]},
}
NEEDS = {
    "openai_chat": ("model", "messages"),
    "openai_responses": ("model", "input"),
    "openai_embeddings": ("model", "input"),
    "openai_completions": ("model", "prompt"),
    "anthropic_messages": ("model", "messages", "max_tokens"),
    "gemini": ("contents",),
}

CLAIMED = [
    pytest.param(dialect, path, operation, id=f"{name}-{path}")
    for name, dialect in DIALECTS.items()
    for path in PATHS
    if (operation := dialect.claims("POST", path, {})) is not None
]
GENERATES = [case for case in CLAIMED if case.values[2] == "generate" and "stream" not in case.values[1]]
EACH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def smallest(dialect: Dialect, path: str, **more: Any) -> dict[str, Any]:
    wanted = NEEDS.get(dialect.name, tuple(SMALLEST))
    if path.endswith("embedContent"):
        wanted = ("content",)
    return {**{key: SMALLEST[key] for key in wanted}, **more}


def read(dialect: Dialect, path: str, tree: Any) -> Call:
    operation = dialect.claims("POST", path, {})
    assert operation is not None
    body = parse_body(dump(tree))
    return dialect.read_call("call-1", operation, WireRequest("POST", path, body=dump(tree)), body)


def streaming(dialect: Dialect) -> Call:
    path = next(path for path in PATHS if dialect.claims("POST", path, {}) is not None)
    if dialect.name == "gemini":
        return read(dialect, "/v1beta/models/gemini-2.5-flash:streamGenerateContent", smallest(dialect, path))
    return read(dialect, path, smallest(dialect, path, stream=True))


# What bodies and replies are made of, so that random trees reach deep.
VOCABULARY = """
model messages input prompt contents content parts text role type tools tool_calls function name
arguments description parameters schema system instructions systemInstruction system_instruction
generationConfig generation_config max_tokens maxOutputTokens max_output_tokens
max_completion_tokens n stream stream_options include_usage stop tool_choice metadata user id
choices delta message finish_reason index usage logprobs candidates usageMetadata promptTokenCount
prompt_tokens completion_tokens input_tokens output_tokens output image_url url file file_data
file_id source data media_type inlineData inline_data mimeType functionCall functionResponse
function_response response args tool_use tool_result tool_use_id thinking signature
encrypted_content cache_control document title context citations web_search functionDeclarations
enabled previous_response_id conversation variables response_format json_schema prediction
logit_bias audio error content_block message_delta content_block_delta response.completed
response.output_text.delta item part output_index content_index sequence_number status embedding
input_text assistant user tool base64 refusal reasoning summary suffix requests thought
thoughtSignature finishReason text_delta partial_json
"""
WORDS = VOCABULARY.split()
TEXTS = [
    *WORDS,
    "",
    "two words",
    "{}",
    '{"a": "b c"}',
    '{"a":',
    "[1, 2]",
    "data:text/plain;base64,aGkgaQ==",
    "é\u2028😀\0",
]
NUMBERS = [0, 1, -1, 7, 10**6, 2**63, -(2**63), 0.5, 1e300, -0.0, None, True, False]
MARK = "quite § a secret"
MARKS = [MARK, json.dumps({"a": [MARK]}), json.dumps({MARK: 1})]
FUZZED = int(os.environ.get("LLMSHIELD_FUZZ", "2000"))
"""Bodies for each dialect; 50,000 in the nightly run."""


class Maker:
    """Random trees of the words above: twenty times as fast as a strategy, and the seed finds each again."""

    def __init__(self, seed: int, marks: list[str] | None = None) -> None:
        self.random = random.Random(seed)
        self.marks = marks

    def text(self) -> str:
        if self.marks is not None and self.random.random() < 0.3:
            return self.random.choice(self.marks)
        return self.random.choice(TEXTS)

    def name(self) -> str:
        if self.marks is not None and self.random.random() < 0.05:
            return self.random.choice(self.marks)
        return self.random.choice(WORDS) if self.random.random() < 0.95 else self.text()

    def tree(self, depth: int = 4) -> Any:
        dice = self.random.random()
        if depth == 0 or dice < 0.3:
            return self.text() if dice < 0.24 or self.marks is not None else self.random.choice(NUMBERS)
        if dice < 0.55:
            return [self.tree(depth - 1) for _ in range(self.random.randrange(4))]
        return self.object(depth)

    def object(self, depth: int = 4) -> dict[str, Any]:
        return {self.name(): self.tree(depth - 1) for _ in range(self.random.randrange(5))}

    def body(self, dialect: Dialect, path: str) -> dict[str, Any]:
        """A good body with some of its fields replaced by anything, and some beside them."""
        tree = self.object()
        return tree if self.random.random() < 0.2 else {**smallest(dialect, path), **tree}


@EACH
def test_it_is_named_like_its_module(dialect):
    assert type(dialect).__module__ == f"llmshield.dialects.{dialect.name}"
    assert dialect.family in {"openai", "anthropic", "gemini"}


@pytest.mark.parametrize("path", PATHS)
def test_each_path_belongs_to_one_dialect(path):
    assert len([name for name, dialect in DIALECTS.items() if dialect.claims("POST", path, {})]) == 1


@EACH
@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"])
def test_it_claims_no_path_that_it_does_not_know(dialect, path, method):
    assert dialect.claims(method, path, {}) is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "post", "OPTIONS"])
def test_what_makes_an_answer_is_asked_for_by_post(path, method):
    assert not any(dialect.claims(method, path, {}) for dialect in DIALECTS.values())


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/some-model", "/models", "/v1beta/models"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"anthropic-version": "2023-06-01"}, {"x-goog-api-key": "k"}, {"authorization": "Bearer k"}],
)
def test_a_model_list_belongs_to_at_most_one_dialect(path, method, headers):
    claims = [d for d in DIALECTS.values() if d.claims(method, path, headers) is not None]

    assert len(claims) <= 1
    for dialect in claims:
        request = WireRequest(method, path, headers=headers)
        call = dialect.read_call("1", "models", request, {})
        assert call.operation == "models"
        assert call.texts == []
        assert dialect.target(call, "")[0].startswith("/")


@pytest.mark.parametrize(("dialect", "path", "operation"), CLAIMED)
def test_the_smallest_body_is_read_and_written(dialect, path, operation):
    call = read(dialect, path, smallest(dialect, path))

    assert "hi" in [text.value for text in call.texts]
    assert (call.dialect, call.family, call.operation) == (dialect.name, dialect.family, operation)
    before = dump(call.body)
    body = dialect.write_call(call, "other-model")
    dialect.clamp(body, 7)
    target, query = dialect.target(call, "other-model")

    assert before == dump(call.body), "write_call and clamp must leave the call's own body alone"
    assert target.startswith("/")
    assert "other-model" in target or body.get("model") == "other-model" or b"other-model" in dump(body)
    assert isinstance(query, str)


@pytest.mark.parametrize(("dialect", "path", "operation"), GENERATES)
def test_a_clamp_bounds_and_never_raises_a_bound(dialect, path, operation):
    call = read(dialect, path, smallest(dialect, path))
    body = dialect.write_call(call, "m-1")
    dialect.clamp(body, 1000)
    first = dialect.bound(body)
    dialect.clamp(body, 10)

    assert first is not None
    assert first <= 1000
    assert dialect.bound(body) == 10

    dialect.clamp(body, 500)

    assert dialect.bound(body) == 10


@pytest.mark.parametrize(("dialect", "path", "operation"), CLAIMED)
def test_any_body_is_read_or_refused(dialect, path, operation):
    """Random trees, and random trees in the place of some fields of a good body."""
    refused = 0
    for seed in range(FUZZED):
        tree = Maker(seed).body(dialect, path)
        try:
            call = read(dialect, path, tree)
        except WireError:
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}: {tree}") from error
        for text in call.texts:
            assert type(text.value) is str
            assert text.place.startswith("/")
        body = dialect.write_call(call, "m-2")
        if operation == "generate":
            dialect.clamp(body, 9)
            assert dialect.bound(body) in range(10), (seed, tree)
        json.loads(dump(body))

    assert 0 < refused < FUZZED


@pytest.mark.parametrize(("dialect", "path", "operation"), CLAIMED)
def test_what_the_guards_have_not_seen_is_not_sent(dialect, path, operation):
    """A marked string anywhere in any body is in a Text; when all texts are changed, it is gone."""
    seen = 0
    for seed in range(FUZZED):
        tree = Maker(seed, MARKS).body(dialect, path)
        try:
            call = read(dialect, path, tree)
        except WireError:
            continue
        for number, text in enumerate(call.texts):
            if "§" in text.value or "u00a7" in text.value:
                seen += 1
                text._write(f"seen {number}")
        for sealed in reversed(call.sealed):
            sealed.reseal()
        sent = dump(dialect.write_call(call, "m-1")).decode()

        assert "§" not in sent, (seed, tree)
        assert "u00a7" not in sent, (seed, tree)

    assert seen > FUZZED / 4


@EACH
def test_any_reply_is_read_or_called_malformed(dialect):
    calls = [streaming(dialect), read(dialect, *_plain(dialect))]
    for seed in range(FUZZED // 2):
        tree = Maker(seed).tree()
        for call in calls:
            try:
                reply = dialect.read_reply(call, json.loads(json.dumps(tree)))
            except Exception as error:
                raise AssertionError(f"seed {seed}: {tree}") from error
            for piece in reply.pieces:
                assert type(piece.holder[piece.key]) in (str, int, float), (seed, tree)
            assert reply.error is None or isinstance(reply.error, UpstreamError)
            if reply.usage is not None:
                assert (reply.usage.input or 0) >= 0
                assert (reply.usage.output or 0) >= 0


def _plain(dialect: Dialect) -> tuple[str, Any]:
    path = next(path for path in PATHS if dialect.claims("POST", path, {}) is not None)
    return path, smallest(dialect, path)


ENDS = [
    b"",
    b"data: [DONE]\n\n",
    b"data: {\n\n",
    b"\xff\xfe\n\n",
    b": hi\n\n",
    b"data: {",
    b"data: NaN\r\n\r\n",
]


@EACH
def test_any_stream_is_read_and_written(dialect):
    """Events of random trees, cut anywhere, broken at the end: no exception, and the cuts make no difference."""
    call = streaming(dialect)
    for seed in range(FUZZED // 4):
        maker = Maker(seed)
        raw = b"".join(
            b"event: %b\ndata: %b\n\n" % (maker.random.choice(WORDS).encode(), dump(maker.tree()))
            for _ in range(maker.random.randrange(6))
        )
        raw += maker.random.choice(ENDS)
        cuts = sorted(maker.random.randrange(len(raw) + 1) for _ in range(4))
        chunks = [raw[a:b] for a, b in itertools.pairwise([0, *cuts, len(raw)])]
        try:
            whole = _relay(dialect.open_stream(call), [raw])
            cut = _relay(dialect.open_stream(call), chunks)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {raw!r}") from error

        assert whole == cut, (seed, raw)


def _relay(codec: Any, chunks: list[bytes]) -> bytes:
    """The engine's loop with a filter that holds everything back to the end."""
    out = b""
    held: dict[Any, str] = {}
    for chunk in [*chunks, None]:
        for event in codec.feed(chunk) if chunk is not None else codec.close():
            if event.error is not None:
                assert isinstance(event.error, UpstreamError)
                return out + codec.abort(CallError("upstream_error", "broken"), "r-1")
            for piece in event.pieces:
                text = piece.holder[piece.key]
                if not piece.whole and not piece.repeats and type(text) is str:
                    held[piece.channel] = held.get(piece.channel, "") + text
                    piece.holder[piece.key] = ""
                    for holder, key in piece.shadows:
                        holder[key] = None
            for channel in event.ends:
                rest = held.pop(channel, "")
                out += codec.late(event, channel, rest) if rest else b""
            out += b"" if event.hidden else codec.write(event)
    for channel, rest in held.items():
        out += codec.late(None, channel, rest)
    return out + codec.finalise()


@EACH
def test_any_bytes_are_a_stream_or_an_error(dialect):
    call = streaming(dialect)
    for seed in range(FUZZED // 4):
        codec = dialect.open_stream(call)
        for event in [
            *codec.feed(random.Random(seed).randbytes(seed % 80)),
            *codec.feed(b"\n\n"),
            *codec.close(),
        ]:
            assert event.error is None or isinstance(event.error, UpstreamError)
            codec.write(event)


@EACH
@pytest.mark.parametrize("kind", get_args(ErrorKind))
def test_every_kind_of_error_has_a_shape(dialect, kind):
    error = CallError(kind, "A sentence.", param="messages[0].content", plugin="pii", retry_after_s=2.5)
    reply = dialect.write_error(error, "req-1")

    assert 400 <= reply.status < 600
    assert reply.headers["content-type"].startswith("application/json")
    assert "A sentence." in json.dumps(json.loads(reply.body))
    assert all(name == name.lower() and "\n" not in value for name, value in reply.headers.items())
    assert dialect.write_error(CallError(kind, "x", status=418), "r").status == 418
    for out in (
        dialect.open_stream(streaming(dialect)).stop(error),
        dialect.open_stream(streaming(dialect)).abort(error, "r"),
    ):
        assert out


@EACH
@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500, 503, 529])
def test_any_error_of_a_provider_is_classified(dialect, status):
    for seed in range(100):
        tree = Maker(seed).tree()
        for body in (dump(tree), dump({"error": tree}), b"<html>", b"", b"\xff"):
            error = dialect.read_error(status, {"retry-after": "1", "content-type": "x"}, body)

            assert error.status == status
            assert error.retry_after_s == 1.0


@pytest.mark.parametrize(
    ("header", "value", "seconds"),
    [
        ("retry-after", "7", 7.0),
        ("retry-after", "0.25", 0.25),
        ("retry-after", "-5", 0.0),
        ("retry-after", "99999999999", 60.0),
        ("retry-after", "1e400", 60.0),
        ("retry-after", "nan", None),
        ("retry-after", "soon", None),
        ("retry-after", "", None),
        ("retry-after", "1_0", None),
        ("retry-after", "٣", None),
        ("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
        ("retry-after", "Fri, 99 Foo 2015 07:28:00", None),
        ("retry-after-ms", "1500", 1.5),
        ("retry-after-ms", "garbage", None),
    ],
)
@EACH
def test_advice_when_to_retry(dialect, header, value, seconds):
    error = dialect.read_error(429, {header: value}, b"{}")

    assert error.retry_after_s == seconds


@pytest.mark.parametrize(("dialect", "path", "operation"), GENERATES)
def test_an_answer_of_our_own_reads_like_a_providers(dialect, path, operation):
    answer = Answer("Sorry, \u2028 no.", model="own")
    call = read(dialect, path, smallest(dialect, path))
    reply = dialect.read_reply(call, json.loads(dump(dialect.answer(call, answer))))
    texts = [piece.holder[piece.key] for piece in reply.pieces if piece.channel.kind == "content"]

    assert texts == ["Sorry, \u2028 no."]
    assert reply.error is None
    assert reply.finish == "stop"
    assert reply.usage is not None
    assert (reply.usage.input, reply.usage.output) == (0, 0)

    call = streaming(dialect)
    raw = dialect.answer_stream(call, answer)
    assert "\u2028".encode() not in raw
    codec = dialect.open_stream(call)
    joined = ""
    for event in codec.feed(raw):
        assert event.error is None
        joined += "".join(
            p.holder[p.key] for p in event.pieces if p.channel.kind == "content" and not p.repeats
        )
    assert joined == "Sorry, \u2028 no."
    assert codec.finished or codec.ended
