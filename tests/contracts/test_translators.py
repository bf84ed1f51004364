"""What every translator keeps, whichever it is: a new file in the room is tested here the day it appears.

Neutral shapes that a dialect can hold come back from it as they went in: as a request, as a whole reply, as a stream
cut anywhere. What it can't hold is named, never dropped in silence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmshield.call import Usage
from llmshield.conversation import (
    Answered,
    Begun,
    Choice,
    Conversation,
    Finished,
    MediaPart,
    Message,
    Metered,
    OutputForm,
    Over,
    PartBegun,
    PartEnded,
    PartGrew,
    ReasoningPart,
    TextPart,
    Thinking,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from llmshield.errors import CallError
from llmshield.racing import as_stream
from llmshield.registry import find, names
from llmshield.testing import read
from llmshield.translators import Translator

TRANSLATORS: dict[str, Translator] = {name: find("translator", name)() for name in names("translator")}
EACH = pytest.mark.parametrize("name", TRANSLATORS)
FAST = settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

MODELS = {"anthropic_messages": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}
WORD = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
TEXT = st.one_of(
    WORD, st.sampled_from(["hi", "line\u2028end\u0085\u2029", 'say "yes"\n\n data: x', "\U0001f600"])
)
NAME = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
ARGUMENTS = st.dictionaries(
    NAME, TEXT | st.integers(-5, 5) | st.booleans() | st.lists(TEXT, max_size=2), max_size=3
).map(lambda tree: orjson.dumps(tree).decode())
SCHEMA = st.fixed_dictionaries(
    {
        "type": st.just("object"),
        "properties": st.dictionaries(
            NAME, st.sampled_from([{"type": "string"}, {"enum": ["a"]}]), min_size=1, max_size=2
        ),
        "additionalProperties": st.just(False),
    }
)
DATA = "aGkgaQ=="


def call_of(name: str, body: Any, *, stream: bool = False) -> Any:
    """The call in a body, as the gateway would read it."""
    c = Conversation(MODELS.get(name, "m-1"), [], stream=stream)
    path, _ = TRANSLATORS[name].route(c)
    return read(orjson.loads(orjson.dumps(body)), path=path)


# -- what each dialect can hold ----------------------------------------------------------------------------------------

MEDIA: dict[str, list[MediaPart]] = {
    "openai_chat": [
        MediaPart("image", url="https://x.example/a.png", detail="low"),
        MediaPart("image", data=DATA, media_type="image/png"),
        MediaPart("audio", data=DATA, media_type="audio/mpeg"),
        MediaPart("audio", data=DATA, media_type="audio/wav"),
        MediaPart("document", data=DATA, media_type="application/pdf", name="a.pdf"),
    ],
    "openai_responses": [
        MediaPart("image", url="https://x.example/a.png", detail="high"),
        MediaPart("image", data=DATA, media_type="image/png", detail="auto"),
        MediaPart("document", data=DATA, media_type="application/pdf", name="a.pdf"),
        MediaPart("document", url="https://x.example/a.pdf"),
    ],
    "anthropic_messages": [
        MediaPart("image", url="https://x.example/a.png"),
        MediaPart("image", data=DATA, media_type="image/webp"),
        MediaPart("document", data=DATA, media_type="application/pdf", name="a.pdf"),
        MediaPart("document", url="https://x.example/a.pdf"),
    ],
    "gemini": [
        MediaPart("image", data=DATA, media_type="image/png"),
        MediaPart("audio", data=DATA, media_type="audio/wav"),
        MediaPart("video", url="https://x.example/a", media_type="video/mp4"),
        MediaPart("document", data=DATA, media_type="application/pdf", name="a.pdf"),
    ],
}
THOUGHTS: dict[str, list[ReasoningPart]] = {
    "openai_chat": [],
    "openai_responses": [
        ReasoningPart("I think", family="openai", id="rs_1"),
        ReasoningPart("", sealed="opaque", family="openai", id="rs_2"),
    ],
    "anthropic_messages": [
        ReasoningPart("I think", signature="proof", family="anthropic"),
        ReasoningPart("", sealed="opaque", family="anthropic"),
    ],
    "gemini": [ReasoningPart("I think", family="gemini")],
}


@st.composite
def histories(draw: Any, name: str) -> list[Message]:
    """Turns as the dialect writes them: one message for each, no two of one speaker in a row."""
    out: list[Message] = []
    first = draw(st.lists(TEXT.map(TextPart), max_size=2))
    if first:
        out.append(Message("system", first))
    media = st.sampled_from(MEDIA[name]).map(dataclasses.replace)
    heard = st.lists(TEXT.map(TextPart) | media, min_size=1, max_size=3)
    spoken = NAME if name == "openai_chat" else st.none()
    count = 0
    for _ in range(draw(st.integers(0, 2))):
        out.append(Message("user", draw(heard), draw(st.none() | spoken)))
        said: list[Any] = (
            [
                dataclasses.replace(part)
                for part in draw(st.lists(st.sampled_from(THOUGHTS[name]), max_size=1))
            ]
            if THOUGHTS[name]
            else []
        )
        if draw(st.booleans()) or not said:
            said.append(TextPart(draw(TEXT)))
            if name == "gemini" and draw(st.booleans()):
                said.append(ReasoningPart("", sealed="c2ln", family="gemini"))
        calls = []
        for _ in range(draw(st.integers(0, 3))):
            count += 1
            signed = "c2ln" if name == "gemini" and draw(st.booleans()) else None
            calls.append(ToolCallPart(f"call_{count}", draw(NAME), draw(ARGUMENTS), signature=signed))
        out.append(Message("assistant", [*said, *calls]))
        if not calls:
            continue
        results = []
        for call in calls:
            words: list[Any] = [TextPart(draw(TEXT))]
            if name in {"anthropic_messages", "openai_responses"} and draw(st.booleans()):
                words.append(draw(media))
            failed = name in {"anthropic_messages", "gemini"} and draw(st.booleans())
            results.append(
                ToolResultPart(call.id, words, name=call.name if name == "gemini" else None, failed=failed)
            )
        if name.startswith("openai"):
            out += [Message("tool", [result]) for result in results]
        else:
            out.append(Message("tool", list(results)))
    return [*out, Message("user", draw(heard))]


@st.composite
def conversations(draw: Any, name: str) -> Conversation:
    """Requests that this dialect can say."""
    openai, chat = name.startswith("openai"), name == "openai_chat"
    c = Conversation(MODELS.get(name, "m-1"), draw(histories(name)), stream=draw(st.booleans()))
    c.tools = [
        Tool(
            each,
            draw(st.none() | TEXT),
            draw(SCHEMA),
            draw(st.sampled_from([None, True])) if name != "gemini" else None,
        )
        for each in draw(st.lists(NAME, max_size=2, unique=True))
    ]
    if c.tools:
        kind = draw(st.sampled_from([None, "auto", "none", "required", "named"]))
        if kind is not None:
            c.tool_choice = ToolChoice(kind, c.tools[0].name if kind == "named" else None)
        if openai or (name == "anthropic_messages" and kind in {"auto", "required", "named"}):
            c.parallel_tools = draw(st.none() | st.booleans())
    form = draw(st.sampled_from([None, "json", "schema"]))
    if form == "schema":
        c.output = OutputForm("schema", draw(SCHEMA))
        if openai:
            c.output.name, c.output.description, c.output.strict = draw(NAME), draw(st.none() | TEXT), True
    elif form == "json" and name != "anthropic_messages":
        c.output = OutputForm("json")
    c.max_tokens = (
        draw(st.integers(4096, 9000))
        if name == "anthropic_messages"
        else draw(st.none() | st.integers(1, 9000))
    )
    c.temperature = draw(st.none() | st.floats(0, 1))
    if name != "anthropic_messages" or c.temperature is None:
        c.top_p = draw(st.none() | st.floats(0, 1))
    if name in {"anthropic_messages", "gemini"}:
        c.top_k = draw(st.none() | st.integers(1, 50))
    if chat or name == "gemini":
        c.frequency_penalty, c.presence_penalty = (
            draw(st.none() | st.floats(-2, 2)),
            draw(st.none() | st.floats(-2, 2)),
        )
        c.seed, c.choices = draw(st.none() | st.integers(0, 99)), draw(st.integers(1, 4))
    if name != "openai_responses":
        c.stop = draw(st.lists(TEXT, max_size=4))
    if name != "gemini":
        c.user = draw(st.none() | TEXT)
    if openai:
        c.thinking = draw(st.sampled_from([None, Thinking("low"), Thinking("xhigh"), Thinking(off=True)]))
    else:
        budget = Thinking(budget=2000, shown=draw(st.booleans()))
        free = c.temperature is c.top_p is c.top_k is None and (
            c.tool_choice is None or c.tool_choice.kind in {"auto", "none"}
        )
        choices = [None, Thinking(off=True)]
        if name == "gemini" or free:
            choices.append(budget)
        c.thinking = draw(st.sampled_from(choices))
    return c


@EACH
@FAST
@given(data=st.data())
def test_a_request_comes_back_as_it_went_in(name, data):
    asked = data.draw(conversations(name))
    body = TRANSLATORS[name].write_conversation(asked)
    call = call_of(name, body, stream=asked.stream)
    back = TRANSLATORS[name].read_conversation(call)

    assert (asked.lost, asked.missing) == ([], [])
    back.model, back.wants_usage = asked.model, asked.wants_usage
    assert back == asked


def strings(tree: Any) -> Iterator[str]:
    """All texts in a tree."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from strings(value)


@EACH
@FAST
@given(data=st.data())
def test_what_another_dialect_says_is_told_or_named(name, data):
    """Every text of the conversation stands in the body of every other dialect, or something is named."""
    other = data.draw(st.sampled_from([each for each in TRANSLATORS if each != name]))
    asked = data.draw(conversations(name))
    body = TRANSLATORS[other].write_conversation(asked)
    told = list(strings(body))

    if asked.lost or asked.missing:
        return
    for message in asked.messages:
        for part in message.parts:
            inner = part.parts if isinstance(part, ToolResultPart) else [part]
            for each in inner:
                said = (
                    getattr(each, "text", None)
                    or getattr(each, "data", None)
                    or getattr(each, "url", None)
                    or ""
                )
                assert any(said in each for each in told)
    back = TRANSLATORS[other].read_conversation(call_of(other, body, stream=asked.stream))
    assert back.missing == []


# -- answers -----------------------------------------------------------------------------------------------------------


@st.composite
def answers(draw: Any, name: str) -> Answered:
    """Whole replies that this dialect can say."""
    many = name in {"openai_chat", "gemini"}
    choices = [draw(choice(name, number)) for number in range(draw(st.integers(1, 3)) if many else 1)]
    used = Usage(input=draw(st.integers(30, 99)), output=draw(st.integers(20, 99)), cache_read=draw(st.integers(0, 9)),
                 reasoning=draw(st.integers(0, 9)))  # fmt: skip
    if name != "gemini":
        used.cache_write = draw(st.integers(0, 9))
    return Answered("the-model", choices, used)


@st.composite
def choice(draw: Any, name: str, number: int) -> Choice:
    thoughts = [dataclasses.replace(part, id=None) for part in THOUGHTS[name]]
    if name == "openai_chat":
        thoughts = [ReasoningPart("I think", family="openai")]
    count = draw(st.integers(0, 3))
    custom = name.startswith("openai")
    calls: list[Any] = []
    for at in range(count):
        free = custom and draw(st.booleans())
        signed = "c2ln" if name == "gemini" and draw(st.booleans()) else None
        calls.append(
            ToolCallPart(
                f"id_{number}_{at}", draw(NAME), draw(TEXT) if free else draw(ARGUMENTS), free, signed
            )
        )
    said: list[Any] = draw(st.lists(st.sampled_from(thoughts), max_size=1)) + [TextPart(draw(TEXT))] * draw(
        st.integers(0, 1)
    )
    if custom and draw(st.booleans()):
        said.append(TextPart(draw(TEXT), refusal=True))
    if name == "gemini" and said and draw(st.booleans()):
        said.append(ReasoningPart("", sealed="c2ln", family="gemini"))
    finish = draw(st.sampled_from(["stop", "length", "content_filter"]))
    if finish == "stop" and calls:
        finish = "tool_calls"
    stopped = draw(st.none() | TEXT) if name == "anthropic_messages" and finish == "stop" else None
    return Choice([*said, *calls], finish, stopped)


def bare(answered: Answered) -> Answered:
    """Without what each answer has of its own: ids and dates."""
    for one in answered.choices:
        for part in one.parts:
            if isinstance(part, ReasoningPart):
                part.id = None
    return dataclasses.replace(answered, id="", created=0)


def gathered(happenings: list[Any]) -> Answered:
    """Happenings as the whole reply that they tell."""
    out = Answered("", [])
    parts: dict[tuple[int, int], Any] = {}
    choices: dict[int, Choice] = {}
    for one in happenings:
        if isinstance(one, Begun):
            out.model = one.model
        elif isinstance(one, PartBegun):
            part: Any = TextPart("", one.kind == "refusal")
            if one.kind in {"tool_call", "custom_call"}:
                part = ToolCallPart(one.call_id, one.name, "", one.kind == "custom_call")
            elif one.kind == "reasoning":
                part = ReasoningPart("", family=one.family)
            choices.setdefault(one.choice, Choice([])).parts.append(part)
            parts[one.choice, one.part] = part
        elif isinstance(one, PartGrew):
            part = parts[one.choice, one.part]
            field = "arguments" if isinstance(part, ToolCallPart) else "text"
            setattr(part, field, getattr(part, field) + one.text)
        elif isinstance(one, PartEnded):
            part = parts[one.choice, one.part]
            if one.signature is not None:
                part.signature = one.signature
            if one.sealed is not None:
                part.sealed = one.sealed
        elif isinstance(one, Finished):
            this = choices.setdefault(one.choice, Choice([]))
            assert this.finish is None, "a choice ends once"
            this.finish, this.stop_sequence = one.finish, one.stop_sequence
        elif isinstance(one, Metered):
            out.usage = one.usage
    out.choices = [choices[number] for number in sorted(choices)]
    return out


def cut(draw: Any, data: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def streamed(name: str) -> Any:
    """A call that asks for a stream, and for its usage."""
    bodies: dict[str, Any] = {
        "openai_chat": {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "stream_options": {"include_usage": True}},
        "openai_responses": {"model": "m", "input": "x", "stream": True},
        "anthropic_messages": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "stream": True},
        "gemini": {"contents": [{"parts": [{"text": "x"}]}]},
    }  # fmt: skip
    call = call_of(name, bodies[name], stream=True)
    call.query = "alt=sse"
    return call


@EACH
@FAST
@given(data=st.data())
def test_a_whole_reply_comes_back_as_it_went_in(name, data):
    said = data.draw(answers(name))
    tree = TRANSLATORS[name].write_answer(said, streamed(name))
    back = TRANSLATORS[name].read_answer(orjson.loads(orjson.dumps(tree)))

    assert said.lost == back.lost == []
    assert bare(back) == bare(said)


@EACH
@FAST
@given(data=st.data())
def test_a_stream_says_the_same_as_the_whole_reply_wherever_it_is_cut(name, data):
    said = data.draw(answers(name))
    writer, reader = TRANSLATORS[name].writer(streamed(name)), TRANSLATORS[name].reader()
    happened = [one for piece in cut(data.draw, as_stream(said, writer)) for one in reader.feed(piece)]

    assert writer.lost == reader.lost == []
    assert bare(gathered(happened)) == bare(said)


@EACH
@FAST
@given(data=st.data())
def test_pieces_of_a_stream_are_passed_on_as_they_come(name, data):
    """Happenings of a chat-like provider, its parallel calls written by turns: every dialect tells all of them."""
    calls = data.draw(st.lists(st.tuples(NAME, ARGUMENTS), min_size=1, max_size=3))
    text = data.draw(TEXT)
    happenings: list[Any] = [Begun("the-model"), PartBegun(0, 0, "text")]
    happenings += [PartGrew(0, 0, one) for one in text]
    happenings.append(PartEnded(0, 0))
    happenings += [PartBegun(0, at + 1, "tool_call", f"id_{at}", each) for at, (each, _) in enumerate(calls)]
    rest = [list(said) for _, said in calls]
    while any(rest):
        at = data.draw(st.sampled_from([at for at, left in enumerate(rest) if left]))
        size = data.draw(st.integers(1, 5))
        happenings.append(PartGrew(0, at + 1, "".join(rest[at][:size])))
        rest[at] = rest[at][size:]
    happenings += [PartEnded(0, at + 1) for at in range(len(calls))]
    happenings += [Finished(0, "tool_calls"), Metered(Usage(input=3, output=4)), Over()]
    writer, reader = TRANSLATORS[name].writer(streamed(name)), TRANSLATORS[name].reader()
    out = b"".join(writer.write(one) for one in happenings)

    assert bare(gathered(reader.feed(out))) == bare(gathered(happenings))


@EACH
@pytest.mark.parametrize("other", TRANSLATORS)
@settings(FAST, max_examples=8)
@given(data=st.data())
def test_whole_and_stream_are_translated_to_the_same(name, other, data):
    """From one dialect to another: the reply and its stream say the same, and lose the same."""
    said = data.draw(answers(other))
    target, source = TRANSLATORS[other], TRANSLATORS[name]
    whole = target.read_answer(orjson.loads(orjson.dumps(target.write_answer(said, streamed(other)))))
    tree = source.write_answer(whole, streamed(name))
    reader, writer = target.reader(), source.writer(streamed(name))
    reader.lost = writer.lost
    out = b"".join(writer.write(one) for one in reader.feed(as_stream(said, target.writer(streamed(other)))))
    if target.targets == "gemini":
        out += writer.write(Over())  # its stream ends with its bytes
    from_stream = gathered(source.reader().feed(out))
    from_whole = source.read_answer(orjson.loads(orjson.dumps(tree)))

    assert merged(bare(from_stream)) == merged(bare(from_whole))
    assert sorted(whole.lost) == sorted(writer.lost)


def merged(answered: Answered) -> Answered:
    """Texts and thoughts that follow one another are one: chat completions have no borders between them."""
    for one in answered.choices:
        parts: list[Any] = []
        for part in one.parts:
            last = parts[-1] if parts else None
            plain = isinstance(part, TextPart) or (
                isinstance(part, ReasoningPart) and not part.sealed and not part.signature
            )
            if (
                plain
                and type(last) is type(part)
                and getattr(last, "refusal", 0) == getattr(part, "refusal", 0)
            ):
                last.text += part.text
            else:
                parts.append(part)
        one.parts = parts
    return dataclasses.replace(answered, lost=[])


@EACH
def test_a_stop_and_an_abort_end_the_stream_in_its_own_way(name):
    """A guard's stop is an end that SDKs take; an abort is an error that they raise. Nothing comes behind either."""
    error = CallError("blocked", "Blocked by policy 'words'.", plugin="words")
    for way in ("stop", "abort"):
        writer, reader = TRANSLATORS[name].writer(streamed(name)), TRANSLATORS[name].reader()
        begun = writer.write(Begun("the-model")) + writer.write(PartBegun(0, 0, "text"))
        begun += writer.write(PartGrew(0, 0, "so far"))
        end = writer.stop(error) if way == "stop" else writer.abort(error, "req-1")
        happened = gathered(
            reader.feed(begun + (end if way == "stop" and name != "openai_responses" else b""))
        )

        assert happened.choices[0].parts == [TextPart("so far")]
        if way == "stop" and name != "openai_responses":
            assert happened.choices[0].finish == "content_filter"
        else:
            assert b"error" in end
        assert b"Blocked by policy" in end or way == "stop"


@EACH
def test_it_is_named_like_its_dialect(name):
    assert type(TRANSLATORS[name]).__module__ == f"llmshield.translators.{name}"
    assert find("dialect", name)().family in {"openai", "anthropic", "gemini"}


def test_every_family_of_providers_has_one_dialect_that_others_are_translated_to():
    assert sorted(each.targets for each in TRANSLATORS.values() if each.targets) == [
        "anthropic",
        "gemini",
        "openai",
    ]
