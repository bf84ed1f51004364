"""Google's Gemini dialect: streams of both kinds, server-sent events and arrays of JSON."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.call import Call, Usage
from llmshield.dialects import StreamCodec, WireRequest
from llmshield.dialects.gemini import Gemini
from llmshield.errors import CallError

DIALECT = Gemini()
ID = "01J00000000000000000000000"
PATH = "/v1beta/models/gemini-x:generateContent"
STREAM = "/v1beta/models/gemini-x:streamGenerateContent"


def read(body: dict[str, Any], path: str = PATH, query: str = "") -> Call:
    operation = DIALECT.claims("POST", path, {})
    assert operation is not None
    return DIALECT.read_call(ID, operation, WireRequest("POST", path, query), body)


def minimal(**fields: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], **fields}


def chunk(*parts: Any, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    one: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": index}
    if finish:
        one["finishReason"] = finish
    return {"candidates": [one], "modelVersion": "gemini-z", **fields}


CHUNKS: list[Any] = orjson.loads(Path(__file__).with_name("wire").joinpath("gemini_chunks.json").read_bytes())
SSE = b"".join(b"data: %b\r\n\r\n" % orjson.dumps(one) for one in CHUNKS)
ARRAY = b"[" + b",\r\n".join(orjson.dumps(one, option=orjson.OPT_INDENT_2) for one in CHUNKS) + b"\n]\n"
RECORDED = {"alt=sse": SSE, "": ARRAY}
QUERIES = list(RECORDED)


def sse(chunks: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % orjson.dumps(one) for one in chunks)


def opened(query: str = "alt=sse", **fields: Any) -> StreamCodec:
    return DIALECT.open_stream(read(minimal(**fields), STREAM, query))


def trees(data: bytes) -> list[dict[str, Any]]:
    """The chunks that a client reads."""
    if data.startswith(b"["):
        return list(json.loads(data))
    return [json.loads(line[6:]) for line in data.decode().splitlines() if line]


def spoken(chunks: list[dict[str, Any]], choice: int = 0, *, thought: bool = False) -> str:
    return "".join(
        part["text"]
        for one in chunks
        for each in one.get("candidates", ())
        if each.get("index", 0) == choice
        for part in (each.get("content") or {}).get("parts", ())
        if "text" in part and bool(part.get("thought")) is thought
    )


def test_chunks_of_an_array_that_was_read_whole() -> None:
    chunks = copy.deepcopy(CHUNKS)
    result = DIALECT.read_reply(read(minimal(), STREAM), chunks)

    assert [(str(p.channel), p.holder[p.key]) for p in result.pieces[:3]] == [
        ("reasoning[0.0]", "Let me think…"),
        ("content[0.0]", spoken(CHUNKS)),
        ("content[1.0]", "zweite"),
    ]
    assert (result.finish, result.model, result.error) == ("tool_calls", "gemini-z", None)
    assert result.usage == Usage(input=9, output=17, reasoning=5)

    result.pieces[1].holder["text"] = "<X>"
    assert spoken(chunks) == "<X>"

    error = DIALECT.read_reply(read(minimal(), STREAM), chunks[:-1]).error
    assert error is not None
    assert error.reason == "truncated"


def test_events_of_a_recorded_stream() -> None:
    codec = opened()
    seen = [
        ([(str(p.channel), p.holder[p.key]) for p in e.pieces], [str(c) for c in e.ends], e.output)
        for e in codec.feed(SSE)
    ]

    assert seen == [
        ([("reasoning[0.0]", "Let me ")], [], True),
        ([("reasoning[0.0]", "think…")], [], True),
        ([("content[0.0]", "Grüße \u2028 an ")], ["reasoning[0.0]"], True),
        ([("content[1.0]", "zweite")], [], True),
        ([("content[0.0]", 'alle 🎉 \\" {[]}')], [], True),
        ([("other[0.0]", "print(1)")], [], True),
        (
            [
                ("tool_name[0.0]", "mail"),
                ("tool_arguments[0.0]/to", "bé"),
                ("tool_arguments[0.0]/n", 1234),
                ("tool_arguments[0.0]/*", "to"),
                ("tool_arguments[0.0]/*", "n"),
            ],
            [],
            True,
        ),
        ([], ["content[1.0]"], False),
        ([("content[0.0]", ".")], ["content[0.0]"], True),
    ]
    assert (codec.model, codec.finish, codec.ended, codec.finished) == ("gemini-z", "tool_calls", False, True)
    assert codec.usage == Usage(input=9, output=17, reasoning=5)


@pytest.mark.parametrize("query", QUERIES, ids=["sse", "array"])
def test_untouched_streams_keep_their_chunks(query: str, drive: Any) -> None:
    codec = opened(query)
    written = drive(codec, [RECORDED[query]])

    assert trees(written) == CHUNKS
    assert b"\xe2\x80\xa8" not in written
    assert codec.ended is (query == "")


@pytest.mark.parametrize("query", QUERIES, ids=["sse", "array"])
@given(data=st.data(), held=st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_cut_gives_the_same_bytes(
    query: str, data: st.DataObject, held: bool, drive: Any, hold: Any
) -> None:
    recorded = RECORDED[query]
    cuts = data.draw(st.lists(st.integers(0, len(recorded)), max_size=12))
    parts = [recorded[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(recorded)])]
    factory = (lambda channel: hold(lambda text: text)) if held else None

    assert drive(opened(query), parts, factory) == drive(opened(query), [recorded], factory)


@pytest.mark.parametrize("query", QUERIES, ids=["sse", "array"])
def test_byte_by_byte(query: str, drive: Any) -> None:
    recorded = RECORDED[query]

    assert drive(opened(query), [recorded[i : i + 1] for i in range(len(recorded))]) == drive(
        opened(query), [recorded]
    )


@pytest.mark.parametrize("query", QUERIES, ids=["sse", "array"])
def test_held_text_goes_into_the_chunk_that_ends_its_candidate(query: str, drive: Any, hold: Any) -> None:
    held = trees(drive(opened(query), [RECORDED[query]], lambda channel: hold(str.upper)))

    assert len(held) == len(CHUNKS)
    assert spoken(held) == 'GRÜSSE \u2028 AN ALLE 🎉 \\" {[]}.'
    assert spoken(held, 1) == "ZWEITE"
    assert spoken(held[:3], thought=True) == "LET ME THINK…"
    assert held[6]["candidates"][0]["content"]["parts"] == [
        {"functionCall": {"name": "MAIL", "args": {"TO": "BÉ", "N": 1234}}, "thoughtSignature": "c2ln"}
    ]


def test_text_of_a_candidate_that_never_ends_stands_before_the_end_of_the_array(
    drive: Any, hold: Any
) -> None:
    out = drive(opened(""), [b"[%b]" % orjson.dumps(chunk({"text": "abc"}))], lambda channel: hold(str.upper))

    assert spoken(trees(out)) == "ABC"


def test_text_of_a_candidate_that_never_ends_is_not_lost(drive: Any, hold: Any) -> None:
    out = trees(
        drive(
            opened(),
            [sse([chunk({"text": "abc"})])],
            lambda channel: hold(str.upper),
        )
    )

    assert spoken(out) == "ABC"


def test_arguments_that_come_in_pieces(drive: Any, hold: Any) -> None:
    def call(**fields: Any) -> dict[str, Any]:
        return chunk({"functionCall": fields})

    def piece(path: str, text: str, more: bool) -> dict[str, Any]:
        return {"jsonPath": path, "stringValue": text, **({"willContinue": True} if more else {})}

    data = sse(
        (
            call(name="mail", willContinue=True),
            call(partialArgs=[piece("$.to", "bob@", True)], willContinue=True),
            call(partialArgs=[piece("$.to", "example.org", False)], willContinue=True),
            call(partialArgs=[piece("$.cc", "eve", True)], willContinue=True),
            call(),
            chunk(finish="STOP"),
        )
    )
    codec = opened()
    seen = [
        ([(str(p.channel), p.holder[p.key]) for p in e.pieces], [str(c) for c in e.ends])
        for e in codec.feed(data)
    ]
    assert seen == [
        ([("tool_name[0.0]", "mail")], []),
        ([("tool_arguments[0.0]/*", "$.to"), ("tool_arguments[0.0]/$.to", "bob@")], []),
        (
            [("tool_arguments[0.0]/*", "$.to"), ("tool_arguments[0.0]/$.to", "example.org")],
            ["tool_arguments[0.0]/$.to"],
        ),
        ([("tool_arguments[0.0]/*", "$.cc"), ("tool_arguments[0.0]/$.cc", "eve")], []),
        ([], ["tool_arguments[0.0]/$.cc"]),
        ([], []),
    ]

    arguments: dict[str, str] = {}
    for one in trees(drive(opened(), [data], lambda channel: hold(str.upper))):
        for part in one["candidates"][0]["content"]["parts"]:
            for each in part["functionCall"].get("partialArgs", ()):
                arguments[each["jsonPath"]] = arguments.get(each["jsonPath"], "") + each["stringValue"]
    assert arguments == {"$.TO": "BOB@EXAMPLE.ORG", "$.CC": "EVE"}


@pytest.mark.parametrize("streams", [True, False])
def test_thoughts_with_an_answer_between_them_stand_apart_in_every_form(
    streams: bool, filtered: Any, replacing: Any, drive: Any
) -> None:
    """The first has to be shown before the answer: a value over that border is seen in neither form."""
    parts = [
        {"text": "a sec", "thought": True}, {"text": "ret, a sec", "thought": True}, {"text": "x sec"},
        {"text": "ret", "thought": True}, {"text": "ret"},
    ]  # fmt: skip
    if streams:
        data = sse(chunk(part, finish="STOP" if part is parts[-1] else None) for part in parts)
        chunks = trees(drive(opened(), [data], lambda channel: replacing("secret", "X")[0].factory(channel)))
    else:
        chunks = [
            filtered(
                DIALECT.read_reply(read(minimal()), chunk(*parts, finish="STOP")), replacing("secret", "X")
            )
        ]

    assert spoken(chunks) == "x X"
    assert spoken(chunks, thought=True) == "a X, a secret"


@pytest.mark.parametrize("streams", [True, False])
def test_names_in_the_arguments_of_a_call_are_filtered(
    streams: bool, filtered: Any, replacing: Any, drive: Any
) -> None:
    parts = [{"functionCall": {"name": "f", "args": {"secret": {"my secret": ["secret"], "to": 1}}}}]
    if streams:
        data = sse([chunk(*parts, finish="STOP")])
        (tree,) = trees(drive(opened(), [data], lambda channel: replacing("secret", "X")[0].factory(channel)))
    else:
        tree = filtered(
            DIALECT.read_reply(read(minimal()), chunk(*parts, finish="STOP")), replacing("secret", "X")
        )

    (part,) = tree["candidates"][0]["content"]["parts"]
    assert part["functionCall"]["args"] == {"X": {"my X": ["X"], "to": 1}}


def spelled(texts: list[str]) -> bytes:
    """Chunks with log-probabilities and grounding segments that spell each text again."""
    out = []
    for number, text in enumerate(texts):
        one = chunk({"text": text}, finish="STOP" if number == len(texts) - 1 else None)
        one["candidates"][0]["logprobsResult"] = {
            "chosenCandidates": [{"token": text}],
            "logProbabilitySum": number,
        }
        one["candidates"][0]["groundingMetadata"] = {
            "groundingSupports": [{"segment": {"text": text}}],
            "webSearchQueries": ["q"],
        }
        out.append(one)
    return sse(out)


def repeated(chunks: list[dict[str, Any]]) -> list[str]:
    """What the log-probabilities and the grounding segments of these chunks spell."""
    found: list[str] = []
    for one in chunks:
        grounding = one["candidates"][0].get("groundingMetadata") or {}
        found += [
            each["token"]
            for each in (one["candidates"][0].get("logprobsResult") or {}).get("chosenCandidates", ())
        ]
        found += [each["segment"]["text"] for each in grounding.get("groundingSupports") or ()]
    return found


LOGPROBS: dict[str, Any] = {"generationConfig": {"responseLogprobs": True}}


@pytest.mark.parametrize("at_once", [True, False])
def test_what_spells_the_text_again_follows_the_text(at_once: bool, drive: Any, hold: Any) -> None:
    data = spelled(["abc", "def", "ghi"])
    parts = [data] if at_once else [data[i : i + 7] for i in range(0, len(data), 7)]

    assert trees(drive(opened(**LOGPROBS), parts)) == trees(data)

    held = trees(
        drive(opened(**LOGPROBS), parts, lambda channel: hold(str) if channel.kind == "content" else None)
    )
    assert spoken(held) == "abcdefghi"
    assert repeated(held[:2]) == []
    assert repeated(held) == ["abc", "def", "ghi", "abc", "def", "ghi"]

    changed = trees(
        drive(
            opened(**LOGPROBS), parts, lambda channel: hold(str.upper) if channel.kind == "content" else None
        )
    )
    assert spoken(changed) == "ABCDEFGHI"
    assert repeated(changed) == []
    assert changed[2]["candidates"][0]["groundingMetadata"] == {"webSearchQueries": ["q"]}


@pytest.mark.parametrize("query", QUERIES, ids=["sse", "array"])
def test_stop_ends_every_open_candidate(query: str) -> None:
    codec = opened(query)
    begin = CHUNKS[:5]
    data = sse(begin) if query else b"[" + b",".join(map(orjson.dumps, begin))
    out = b"".join(codec.write(event) for event in codec.feed(data))
    *_, last = trees(out + codec.stop(CallError("blocked", "no")))

    assert last["candidates"] == [
        {"finishReason": "PROHIBITED_CONTENT", "finishMessage": "no", "index": index} for index in (0, 1)
    ]
    assert last["usageMetadata"]["promptTokenCount"] == 9
    assert codec.feed(RECORDED[query]) == []
    assert codec.finalise() == b""


@pytest.mark.parametrize(
    ("code", "reason"), [("SPII", "SPII"), ("x", "PROHIBITED_CONTENT"), (None, "PROHIBITED_CONTENT")]
)
def test_stop_reason(code: str | None, reason: str) -> None:
    (last,) = trees(opened().stop(CallError("blocked", "no", code=code)))

    assert last["candidates"][0]["finishReason"] == reason


@pytest.mark.parametrize("query", QUERIES, ids=["sse", "array"])
def test_abort(query: str) -> None:
    codec = opened(query)
    out = b"".join(codec.write(event) for event in codec.feed(RECORDED[query][:-2] if query else ARRAY[:-3]))
    last = trees(out + codec.abort(CallError("upstream_error", "broke"), ID))[-1]

    assert last["error"]["code"] == 502
    assert codec.finalise() == b""


@pytest.mark.parametrize(
    ("chunks", "finished"),
    [
        ([], False),
        ([chunk({"text": "a"})], False),
        ([chunk({"text": "a"}, finish="STOP")], True),
        ([chunk({"text": "a"}, finish="STOP"), chunk({"text": "b"}, index=1)], False),
        (
            [
                chunk({"text": "a"}, finish="STOP"),
                chunk({"text": "b"}, index=1),
                chunk(finish="STOP", index=1),
            ],
            True,
        ),
        ([chunk({"text": "b"}, index=1), chunk({"text": "a"}, finish="STOP")], False),
        ([{"promptFeedback": {"blockReason": "SAFETY"}}], True),
        ([{"promptFeedback": {}}], False),
        ([{"usageMetadata": {"promptTokenCount": 1}}], False),
        ([chunk({"text": "a"}, finish="FINISH_REASON_UNSPECIFIED")], False),
    ],
)
@pytest.mark.parametrize("query", QUERIES, ids=["sse", "array"])
def test_when_a_stream_is_complete(chunks: list[dict[str, Any]], finished: bool, query: str) -> None:
    codec = opened(query)
    if query:
        codec.feed(sse(chunks))
    else:
        codec.feed(b"[" + b",".join(map(orjson.dumps, chunks)) + b"]")
    codec.close()

    assert codec.finished is finished
    assert codec.ended is (finished and not query)


def test_an_array_without_its_end_is_finalised_when_its_candidates_are_complete(drive: Any) -> None:
    codec = opened("")

    assert trees(drive(codec, [ARRAY.rstrip()[:-1]])) == CHUNKS


@pytest.mark.parametrize("levels", [100, 300, 900])
def test_replies_that_are_nested_very_deeply(levels: int) -> None:
    deep = json.loads('{"x":' * levels + "1" + "}" * levels)
    one = chunk({"functionCall": {"name": "f", "args": deep}}, finish="STOP")
    (event,) = opened().feed(b"data: %b\n\n" % json.dumps(one).encode())
    whole = DIALECT.read_reply(read(minimal()), one)

    for error in (event.error, whole.error):
        assert (error is None) is (levels == 100)
        assert error is None or error.reason == "malformed"
