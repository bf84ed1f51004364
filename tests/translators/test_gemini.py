"""Gemini's generateContent out of, and into, the other dialects: golden cases, field by field; and what its models take."""

from __future__ import annotations

import orjson
import pytest

from llmshield.conversation import (
    Answered,
    Choice,
    Conversation,
    Message,
    ReasoningPart,
    TextPart,
    Thinking,
    ToolCallPart,
    Usage,
)
from llmshield.errors import CallError
from llmshield.translators.gemini import Gemini

USER = {"role": "user", "parts": [{"text": "hi"}]}
HI = {"role": "user", "content": "hi"}
CALL = {"functionCall": {"name": "f", "args": {"x": 1}}}
RESULT = {"functionResponse": {"name": "f", "response": {"output": "r"}}}

TO_CHAT = {
    "system": ({"systemInstruction": {"parts": [{"text": "a"}]}}, {"messages": [{"role": "system", "content": "a"}, HI]}),
    "snake case": ({"system_instruction": "a", "generation_config": {"max_output_tokens": 9}}, {"messages": [{"role": "system", "content": "a"}, HI], "max_tokens": 9}),
    "calls without ids": (
        {"contents": [USER, {"role": "model", "parts": [CALL, CALL]}, {"role": "user", "parts": [RESULT, RESULT]}]},
        {"messages": [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
                {"id": "call_2", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "r"},
            {"role": "tool", "tool_call_id": "call_2", "content": "r"},
        ]},
    ),
    "results that are objects or errors": (
        {"contents": [USER, {"role": "model", "parts": [CALL, CALL]}, {"role": "user", "parts": [
            {"functionResponse": {"name": "f", "response": {"a": 1, "b": [2]}}}, {"functionResponse": {"name": "f", "response": {"error": "no"}}}]}]},
        {"messages": [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
                {"id": "call_2", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"a":1,"b":[2]}'},
            {"role": "tool", "tool_call_id": "call_2", "content": "Error:\nno"},
        ]},
    ),
    "tools": (
        {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT", "nullable": True, "required": ["b"], "propertyOrdering": ["b", "a"], "properties": {
            "a": {"type": "STRING", "nullable": True, "enum": ["x"]}, "b": {"type": "ARRAY", "minItems": "2", "items": {"anyOf": [{"type": "INTEGER"}]}}}}}]}],
         "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": ["object", "null"], "required": ["b"], "properties": {
            "b": {"type": "array", "minItems": 2, "items": {"anyOf": [{"type": "integer"}]}}, "a": {"type": ["string", "null"], "enum": ["x", None]}}}}}],
         "tool_choice": {"type": "function", "function": {"name": "f"}}},
    ),
    "bytes in the letters of URLs": (
        {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "-_8"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,+/8="}}]}]},
    ),
    "schema": (
        {"generationConfig": {"responseMimeType": "application/json", "responseSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}}},
    ),
    "settings": (
        {"generationConfig": {"temperature": 0.5, "topP": 0.25, "candidateCount": 3, "stopSequences": ["A"], "maxOutputTokens": 9, "seed": 7}},
        {"temperature": 0.5, "top_p": 0.25, "n": 3, "stop": ["A"], "max_tokens": 9, "seed": 7},
    ),
    "effort": ({"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}, {"reasoning_effort": "low"}),
    "no thinking": ({"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}, {"reasoning_effort": "none"}),
}  # fmt: skip


@pytest.mark.parametrize("case", TO_CHAT)
def test_to_chat_completions(told, case):
    body, expected = TO_CHAT[case]
    seen = told("gemini", {"contents": [USER], **body}, "openai_chat", "m-1")

    assert {name: seen.body.get(name) for name in expected} == expected
    assert (seen.lost, seen.missing) == ([], [])


LOSSES = [
    ({"safetySettings": [{"category": "X", "threshold": "Y"}]}, "safetySettings: known to Gemini only", ""),
    ({"generationConfig": {"topK": 5}}, "top_k: chat completions have no such setting", ""),
    ({"generationConfig": {"mediaResolution": "HIGH"}}, "generationConfig/mediaResolution: known to Gemini only", ""),
    ({"generationConfig": {"thinkingConfig": {"thinkingBudget": 5000}}}, "thinking: chat completions have efforts by word, no budget of tokens", ""),
    ({"contents": [USER, {"role": "model", "parts": [{"text": "a", "thoughtSignature": "c2ln"}]}, USER]}, "messages/1: chat completions take no earlier thoughts back", ""),
    ({"contents": [USER, {"role": "model", "parts": [{**CALL, "thoughtSignature": "c2ln"}]}, {"role": "user", "parts": [RESULT]}]},
     "messages/1: a thought's signature is for its own provider", ""),
    ({"cachedContent": "c"}, "", "cachedContent: text that only its provider holds"),
    ({"tools": [{"googleSearch": {}}]}, "", "tools/0: a tool of Gemini's own"),
    ({"generationConfig": {"responseModalities": ["IMAGE"]}}, "", "generationConfig/responseModalities: an answer that is no text"),
    ({"contents": [{"role": "user", "parts": [{"fileData": {"fileUri": "gs://a/b.mp4", "mimeType": "video/mp4"}}]}]}, "", "messages/0: chat completions can't be shown this video"),
    ({"contents": [{"role": "user", "parts": [{"executableCode": {"code": "1", "language": "PYTHON"}}]}]}, "", "contents/0/parts/0: a part that only Gemini has"),
    ({"contents": [{"role": "user", "parts": [{"text": "a", "functionCall": {"name": "f"}}]}]}, "", "contents/0/parts: a part that is several things at once"),
    ({"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f", "g"]}}}, "", "toolConfig: a choice among several functions"),
    ({"tools": [{"functionDeclarations": [{"name": "a.b"}]}]}, "", "tools/0: OpenAI takes no such name"),
    ({"generationConfig": {"stopSequences": ["A", "B", "C", "D", "E"]}}, "", "stop: chat completions take four stop sequences"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "lost", "missing"), LOSSES)
def test_what_is_lost_and_what_would_be_missing(told, body, lost, missing):
    seen = told("gemini", {"contents": [USER], **body}, "openai_chat", "m-1")

    assert seen.lost == ([lost] if lost else [])
    assert seen.missing == ([missing] if missing else [])


MODELS = [
    ("gemini-2.5-flash", Thinking("high"), {"thinkingBudget": 24576}, ""),
    ("gemini-2.5-flash", Thinking(off=True), {"thinkingBudget": 0}, ""),
    ("gemini-2.5-pro", Thinking(off=True), {"thinkingBudget": 128}, "thinking: this model thinks in 128 tokens at the least"),
    ("gemini-2.5-flash-lite", Thinking(budget=100, shown=True), {"thinkingBudget": 512, "includeThoughts": True}, "thinking: this model's budgets are 512 to 24576 tokens"),
    ("gemini-2.0-flash", Thinking("low"), None, "thinking: this model doesn't think"),
    ("gemini-2.0-flash", Thinking(off=True), None, ""),
    ("gemini-3-pro-preview", Thinking("low"), {"thinkingLevel": "LOW"}, ""),
    ("gemini-3-pro-preview", Thinking(off=True), {"thinkingLevel": "LOW"}, "thinking: this model thinks at the level LOW at the least"),
    ("gemini-3-flash", Thinking(off=True), {"thinkingLevel": "MINIMAL"}, "thinking: this model thinks at the level MINIMAL at the least"),
    ("models/gemini-3-flash", Thinking("xhigh"), {"thinkingLevel": "HIGH"}, "thinking: of levels this model has HIGH at the nearest"),
    ("gemini-3-flash", Thinking(budget=900), {"thinkingBudget": 900}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("model", "thinking", "expected", "lost"), MODELS)
def test_what_each_generation_of_models_takes(model, thinking, expected, lost):
    c = Conversation(model, [Message("user", [TextPart("hi")])], thinking=thinking)
    body = Gemini().write_conversation(c)

    assert body.get("generationConfig", {}).get("thinkingConfig") == expected
    assert c.lost == ([lost] if lost else [])


@pytest.mark.parametrize(("model", "signed"), [("gemini-2.5-flash", False), ("gemini-3-pro-preview", True)])
def test_calls_of_others_are_marked_where_gemini_wants_a_signature(told, model, signed):
    """Of parallel calls the first one carries it; the mark is not read back as a signature."""
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in (1, 2)
    ]
    results = [{"role": "tool", "tool_call_id": f"c{n}", "content": "r"} for n in (1, 2)]
    seen = told(
        "openai_chat",
        {"model": "m", "messages": [HI, {"role": "assistant", "tool_calls": calls}, *results]},
        "gemini",
        model,
    )
    marks = [part.get("thoughtSignature") for part in seen.body["contents"][1]["parts"]]

    assert marks == (["skip_thought_signature_validator", None] if signed else [None, None])
    assert told("gemini", seen.body, "openai_chat", "m-1").lost == []


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        ("gemini-2.5-pro", ["messages/2: this model takes no such media from a function"]),
        ("gemini-3-pro", []),
    ],
)
def test_images_of_functions_since_gemini_3(told, model, missing):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    turns = [
        HI,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "shot", "input": {}}]},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "text", "text": "see"}, image],
                }
            ],
        },
    ]
    seen = told("anthropic_messages", {"model": "m", "max_tokens": 9, "messages": turns}, "gemini", model)

    assert seen.missing == missing
    assert seen.body["contents"][2]["parts"] == [
        {
            "functionResponse": {
                "id": "t",
                "name": "shot",
                "response": {"output": "see"},
                "parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}],
            }
        }
    ]
    if not missing:
        assert told("gemini", seen.body, "anthropic_messages", "claude-sonnet-4-5").body["messages"] == turns


SCHEMAS = [
    ({"type": "object", "properties": {"a": {"const": "x"}}, "$schema": "s"}, {"type": "object", "properties": {"a": {"enum": ["x"]}}}, "", ""),
    ({"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}, {"type": "object", "properties": {"a": {"type": "string"}}}, "output: Gemini's schemas have no 'pattern'", ""),
    ({"anyOf": [{"type": "array", "items": {"exclusiveMinimum": 1}}]}, {"anyOf": [{"type": "array", "items": {}}]}, "output: Gemini's schemas have no 'exclusiveMinimum'", ""),
    ({"allOf": [{"type": "object"}]}, {}, "", "output: Gemini's schemas have no 'allOf'"),
    ({"$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"}, {"$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"}, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "expected", "lost", "missing"), SCHEMAS)
def test_json_schema_in_the_words_that_it_reads(told, schema, expected, lost, missing):
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    seen = told(
        "openai_chat", {"model": "m", "messages": [HI], "response_format": form}, "gemini", "gemini-2.5-flash"
    )

    assert seen.body["generationConfig"]["responseJsonSchema"] == expected
    assert (seen.lost, seen.missing) == ([lost] if lost else [], [missing] if missing else [])


# -- answers -----------------------------------------------------------------------------------------------------------


def test_calls_without_ids_get_one_that_no_other_answer_has():
    """An id that came again in a later turn would be refused by Anthropic, and confuse calls with their results."""
    tree = {
        "responseId": "r-1",
        "candidates": [{"content": {"parts": [{"text": "a"}, CALL, CALL]}, "finishReason": "STOP"}],
    }
    first = Gemini().read_answer(tree)
    again = Gemini().read_answer({**tree, "responseId": "r-2"})
    reader = Gemini().reader()
    streamed = [
        one.call_id
        for one in reader.feed(b"data: " + orjson.dumps(tree) + b"\n\n")
        if getattr(one, "call_id", "")
    ]
    ids = [
        part.id
        for answered in (first, again)
        for part in answered.choices[0].parts
        if isinstance(part, ToolCallPart)
    ]

    assert len({*ids}) == 4
    assert streamed == ids[:2]
    assert all(len(one) <= 40 for one in ids)


def test_a_half_written_call_is_left_out(asked):
    """Half of its arguments would be taken for all of them."""
    call = asked("gemini", {"contents": [USER]})
    for finish, reason in (("tool_calls", "MALFORMED_FUNCTION_CALL"), ("length", "MAX_TOKENS")):
        answered = Answered("gpt", [Choice([TextPart("a"), ToolCallPart("c", "f", '{"x": "trunc')], finish)])
        (candidate,) = Gemini().write_answer(answered, call)["candidates"]

        assert candidate == {
            "content": {"role": "model", "parts": [{"text": "a"}]},
            "finishReason": reason,
            "index": 0,
        }
        assert answered.lost == ["content: a call whose arguments are no JSON object is left out"]


def test_an_answer_of_another_dialect(asked):
    parts = [ReasoningPart("hm", "proof", family="anthropic"), TextPart("a"), ToolCallPart("t1", "f", "")]
    answered = Answered(
        "claude", [Choice(parts, "tool_calls")], Usage(input=10, output=5, cache_read=4, reasoning=2)
    )
    tree = Gemini().write_answer(answered, asked("gemini", {"contents": [USER]}))

    assert tree["candidates"] == [
        {"content": {"role": "model", "parts": [{"text": "hm", "thought": True}, {"text": "a"}, {"functionCall": {"id": "t1", "name": "f", "args": {}}}]},
         "finishReason": "STOP", "index": 0}
    ]  # fmt: skip
    assert tree["usageMetadata"] == {
        "promptTokenCount": 10,
        "candidatesTokenCount": 3,
        "totalTokenCount": 15,
        "thoughtsTokenCount": 2,
        "cachedContentTokenCount": 4,
    }
    assert answered.lost == ["content: a thought's signature is for its own provider"]


def test_nothing_is_told_behind_the_end_and_it_is_named():
    chunks = [
        {"candidates": [{"content": {"parts": [{"text": said}]}, "finishReason": "STOP"}]}
        for said in ("a", "b")
    ]
    reader = Gemini().reader()
    happened = reader.feed(b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks))

    assert [one.text for one in happened if hasattr(one, "text")] == ["a"]
    assert reader.lost == ["content: what came behind the end of the answer"]


def test_a_stop_says_why(asked):
    call = asked("gemini", {"contents": [USER]})
    call.query = "alt=sse"
    end = Gemini().writer(call).stop(CallError("blocked", "Blocked by policy 'words'.", code="SPII"))

    assert orjson.loads(end[6:])["candidates"] == [
        {"finishReason": "SPII", "finishMessage": "Blocked by policy 'words'.", "index": 0}
    ]
