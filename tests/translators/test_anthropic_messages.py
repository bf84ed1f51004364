"""Anthropic's messages out of, and into, the other dialects: golden cases, field by field; and what its models take."""

from __future__ import annotations

import orjson
import pytest

from llmshield.conversation import (
    Answered,
    Begun,
    Choice,
    Conversation,
    Finished,
    Message,
    Over,
    PartBegun,
    PartEnded,
    PartGrew,
    ReasoningPart,
    TextPart,
    Thinking,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Usage,
)
from llmshield.translators.anthropic_messages import AnthropicMessages

USER = {"role": "user", "content": "hi"}
BASE = {"model": "m", "max_tokens": 4000, "messages": [USER]}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "proof"}
SEALED = {"type": "redacted_thinking", "data": "opaque"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}}

TO_CHAT = {
    "system": (
        {"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]},
        {"messages": [{"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, USER]},
    ),
    "results before words": (
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "ok"}, CALL]},
                      {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "r"}], "is_error": True},
                                                   {"type": "text", "text": "and?"}]}]},
        {"messages": [USER,
                      {"role": "assistant", "content": "ok", "tool_calls": [{"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}]},
                      {"role": "tool", "tool_call_id": "toolu_1", "content": "Error:\nr"},
                      {"role": "user", "content": "and?"}]},
    ),
    "tools": (
        {"tools": [{"name": "f", "input_schema": {"type": "object"}, "strict": True}], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
         "tool_choice": "required", "parallel_tool_calls": False},
    ),
    "schema": (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}},
    ),
    "a text as a document": (
        {"messages": [{"role": "user", "content": [{"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "words"}}]}]},
        {"messages": [{"role": "user", "content": "T\nwords"}]},
    ),
    "user": ({"metadata": {"user_id": "u-1"}}, {"safety_identifier": "u-1"}),
}  # fmt: skip


@pytest.mark.parametrize("case", TO_CHAT)
def test_to_chat_completions(told, case):
    body, expected = TO_CHAT[case]
    seen = told("anthropic_messages", {**BASE, **body}, "openai_chat", "m-1")

    assert {name: seen.body.get(name) for name in expected} == expected
    assert (seen.lost, seen.missing) == ([], [])


LOSSES = [
    ({"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}, "openai_chat", "context_management: known to Anthropic only", ""),
    ({"top_k": 5}, "openai_chat", "top_k: chat completions have no such setting", ""),
    ({"service_tier": "standard_only"}, "openai_chat", "service_tier: known to Anthropic only", ""),
    ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "openai_chat", "tools/0/defer_loading: known to Anthropic only", ""),
    ({"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, "gemini", "system/0/cache_control: known to Anthropic only", ""),
    ({"messages": [USER, {"role": "assistant", "content": [THOUGHT, SEALED, {"type": "text", "text": "a"}]}, USER]}, "gemini",
     "messages/1: Gemini takes back its own thoughts only", ""),
    ({"messages": [USER, {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "a"}]}, USER]}, "openai_chat",
     "messages/1: chat completions take no earlier thoughts back", ""),
    ({"messages": [USER, {"role": "assistant", "content": "{"}]}, "openai_chat", "messages: OpenAI does not go on from the assistant's last words", ""),
    ({"max_tokens": 0}, "gemini", "", "max_tokens: only Anthropic can be asked for no answer"),
    ({"container": "c-1"}, "gemini", "", "container: known to Anthropic only"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "gemini", "", "tools/0: a tool of Anthropic's own"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]}, "openai_chat", "",
     "messages/0: chat completions can't be shown this document"),
    ({"messages": [USER, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [
        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}]}]}]}, "openai_chat", "", "messages/2: chat completions take no media from a tool"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "target", "lost", "missing"), LOSSES)
def test_what_is_lost_and_what_would_be_missing(told, body, target, lost, missing):
    seen = told(
        "anthropic_messages",
        {**BASE, **body},
        target,
        "m-1" if target == "openai_chat" else "gemini-2.5-flash",
    )

    assert seen.lost == ([lost] if lost else [])
    assert seen.missing == ([missing] if missing else [])


def test_its_own_thoughts_stay_whole(told):
    """Signatures and sealed thoughts go back to their own family as they came."""
    content = [THOUGHT, SEALED, {"type": "text", "text": "a"}, CALL]
    turns = [
        USER,
        {"role": "assistant", "content": content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "r"}]},
    ]
    seen = told("anthropic_messages", {**BASE, "messages": turns}, "anthropic_messages", "claude-sonnet-4-5")

    assert seen.body["messages"] == turns
    assert (seen.lost, seen.missing) == ([], [])


# -- what its models take ----------------------------------------------------------------------------------------------

HI = Message("user", [TextPart("hi")])
MIDDLE = [
    HI,
    Message("assistant", [ToolCallPart("c", "f", "{}")]),
    Message("tool", [ToolResultPart("c", [TextPart("r")])]),
]
PROVEN = [
    HI,
    Message("assistant", [ReasoningPart("hm", "proof", family="anthropic"), ToolCallPart("c", "f", "{}")]),
    MIDDLE[2],
]
LOW = Thinking("low")
MODELS = [
    # model, wishes, what stands in the body, what is lost
    ("claude-3-5-haiku-latest", {"thinking": LOW}, {"thinking": None}, ["thinking: this model doesn't think"]),
    ("claude-3-haiku-20240307", {}, {"max_tokens": 4096}, []),
    ("claude-sonnet-4-5", {"thinking": LOW}, {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 9216}, []),
    ("claude-sonnet-4-5", {"thinking": Thinking(budget=5000, shown=True), "max_tokens": 4000},
     {"thinking": {"type": "enabled", "budget_tokens": 2000, "display": "summarized"}}, ["thinking: the budget is larger than the answer may be"]),
    ("claude-sonnet-4-5", {"thinking": LOW, "temperature": 0.5, "top_k": 5, "top_p": 0.5}, {"temperature": None, "top_k": None, "top_p": None},
     ["temperature: Anthropic takes none beside thinking", "top_k: Anthropic takes none beside thinking", "top_p: Anthropic takes none beside thinking"]),
    ("claude-sonnet-4-5", {"thinking": LOW, "temperature": 1.0, "top_p": 0.97}, {"temperature": 1.0, "top_p": 0.97}, []),
    ("claude-sonnet-4-5", {"temperature": 0.5, "top_p": 0.5}, {"temperature": 0.5, "top_p": None}, ["top_p: this model takes it or a temperature, not both"]),
    ("claude-3-7-sonnet-latest", {"temperature": 0.5, "top_p": 0.5}, {"temperature": 0.5, "top_p": 0.5}, []),
    ("claude-sonnet-4-5", {"thinking": LOW, "tool_choice": ToolChoice("required")}, {"thinking": None}, ["thinking: Anthropic can't think where a tool call is forced"]),
    ("claude-sonnet-4-5", {"thinking": LOW, "messages": MIDDLE}, {"thinking": None}, ["thinking: Anthropic can't begin to think in the middle of a turn"]),
    ("claude-sonnet-4-5", {"thinking": LOW, "messages": PROVEN}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, []),
    ("claude-opus-4-6", {"thinking": LOW, "messages": MIDDLE}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, []),
    ("claude-opus-4-6", {"temperature": 0.5}, {"temperature": 0.5}, []),
    ("claude-sonnet-4-6", {"thinking": Thinking("max")}, {"output_config": {"effort": "high"}}, ["thinking: of efforts this model has 'high' at the nearest"]),
    ("claude-opus-4-8", {"thinking": Thinking(budget=20000)}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
     ["thinking: this model takes an effort by word, no budget of tokens"]),
    ("claude-sonnet-5-5", {"temperature": 0.5, "top_p": 1.0, "top_k": 5}, {"temperature": None, "top_p": None, "top_k": None},
     ["temperature: this model takes none", "top_k: this model takes none"]),
    ("claude-sonnet-5-5", {"thinking": Thinking(off=True)}, {"thinking": {"type": "disabled"}}, []),
    ("eu/claude-haiku-5-5", {"thinking": Thinking("minimal", shown=False)}, {"thinking": {"type": "adaptive", "display": "omitted"}},
     ["thinking: of efforts this model has 'low' at the nearest"]),
]  # fmt: skip


@pytest.mark.parametrize(("model", "wishes", "expected", "lost"), MODELS)
def test_what_each_generation_of_models_takes(model, wishes, expected, lost):
    c = Conversation(model, [HI])
    c.tools = []
    for name, value in wishes.items():
        setattr(c, name, value)
    body = AnthropicMessages().write_conversation(c)

    assert {name: body.get(name) for name in expected} == expected
    assert (c.lost, c.missing) == (lost, [])


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        ("claude-sonnet-4-5", []),
        ("claude-opus-4-6", ["messages: this model does not go on from the assistant's last words"]),
    ],
)
def test_only_older_models_go_on_from_words_of_the_assistant(model, missing):
    c = Conversation(model, [HI, Message("assistant", [TextPart("The")])])
    AnthropicMessages().write_conversation(c)

    assert c.missing == missing


SCHEMAS = [
    ({"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}, {"properties": {"a": {"type": "string"}}}, "output: Anthropic's schemas have no 'pattern'", ""),
    ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 1}}},
     {"properties": {"a": {"type": "array", "items": {"type": "integer"}, "minItems": 1}}}, "output: Anthropic's schemas have no 'minimum'", ""),
    ({"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/b"}]}}, "$defs": {"b": {"type": "null"}}},
     {"properties": {"a": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/b"}]}}}, "", ""),
    ({"type": "object", "properties": {}, "additionalProperties": True}, {"additionalProperties": False}, "output: Anthropic's objects have no properties beyond those of the schema", ""),
    ({"type": "object", "additionalProperties": {"type": "string"}}, {}, "", "output: Anthropic's objects can't have properties of any name"),
    ({"type": "object", "not": {}}, {}, "", "output: Anthropic's schemas have no 'not'"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "expected", "lost", "missing"), SCHEMAS)
def test_json_schema_in_the_words_that_it_takes(told, schema, expected, lost, missing):
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    seen = told(
        "openai_chat",
        {"model": "m", "messages": [USER], "response_format": form},
        "anthropic_messages",
        "claude-sonnet-4-5",
    )
    written = seen.body["output_config"]["format"]["schema"]

    assert {name: written[name] for name in expected} == expected
    assert (seen.lost, seen.missing) == ([lost] if lost else [], [missing] if missing else [])


def test_models_without_structured_outputs_are_not_asked_for_them(told):
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    seen = told(
        "openai_chat",
        {"model": "m", "messages": [USER], "response_format": form},
        "anthropic_messages",
        "claude-sonnet-4-20250514",
    )

    assert seen.missing == ["output: this model has no structured outputs"]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_of_another_dialect(asked):
    parts = [
        ReasoningPart("hm", family="gemini"),
        TextPart("a"),
        ToolCallPart("t1", "f", '{"x":'),
        ToolCallPart("t2", "g", "free", custom=True),
    ]
    answered = Answered(
        "gpt",
        [Choice(parts, "tool_calls"), Choice([])],
        Usage(input=10, output=5, cache_read=4, cache_write=1, reasoning=2),
    )
    tree = AnthropicMessages().write_answer(answered, asked("anthropic_messages", BASE))

    assert tree["content"] == [
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"input": '{"x":'}},
        {"type": "tool_use", "id": "t2", "name": "g", "input": {"input": "free"}},
    ]
    assert tree["usage"] == {"input_tokens": 5, "output_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 1,
                             "output_tokens_details": {"thinking_tokens": 2}}  # fmt: skip
    assert answered.lost == [
        "choices: Anthropic gives one answer",
        "content: Anthropic shows its own thoughts only",
        "content: a call whose arguments are no JSON object is shown as an input of its own",
    ]


def test_a_refusal_ends_as_one(asked):
    answered = Answered("gpt", [Choice([TextPart("I won't", refusal=True)], "stop")])
    tree = AnthropicMessages().write_answer(answered, asked("anthropic_messages", BASE))

    assert (tree["stop_reason"], tree["content"]) == ("refusal", [{"type": "text", "text": "I won't"}])
    assert answered.lost == ["content: a refusal is told as words"]


def test_blocks_never_overlap(asked):
    """Calls whose arguments come by turns: a second block begins when the first has ended."""
    writer = AnthropicMessages().writer(asked("anthropic_messages", {**BASE, "stream": True}))
    happenings = [
        Begun("gpt"), PartBegun(0, 0, "tool_call", "a", "f"), PartBegun(0, 1, "tool_call", "b", "g"), PartGrew(0, 1, '{"y":'),
        PartGrew(0, 0, '{"x":1}'), PartGrew(0, 1, "2}"), PartEnded(0, 0), PartEnded(0, 1), Finished(0, "tool_calls"), Over(),
    ]  # fmt: skip
    out = b"".join(writer.write(one) for one in happenings)
    events = [orjson.loads(line[6:]) for line in out.split(b"\n") if line.startswith(b"data: ")]

    assert [(event["type"], event["index"]) for event in events if "index" in event] == [
        ("content_block_start", 0), ("content_block_delta", 0), ("content_block_stop", 0),
        ("content_block_start", 1), ("content_block_delta", 1), ("content_block_delta", 1), ("content_block_stop", 1),
    ]  # fmt: skip
