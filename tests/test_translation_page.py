"""The table of docs/translation.md is what the translators do, and its examples run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.conversation import (
    Conversation,
    MediaPart,
    Message,
    OutputForm,
    ReasoningPart,
    TextPart,
    Thinking,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from llmshield.registry import find
from llmshield.simulator import Scripted, Simulator
from llmshield.testing import gateway

PAGE = Path(__file__).parents[1] / "docs" / "translation.md"
TARGETS = {
    "OpenAI": ("openai_chat", "m-1"),
    "Anthropic": ("anthropic_messages", "claude-sonnet-4-5"),
    "Gemini": ("gemini", "gemini-2.5-flash"),
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "additionalProperties": False,
}


def asks(*parts: Any) -> list[Message]:
    return [Message("user", list(parts) or [TextPart("hi")])]


def turn(call: ToolCallPart, result: ToolResultPart) -> list[Message]:
    return [*asks(), Message("assistant", [call]), Message("tool", [result])]


def thought(family: str) -> list[Message]:
    part = ReasoningPart("hm", signature="s" if family == "anthropic" else None, family=family)
    return [*asks(), Message("assistant", [part, TextPart("a")]), *asks()]


CALL = ToolCallPart("c", "f", "{}")
WORDS = [TextPart("r")]
ROWS: dict[str, dict[str, Any]] = {
    "system prompt": {"messages": [Message("system", WORDS), *asks()]},
    "system message in the middle": {"messages": [*asks(), Message("system", WORDS), *asks()]},
    "names of speakers": {"messages": [Message("user", WORDS, "bob")]},
    "image by URL (with an ending)": {"messages": asks(MediaPart("image", url="https://x.example/a.png"))},
    "image in the body": {"messages": asks(MediaPart("image", data="aGk=", media_type="image/png"))},
    "PDF in the body": {"messages": asks(MediaPart("document", data="aGk=", media_type="application/pdf"))},
    "PDF by URL": {"messages": asks(MediaPart("document", url="https://x.example/a.pdf"))},
    "audio in the body": {"messages": asks(MediaPart("audio", data="aGk=", media_type="audio/wav"))},
    "video": {"messages": asks(MediaPart("video", data="aGk=", media_type="video/mp4"))},
    "a file by the provider's own id": {"messages": asks(MediaPart("document", file_id="f"))},
    "tools": {"tools": [Tool("f", "d", SCHEMA)]},
    "strict tools": {"tools": [Tool("f", "d", SCHEMA, True)]},
    "tool choice: auto, none, required, named": {
        "tools": [Tool("f")],
        "tool_choice": ToolChoice("named", "f"),
    },
    "one call at a time": {"tools": [Tool("f")], "tool_choice": ToolChoice("auto"), "parallel_tools": False},
    "calls and their results, with ids": {"messages": turn(CALL, ToolResultPart("c", WORDS))},
    "a result that is an error": {"messages": turn(CALL, ToolResultPart("c", WORDS, failed=True))},
    "an image as a tool's result": {
        "messages": turn(CALL, ToolResultPart("c", [MediaPart("image", url="https://x.example/a.png")]))
    },
    "calls with broken arguments, or of custom tools": {
        "messages": turn(ToolCallPart("c", "f", "free"), ToolResultPart("c", WORDS))
    },
    "any JSON object": {"output": OutputForm("json")},
    "JSON of a schema": {"output": OutputForm("schema", SCHEMA)},
    "a schema with `pattern`": {
        "output": OutputForm("schema", {**SCHEMA, "properties": {"a": {"type": "string", "pattern": "x"}}})
    },
    "thinking: an effort": {"thinking": Thinking("low")},
    "thinking: a budget": {"thinking": Thinking(budget=2000)},
    "thinking: off": {"thinking": Thinking(off=True)},
    "thinking: shown in the answer": {"thinking": Thinking("low", shown=True)},
    "earlier thoughts of Anthropic's models": {"messages": thought("anthropic")},
    "earlier thoughts of Gemini's models": {"messages": thought("gemini")},
    "several answers (`n`)": {"choices": 2},
    "stop sequences (up to 4)": {"stop": ["END"]},
    "bound of the answer": {"max_tokens": 100},
    "temperature up to 1, `top_p`": {"temperature": 0.5},
    "temperature above 1": {"temperature": 1.5},
    "`top_k`": {"top_k": 5},
    "penalties": {"frequency_penalty": 0.5, "presence_penalty": 0.5},
    "seed": {"seed": 7},
    "log-probabilities": {"logprobs": 2},
    "end user's id": {"user": "u"},
}


def cell(name: str, model: str, wishes: dict[str, Any]) -> str:
    c = Conversation(model, asks())
    for field, value in wishes.items():
        setattr(c, field, value)
    find("translator", name)().write_conversation(c)
    return "missing" if c.missing else "lost" if c.lost else "yes"


def table() -> str:
    lines = [
        "| what the client says | " + " | ".join(f"to {family}" for family in TARGETS) + " |",
        "|---|" + "---|" * len(TARGETS),
    ]
    for row, wishes in ROWS.items():
        lines.append(f"| {row} | " + " | ".join(cell(*target, wishes) for target in TARGETS.values()) + " |")
    return "\n".join(lines)


def test_the_table_is_what_the_translators_do():
    assert table() in PAGE.read_text(encoding="utf-8"), "put this into docs/translation.md:\n\n" + table()


def fenced(kind: str) -> str:
    found: Callable[[str], list[str]] = re.compile(rf"```{kind}\n(.*?)```", re.S).findall
    return found(PAGE.read_text(encoding="utf-8"))[0]


@pytest.mark.parametrize("refuse", [False, True])
async def test_the_example_runs(tmp_path, refuse, monkeypatch):
    """The page's policy, its call, and the line of its record; with `on_loss: refuse` the last target answers."""
    audit = tmp_path / "audit.jsonl"
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-any")
    body, record = json.loads(fenced("json")), json.loads(fenced("jsonc"))
    async with Simulator() as sim, aiohttp.ClientSession() as http:
        text = (
            fenced("yaml")
            .replace("https://api.anthropic.com", sim.url)
            .replace("https://api.openai.com/v1", f"{sim.url}/v1")
        )
        text = text.replace("file://audit.jsonl", f"file://{audit}")
        if refuse:
            text = text.replace("on_loss: record", "on_loss: refuse")
        async with gateway(text) as (url, _):
            sim.say(Scripted(text="Rome."))
            async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                said = await reply.json()
    lines = map(json.loads, audit.read_text().splitlines())
    attempts = next(line["attempts"] for line in lines if line.get("attempts"))

    assert said["choices"][0]["message"]["content"] == "Rome."
    if refuse:
        assert [(each["provider"], each["outcome"]) for each in attempts] == [
            ("anthropic", "skipped"),
            ("openai", "ok"),
        ]
    else:
        assert {name: attempts[0][name] for name in record} == record
