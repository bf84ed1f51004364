"""Halves of characters, in trees and over the events of a stream."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.call import Channel
from llmshield.dialects import Piece, StreamCodec
from llmshield.dialects._anthropic_stream import MessagesStream
from llmshield.dialects._app import AppJson
from llmshield.dialects._gemini_stream import GeminiStream
from llmshield.dialects._surrogates import Halves, mend_tree, whole_characters

CONTENT = Channel("content")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("plain", "plain"),
        ("é😀", "é😀"),
        ("\ud83d\ude00", "😀"),
        ("a\ud83db", "a\ufffdb"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
    ],
)
def test_halves_are_joined_or_replaced(text, whole):
    assert whole_characters(text) == whole
    assert mend_tree({text: [text, 1, None]}) == {whole: [whole, 1, None]}


@given(text=st.text(st.sampled_from("a😀é𝒳"), max_size=9), cuts=st.lists(st.integers(0, 20)))
def test_a_stream_cut_between_halves_says_the_same(text, cuts):
    data = text.encode("utf-16-le")
    edges = [0, *sorted(2 * (cut % (len(data) // 2 + 1)) for cut in cuts), len(data)]
    halves = Halves()
    said = ""
    for a, b in itertools.pairwise(edges):
        holder = {"content": data[a:b].decode("utf-16-le", "surrogatepass")}
        halves.mend([Piece(CONTENT, holder, "content")])
        holder["content"].encode()
        said += holder["content"]

    assert said == text


def test_a_text_that_arrives_whole_waits_for_nothing():
    halves = Halves()
    holder = {"text": "a\ud83d", "n": 5}
    halves.mend([Piece(CONTENT, holder, "text", whole=True), Piece(CONTENT, holder, "n", whole=True)])

    assert holder == {"text": "a\ufffd", "n": 5}


def _sse(*trees: str) -> bytes:
    return "".join(f"data: {tree}\n\n" for tree in trees).encode()


def _anthropic(kind: str, key: str) -> bytes:
    block = {
        "thinking_delta": '{"type":"thinking","thinking":""}',
        "text_delta": '{"type":"text","text":""}',
    }.get(kind, '{"type":"tool_use","id":"t","name":"f","input":{}}')
    halves = ("a\\ud83d", "\\ude00b")
    return _sse(
        '{"type":"message_start","message":{"id":"m","content":[],"model":"c","role":"assistant","type":"message"}}',
        f'{{"type":"content_block_start","index":0,"content_block":{block}}}',
        *(
            f'{{"type":"content_block_delta","index":0,"delta":{{"type":"{kind}","{key}":"{half}"}}}}'
            for half in halves
        ),
        '{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"sealed"}}',
        '{"type":"content_block_stop","index":0}',
        '{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}',
        '{"type":"message_stop"}',
    )


def _gemini(part: str) -> bytes:
    parts = (part.replace("%", half) for half in ("a\\ud83d", "\\ude00b"))
    return _sse(*(f'{{"candidates":[{{"index":0,"content":{{"parts":[{one}]}}}}]}}' for one in parts))


CUT: dict[str, tuple[Callable[[], StreamCodec], bytes]] = {
    "anthropic text": (lambda: MessagesStream("id", "c"), _anthropic("text_delta", "text")),
    "anthropic thinking": (lambda: MessagesStream("id", "c"), _anthropic("thinking_delta", "thinking")),
    "anthropic arguments": (
        lambda: MessagesStream("id", "c"),
        _anthropic("input_json_delta", "partial_json"),
    ),
    "gemini text": (lambda: GeminiStream("id", "g", array=False), _gemini('{"text":"%"}')),
    "gemini thought": (lambda: GeminiStream("id", "g", array=False), _gemini('{"text":"%","thought":true}')),
    "gemini argument": (
        lambda: GeminiStream("id", "g", array=False),
        _gemini(
            '{"functionCall":{"partialArgs":[{"jsonPath":"$.a","stringValue":"%","willContinue":true}]}}'
        ),
    ),
    "app": (
        lambda: AppJson(lambda path: True, stream=["/delta"]).open_stream(None),  # type: ignore[arg-type]
        _sse('{"delta":"a\\ud83d"}', '{"delta":"\\ude00b"}'),
    ),
}


@pytest.mark.parametrize("where", CUT)
def test_an_emoji_cut_between_two_events_reaches_the_client_whole(relay, where):
    """Servers written in JavaScript cut it there; a thought that says the same keeps its signature."""
    codec, raw = CUT[where]
    got = relay(codec(), raw)
    said = json.dumps(got.trees, ensure_ascii=False)

    assert "😀b" in said
    assert "\ufffd" not in said
    assert ("sealed" in said) == ("anthropic" in where)


@pytest.mark.parametrize("where", CUT)
def test_a_half_whose_other_never_comes_stands_where_it_was(relay, where):
    """The next event has nothing odd in it: what waits goes out with it, not with the next odd one."""
    codec, raw = CUT[where]
    got = relay(codec(), raw.replace(b"\\ude00b", b"b"))

    assert "\ufffdb" in json.dumps(got.trees, ensure_ascii=False)
