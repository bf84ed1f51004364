"""One attempt's way: whom a call can be translated for, what its provider is asked, and the stream back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmshield.conversation import Conversation, Message, TextPart
from llmshield.errors import CallError, UpstreamError
from llmshield.policy import Provider
from llmshield.testing import policy, read
from llmshield.traffic import Dialects
from llmshield.translation import TranslatingCodec, Translation, Translations

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
ERROR = CallError("blocked", "Blocked by policy 'words'.", plugin="words")

ANTHROPIC = [
    {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "two"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
]  # fmt: skip


@pytest.fixture(scope="module")
def translations() -> Translations:
    return Translations(Dialects())


def wire(events: list[Any]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events
    )


def way(translations: Translations, body: dict[str, Any], family: str = "anthropic") -> Translation:
    return translations.to(family, read(body), "claude-sonnet-4-5")


def codec_of(translation: Translation) -> TranslatingCodec:
    codec = translation.codec(translation.dialect.open_stream(translation.call))
    assert isinstance(codec, TranslatingCodec)
    return codec


def chunks(data: bytes) -> list[Any]:
    lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ") and line != b"data: [DONE]"]
    return [orjson.loads(line) for line in lines]


def passed(codec: TranslatingCodec, data: bytes) -> bytes:
    return b"".join(codec.write(event) for event in codec.feed(data))


def test_the_provider_is_asked_in_its_own_dialect_in_the_name_of_the_same_caller(translations):
    call = read({**STREAM, "seed": 7}, tenant="acme", headers={"x-secret": "of the client"})
    call.tier, call.key_id, call.client = "pro", "key-1", "10.0.0.1"
    made = translations.to("anthropic", call, "claude-sonnet-4-5")
    twin = made.call

    assert (twin.dialect, twin.model, twin.path, twin.stream) == (
        "anthropic_messages",
        "claude-sonnet-4-5",
        "/v1/messages",
        True,
    )
    assert (twin.id, twin.tenant, twin.tier, twin.key_id, twin.client) == (
        call.id,
        "acme",
        "pro",
        "key-1",
        "10.0.0.1",
    )
    assert twin.headers == {"anthropic-version": "2023-06-01"}
    assert made.lost == ["seed: Anthropic has no such setting"]


def test_a_gemini_is_asked_at_its_models_path(translations):
    made = translations.to("gemini", read(STREAM), "gemini-2.5-flash")

    assert (made.call.path, made.call.query) == (
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        "alt=sse",
    )
    whole = translations.to("gemini", read(STREAM), "gemini-2.5-flash", whole=True)
    assert (whole.call.path, whole.call.query) == ("/v1beta/models/gemini-2.5-flash:generateContent", "")


NO_WAY = [
    ({"model": "m", "input": "x"}, "/v1/embeddings", "anthropic", "dialect", "Calls of 'openai_embeddings' (embed) are not translated for a provider of 'anthropic'."),
    ({"model": "m", "prompt": "x"}, "/v1/completions", "gemini", "dialect", "Calls of 'openai_completions' (generate) are not translated for a provider of 'gemini'."),
    ({"model": "m", "messages": [{"role": "user", "content": "x"}]}, "/v1/messages/count_tokens", "openai", "dialect",
     "Calls of 'anthropic_messages' (count_tokens) are not translated for a provider of 'openai'."),
    ({**CHAT, "n": 2}, "/v1/chat/completions", "anthropic", "translation", "A provider of 'anthropic' would miss a part of the call: choices: Anthropic gives one answer."),
    ({"model": "m", "input": "x", "previous_response_id": "r"}, "/v1/responses", "gemini", "translation",
     "A provider of 'gemini' would miss a part of the call: previous_response_id: text that only its provider holds."),
]  # fmt: skip


@pytest.mark.parametrize(("body", "path", "family", "code", "message"), NO_WAY)
def test_where_there_is_no_way_the_target_is_passed_over_and_told_why(
    translations, body, path, family, code, message
):
    with pytest.raises(UpstreamError) as caught:
        translations.to(family, read(body, path=path), "m")

    assert (caught.value.reason, caught.value.code) == ("skipped", code)
    assert str(caught.value) == message


def test_what_a_guard_has_changed_is_what_is_told(translations):
    call = read(CHAT)
    call.texts[0]._write("hidden")

    assert translations.to("anthropic", call, "claude-sonnet-4-5").call.body["messages"] == [
        {"role": "user", "content": "hidden"}
    ]


def test_a_whole_reply_comes_back_and_its_losses_are_noted(translations):
    made = way(translations, CHAT)
    thinking = {"type": "thinking", "thinking": "hm", "signature": "proof"}
    reply = {
        "id": "msg_1",
        "model": "claude",
        "content": [thinking, {"type": "text", "text": "yes"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }
    tree = orjson.loads(made.answer(reply))

    assert (tree["model"], tree["choices"][0]["message"]["content"], tree["usage"]["total_tokens"]) == (
        "claude",
        "yes",
        7,
    )
    assert made.lost == ["content: a thought's signature is for its own provider"]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_comes_back_wherever_it_is_cut(translations, size):
    codec = codec_of(way(translations, STREAM))
    data = wire(ANTHROPIC)
    out = b"".join(passed(codec, data[at : at + size]) for at in range(0, len(data), size))
    got = chunks(out)

    assert out.endswith(b"data: [DONE]\n\n")
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in got[:-1]) == "one two"
    assert got[-2]["choices"][0]["finish_reason"] == "stop"
    assert got[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    assert {chunk["model"] for chunk in got} == {"claude"}
    assert (codec.ended, codec.finish, codec.model) == (True, "stop", "claude")


def test_losses_of_a_stream_are_noted_with_the_attempts_own(translations):
    made = way(translations, {**STREAM, "seed": 7})
    codec = codec_of(made)
    events = [dict(event) for event in ANTHROPIC]
    events[1] = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "", "signature": "proof"},
    }
    events[2:4] = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}
    ]
    passed(codec, wire(events))

    assert made.lost == [
        "seed: Anthropic has no such setting",
        "content: a thought's signature is for its own provider",
    ]


def test_nothing_comes_behind_the_end(translations):
    codec = codec_of(way(translations, STREAM))
    passed(codec, wire(ANTHROPIC))

    assert passed(codec, wire(ANTHROPIC[1:4])) == b""
    assert codec.finalise() == codec.stop(ERROR) == b""


def test_a_terminator_that_does_not_come_is_made_up_for(translations):
    codec = codec_of(way(translations, STREAM))
    out = passed(codec, wire(ANTHROPIC[:-1])) + codec.finalise()

    assert chunks(out)[-2]["choices"][0]["finish_reason"] == "stop"
    assert out.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("seen", [0, 4])
def test_a_guard_stops_the_stream_in_the_clients_words(translations, seen):
    codec = codec_of(way(translations, STREAM))
    out = passed(codec, wire(ANTHROPIC[:seen])) + codec.stop(ERROR)

    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks(out) if chunk["choices"]][
        -1
    ] == "content_filter"
    assert out.endswith(b"data: [DONE]\n\n")
    assert passed(codec, wire(ANTHROPIC[seen:])) == b""


def test_an_abort_is_an_error_in_the_clients_words(translations):
    codec = codec_of(way(translations, STREAM))
    passed(codec, wire(ANTHROPIC[:3]))
    (end,) = chunks(codec.abort(CallError("upstream_error", "The provider's stream broke."), "req-1"))

    assert end["error"]["message"] == "The provider's stream broke."
    assert codec.ended
    assert codec.finalise() == b""


def test_a_question_of_a_plugins_own_is_asked_of_any_family(translations):
    c = Conversation(
        "gemini-2.5-flash",
        [Message("system", [TextPart("judge")]), Message("user", [TextPart("a or b?")])],
        max_tokens=5,
    )
    made = translations.aside("gemini", read(CHAT), c)

    assert made.call.body == {
        "contents": [{"role": "user", "parts": [{"text": "a or b?"}]}],
        "systemInstruction": {"parts": [{"text": "judge"}]},
        "generationConfig": {"maxOutputTokens": 5},
    }
    with pytest.raises(UpstreamError):
        translations.aside("nobody", read(CHAT), c)


ADAPTED = [
    ("openai_chat", CHAT, {"messages": [{"role": "system", "content": "AZ"}, *CHAT["messages"]], "temperature": 0.5}),
    ("openai_chat", {"messages": [{"role": "system", "content": "m"}], "temperature": 1}, {"messages": [{"role": "system", "content": "AmZ"}], "temperature": 1}),
    ("openai_responses", {"instructions": "m"}, {"instructions": "AmZ", "temperature": 0.5}),
    ("anthropic_messages", {"system": [{"type": "text", "text": "m"}]}, {"system": [{"type": "text", "text": each} for each in "AmZ"], "temperature": 0.5}),
    ("gemini", {"systemInstruction": {"parts": [{"text": "m"}]}}, {"systemInstruction": {"parts": [{"text": each} for each in "AmZ"]}, "generationConfig": {"temperature": 0.5}}),
    ("openai_embeddings", {"input": "x"}, {"input": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "body", "expected"), ADAPTED)
def test_a_body_is_changed_as_the_policy_says_for_its_provider(translations, dialect, body, expected):
    body = dict(body)
    before = orjson.dumps(body)
    translations.adapt(dialect, changed := dict(body), provider())

    assert {name: changed.get(name) for name in expected} == expected
    assert orjson.dumps(body) == before, "the client's own objects stay as they are"


def provider() -> Provider:
    text = 'providers: {p: {dialect: openai, base_url: "http://127.0.0.1:9", system: {prefix: A, suffix: Z}, parameters: {temperature: 0.5}}}'
    return policy(text).providers["p"]
