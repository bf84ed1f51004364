"""The short cut for events that differ in one text: whatever it reads, the codec would have read the same."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.dialects import StreamCodec, WireRequest
from llmshield.dialects._again import Again, learn
from llmshield.dialects.anthropic_messages import AnthropicMessages
from llmshield.dialects.openai_chat import OpenAIChat

BODY = {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
PLACES = {"chat": (OpenAIChat(), "/v1/chat/completions"), "messages": (AnthropicMessages(), "/v1/messages")}


def codec_of(kind: str, **more: Any) -> StreamCodec:
    dialect, path = PLACES[kind]
    body = BODY | more
    request = WireRequest("POST", path, "", {}, orjson.dumps(body))
    return dialect.open_stream(dialect.read_call("1", "generate", request, body))


def chat(text: str, *, before: bytes = b"", after: bytes = b"", blank: str = "", **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    tree = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    } | more
    return (
        b"data: "
        + json.dumps(tree, separators=("," + blank, ":" + blank), ensure_ascii=False).encode()
        + b"\n\n"
    )


def message(text: str, kind: str = "text_delta", key: str = "text") -> bytes:
    tree = {"type": "content_block_delta", "index": 0, "delta": {"type": kind, key: text}}
    return b"event: content_block_delta\ndata: " + orjson.dumps(tree) + b"\n\n"


OPENING = {
    "chat": b"",
    "messages": b'event: message_start\ndata: {"type":"message_start","message":{"model":"m","content":[]}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n',
}


def learned(kind: str, data: bytes, **more: Any) -> tuple[Again | None, StreamCodec]:
    codec = codec_of(kind, **more)
    for event in codec.feed(OPENING[kind]):
        codec.write(event)
    [event] = codec.feed(data)
    codec.write(event)
    return learn(data, event, codec), codec


@pytest.mark.parametrize("kind", ["chat", "messages"])
def test_the_last_of_several_events_is_learned_from(kind: str) -> None:
    make = chat if kind == "chat" else message
    alone, _ = learned(kind, make(" world"))
    codec = codec_of(kind)
    for event in codec.feed(OPENING[kind]):
        codec.write(event)
    data = make("Hello") + b": a comment\n\n" + make(" world")
    events = codec.feed(data)
    for event in events:
        codec.write(event)
    form = learn(data, events[-1], codec)

    assert alone is not None
    assert form is not None
    assert (form._head, form._tail) == (alone._head, alone._tail)
    assert form.read(make("a") + make("b")) == ["a", "b"]
    assert learn(make("Hello") + b": a comment\n\n", events[-1], codec) is None


def slowly(codec: StreamCodec, data: bytes) -> tuple[list[str], bytes]:
    events = codec.feed(data)
    assert not any(event.error for event in events)
    texts = [piece.holder[piece.key] for event in events for piece in event.pieces]
    return texts, b"".join(codec.write(event) for event in events)


@pytest.mark.parametrize(
    ("kind", "data", "more"),
    [
        ("chat", chat("Hello"), {}),
        ("chat", chat("Hello", blank=" "), {}),
        ("chat", chat("Hello", usage=None), {}),
        ("chat", chat("Hello", usage=None), {"stream_options": {"include_usage": True}}),
        ("chat", chat('a "quoted" \\ text'), {}),
        ("chat", chat("Grüße, 世界"), {}),
        ("messages", message("Hello"), {}),
        ("messages", message('{"a": "b', "input_json_delta", "partial_json"), {}),
    ],
    ids=["chat", "blanks", "hidden-usage", "usage", "escapes", "unicode", "messages", "arguments"],
)
def test_what_is_learned(kind: str, data: bytes, more: dict[str, Any]) -> None:
    form, codec = learned(kind, data, **more)
    _, twin = learned(kind, data, **more)
    again = data * 3

    assert form is not None
    texts = form.read(again)
    assert texts is not None
    expected, written = slowly(twin, again)
    assert expected == texts
    assert written == form.write(again, texts, texts)
    assert not codec.finished


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("chat", chat("x", usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})),
        ("chat", chat("x").replace(b'"finish_reason":null', b'"finish_reason":"stop"')),
        ("chat", chat("x").replace(b'"logprobs":null', b'"logprobs":{"content":[{"token":"x"}]}')),
        ("chat", chat("x", content="x")),
        ("chat", chat("x", note="content")),
        ("chat", chat("x").replace(b'"content"', b'"c\\u006fntent"')),
        ("chat", chat("x", content="y").replace(b'"delta":{"content"', b'"delta":{"c\\u006fntent"')),
        ("chat", chat("x").replace(b'"content":"x"', b'"content":"x","refusal":"y"')),
        ("chat", chat("x").replace(b"\n\n", b"\r\n\r\n")),
        ("chat", chat("x").replace(b"data: ", b"data:")),
        ("messages", message("x", "thinking_delta", "thinking")),
    ],
)
def test_what_is_not(kind: str, data: bytes) -> None:
    codec = codec_of(kind)
    opening = (
        OPENING[kind].replace(b'"text","text"', b'"thinking","thinking"')
        if b"thinking" in data
        else OPENING[kind]
    )
    codec.feed(opening)
    [event] = codec.feed(data)
    codec.write(event)

    assert learn(data, event, codec) is None


def test_a_text_that_changed_keeps_the_events() -> None:
    form, _ = learned("chat", chat("Hello"))
    data = chat("my ") + chat("card") + chat(" 4111")
    assert form is not None
    texts = form.read(data)
    assert texts is not None
    for shown in (
        ["", "", ""],
        ["my ", "", "card"],
        ["my ", "card", " <A>"],
        ["held ", "my card", '"\\'],
        ["my "],
        [],
    ):
        got = [orjson.loads(line[6:]) for line in form.write(data, texts, shown).split(b"\n\n")[:-1]]

        assert shown == [tree["choices"][0]["delta"]["content"] for tree in got]


def test_lines_that_clients_would_cut_are_escaped() -> None:
    form, _ = learned("chat", chat("Hello"))
    data = chat("a\u2028b")
    assert form is not None

    assert b"\xe2\x80\xa8" in data
    assert b"a\\u2028b" in form.write(data, form.read(data) or [], ["a\u2028b"])


FORMS = {kind: learned(kind, make("Hello"))[0] for kind, make in (("chat", chat), ("messages", message))}
PARTS = st.lists(
    st.one_of(
        st.text(max_size=6).map(lambda text: orjson.dumps(text.encode("utf-8", "replace").decode())[1:-1]),
        st.sampled_from([b'"', b"\\", b'\\"', b'","', b"\n", b"\n\n", b"\\n", b"\x00", b"\xff", b"\\ud83d", b"}", b'"}',
                         b'","role":"tool', b'"},"delta":{"content":"', b"\r", b"\xe2\x80\xa8"]),
    ),
    max_size=4,
).map(b"".join)  # fmt: skip


@pytest.mark.parametrize("kind", ["chat", "messages"])
@given(insides=st.lists(PARTS, min_size=1, max_size=4), cut=st.integers(-3, 3))
def test_whatever_comes_it_reads_what_the_codec_reads(kind: str, insides: list[bytes], cut: int) -> None:
    make = chat if kind == "chat" else message
    whole = make("|").split(b"|")
    data = b"".join(whole[0] + inside + whole[1] for inside in insides)
    data = data[cut:] if cut > 0 else data[:cut] if cut < 0 else data
    form = FORMS[kind]
    assert form is not None
    texts = form.read(data)
    if texts is None:
        return
    _, twin = learned(kind, make("Hello"))
    expected, written = slowly(twin, data)

    assert [text for text in expected if text] == [text for text in texts if text]
    assert written == form.write(data, texts, texts)
