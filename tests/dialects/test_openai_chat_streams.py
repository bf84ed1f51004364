"""Chat completions: streams, in any pieces, whole and broken."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmshield.call import Call, Channel, Usage
from llmshield.dialects import WireRequest
from llmshield.dialects._tree import dump, parse_body
from llmshield.dialects.openai_chat import OpenAIChat
from llmshield.errors import CallError

CHAT = OpenAIChat()
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(**body) -> Call:
    tree = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **body}
    raw = dump(tree)
    return CHAT.read_call(
        "c1", "generate", WireRequest("POST", "/v1/chat/completions", body=raw), parse_body(raw)
    )


def chunk(*choices, **more) -> bytes:
    tree = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": list(choices),
    }
    return b"data: " + dump({**tree, **more}) + b"\n\n"


def delta(index: int = 0, finish: str | None = None, **delta) -> dict:
    return {"index": index, "delta": delta, "finish_reason": finish}


DONE = b"data: [DONE]\n\n"
STREAM = (
    chunk(delta(role="assistant", content=""))
    + b": keep-alive\n\n"
    + chunk(delta(content="my se"))
    + chunk(delta(1, content="se"), usage=None)
    + chunk(delta(content="cret is sec"), system_fingerprint="fp")
    + chunk(delta(1, content="cret"))
    + chunk(delta(1, finish="stop"))
    + chunk(delta(finish="stop"))
    + chunk(usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})
    + DONE
)


@MANY
@given(cuts=st.lists(st.integers(0, 2000), max_size=12))
def test_a_stream_says_what_a_whole_reply_would_and_keeps_its_events(cuts, relay, replacing):
    call = read(stream=True, n=2, stream_options={"include_usage": True})
    codec = CHAT.open_stream(call)
    got = relay(codec, STREAM, replacing("secret", "X"), cuts)
    said = {0: "", 1: ""}
    for tree in got.trees:
        for choice in tree["choices"]:
            said[choice["index"]] += choice["delta"].get("content") or ""

    assert said == {0: "my X is sec", 1: "X"}
    assert b"secret" not in got.raw
    assert len(got.events) == STREAM.count(b"\n\n")
    assert all(tree["id"] == "chatcmpl-1" for tree in got.trees)
    assert (codec.finish, codec.finished, codec.ended, codec.model) == ("stop", True, True, "m")
    assert codec.usage == Usage(3, 4)


def test_a_client_that_did_not_ask_for_usage_does_not_see_it(relay):
    got = relay(CHAT.open_stream(read(stream=True, n=2)), STREAM + b"")

    assert b"usage" not in got.raw
    assert len(got.events) == STREAM.count(b"\n\n") - 1
    late = chunk(delta(finish="stop"), usage={"prompt_tokens": 1}) + DONE
    assert b"usage" not in relay(CHAT.open_stream(read(stream=True)), late).raw


def test_an_empty_chunk_that_is_no_usage_passes(relay):
    raw = chunk(
        prompt_filter_results=[{"prompt_index": 0, "content_filter_results": {"hate": {"severity": "safe"}}}]
    )

    assert relay(CHAT.open_stream(read(stream=True)), raw + DONE).raw == raw + DONE


@MANY
@given(cuts=st.lists(st.integers(0, 3000), max_size=12), seed=st.integers(0, 2**32))
def test_tool_arguments_in_pieces(cuts, seed, relay, replacing):
    """Arguments cut anywhere, also inside escapes; two calls at once; the SDK's way of adding them up."""
    arguments = ['{"to": "s\\u0065cret", "n": 12}', '[{"secret": "\\ud83d\\ude00 secre"}]']
    dice = random.Random(seed)
    raw = chunk(delta(role="assistant", content=None))
    position = [0, 0]
    for index in (0, 1):
        call = {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": "f", "arguments": ""},
        }
        raw += chunk(delta(tool_calls=[call]))
    while any(position[i] < len(arguments[i]) for i in (0, 1)):
        index = dice.randrange(2)
        size = dice.randrange(1, 8)
        piece = arguments[index][position[index] : position[index] + size]
        position[index] += size
        if piece:
            raw += chunk(delta(tool_calls=[{"index": index, "function": {"arguments": piece}}]))
    raw += chunk(delta(finish="tool_calls")) + DONE
    codec = CHAT.open_stream(read(stream=True))
    got = relay(codec, raw, replacing("secret", 'S"'), cuts)
    built = ["", ""]
    for tree in got.trees:
        for call in tree["choices"][0]["delta"].get("tool_calls", ()):
            built[call["index"]] += call["function"].get("arguments", "")

    assert json.loads(built[0]) == {"to": 'S"', "n": 12}
    assert json.loads(built[1]) == [{'S"': "😀 secre"}]
    assert len(got.events) == raw.count(b"\n\n")
    assert codec.finish == "tool_calls"
    assert {channel.tool for channel in got.channels} == {"f"}


def test_calls_that_share_an_index_are_told_apart_by_their_ids(relay, replacing):
    """Gemini's OpenAI-compatible endpoint gives every call the index 0."""
    raw = b"".join(
        chunk(delta(tool_calls=[{"index": 0, "id": id, "function": {"name": "f", "arguments": text}}]))
        for id, text in (("a", '{"x":"sec'), ("b", '{"x":"ret"}'))
    )
    got = relay(
        CHAT.open_stream(read(stream=True)),
        raw + chunk(delta(finish="tool_calls")) + DONE,
        replacing("secret", "X"),
    )

    pieces = [
        call["function"]["arguments"]
        for tree in got.trees
        for call in tree["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert pieces == ['{"x":"', "sec", '{"x":"ret"}']


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["get_", "weather"], "get_weather"),
        (["a_secret"], "a_X"),
        (["a_sec", "ret_call"], "a_seca_X_call"),  # half is out: what follows is no name of a tool
        (["a_secret_", "call"], "a_X_call"),
        (["f_secret", "f_secret"], "f_Xf_X"),  # a few servers say it with each delta
        (["cret", "cret", "se", "cret"], "cretcretsecretcretX"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_tools_name_in_several_deltas_is_judged_as_one(
    parts, name, at_once, legacy, relay, replacing, filtered
):
    raw = [
        chunk(delta(function_call={"name": part}))
        if legacy
        else chunk(delta(tool_calls=[{"index": 0, "id": "" if number else "c", "function": {"name": part}}]))
        for number, part in enumerate(parts)
    ]
    whole_stream = b"".join(raw) + chunk(delta(finish="tool_calls")) + DONE
    cuts = () if at_once else [sum(map(len, raw[:number])) for number in range(1, len(raw))]
    got = relay(CHAT.open_stream(read(stream=True)), whole_stream, replacing("secret", "X"), cuts)
    deltas = [tree["choices"][0]["delta"] for tree in got.trees]
    calls = [
        d.get("function_call") or d["tool_calls"][0]["function"]
        for d in deltas
        if "function_call" in d or "tool_calls" in d
    ]

    assert "".join(call.get("name", "") for call in calls) == name


def test_a_tools_name_in_very_many_deltas_breaks_the_stream(relay):
    raw = b"".join(
        chunk(delta(tool_calls=[{"index": 0, "function": {"name": f"n{number}"}}])) for number in range(100)
    )
    got = relay(CHAT.open_stream(read(stream=True)), raw)

    assert got.error is not None
    assert got.error.reason == "malformed"


@pytest.mark.parametrize("arguments", [{"secret": {"a secret": ["secret"]}, "n": 1}])
def test_names_in_arguments_that_came_as_an_object_are_filtered(arguments, filtered, relay, replacing):
    call = {"function_call": {"name": "f", "arguments": json.loads(json.dumps(arguments))}}
    got = relay(
        CHAT.open_stream(read(stream=True)),
        chunk(delta(**json.loads(json.dumps(call)))),
        replacing("secret", "X"),
    )
    reply = filtered(
        CHAT.read_reply(read(), {"choices": [{"index": 0, "message": call}]}), replacing("secret", "X")
    )

    expected = {"X": {"a X": ["X"]}, "n": 1}
    assert reply["choices"][0]["message"]["function_call"]["arguments"] == expected
    assert got.trees[0]["choices"][0]["delta"]["function_call"]["arguments"] == expected


@pytest.mark.parametrize(
    ("parts", "field", "said"),
    [
        ([{"refusal": "no sec"}, {"refusal": "ret"}], "refusal", "no X"),
        ([{"reasoning_content": "sec"}, {"reasoning_content": "ret!"}], "reasoning_content", "X!"),
        ([{"reasoning": "secre"}], "reasoning", "secre"),
        ([{"odd": "sec"}, {"odd": "ret secr"}], "odd", "X secr"),
        (
            [{"function_call": {"name": "f", "arguments": '"se'}}, {"function_call": {"arguments": 'cret"'}}],
            None,
            '"X"',
        ),
    ],
)
def test_every_field_of_a_delta_is_a_channel(parts, field, said, relay, replacing):
    raw = b"".join(chunk(delta(**part)) for part in parts) + chunk(delta(finish="stop")) + DONE
    got = relay(CHAT.open_stream(read(stream=True)), raw, replacing("secret", "X"))
    deltas = [tree["choices"][0]["delta"] for tree in got.trees]
    found = [d.get(field, "") if field else d.get("function_call", {}).get("arguments", "") for d in deltas]

    assert "".join(found) == said
    assert len(got.events) == raw.count(b"\n\n")


@pytest.mark.parametrize("pieces", [("the fo", "x r", "uns"), ("the f", "o", "x"), ("f",)])
def test_what_says_what_an_object_is_stays_with_each_delta(relay, replacing, pieces):
    """`reasoning_details` as OpenRouter streams them: their words wait for a guard, `type`, `format`, `index` do not."""
    kind = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
    raw = b"".join(chunk(delta(reasoning_details=[{**kind, "text": text}])) for text in pieces)
    got = relay(
        CHAT.open_stream(read(stream=True)),
        raw + chunk(delta(finish="stop")) + DONE,
        replacing("fox", "cat"),
    )
    deltas = [
        one
        for line in got.raw.splitlines()
        if line.startswith(b"data: {")
        for one in json.loads(line[6:])["choices"][0]["delta"].get("reasoning_details", ())
    ]

    assert "".join(one["text"] for one in deltas) == "".join(pieces).replace("fox", "cat")
    assert [{**kind, "text": one["text"]} for one in deltas] == deltas


def test_a_later_usage_never_lowers_an_earlier_one():
    codec = CHAT.open_stream(read(stream=True))
    for value in (
        {"prompt_tokens": 5, "completion_tokens": 9},
        {"prompt_tokens": 6, "completion_tokens": 3},
        "x",
        None,
    ):
        codec.feed(chunk(usage=value))
    codec.feed(DONE + chunk(usage={"prompt_tokens": 6, "completion_tokens": 12}))

    assert codec.usage == Usage(6, 12)


def test_text_that_is_left_when_a_stream_ends_without_finish_comes_out_before_the_end(relay, replacing):
    got = relay(
        CHAT.open_stream(read(stream=True)), chunk(delta(content="a secre")), replacing("secret", "X")
    )

    assert [tree["choices"][0]["delta"] for tree in got.trees] == [{"content": "a "}, {"content": "secre"}]
    assert got.raw.endswith(DONE)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"data: {\n\n", "malformed"),
        (b"data: []\n\n", "malformed"),
        (b"data: \xff\n\n", "malformed"),
        (chunk(1), "malformed"),
        (b'data: {"error":{"message":"x","code":"server_error"}}\n\n', "error_in_stream"),
        (
            b'event: error\ndata: {"error":{"message":"x","code":"context_length_exceeded"}}\n\n',
            "context_length",
        ),
        (b'data: {"error":{"message":"x","code":"content_filter"}}\n\n', "content_policy"),
        (b"data: " + b"x" * (11 * 2**20), "malformed"),
    ],
)
def test_what_breaks_a_stream(raw, reason, relay):
    got = relay(
        CHAT.open_stream(read(stream=True)), chunk(delta(content="a")) + raw + chunk(delta(content="b"))
    )

    assert got.error is not None
    assert got.error.reason == reason
    assert len(got.trees) == 1


def test_an_emoji_in_two_events_is_one_character_for_the_filters(relay, replacing):
    """Servers written in JavaScript cut it between its UTF-16 halves."""
    raw = b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % part
        for part in (b"a\\ud83d", b"\\ude00b", b"\\ude00")
    )
    got = relay(
        CHAT.open_stream(read(stream=True)), raw + chunk(delta(finish="stop")) + DONE, replacing("😀", "X")
    )

    assert "".join(tree["choices"][0]["delta"].get("content", "") for tree in got.trees) == "aXb\ufffd"


def test_output_begins_with_text_or_a_call_and_not_with_a_role():
    codec = CHAT.open_stream(read(stream=True))
    raw = (
        chunk(delta(role="assistant", content=""))
        + chunk(delta(content="a"))
        + chunk(delta(tool_calls=[{"index": 0, "id": "c"}]))
    )

    assert [event.output for event in codec.feed(raw)] == [False, True, True]


def test_a_stop_finishes_the_choices_that_are_open_and_reports_usage_if_asked(relay):
    call = read(stream=True, n=2, stream_options={"include_usage": True})
    codec = CHAT.open_stream(call)
    relay(
        codec,
        chunk(delta(content="a"), delta(1, content="b"))
        + chunk(delta(1, finish="stop"), usage={"prompt_tokens": 3}),
    )
    blocks = codec.stop(CallError("blocked", "x", plugin="pii")).split(b"\n\n")
    first, usage = json.loads(blocks[0][6:]), json.loads(blocks[1][6:])

    assert first["choices"] == [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]
    assert (first["id"], first["model"], usage["choices"]) == ("chatcmpl-1", "m", [])
    assert usage["usage"]["prompt_tokens"] == 3
    assert blocks[2:] == [b"data: [DONE]", b""]


def test_an_abort_is_an_error_object_that_sdks_raise():
    out = CHAT.open_stream(read(stream=True)).abort(CallError("upstream_error", "broke"), "r")

    assert json.loads(out[6:]) == {
        "error": {"message": "broke", "type": "server_error", "param": None, "code": "upstream_error"}
    }


def test_channels_of_one_stream_are_the_same_objects():
    codec = CHAT.open_stream(read(stream=True))
    events = codec.feed(chunk(delta(content="a")) + chunk(delta(content="b")))

    assert events[0].pieces[0].channel is events[1].pieces[0].channel
    assert events[0].pieces[0].channel == Channel("content")
