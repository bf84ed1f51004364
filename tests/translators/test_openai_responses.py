"""The responses API out of, and into, the other dialects: golden cases, field by field."""

from __future__ import annotations

import orjson
import pytest

from llmshield.conversation import (
    Answered,
    Begun,
    Choice,
    Conversation,
    Message,
    Metered,
    Over,
    PartBegun,
    PartGrew,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    Usage,
)
from llmshield.errors import CallError
from llmshield.translators.openai_responses import OpenAIResponses

BASE = {"model": "m", "input": "hi"}
HI = {"role": "user", "content": "hi"}
TURN = [
    {"role": "user", "content": "hi"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "opaque"},
    {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "ok", "annotations": []}]},
    {"type": "function_call", "id": "fc_1", "call_id": "call_a", "name": "f", "arguments": '{"x":1}', "status": "completed"},
    {"type": "function_call", "id": "fc_2", "call_id": "call_b", "name": "g", "arguments": "{}", "status": "completed"},
    {"type": "function_call_output", "call_id": "call_a", "output": "first"},
    {"type": "function_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "second"}]},
]  # fmt: skip

TO_ANTHROPIC = {
    "instructions": ({"instructions": "a"}, {"system": "a", "messages": [HI]}, []),
    "one turn in several items": (
        {"input": TURN},
        {"messages": [
            HI,
            {"role": "assistant", "content": [
                {"type": "text", "text": "ok"},
                {"type": "tool_use", "id": "call_a", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "call_b", "name": "g", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "call_a", "content": "first"},
                {"type": "tool_result", "tool_use_id": "call_b", "content": "second"}]},
        ]},
        ["messages/1: Anthropic takes back its own thoughts only"],
    ),
    "tools": (
        {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}}, "strict": True}],
         "tool_choice": {"type": "function", "name": "f"}},
        {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}, "strict": True}],
         "tool_choice": {"type": "tool", "name": "f"}},
        ["tools/0: Anthropic's schemas have no 'minLength'"],
    ),
    "image and file": (
        {"input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": "https://x.example/a", "detail": "auto"}, {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "url", "url": "https://x.example/a"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}, "title": "a.pdf"}]}]},
        [],
    ),
    "bound and effort": (
        {"max_output_tokens": 6000, "reasoning": {"effort": "high", "summary": "auto"}},
        {"max_tokens": 6000, "thinking": {"type": "enabled", "budget_tokens": 3000, "display": "summarized"}},
        [],
    ),
    "store": ({"store": True}, {"messages": [HI]}, ["store: known to the responses API only"]),
    "verbosity": ({"text": {"verbosity": "low"}}, {"messages": [HI]}, ["text/verbosity: known to the responses API only"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TO_ANTHROPIC)
def test_to_anthropic(told, case):
    body, expected, lost = TO_ANTHROPIC[case]
    seen = told("openai_responses", {**BASE, **body}, "anthropic_messages", "claude-sonnet-4-5")

    assert {name: seen.body.get(name) for name in expected} == expected
    assert (seen.lost, seen.missing) == (lost, [])


MISSING = [
    ({"previous_response_id": "resp_1"}, "previous_response_id: text that only its provider holds"),
    ({"conversation": "conv_1"}, "conversation: text that only its provider holds"),
    ({"prompt": {"id": "p"}}, "prompt: text that only its provider holds"),
    ({"background": True}, "background: text that only its provider holds"),
    ({"tools": [{"type": "web_search"}]}, "tools/0: a tool that is no function"),
    ({"tools": [{"type": "custom", "name": "c"}]}, "tools/0: a tool that is no function"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input/0: an item that only the responses API has"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "detail": "auto", "file_id": "f-1"}]}]}, "messages/0: Gemini can't be shown this image"),
    ({"input": [HI, {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "free"}, HI]}, "messages/1: a call whose arguments are no JSON object"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice: a choice of an unknown kind"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "missing"), MISSING)
def test_what_would_be_missing(told, body, missing):
    seen = told("openai_responses", {**BASE, **body}, "gemini", "gemini-2.5-flash")

    assert seen.missing[:1] == [missing]


def test_what_it_can_not_say_itself():
    """Written for a stream that goes on at another provider of the same family."""
    c = Conversation("m", [Message("user", [TextPart("hi")], "bob")], choices=2, stop=["A"], seed=1, top_k=2)
    OpenAIResponses().write_conversation(c)

    assert c.missing == [
        "choices: the responses API gives one answer",
        "stop: the responses API has no stop sequences",
    ]
    assert c.lost == [
        "messages/0/name: the responses API's speakers have no names",
        "top_k: the responses API has no such setting",
        "seed: the responses API has no such setting",
    ]


def test_an_answer_of_another_dialect(asked):
    parts = [
        ReasoningPart("hm", "proof", family="anthropic"),
        TextPart("a"),
        TextPart("no", refusal=True),
        ToolCallPart("t1", "f", "", signature="c2ln"),
    ]
    answered = Answered(
        "claude",
        [Choice(parts, "length")],
        Usage(input=10, output=5, cache_read=4, cache_write=1, reasoning=2),
    )
    call = asked("openai_responses", BASE)
    tree = OpenAIResponses().write_answer(answered, call)

    assert [(item["type"], item["id"]) for item in tree["output"]] == [
        ("message", f"msg_{call.id}1"),
        ("message", f"msg_{call.id}2"),
        ("function_call", f"fc_{call.id}3"),
    ]
    assert (tree["status"], tree["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert tree["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }
    assert answered.lost == [
        "content: OpenAI shows its own thoughts only",
        "content: a thought's signature is for its own provider",
    ]


def test_events_are_numbered_and_name_their_items(asked):
    writer = OpenAIResponses().writer(asked("openai_responses", {**BASE, "stream": True}))
    happenings = [Begun("claude"), PartBegun(0, 0, "text"), PartGrew(0, 0, "a"), PartBegun(0, 1, "tool_call", "t1", "f"), PartGrew(0, 1, "{}"),
                  Metered(Usage(input=1, output=2)), Over()]  # fmt: skip
    events = [
        orjson.loads(line[6:])
        for line in b"".join(map(writer.write, happenings)).split(b"\n")
        if line.startswith(b"data: ")
    ]

    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_item.added",
        "function_call_arguments.delta", "output_text.done", "content_part.done", "output_item.done",
        "function_call_arguments.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert {event["item_id"] for event in events if "item_id" in event} == {
        item["id"] for item in events[-1]["response"]["output"]
    }


def test_a_stop_is_a_failed_response(asked):
    """Codex tries an incomplete one six times, and this one once."""
    end = (
        OpenAIResponses()
        .writer(asked("openai_responses", {**BASE, "stream": True}))
        .stop(CallError("blocked", "Blocked by policy 'words'."))
    )
    event = orjson.loads(end.partition(b"data: ")[2])

    assert (event["type"], event["response"]["status"], event["response"]["output"]) == (
        "response.failed",
        "failed",
        [],
    )
    assert event["response"]["error"] == {"code": "invalid_prompt", "message": "Blocked by policy 'words'."}
