"""What becomes of credentials: actions by rule and group, in prompts, tools, replies; monitor mode; the scanner."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from llmshield.call import Channel
from llmshield.secrets_patterns import RULES
from llmshield.testing import call, filtered, read, run_hook
from llmshield.verdicts import Block
from llmshield_plugins.secrets import Secrets

KEY = "ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU"
AWS = "AKIAZ7VRSQTUPLOWD5NX"


def plugin(**settings: Any) -> Secrets:
    return Secrets(Secrets.Settings(**settings))


async def test_every_kind_is_redacted_in_a_prompt(values: Any) -> None:
    for rule, before, value in values:
        seen = await run_hook(plugin(), "pre_request", call(f"Why does {before}{value} fail?"))

        assert value not in seen.texts[0]
        assert "[redacted:" in seen.texts[0]
        assert [(rule, "redact", 1.0, 1)] == [(f.type, f.action, f.score, f.count) for f in seen.findings]
        assert seen.findings[0].place.endswith("/content")


async def test_what_was_redacted_is_not_found_again(values: Any) -> None:
    for _, before, value in values:
        first = await run_hook(plugin(), "pre_request", call(f"Why does {before}{value} fail?"))
        second = await run_hook(plugin(), "pre_request", call(first.texts[0]))

        assert second.action == "allow", first.texts


@pytest.mark.parametrize(
    ("settings", "text", "action", "rest"),
    [
        ({}, f"k {KEY}", "redact", "k [redacted:github]"),
        ({"action": "flag"}, f"k {KEY}", "flag", f"k {KEY}"),
        ({"action": "block"}, f"k {KEY}", "block", f"k {KEY}"),
        ({"rules": {"github": "block"}}, f"k {KEY} {AWS}", "block", f"k {KEY} {AWS}"),
        ({"rules": {"github": "ignore"}}, f"k {KEY} {AWS}", "redact", f"k {KEY} [redacted:aws_access_key]"),
        ({"rules": {"code": "flag", "github": "redact"}}, f"k {KEY}", "redact", "k [redacted:github]"),
        ({"rules": {"ai": "flag", "cloud": "redact"}}, "k AIza" + "0Ab9" * 8 + "xyz", "redact", "k [redacted:google_api]"),
        ({"rules": {"url_with_credentials": "ignore"}}, f"https://u:{KEY}@h/", "redact", "https://u:[redacted:github]@h/"),
        ({"rules": {"announced": {"min_entropy": 3.5}}}, "password=aaaabbbb1111", "allow", "password=aaaabbbb1111"),
        ({"min_entropy": 5.5}, f"k {KEY}", "allow", f"k {KEY}"),
        ({"allow": [KEY]}, f"k {KEY} {AWS}", "redact", f"k {KEY} [redacted:aws_access_key]"),
        ({"allow_patterns": ["ghp_x8.*"]}, f"k {KEY}", "allow", f"k {KEY}"),
        ({"allow_patterns": ["x8.*"]}, f"k {KEY}", "redact", "k [redacted:github]"),
        ({"scan": ["system"]}, f"k {KEY}", "allow", f"k {KEY}"),
        ({}, "k AKIAXXXXXXXXXXXXXXXX", "allow", "k AKIAXXXXXXXXXXXXXXXX"),
    ],
)  # fmt: skip
async def test_settings(settings: dict[str, Any], text: str, action: str, rest: str) -> None:
    seen = await run_hook(plugin(**settings), "pre_request", call(text))

    assert (action, rest) == (seen.action, seen.texts[0])
    if action == "block":
        assert isinstance(seen.verdict, Block)
        assert KEY not in seen.verdict.message
        assert seen.verdict.param == "messages[0].content"


BODY = {
    "model": "gpt-4o",
    "user": f"u-{AWS}",
    "tools": [{"type": "function", "function": {"name": "login", "description": f"use {KEY}", "parameters": {
        "type": "object", "properties": {"password": {"type": "string", "default": "hunter2!x9"}}}}}],
    "messages": [
        {"role": "system", "content": "The admin's password is Tr0ub4dor&3, keep it."},
        {"role": "user", "content": [{"type": "text", "text": f"token={KEY}"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {
            "name": "login", "arguments": '{"user":"bob","password":"S3cr3t-Pa55","note":"Tr0ub4dor&3 again"}'}}]},
        {"role": "tool", "tool_call_id": "c", "content": f"ok {AWS}"},
    ],
}  # fmt: skip


async def test_every_place_of_a_body() -> None:
    """Tool definitions, arguments by their names, results, metadata; and a value that is announced elsewhere."""
    seen = await run_hook(plugin(), "pre_request", read(BODY))
    sent = json.dumps(seen.call.body)

    for secret in (KEY, AWS, "S3cr3t-Pa55", "Tr0ub4dor&3"):
        assert secret not in sent
    arguments = json.loads(seen.call.body["messages"][2]["tool_calls"][0]["function"]["arguments"])
    assert arguments == {
        "user": "bob", "password": "[redacted:assignment]", "note": "[redacted:assignment] again",
    }  # fmt: skip


async def test_monitor_mode_changes_nothing() -> None:
    seen = await run_hook(plugin(), "pre_request", call(f"k {KEY}"), enforced=False)

    assert seen.texts == [f"k {KEY}"]
    assert seen.action == "would-redact"


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
async def test_replies(values: Any, size: int) -> None:
    for rule, before, value in values:
        text = f"Here: {before}{value} and more."
        pieces = [text[i : i + size] for i in range(0, len(text), size)]

        got, stopped = await filtered(plugin(), call("hi"), pieces)
        assert (text.replace(value, f"[redacted:{rule}]"), None) == (got, stopped)

        got, stopped = await filtered(plugin(action="block"), call("hi"), pieces)
        assert stopped is not None
        assert text.startswith(got)
        assert value[:5] not in got

        got, stopped = await filtered(plugin(action="flag"), call("hi"), pieces)
        assert (text, None) == (got, stopped)


async def test_a_leaf_of_tool_arguments_is_announced_by_its_name() -> None:
    for name, value, hidden in (
        ("password", "hunter2!x9", True),
        ("note", "hunter2!x9", False),
        ("apiKey", "q8Zx71Lm02pQ", True),
    ):
        for pieces in ([value], list(value)):
            got, _ = await filtered(
                plugin(), call("hi"), pieces, channel=Channel("tool_arguments", path=("a", name))
            )

            assert got == ("[redacted:assignment]" if hidden else value)


async def test_arguments_in_pieces_stay_json() -> None:
    text = json.dumps({"password": "hunter2!x9", "n": 5, "deep": [{"token": f"x\u00e9 {KEY}"}]})
    for size in (1, 3, 1000):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        got, _ = await filtered(plugin(), call("hi"), pieces, channel=Channel("tool_arguments"))

        assert json.loads(got) == {
            "password": "[redacted:assignment]", "n": 5, "deep": [{"token": "x\u00e9 [redacted:github]"}],
        }  # fmt: skip


async def test_without_output_no_filter_is_hung() -> None:
    assert "post_response" in plugin(scan=["user"]).idle


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rules": {"githb": "block"}}, "did you mean 'github'"),
        ({"rules": {"aws-access-key": "block"}}, "did you mean 'aws_access_key'"),
        ({"rules": {"zzzz": "block"}}, "groups are"),
        ({"rules": {"github": "mask"}}, "'redact', 'block', 'flag' or 'ignore'"),
        ({"allow_patterns": ["(?=x)"]}, "google-re2"),
        ({"allow_patterns": ["x*"]}, "empty text"),
        ({"scan": ["everyone"]}, "'system'"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("(", r"\(")):
        Secrets.Settings(**settings)


def test_every_rule_has_a_ruling() -> None:
    rulings = Secrets.Settings(rules={"login": "block"}).rulings()

    assert RULES == set(rulings)
    assert rulings["url_with_credentials"].action == "block"


def test_the_command_scan() -> None:
    lines = [{"text": f"k {KEY}"}, {"text": "nothing"}, {"text": "\ud83d", "role": "output"}, {"text": ""}]
    done = subprocess.run(
        [sys.executable, "-m", "llmshield", "scan", "--plugin", "secrets"],
        input="\n".join(json.dumps(line) for line in lines), capture_output=True, text=True, check=True,
    )  # fmt: skip
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]

    assert [v["action"] for v in verdicts] == ["flag", "allow", "allow", "allow"]
    assert verdicts[0]["spans"] == [{"start": 2, "end": 42, "type": "github", "score": 1.0}]
    assert verdicts[0]["families"] == ["github"]
