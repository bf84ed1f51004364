"""Streams of the OpenAI dialects with secrets cut at random places: nothing leaks, nothing is lost.

The oracle is the mask of the whole text. 1,500 streams in the suite; LLMSHIELD_STREAMS sets another number.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest

from llmshield.call import AttachedFilter, Stop
from llmshield.channels import Channels
from llmshield.dialects import Dialect, WireRequest
from llmshield.dialects._sse import write_event
from llmshield.dialects.openai_chat import OpenAIChat
from llmshield.dialects.openai_completions import OpenAICompletions
from llmshield.dialects.openai_responses import OpenAIResponses

STREAMS = int(os.environ.get("LLMSHIELD_STREAMS", "1500"))
SECRET = "ann@mail.example"
MASK = "<EMAIL_1>"
WORDS = [
    SECRET,
    "ann@mail.exam",
    "ann",
    "@",
    "é",
    "😀",
    "\u2028",
    " ",
    "\n",
    '"',
    "\\",
    "{",
    "}",
    "a",
    "ple",
    "<EMAIL_1>",
]


class Masks:
    """Puts the mask for the secret and holds back what may become it."""

    def __init__(self) -> None:
        self.kept = ""

    def feed(self, text: str) -> str | Stop:
        self.kept = (self.kept + text).replace(SECRET, MASK)
        hold = next(n for n in range(len(SECRET), -1, -1) if self.kept.endswith(SECRET[:n]))
        out, self.kept = self.kept[: len(self.kept) - hold], self.kept[len(self.kept) - hold :]
        return out

    def flush(self) -> str | Stop:
        kept, self.kept = self.kept, ""
        return kept


FILTERS = [AttachedFilter("p", lambda channel: Masks(), "guard", 64, True, False)]


def relay(dialect: Dialect, body: dict[str, Any], raw: bytes, dice: random.Random) -> bytes:
    """The engine's loop over chunks of random sizes."""
    call = dialect.read_call("1", "generate", WireRequest("POST", "/"), body)
    codec = dialect.open_stream(call)
    channels = Channels(FILTERS, lambda attached, what: None)
    out = b""

    def through(piece: Any, way: Any) -> None:
        text = piece.holder[piece.key]
        changed = way(piece.channel, text)
        if changed != text:
            piece.holder[piece.key] = changed
            for holder, key in piece.shadows:
                holder[key] = None

    while raw:
        size = dice.choice([1, 7, 50, 400, 5000])
        chunk, raw = raw[:size], raw[size:]
        for event in codec.feed(chunk):
            assert event.error is None
            for piece in event.pieces:
                if not piece.repeats:
                    through(piece, channels.whole if piece.whole else channels.feed)
            for channel in event.ends:
                rest = channels.flush(channel)
                out += codec.late(event, channel, rest) if rest else b""
            for piece in event.pieces:
                if piece.repeats:
                    through(piece, channels.repeat)
            out += b"" if event.hidden else codec.write(event)
    assert codec.ended
    assert channels.flush_all() == []
    return out


def said(dice: random.Random) -> str:
    return "".join(dice.choice(WORDS) for _ in range(dice.randrange(1, 12)))


def spelled(dice: random.Random, value: Any) -> str:
    """JSON of a value, with escapes where nobody needs them."""
    text = json.dumps(value, ensure_ascii=dice.random() < 0.5, indent=dice.choice([None, 1]))
    if dice.random() < 0.5:
        text = text.replace("ann", "\\u0061n\\u006e").replace("@", "\\u0040")
    return text


def parts(dice: random.Random, text: str) -> list[str]:
    out = []
    while text:
        size = dice.randrange(1, 9)
        out.append(text[:size])
        text = text[size:]
    return out


def masked(value: Any) -> Any:
    return json.loads(json.dumps(value, ensure_ascii=False).replace(SECRET, MASK))


def mixed(dice: random.Random, streams: list[list[Any]]) -> list[Any]:
    """The events of several texts in random order, each text's own order kept."""
    out = []
    while any(streams):
        out.append(dice.choice([one for one in streams if one]).pop(0))
    return out


def trees(raw: bytes) -> list[Any]:
    return [
        json.loads(block.rpartition(b"data: ")[2])
        for block in raw.split(b"\n\n")[:-1]
        if b"[DONE]" not in block
    ]


@pytest.mark.parametrize("part", range(5))
def test_chat(part):
    for seed in range(part * STREAMS // 5, (part + 1) * STREAMS // 5):
        dice = random.Random(seed)
        texts = [said(dice) for _ in range(dice.randrange(1, 4))]
        arguments = {"to": said(dice), said(dice): [said(dice), 12]}
        streams = [
            [{"index": n, "delta": {"content": p}, "finish_reason": None} for p in parts(dice, text)]
            for n, text in enumerate(texts)
        ]
        calls = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]
        calls += [{"index": 0, "function": {"arguments": p}} for p in parts(dice, spelled(dice, arguments))]
        streams.append(
            [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None} for call in calls]
        )
        choices = mixed(dice, streams)
        choices += [{"index": n, "delta": {}, "finish_reason": "stop"} for n in range(len(texts))]
        raw = (
            b"".join(write_event({"id": "x", "choices": [choice]}) for choice in choices)
            + b"data: [DONE]\n\n"
        )
        body = {"model": "m", "messages": [], "stream": True, "n": len(texts)}
        out = relay(OpenAIChat(), body, raw, dice)
        got, built = [""] * len(texts), ""
        for tree in trees(out):
            for choice in tree["choices"]:
                got[choice["index"]] += choice["delta"].get("content", "")
                for call in choice["delta"].get("tool_calls", ()):
                    built += call["function"]["arguments"]

        assert got == [text.replace(SECRET, MASK) for text in texts], seed
        assert json.loads(built) == masked(arguments), seed
        assert SECRET.encode() not in out
        assert out.count(b"\n\n") == raw.count(b"\n\n"), "events are neither lost nor added"


@pytest.mark.parametrize("part", range(5))
def test_completions(part):
    for seed in range(part * STREAMS // 5, (part + 1) * STREAMS // 5):
        dice = random.Random(seed)
        text = said(dice)
        pieces = [*parts(dice, text), ""]
        raw = b"".join(
            write_event({"choices": [{"index": 0, "text": p, "finish_reason": None if p else "stop"}]})
            for p in pieces
        )
        out = relay(
            OpenAICompletions(),
            {"model": "m", "prompt": "x", "stream": True},
            raw + b"data: [DONE]\n\n",
            dice,
        )

        assert "".join(tree["choices"][0]["text"] for tree in trees(out)) == text.replace(SECRET, MASK), seed
        assert out.count(b"\n\n") == len(pieces) + 1


@pytest.mark.parametrize("part", range(5))
def test_responses(part):
    for seed in range(part * STREAMS // 5, (part + 1) * STREAMS // 5):
        dice = random.Random(seed)
        text, thought = said(dice), said(dice)
        arguments = spelled(dice, {"to": said(dice), said(dice): said(dice)})
        plan = [
            ("reasoning_summary_text", {"output_index": 0, "summary_index": 0}, "text", thought),
            ("output_text", {"output_index": 1, "content_index": 0}, "text", text),
            ("function_call_arguments", {"output_index": 2}, "arguments", arguments),
        ]
        streams = [
            [{"type": f"response.{kind}.delta", **place, "delta": p} for p in parts(dice, value)]
            + [{"type": f"response.{kind}.done", **place, field: value}]
            for kind, place, field, value in plan
        ]
        output = [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": thought}]},
            {"type": "message", "content": [{"type": "output_text", "text": text}]},
            {"type": "function_call", "name": "f", "arguments": arguments},
        ]
        events = [
            *mixed(dice, streams),
            {"type": "response.completed", "response": {"status": "completed", "output": output}},
        ]
        raw = b"".join(
            write_event({**tree, "sequence_number": number}, tree["type"])
            for number, tree in enumerate(events)
        )
        out = relay(OpenAIResponses(), {"model": "m", "input": "x", "stream": True}, raw, dice)
        got = trees(out)
        last = got[-1]["response"]["output"]
        for (kind, _, field, value), final in zip(
            plan,
            (last[0]["summary"][0]["text"], last[1]["content"][0]["text"], last[2]["arguments"]),
            strict=True,
        ):
            joined = "".join(tree["delta"] for tree in got if tree["type"] == f"response.{kind}.delta")
            done = next(tree[field] for tree in got if tree["type"] == f"response.{kind}.done")

            assert joined == done == final, seed
            if field == "arguments":
                assert json.loads(joined) == masked(json.loads(value)), seed
            else:
                assert joined == value.replace(SECRET, MASK), seed
        assert SECRET.encode() not in out
        assert [tree["sequence_number"] for tree in got] == list(range(len(got)))
