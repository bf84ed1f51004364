"""Anthropic's Messages dialect: streams, whole and broken."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.call import Call, Channel, Stop, Usage
from llmshield.dialects import StreamCodec, WireRequest
from llmshield.dialects._anthropic_sealed import EDITED
from llmshield.dialects.anthropic_messages import AnthropicMessages
from llmshield.errors import CallError
from llmshield.verdicts import Block

DIALECT = AnthropicMessages()
ID = "01J00000000000000000000000"


def read(body: dict[str, Any]) -> Call:
    return DIALECT.read_call(ID, "generate", WireRequest("POST", "/v1/messages", "beta=true"), body)


def minimal(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **fields}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events)


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


HEAD = {
    "type": "message_start",
    "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-z", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 25, "output_tokens": 1},
    },
}  # fmt: skip
TAIL = (
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 15},
    },
    {"type": "message_stop"},
)

RECORDED = Path(__file__).with_name("wire").joinpath("anthropic_stream.sse").read_bytes()


def opened() -> StreamCodec:
    return DIALECT.open_stream(read(minimal(stream=True)))


def accumulate(data: bytes) -> dict[str, Any]:
    """The message that a client makes of a stream."""
    result: dict[str, Any] = {}
    for block in data.decode().split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, payload = block.split("\ndata: ", 1)
        event = json.loads(payload)
        assert name == f"event: {event['type']}"
        kind = event["type"]
        if kind == "message_start":
            result = event["message"]
        elif kind == "content_block_start":
            assert event["index"] == len(result["content"])
            result["content"].append(event["content_block"])
        elif kind == "content_block_delta":
            content, change = result["content"][event["index"]], event["delta"]
            assert not content.get("closed")
            for key, target in (
                ("text", "text"),
                ("thinking", "thinking"),
                ("signature", "signature"),
                ("partial_json", "json"),
            ):
                if key in change:
                    content[target] = content.get(target, "") + change[key]
        elif kind == "content_block_stop":
            result["content"][event["index"]]["closed"] = True
        elif kind == "message_delta":
            result.update(event["delta"])
            result["usage"] = {**result["usage"], **event["usage"]}
        elif kind == "message_stop":
            result["stopped"] = True
    return result


def test_events_of_a_recorded_stream() -> None:
    codec = opened()
    seen = [
        (e.name, [(str(p.channel), p.holder[p.key]) for p in e.pieces], [str(c) for c in e.ends], e.output)
        for e in codec.feed(RECORDED)
    ]

    assert [entry for entry in seen if entry[1] or entry[2] or entry[3]] == [
        ("content_block_delta", [("reasoning[0.0]", "Let me ")], [], True),
        ("content_block_delta", [("reasoning[0.0]", "think…")], [], True),
        ("content_block_delta", [], ["reasoning[0.0]"], False),
        ("content_block_stop", [], ["reasoning[0.0]"], False),
        ("content_block_delta", [("content[0.1]", "Grüße \u2028 an ")], [], True),
        ("content_block_delta", [("other[0.1]", "q")], [], True),
        ("content_block_delta", [("content[0.1]", "alle 🎉")], [], True),
        ("content_block_stop", [], ["content[0.1]"], False),
        ("content_block_start", [("tool_name[0.2]", "web_search")], [], True),
        ("content_block_delta", [("tool_arguments[0.2]", '{"query": "n')], [], True),
        ("content_block_delta", [("tool_arguments[0.2]", 'ews"}')], [], True),
        ("content_block_stop", [], ["tool_arguments[0.2]"], False),
        ("content_block_start", [("other[0.3]", "wt"), ("other[0.3]", "http://wu")], [], True),
        ("content_block_start", [], [], True),
        ("content_block_start", [("tool_name[0.5]", "mail")], [], True),
        ("content_block_delta", [("tool_arguments[0.5]", "")], [], False),
        ("content_block_delta", [("tool_arguments[0.5]", '{"to":"b\\u00')], [], True),
        ("content_block_delta", [("tool_arguments[0.5]", 'e9","n":12')], [], True),
        ("content_block_delta", [("tool_arguments[0.5]", "34}")], [], True),
        ("content_block_stop", [], ["tool_arguments[0.5]"], False),
        ("brand_new_event", [("other[0.0]", "new text")], [], False),
    ]  # fmt: skip
    assert (codec.model, codec.finish, codec.ended, codec.finished) == ("claude-z", "stop", True, True)
    assert codec.usage == Usage(input=25, output=15)


def test_untouched_streams_keep_their_events(drive: Any) -> None:
    written = drive(opened(), [RECORDED])

    assert [json.loads(line[6:]) for line in written.decode().split("\n") if line.startswith("data: ")] == [
        json.loads(line[6:]) for line in RECORDED.decode().split("\n") if line.startswith("data: ")
    ]
    assert b"\xe2\x80\xa8" not in written


@given(cuts=st.lists(st.integers(0, len(RECORDED)), max_size=12), held=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_cut_gives_the_same_bytes(cuts: list[int], held: bool, drive: Any, hold: Any) -> None:
    edges = [0, *sorted(cuts), len(RECORDED)]
    chunks = [RECORDED[a:b] for a, b in itertools.pairwise(edges)]
    factory = (lambda channel: hold(lambda text: text)) if held else None

    assert drive(opened(), chunks, factory) == drive(opened(), [RECORDED], factory)


def test_byte_by_byte(drive: Any) -> None:
    assert drive(opened(), [RECORDED[i : i + 1] for i in range(len(RECORDED))]) == drive(opened(), [RECORDED])


def test_held_text_comes_before_the_end_of_its_block_and_keeps_the_signature(drive: Any, hold: Any) -> None:
    plain = accumulate(drive(opened(), [RECORDED]))
    held = accumulate(drive(opened(), [RECORDED], lambda channel: hold(lambda text: text)))

    assert held["content"][0] == plain["content"][0]
    assert held["content"][0]["signature"] == "EqQBCgIYAhIM"
    assert held["content"][1]["text"] == "Grüße \u2028 an alle 🎉"
    for one in (plain, held):
        for block in one["content"]:
            if "json" in block:
                block["json"] = json.loads(block["json"])
    assert held == plain


def test_edited_thinking_never_travels_with_a_valid_signature(drive: Any, hold: Any) -> None:
    edited = accumulate(drive(opened(), [RECORDED], lambda channel: hold(str.upper)))

    assert edited["content"][0]["thinking"] == "LET ME THINK…"
    assert edited["content"][0]["signature"] == EDITED
    assert edited["content"][1]["text"] == "GRÜSSE \u2028 AN ALLE 🎉"


def said(data: bytes, kind: str, field: str) -> dict[int, str]:
    """What the deltas of one type say, block by block."""
    found: dict[int, str] = {}
    for event in (json.loads(block.partition("\ndata: ")[2]) for block in data.decode().split("\n\n")[:-1]):
        if event.get("delta", {}).get("type") == kind:
            found[event["index"]] = found.get(event["index"], "") + event["delta"].get(field, "")
    return found


def replaces(replacing: Any) -> Callable[[Channel], Any]:
    return lambda channel: replacing("secret", "X")[0].factory(channel)


@pytest.mark.parametrize("at_once", [True, False])
def test_deltas_that_nobody_knows_are_channels_by_block_type_and_field(
    at_once: bool, replacing: Any, drive: Any
) -> None:
    data = sse(
        HEAD,
        start(0, type="new"), start(1, type="new"),
        delta(0, "new_delta", text="a sec", note="sec", stop_reason="enum"),
        delta(1, "new_delta", text="ret"),
        delta(0, "old_delta", text="ret"),
        delta(0, "new_delta", text="ret se", more={"deep": "secret"}),
        stop(0), stop(1), *TAIL,
    )  # fmt: skip
    parts = [data] if at_once else [data[i : i + 9] for i in range(0, len(data), 9)]
    out = drive(opened(), parts, replaces(replacing))

    assert said(out, "new_delta", "text") == {0: "a X se", 1: "ret"}
    assert said(out, "new_delta", "note") == {0: "sec", 1: ""}
    assert said(out, "old_delta", "text") == {0: "ret"}
    assert b'"more":{"deep":"X"}' in out
    assert drive(opened(), parts) == data


@pytest.mark.parametrize(
    ("parts", "shown", "seals"),
    [
        (["a summary"], "a summary", ["e"]),
        (["a secret"], "a X", [None]),
        (["a sec", "ret"], "a seca X", ["e", None]),
        (["a secret, ", "a secret"], "a X, a X", [None, None]),
    ],
)
def test_a_compaction_is_judged_with_what_came_before_it(
    parts: list[str], shown: str, seals: list[str | None], replacing: Any, drive: Any
) -> None:
    deltas = [delta(0, "compaction_delta", content=part, encrypted_content="e") for part in parts]
    data = sse(HEAD, start(0, type="compaction", content=None), *deltas, stop(0), *TAIL)
    out = drive(opened(), [data], replaces(replacing))

    assert said(out, "compaction_delta", "content") == {0: shown}
    assert out.count(b"compaction_delta") == len(parts)
    found = [json.loads(block.partition("\ndata: ")[2]) for block in out.decode().split("\n\n")[:-1]]
    assert [
        event["delta"]["encrypted_content"] for event in found if event["type"] == "content_block_delta"
    ] == seals


def test_a_compaction_in_very_many_parts_breaks_the_stream() -> None:
    deltas = [delta(0, "compaction_delta", content=f"{number}") for number in range(100)]
    *_, last = opened().feed(sse(HEAD, start(0, type="compaction", content=None), *deltas))

    assert last.error is not None
    assert last.error.reason == "malformed"


@pytest.mark.parametrize("streams", [True, False])
def test_names_in_the_input_of_a_tool_are_filtered(
    streams: bool, filtered: Any, replacing: Any, drive: Any
) -> None:
    given = {"secret": {"my secret": ["secret"], "to": 1}}
    if streams:
        written = json.dumps(given)
        deltas = [delta(0, "input_json_delta", partial_json=char) for char in written]
        data = sse(HEAD, start(0, type="tool_use", id="t", name="f", input={}), *deltas, stop(0), *TAIL)
        found = json.loads(
            said(drive(opened(), [data], replaces(replacing)), "input_json_delta", "partial_json")[0]
        )
    else:
        reply = DIALECT.read_reply(
            read(minimal()), {"content": [{"type": "tool_use", "id": "t", "name": "f", "input": given}]}
        )
        found = filtered(reply, replacing("secret", "X"))["content"][0]["input"]

    assert found == {"X": {"my X": ["X"], "to": 1}}


def test_a_signature_in_the_start_event_is_checked_as_well(drive: Any, hold: Any) -> None:
    data = sse(HEAD, start(0, type="thinking", thinking="ab", signature="c2ln"), stop(0), *TAIL)

    assert accumulate(drive(opened(), [data]))["content"][0]["signature"] == "c2ln"
    assert (
        accumulate(drive(opened(), [data], lambda channel: hold(str.upper)))["content"][0]["signature"]
        == EDITED
    )


@pytest.mark.parametrize("cut", [3, 5, 9, 14, 20])
def test_stop_closes_what_stands_open(cut: int) -> None:
    codec = opened()
    chunk = b"\n\n".join(RECORDED.split(b"\n\n")[:cut]) + b"\n\n"
    out = b"".join(codec.write(event) for event in codec.feed(chunk))
    result = accumulate(out + codec.stop(CallError("blocked", "no")))

    assert (result["stop_reason"], result["stopped"]) == ("refusal", True)
    assert all(block["closed"] for block in result["content"])
    assert result["usage"]["input_tokens"] == 25
    for block in result["content"]:
        if block["type"] == "thinking":
            assert block["signature"] in ("EqQBCgIYAhIM", EDITED)
    assert codec.feed(RECORDED) == []
    assert codec.finalise() == b""


def test_stop_before_anything_was_written() -> None:
    result = accumulate(opened().stop(CallError("blocked", "no")))

    assert (result["stop_reason"], result["stopped"], result["content"]) == ("refusal", True, [])


def test_text_that_a_guard_lets_go_with_its_stop() -> None:
    codec = opened()
    for event in codec.feed(sse(HEAD, start(0, type="text", text=""), delta(0, "text_delta", text="x"))):
        codec.write(event)

    assert b'"text":"rest"' in codec.late(None, Channel("content", 0, 0), "rest")
    assert codec.late(None, Channel("content", 0, 7), "rest") == b""
    assert codec.late(None, Channel("tool_arguments", 0, 0, ("a",)), "rest") == b""
    assert codec.late(None, Channel("other", 0, 0), "rest") == b""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"event: message_start\ndata: {\n\n", "malformed"),
        (b"event: message_start\ndata: 7\n\n", "malformed"),
        (sse({"type": "message_start"}), "malformed"),
        (sse(HEAD, HEAD), "malformed"),
        (sse(HEAD, delta(0, "text_delta", text="x")), "malformed"),
        (sse(HEAD, stop(0)), "malformed"),
        (sse(HEAD, start(0, type="text", text=""), start(0, type="text", text="")), "malformed"),
        (sse(HEAD, start(0, type="text", text=""), delta(0, "text_delta", text=7)), "malformed"),
        (sse(HEAD, start(0, type="text", text=""), delta(0, "text_delta")), "malformed"),
        (sse(HEAD, {"type": "content_block_start", "index": "0", "content_block": {}}), "malformed"),
        (sse(HEAD, {"type": "content_block_delta", "index": [], "delta": {}}), "malformed"),
        (sse(HEAD, start(0, type="thinking", thinking=""), delta(0, "signature_delta", signature="s"), delta(0, "thinking_delta", thinking="x")), "malformed"),
        (sse(HEAD, {"type": "message_delta", "delta": 7}), "malformed"),
        (b"event: \xff\ndata: {}\n\n", "malformed"),
        (sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}), "error_in_stream"),
        (b'data: {"error": {"message": "x"}}\n\n', "error_in_stream"),
    ],
)  # fmt: skip
def test_broken_streams_end_with_one_error(data: bytes, reason: str) -> None:
    codec = opened()
    *_, last = codec.feed(data)

    assert last.error is not None
    assert last.error.reason == reason
    assert codec.feed(RECORDED) == []
    assert not codec.ended


@pytest.mark.parametrize("levels", [100, 300, 900])
def test_replies_that_are_nested_very_deeply(levels: int) -> None:
    deep = json.loads('{"x":' * levels + "1" + "}" * levels)
    begin = json.dumps(start(0, type="tool_use", id="i", name="f", input=deep)).encode()
    events = opened().feed(sse(HEAD) + b"data: %b\n\n" % begin)
    whole = DIALECT.read_reply(
        read(minimal()), {"content": [{"type": "tool_use", "name": "f", "input": deep}]}
    )

    failed = DIALECT.read_reply(read(minimal()), {"error": {"message": deep}}).error
    assert failed is not None
    assert failed.reason == ("error_in_stream" if levels == 100 else "malformed")
    for error in (events[-1].error, whole.error):
        assert (error is None) is (levels == 100)
        assert error is None or error.reason == "malformed"


def test_an_error_event_has_the_status_it_stands_for() -> None:
    (event,) = opened().feed(
        sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    )

    assert event.error is not None
    assert (event.error.status, event.error.code) == (529, "overloaded_error")


@pytest.mark.parametrize(
    ("events", "finished", "ended"),
    [
        ((HEAD,), False, False),
        ((HEAD, start(0, type="text", text=""), delta(0, "text_delta", text="x"), stop(0)), False, False),
        ((HEAD, {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 1}}), False, False),
        ((HEAD, TAIL[0]), True, False),
        ((HEAD, TAIL[1]), True, True),
        ((HEAD, *TAIL), True, True),
    ],
)  # fmt: skip
def test_when_a_stream_is_complete(events: tuple[dict[str, Any], ...], finished: bool, ended: bool) -> None:
    codec = opened()
    codec.feed(sse(*events))
    codec.close()

    assert (codec.finished, codec.ended) == (finished, ended)


def test_finalise_writes_what_the_provider_left_out(drive: Any, hold: Any) -> None:
    data = sse(HEAD, start(0, type="text", text=""), delta(0, "text_delta", text="abc"), TAIL[0])
    result = accumulate(drive(opened(), [data], lambda channel: hold(str.upper)))

    assert result["content"][0]["text"] == "ABC"
    assert (result["content"][0]["closed"], result["stopped"], result["stop_reason"]) == (
        True,
        True,
        "end_turn",
    )


def test_blocks_whose_stop_is_missing_are_closed_before_the_end(drive: Any, hold: Any) -> None:
    data = sse(HEAD, start(0, type="text", text=""), delta(0, "text_delta", text="abc"), TAIL[1])
    result = accumulate(drive(opened(), [data], lambda channel: hold(str.upper)))

    assert (result["content"][0]["text"], result["content"][0]["closed"], result["stopped"]) == (
        "ABC",
        True,
        True,
    )


def test_a_filter_stops_the_stream_mid_way(drive: Any) -> None:
    class Stopper:
        def feed(self, text: str) -> str | Stop:
            return Stop(Block("no"), "") if "an" in text else text

        def flush(self) -> str:
            return ""

    with pytest.raises(Exception, match="no"):
        drive(opened(), [RECORDED], lambda channel: Stopper() if channel.kind == "content" else None)
