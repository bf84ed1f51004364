"""Values go out as placeholders and come back, in streams cut anywhere: the provider sees none of them, the client all.

A request of each dialect holds values in its prompt, system text, tool arguments and tool results. The provider answers with
the placeholders it was given, in the spellings of models, with placeholders of others, and with values of its own. What the
client is to get is known from how the answer was put together, and not from what the plugin does.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import random
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from llmshield.simulator import Scripted
from llmshield.simulator.provider import Provider
from llmshield_plugins.pii import Pii

STREAMS = int(os.environ.get("LLMSHIELD_STREAMS", "1000000"))
"""Streams of the nightly run."""
FIRST = int(os.environ.get("LLMSHIELD_FIRST_STREAM", "100000"))
"""Its first seed."""

VALUES = (
    "john.doe@example.com", "jürgen_o'neil+tag@mail.example.co.uk", "john (at) example (dot) com", "4111 1111 1111 1111",
    "5500-0055-5555-5559", "４１１１１１１１１１１１１１１１", "4111\u200b1111\u200b1111\u200b1111", "GB29 NWBK 6016 1331 9268 19",
    "DE89370400440532013000", "536-22-8726", "911-70-1234", "+1 (212) 555-0187", "+49 30 901820", "192.168.17.42",
    "2001:db8:85a3::8a2e:370:7334", "00:1A:2B:3C:4D:5E", "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ",
    "0x52908400098527886E0F7030069857D2E4169EE7", "postgres://app:pw0rd@db.internal:5432/main",
    "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789", "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2ln",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1c7\n+9z5Pad7OejecsQ0b\n-----END RSA PRIVATE KEY-----",
    "1600 Pennsylvania Avenue NW, Washington, DC 20500", "Hauptstraße 12, 10115 Berlin", "AB 12 34 56 C", "X1234567L",
    "529.982.247-25", "12345678Z", "RSSMRA85T10A562S", "ABCPE1234F",
)  # fmt: skip
WORDS = (
    "the quick brown fox", "I went to school", "where nobody (really) knew me:", "yes!", "<b>Hi</b>", "`code`", "我的邮箱是", "née",
    "a < b && c > d", "100 %", "\\n", "&lt;", "%3C", "\\u003c", "《", "<EMAIL", "PERSON_", "**", "# Title\n", "- item", "😀 ",
    "<EMAIL_ADDRESS_77>", "<PERSON_3>", "&lt;CREDIT_CARD_44&gt;", "US_SSN_99", "snake_case_1", 'say "so"', "x\ty",
)  # fmt: skip
BAR = " | "
"""Between all parts, so that no two of them make a third."""

Spell = tuple[Callable[[str], str], Callable[[str], str]]
"""A name -> how a model writes it; a value -> what the client is to read there."""
SPELLINGS: tuple[Spell, ...] = (
    (lambda n: f"<{n}>", lambda v: v),
    (lambda n: f"<{n.lower()}>", lambda v: v),
    (lambda n: f"<{n.title()}>", lambda v: v),
    (lambda n: f"< {n} >", lambda v: v),
    (lambda n: f"**<{n}>**", lambda v: f"**{v}**"),
    (lambda n: f"`<{n}>`", lambda v: f"`{v}`"),
    (lambda n: "\\<" + n.replace("_", "\\_") + "\\>", lambda v: v),
    (lambda n: f"&lt;{n}&gt;", lambda v: html.escape(v, quote=False)),
    (lambda n: f"%3C{n}%3E", lambda v: quote(v, safe="")),
    (lambda n: f"《{n}》", lambda v: v),
    (lambda n: f'"<{n}>"', lambda v: f'"{v}"'),
    (lambda n: f"<{n}>'s", lambda v: f"{v}'s"),
    (lambda n: f"[{n}](mailto:{n})", lambda v: f"[{v}](mailto:{v})"),
)
_NAME = re.compile(r"<([A-Z][A-Z_]*_[0-9]+)>")
_NEW = "\0"
"""Stands in what is due for a value of the provider's own."""

POLICIES = {
    "replace": "  - use: pii\n    presidio: false\n",
    "fake": "  - use: pii\n    presidio: false\n    hash_key: k\n    entities: {'*': fake}\n",
}
DETECTOR = Pii(Pii.Settings(presidio=False))


def forms(value: str) -> set[str]:
    """A value as JSON, or JSON in JSON, may spell it."""
    once = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return once | {json.dumps(one)[1:-1] for one in once}


FORMS = {value: forms(value) for value in VALUES}


def around(wire: Any, values: list[str]) -> dict[str, Any]:
    """The rest of a request: a system text, a tool call and its result, each with a value; a user's text comes behind."""
    system, argument, result = (f"note {value} here" for value in values[:3])
    arguments = json.dumps({"to": argument, "n": 1}, ensure_ascii=len(system) % 2 == 0)
    prompt = BAR.join(values)
    match wire.dialect:
        case "chat":
            call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
            return {"messages": [
                {"role": "system", "content": system}, {"role": "user", "content": "go"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": result}, {"role": "user", "content": prompt},
            ]}  # fmt: skip
        case "messages":
            return {"system": system, "messages": [
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"to": argument}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": result},
                                             {"type": "text", "text": prompt}]},
            ]}  # fmt: skip
        case "responses":
            return {"instructions": system, "input": [
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": arguments},
                {"type": "function_call_output", "call_id": "c1", "output": result}, {"role": "user", "content": prompt},
            ]}  # fmt: skip
        case "gemini":
            return {"systemInstruction": {"parts": [{"text": system}]}, "contents": [
                {"role": "user", "parts": [{"text": "go"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"to": argument}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"said": result}}}]},
                {"role": "user", "parts": [{"text": prompt}]},
            ]}  # fmt: skip
        case _:
            return {}


def last_text(wire: Any, body: Any) -> str:
    """The user's text as the provider got it."""
    match wire.dialect:
        case "chat":
            text = body["messages"][-1]["content"]
        case "messages":
            text = body["messages"][-1]["content"]
            text = text if isinstance(text, str) else text[-1]["text"]
        case "responses":
            text = body["input"] if isinstance(body["input"], str) else body["input"][-1]["content"]
        case "gemini":
            text = next(part["text"] for part in body["contents"][-1]["parts"] if "text" in part)
        case _:
            text = body["prompt"]
    return str(text)


def answer(rng: random.Random, given: dict[str, str], new: list[str], most: int = 9) -> tuple[str, str]:
    """What the provider says, and what the client is to read. `given`: what stands for a value -> the value."""
    said, due = ["ok"], ["ok"]
    for _ in range(rng.randint(1, most)):
        chance = rng.random()
        if given and chance < 0.45:
            stand_in = rng.choice(list(given))
            name = _NAME.fullmatch(stand_in)
            if name is None:
                said.append(stand_in)
                due.append(given[stand_in])
            else:
                write, read = rng.choice(SPELLINGS)
                said.append(write(name.group(1)))
                due.append(read(given[stand_in]))
        elif new and chance < 0.65:
            said.append(rng.choice(new))
            due.append(_NEW)
        else:
            word = rng.choice(WORDS)
            said.append(word)
            due.append(word)
    return BAR.join(said), BAR.join(due)


def in_deltas(rng: random.Random, text: str) -> list[str]:
    if rng.random() < 0.5:
        size = rng.choice((1, 1, 2, 3, 4, 7))
        return [text[i : i + size] for i in range(0, len(text), size)]
    at = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(1, 12))))
    return [piece for a, b in zip([0, *at], [*at, len(text)], strict=True) if (piece := text[a:b])]


def fits(due: str, got: str, made: str) -> bool:
    """Whether a text is what was due; where a new value stood there may be anything of the shape `made`."""
    return re.fullmatch(made.join(map(re.escape, due.split(_NEW))), got, re.DOTALL) is not None


async def round_trip(wire: Any, gate: Any, mode: str, cuts: Any, seed: int, asked_of: Any = None) -> None:
    """One call, of a provider that speaks as the client does, or as `asked_of`."""
    rng = random.Random(seed)
    values = rng.sample(VALUES, rng.randint(3, 6))
    asked, new = values[: rng.randint(3, len(values))], rng.sample([v for v in VALUES if v not in values], 2)
    if mode == "fake":
        new = []  # surrogates of what the provider made up are told from nothing
    more = around(wire, asked) if rng.random() < 0.5 else {}
    due: dict[str, str] = {}
    saw: list[str] = []

    def reply(received: Any) -> Scripted:
        """Called by the provider: the answer to what it was sent."""
        saw.append(received.body.decode())
        parts = last_text(asked_of or wire, received.json).split(BAR)
        assert len(parts) == len(asked)
        given = dict(zip(parts, asked, strict=True))
        said, due["content"] = answer(rng, given, new)
        tools = []
        if wire.tools and rng.random() < 0.4:
            first, due["first"] = answer(rng, given, new, 4)
            second, due["second"] = answer(rng, given, new, 3)
            tree = {"a": first, "b": [second, 7, None, {"c": first}]}
            arguments = json.dumps(tree, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))
            tools.append({"name": "send", "arguments": in_deltas(rng, arguments), "id": "c9"})
        thought = None
        if (
            wire.reasoning and wire.dialect != "messages" and rng.random() < 0.3
        ):  # those of Anthropic are signed
            text, due["reasoning"] = answer(rng, given, new, 4)
            thought = in_deltas(rng, text)
        return Scripted(
            text=in_deltas(rng, said), reasoning=thought, tools=tools, simulate=f"ascii={seed % 2}"
        )

    gate.provider.set(reply=reply)
    gate.cut = cuts(rng)
    stream = rng.random() < 0.9
    got = await gate.ask(wire, BAR.join(asked), stream=stream, logprobs=rng.random() < 0.2, more=more)
    where = f"seed {seed} {wire} {mode}"

    assert (200, False) == (got.status, got.error), (where, got.raw[:400])
    for value in asked:
        assert not any(form in saw[-1] for form in FORMS[value]), (value, where)
    made = "<[A-Z][A-Z_]+_[0-9]+>"
    assert fits(due["content"], got.said["content 0" if "content 0" in got.said else _content(got)], made), (
        where
    )
    tells = asked_of is None or wire.dialect not in (
        "messages",
        "responses",
    )  # thoughts of others are left out there
    if "reasoning" in due and tells:
        assert any(
            fits(due["reasoning"], t, made) for c, t in got.said.items() if c.startswith("reasoning")
        ), where
    if "first" in due:
        tree = json.loads(next(text for channel, text in got.said.items() if channel.startswith("tool")))
        assert [7, None] == tree["b"][1:3], where
        for part, text in (("first", tree["a"]), ("second", tree["b"][0]), ("first", tree["b"][3]["c"])):
            assert fits(due[part], text, made), (where, part)
    if got.finals:
        assert got.finals == got.said, where
    seen = got.spelled()
    for value in new:
        assert not any(form in seen for form in FORMS[value]), (value, where)


def _content(got: Any) -> str:
    return next(channel for channel in got.said if channel.startswith("content"))


async def run(wires: Any, inside: Any, cuts: Any, seeds: range) -> None:
    provider = Provider(keep=4)
    async with contextlib.AsyncExitStack() as stack:
        gates = {
            name: await stack.enter_async_context(inside(provider, rule)) for name, rule in POLICIES.items()
        }
        for seed in seeds:
            mode = "fake" if seed % 11 == 10 else "replace"
            await round_trip(wires[seed % len(wires)], gates[mode], mode, cuts, seed)


async def test_values_go_and_come_back(wires: Any, inside: Any, cuts: Any) -> None:
    await run(wires, inside, cuts, range(1400))


@pytest.mark.parametrize(
    ("client", "provider"),
    [
        ("chat", "messages"),
        ("gemini", "messages"),
        ("responses", "messages"),
        ("chat", "gemini"),
        ("messages", "gemini"),
        ("responses", "gemini"),
        ("messages", "chat"),
        ("gemini", "chat"),
    ],
)
async def test_values_go_and_come_back_through_a_translation(
    wires: Any, inside: Any, cuts: Any, client: str, provider: str
) -> None:
    """Thoughts that Anthropic has signed as well: no signature goes along. Words stand before the tool's call."""
    wire, other = (next(w for w in wires if w.name == name) for name in (client, provider))
    async with inside(Provider(keep=4), POLICIES["replace"], only=other) as gate:
        for seed in range(40):
            await round_trip(wire, gate, "replace", cuts, seed, other)


@pytest.mark.nightly
async def test_values_go_and_come_back_nightly(wires: Any, inside: Any, cuts: Any) -> None:
    await run(wires, inside, cuts, range(FIRST, FIRST + STREAMS))
