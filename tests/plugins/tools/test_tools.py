"""Names and arguments of tools, on the way out and on the way back."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmshield.call import Channel
from llmshield.testing import call, filtered, policy, read, run_hook
from llmshield_plugins import tools as package
from llmshield_plugins.tools import Tools
from llmshield_plugins.tools.reading import uses
from llmshield_plugins.tools.rules import Rule, RuleShape

RULES = {
    "send_email": {"to": {"pattern": r"[^@ ]+@example\.com"}, "files/*/name": {"max_length": 5}},
    "pay*": {"amount": {"min": 1, "max": 100}, "currency": {"one_of": ["EUR", 5]}, "note": {"forbid": True}},
}


def made(**given: Any) -> Tools:
    return Tools(Tools.Settings(**given))


def chat(*calls: tuple[str, Any], offered: tuple[str, ...] = ()) -> dict[str, Any]:
    """A chat body that offers tools and has called some."""
    made = [
        {
            "id": f"c{n}",
            "type": "function",
            "function": {"name": name, "arguments": orjson.dumps(args).decode()},
        }
        for n, (name, args) in enumerate(calls)
    ]
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    if made:
        body["messages"].append({"role": "assistant", "content": None, "tool_calls": made})
    if offered:
        body["tools"] = [
            {"type": "function", "function": {"name": name, "parameters": {}}} for name in offered
        ]
    return body


SHAPES = [
    (chat(("search", {"q": "x"}), offered=("get", "put")),
     [("get", None), ("put", None), ("search", {"q": "x"})]),
    ({"functions": [{"name": "old"}], "messages": [{"role": "assistant", "function_call": {"name": "old", "arguments": "no json"}}]},
     [("old", None), ("old", "no json")]),
    ({"tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "crm"}, {"type": "function", "name": "f"}],
      "input": [{"type": "function_call", "name": "f", "arguments": "{\"a\": [1]}"}, {"type": "mcp_call", "name": "g", "arguments": "{}"}]},
     [("web_search", None), ("mcp:crm", None), ("f", None), ("f", {"a": [1]}), ("g", {})]),
    ({"tools": [{"name": "weather", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}],
      "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Rome"}}]}]},
     [("weather", None), ("bash_20250124", None), ("weather", {"city": "Rome"})]),
    ({"tools": [{"functionDeclarations": [{"name": "one"}, {"name": "two"}]}, {"googleSearch": {}}],
      "contents": [{"parts": [{"functionCall": {"name": "one", "args": {"k": 1}}}]}]},
     [("one", None), ("two", None), ("googleSearch", None), ("one", {"k": 1})]),
    ({"mcp_servers": [{"type": "url", "name": "crm"}], "tools": [{"type": "mcp_toolset", "mcp_server_name": "crm"}]},
     [("mcp:crm", None), ("mcp:crm", None)]),
    ({"input": "a text", "messages": None, "tools": "nonsense", "mcp_servers": "nonsense"}, []),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), SHAPES)
def test_the_tools_of_every_dialect_are_seen(body: dict[str, Any], expected: list[tuple[str, Any]]) -> None:
    assert [(use.name, use.arguments) for use in uses(body)] == expected


@pytest.mark.parametrize(
    ("given", "body", "action"),
    [
        ({}, chat(offered=("anything",)), "allow"),
        ({"allow": ["get_*", "search"]}, chat(offered=("GET_price", "search")), "allow"),
        ({"allow": ["get_*"]}, chat(offered=("get_price", "delete")), "block"),
        ({"allow": ["get_*"], "offered": "flag"}, chat(offered=("delete",)), "flag"),
        ({"allow": ["get_*"], "offered": "flag"}, chat(("delete", {})), "block"),
        ({"allow": ["*"], "deny": ["drop_*"]}, chat(offered=("drop_all",)), "block"),
        ({"deny": ["drop_*"], "action": "flag"}, chat(offered=("drop_all",)), "flag"),
        ({"arguments": RULES}, chat(("send_email", {"to": "a@example.com", "body": "x"})), "allow"),
        ({"arguments": RULES}, chat(("send_email", {"to": "a@example.com.evil"})), "block"),
        ({"arguments": RULES}, chat(("send_email", {"files": [{"name": "a"}, {"name": "abcdef"}]})), "block"),
        ({"arguments": RULES}, chat(("pay_out", {"amount": 100, "currency": "EUR"})), "allow"),
        ({"arguments": RULES}, chat(("pay_out", {"amount": "100.5"})), "block"),
        ({"arguments": RULES}, chat(("pay_out", {"amount": "NaN"})), "block"),
        ({"arguments": RULES}, chat(("pay_out", {"currency": 5})), "allow"),
        ({"arguments": RULES}, chat(("pay_out", {"currency": "USD"})), "block"),
        ({"arguments": RULES}, chat(("pay_out", {"note": ""})), "block"),
        ({"arguments": RULES}, chat(("pay_out", {"note": [{"a": 1}]})), "block"),
        ({"arguments": RULES}, chat(("pay_out", {"amount": [5000]})), "block"),
        ({"arguments": RULES}, chat(("send_email", {"to": ["a@evil.example"]})), "block"),
        ({"arguments": RULES}, chat(("send_email", {"to": {"x": "a@evil.example"}})), "block"),
        ({"arguments": RULES}, chat(("send_email", ["a@evil.example"])), "block"),
        ({"arguments": RULES}, chat(("send_email", {"files": [], "cc": {"a": [1]}})), "allow"),
        ({"arguments": RULES}, chat(("send_email ", {"to": "a@evil.example"})), "block"),
        ({"arguments": RULES}, chat(("\uff53end_email", {"to": "a@evil.example"})), "block"),
        ({"arguments": RULES}, chat(("s\u0435nd_email", {})), "block"),
        ({"allow": ["s\u0435nd"], "arguments": RULES}, chat(("s\u0435nd", {})), "allow"),
        ({"arguments": RULES}, chat(("获取天气", {}), ("naïve_search", {})), "allow"),
        ({"deny": ["drop_*"]}, chat(offered=(" drop_all",)), "block"),
        ({"deny": ["drop_*"]}, chat(offered=("dr\u200bop_all",)), "block"),
        ({"deny": ["drop_*"]}, chat(offered=("dr\u043ep_all",)), "block"),
        ({"allow": ["search"]}, chat(offered=("search ",)), "block"),
        ({"arguments": RULES, "unlisted_arguments": "deny"}, chat(("pay", {"amount": 2, "x": 1})), "block"),
        ({"arguments": RULES, "unlisted_arguments": "deny"}, chat(("other", {"x": 1})), "allow"),
    ],
)  # fmt: skip
async def test_requests(given: dict[str, Any], body: dict[str, Any], action: str) -> None:
    seen = await run_hook(made(**given), "pre_request", read(body))

    assert seen.action == action
    if action == "block":
        assert "Blocked by policy 'tools'" in seen.verdict.message


async def test_no_value_of_an_argument_is_told() -> None:
    seen = await run_hook(made(arguments=RULES), "pre_request", read(chat(("send_email", {"to": "CANARY"}))))

    assert "CANARY" not in seen.verdict.message
    assert "send_email" in seen.verdict.message


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


REPLIES = [
    ("tool_name", None, "get_price", False),
    ("tool_name", None, "delete_all", True),
    ("tool_arguments", "send_email", '{"to": "a@example.com", "body": "hello"}', False),
    ("tool_arguments", "send_email", '{"body": "hello", "to": "a@evil.example"}', True),
    ("tool_arguments", "send_email", '{"files": [{"name": "a.txt"}, {"name": "very-long.txt"}]}', True),
    ("tool_arguments", "pay_now", '{"amount": 12.5, "currency": "EUR"}', False),
    ("tool_arguments", "pay_now", '{"currency": "EUR", "amount": 1200}', True),
    ("tool_arguments", "other", '{"amount": 1200}', False),
    ("tool_arguments", "other", "{'amount': 1200", False),
    ("tool_arguments", "pay_now", '{"note": [{"a": "evil"}]}', True),
    ("tool_arguments", "pay_now", '{"note": {"a": "evil"}}', True),
    ("tool_arguments", "pay_now", '{"note": true}', True),
    ("tool_arguments", "send_email", '{"to": ["a@evil.example"]}', True),
    ("tool_arguments", "send_email", "{'to': 'a@evil.example'}", True),
    ("tool_arguments", "send_email", '{"to": "a@example.com"}{"to": "a@evil.example"}', True),
    ("tool_arguments", "send_email", '["a@evil.example"]', True),
    ("tool_arguments", "send_email", "{}", False),
    ("tool_arguments", "send_email", "", False),
    ("tool_arguments", "send_email", '{"cc": ["b@example.com"], "to": "a@example.com"', False),
]


@given(st.sampled_from(REPLIES), st.lists(st.integers(0, 100), max_size=12))
@settings(max_examples=150, deadline=None)
async def test_a_reply_gets_the_same_verdict_however_it_is_cut(
    reply: tuple[str, str | None, str, bool], places: list[int]
) -> None:
    kind, tool, text, stopped = reply
    plugin = made(allow=["get_*", "send_email", "pay*", "other"], arguments=RULES)
    channel = Channel(kind, tool=tool)  # type: ignore[arg-type]
    out, stop = await filtered(plugin, call("hi"), cut(text, places), channel=channel)

    assert (stop is not None) is stopped
    if not stopped:
        assert out == text
    else:
        assert "evil" not in out
        assert "delete" not in out
        assert "1200" not in out


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        ("{'to': 'a@evil.example'}", "block"),
        ('{"to": "a@example.com",}', "block"),
        ('{"to": "a@example.com", "body": "cut', "allow"),
        ('{"to": "a@evil.example", "body": "cut', "block"),
        ("", "allow"),
        ("null", "allow"),
    ],
)
async def test_arguments_that_are_no_json_are_read_as_in_a_reply(arguments: str, action: str) -> None:
    body = chat(("send_email", {}))
    body["messages"][-1]["tool_calls"][0]["function"]["arguments"] = arguments
    seen = await run_hook(made(arguments=RULES), "pre_request", read(body))

    assert seen.action == action


async def test_words_of_the_reply_are_none_of_its_business() -> None:
    out, stop = await filtered(made(allow=["x"]), call("hi"), ["I call ", "delete_all"])

    assert (out, stop) == ("I call delete_all", None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arguments": {"f": {"a": {"pattern": "(?=x)"}}}}, "is no re2 expression"),
        ({"arguments": {"f": {"a": {"patern": "x"}}}}, "Extra inputs are not permitted"),
        ({"allow": [""]}, "at least 1 character"),
        ({"action": "wrap"}, "'block' or 'flag'"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Tools.Settings(**given)

    assert said in str(caught.value)


def test_a_lone_surrogate_has_no_form() -> None:
    rule = Rule(RuleShape(pattern="[a-z]+"))

    assert rule.breaks("a\ud83d") is not None


def test_the_manual_page_loads_as_a_policy() -> None:
    example = (package.__doc__ or "").partition("Example:\n")[2]

    assert policy("\n".join(line[4:] for line in example.splitlines())).plugins


def test_the_manual_page_names_every_setting() -> None:
    assert [name for name in Tools.Settings.model_fields if f"`{name}" not in (package.__doc__ or "")] == []
