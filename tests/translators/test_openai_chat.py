"""Chat completions out of, and into, the other dialects: golden cases, field by field."""

from __future__ import annotations

import pytest

from llmshield.conversation import Answered, Choice, ReasoningPart, TextPart, ToolCallPart, Usage
from llmshield.translators.openai_chat import OpenAIChat

USER = {"role": "user", "content": "hi"}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
CALLS = [
    {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
    {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": ""}},
]
RESULTS = [
    {"role": "tool", "tool_call_id": "call_b", "content": "second"},
    {"role": "tool", "tool_call_id": "call_a", "content": [{"type": "text", "text": "first"}]},
]

TO_ANTHROPIC = {
    "system": (
        {"messages": [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, USER]},
        {"system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "messages": [USER]},
    ),
    "tools": ({"tools": [TOOL]}, {"tools": [{"name": "f", "description": "d", "input_schema": FUNCTION["parameters"]}]}),
    "choice-auto": ({"tools": [TOOL], "tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}),
    "choice-none": ({"tools": [TOOL], "tool_choice": "none"}, {"tool_choice": {"type": "none"}}),
    "choice-required": ({"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": {"type": "any"}}),
    "choice-named": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
        {"tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
    ),
    "parallel calls": (
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": CALLS}, *RESULTS, USER]},
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "call_a", "name": "f", "input": {"x": 1}},
                        {"type": "tool_use", "id": "call_b", "name": "g", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "call_b", "content": "second"},
                        {"type": "tool_result", "tool_use_id": "call_a", "content": "first"},
                        {"type": "text", "text": "hi"},
                    ],
                },
            ]
        },
    ),
    "image url": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x.example/a"}}]}]},
    ),
    "image data": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}]}]},
    ),
    "document": (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}, "title": "a.pdf"}]}]},
    ),
    "sampling": (
        {"temperature": 0.3, "stop": "END", "max_completion_tokens": 9, "user": "u-1"},
        {"temperature": 0.3, "stop_sequences": ["END"], "max_tokens": 9, "metadata": {"user_id": "u-1"}},
    ),
    "no bound": ({}, {"max_tokens": 8192}),
    "neighbours": (
        {"messages": [USER, USER, {"role": "assistant", "content": ""}, {"role": "assistant", "content": "a"}, USER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}] * 2}, {"role": "assistant", "content": "a"}, USER]},
    ),
    "effort": (
        {"reasoning_effort": "medium", "max_tokens": 20000},
        {"thinking": {"type": "enabled", "budget_tokens": 8192}, "max_tokens": 20000},
    ),
    "effort without a bound leaves room": (
        {"reasoning_effort": "high"},
        {"thinking": {"type": "enabled", "budget_tokens": 12288}, "max_tokens": 8192 + 16384},
    ),
    "schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {"a": {"type": "string"}}}}}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TO_ANTHROPIC)
def test_to_anthropic(told, case):
    body, expected = TO_ANTHROPIC[case]
    seen = told(
        "openai_chat", {"model": "m", "messages": [USER], **body}, "anthropic_messages", "claude-sonnet-4-5"
    )

    assert {name: seen.body.get(name) for name in expected} == expected
    assert (seen.lost, seen.missing) == ([], [])


TO_GEMINI = {
    "system": ({"messages": [{"role": "system", "content": "a"}, USER]}, {"systemInstruction": {"parts": [{"text": "a"}]}}),
    "tools": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {
            "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parametersJsonSchema": FUNCTION["parameters"]}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        },
    ),
    "calls": (
        {"messages": [USER, {"role": "assistant", "tool_calls": CALLS}, *RESULTS]},
        {
            "contents": [
                {"role": "user", "parts": [{"text": "hi"}]},
                {
                    "role": "model",
                    "parts": [
                        {"functionCall": {"id": "call_a", "name": "f", "args": {"x": 1}}},
                        {"functionCall": {"id": "call_b", "name": "g", "args": {}}},
                    ],
                },
                {
                    "role": "user",
                    "parts": [
                        {"functionResponse": {"id": "call_b", "name": "g", "response": {"output": "second"}}},
                        {"functionResponse": {"id": "call_a", "name": "f", "response": {"output": "first"}}},
                    ],
                },
            ]
        },
    ),
    "settings": (
        {"temperature": 1.5, "top_p": 0.5, "n": 2, "seed": 7, "stop": ["A", "B"], "max_tokens": 9, "frequency_penalty": 0.5,
         "presence_penalty": 0.25, "reasoning_effort": "none"},
        {"generationConfig": {"temperature": 1.5, "topP": 0.5, "candidateCount": 2, "seed": 7, "stopSequences": ["A", "B"],
         "maxOutputTokens": 9, "frequencyPenalty": 0.5, "presencePenalty": 0.25, "thinkingConfig": {"thinkingBudget": 0}}},
    ),
    "json": ({"response_format": {"type": "json_object"}}, {"generationConfig": {"responseMimeType": "application/json"}}),
    "audio": (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}]}]},
        {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "audio/mpeg", "data": "aGk="}}]}]},
    ),
    "image url with an ending": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a.PNG?b=1"}}]}]},
        {"contents": [{"role": "user", "parts": [{"fileData": {"fileUri": "https://x.example/a.PNG?b=1", "mimeType": "image/png"}}]}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TO_GEMINI)
def test_to_gemini(told, case):
    body, expected = TO_GEMINI[case]
    seen = told("openai_chat", {"model": "m", "messages": [USER], **body}, "gemini", "gemini-2.5-flash")

    assert {name: seen.body.get(name) for name in expected} == expected
    assert (seen.lost, seen.missing) == ([], [])


LOSSES = [
    ({"seed": 1}, "anthropic_messages", "seed: Anthropic has no such setting", ""),
    ({"temperature": 1.7}, "anthropic_messages", "temperature: Anthropic's scale ends at 1", ""),
    ({"frequency_penalty": 0.5}, "anthropic_messages", "frequency_penalty: Anthropic has no such setting", ""),
    ({"logprobs": True}, "gemini", "logprobs: a translated answer has none", ""),
    ({"user": "u"}, "gemini", "user: Gemini asks for no user", ""),
    ({"service_tier": "flex"}, "gemini", "service_tier: known to chat completions only", ""),
    ({"stream_options": {"include_obfuscation": True}}, "gemini", "stream_options/include_obfuscation: known to chat completions only", ""),
    ({"messages": [USER, {"role": "system", "content": "now"}, USER]}, "gemini", "messages/1: Gemini hears the system at the beginning only", ""),
    ({"messages": [{**USER, "name": "bob"}]}, "anthropic_messages", "messages/0/name: Anthropic's speakers have no names", ""),
    ({"reasoning_effort": "high", "max_tokens": 500}, "anthropic_messages", "thinking: Anthropic can't think in less than 1024 tokens of this call's bound", ""),
    ({"n": 2}, "anthropic_messages", "", "choices: Anthropic gives one answer"),
    ({"n": 9}, "gemini", "", "choices: Gemini gives eight answers at the most"),
    ({"response_format": {"type": "json_object"}}, "anthropic_messages", "", "output: Anthropic answers in JSON of a schema only, not in any JSON"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "gemini", "", "tools/0: a tool that is no function"),
    ({"messages": [{"role": "system", "content": "alone"}]}, "gemini", "", "messages: Gemini answers a user, and nobody has said anything"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{**CALLS[0], "function": {"name": "f", "arguments": '{"x":'}}]}]}, "anthropic_messages",
     "", "messages/1: a call whose arguments are no JSON object"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}]}]}, "anthropic_messages", "",
     "messages/0: Anthropic can't be shown this audio"),
    ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f-1"}}]}]}, "gemini", "", "messages/0: Gemini can't be shown this document"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a"}}]}]}, "gemini", "",
     "messages/0: of what kind this image is, which Gemini wants to be told"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "target", "lost", "missing"), LOSSES)
def test_what_is_lost_and_what_would_be_missing(told, body, target, lost, missing):
    model = "claude-sonnet-4-5" if target == "anthropic_messages" else "gemini-2.5-flash"
    seen = told("openai_chat", {"model": "m", "messages": [USER], **body}, target, model)

    assert seen.lost == ([lost] if lost else [])
    assert seen.missing[:1] == ([missing] if missing else [])


def test_functions_of_old_get_ids_of_their_own(told):
    """Two calls of one function: Anthropic takes no id twice."""
    said = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    heard = {"role": "function", "name": "f", "content": "ok"}
    seen = told(
        "openai_chat",
        {"model": "m", "messages": [USER, said, heard, said, heard]},
        "anthropic_messages",
        "claude-sonnet-4-5",
    )
    calls = [
        block["id"]
        for turn in seen.body["messages"]
        if turn["role"] == "assistant"
        for block in turn["content"]
    ]
    results = [
        turn["content"][0]["tool_use_id"] for turn in seen.body["messages"][1:] if turn["role"] == "user"
    ]

    assert calls == results
    assert len({*calls}) == 2


MODELS = [
    ("gpt-4o", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, {"reasoning_effort": None}, "thinking: this model doesn't think"),
    ("gpt-4.1", {}, {"max_completion_tokens": 4000, "max_tokens": None}, ""),
    ("llama-3", {}, {"max_tokens": 4000, "max_completion_tokens": None}, ""),
    ("o3", {"temperature": 0.5}, {"temperature": None}, "temperature: this model takes none"),
    ("gpt-5", {"top_p": 0.5}, {"top_p": None}, "top_p: this model takes none"),
    ("gpt-5.1", {"top_p": 0.5}, {"top_p": 0.5}, ""),
    ("gpt-5-chat-latest", {"temperature": 0.5}, {"temperature": 0.5}, ""),
    ("openai/gpt-5", {"thinking": {"type": "disabled"}}, {"reasoning_effort": "minimal"}, "thinking: of efforts this model has 'minimal' at the nearest"),
    ("gpt-4o", {"thinking": {"type": "disabled"}}, {"reasoning_effort": None}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("model", "more", "expected", "lost"), MODELS)
def test_what_openais_models_refuse_is_not_sent(told, model, more, expected, lost):
    body = {"model": "m", "max_tokens": 4000, "messages": [USER], **more}
    seen = told("anthropic_messages", body, "openai_chat", model)

    assert {name: seen.body.get(name) for name in expected} == expected
    assert not lost or lost in seen.lost
    assert seen.missing == []


def test_stop_sequences_that_a_reasoning_model_refuses_are_missing(told):
    body = {"model": "m", "max_tokens": 4000, "messages": [USER], "stop_sequences": ["END"]}

    assert told("anthropic_messages", body, "openai_chat", "o4-mini").missing == [
        "stop: this model has no stop sequences"
    ]
    assert told("anthropic_messages", body, "openai_chat", "gpt-4.1").missing == []


def test_an_answer_of_another_dialect(asked):
    """Thoughts are shown as compatible servers show them; their proofs are left out, and named."""
    parts = [
        ReasoningPart("hm", signature="proof", family="anthropic"),
        TextPart("a"),
        TextPart("b"),
        TextPart("no", refusal=True),
        ToolCallPart("t1", "f", ""),
    ]
    answered = Answered(
        "claude", [Choice(parts, "tool_calls")], Usage(input=10, output=5, cache_read=4, reasoning=2)
    )
    tree = OpenAIChat().write_answer(answered, asked("openai_chat", {"model": "m", "messages": [USER]}))

    assert tree["choices"][0]["message"] == {
        "role": "assistant",
        "content": "ab",
        "refusal": "no",
        "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        "reasoning_content": "hm",
    }
    assert tree["choices"][0]["finish_reason"] == "tool_calls"
    assert tree["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert answered.lost == ["content: a thought's signature is for its own provider"]
