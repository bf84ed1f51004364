"""What the output guard finds in a whole reply is in no stream of the same reply, however it was cut.

There are two oracles: the detector on the text of each channel, and the same reply asked for whole. Each stream must say
the same in each channel, show no value anywhere that the whole reply does not show, and keep everything that is no text as
the provider sent it. Thousands of streams run straight into the engine (`conftest.py`), some over real sockets.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import chain, count
from typing import Any

import aiohttp
import pytest

from llmshield.simulator import Scripted, Simulator
from llmshield.simulator.provider import Provider
from llmshield.testing import gateway
from llmshield_plugins.pii import Pii
from llmshield_plugins.pii.operators import mask

STREAMS = int(os.environ.get("LLMSHIELD_STREAMS", "1000000"))
"""Streams of the nightly run."""
FIRST = int(os.environ.get("LLMSHIELD_FIRST_STREAM", "100000"))
"""Its first seed."""

_SOME = """
the quick brown fox, and I went to school. where nobody (really) knew me: yes! In 2024 we saw 15 items; version 1.2.3
of pkg@2 at 10:22 cost 1,234.56 EUR. <b>Hi</b> `code` 我的 邮箱是 谢谢 Straße née 42 A1 B2B March St Dr. 😀 \\n \\u0041 {} [x]
"quoted" 'q' https://example.com/a?b=c&d=e snake_case_name UPPER internationalization <EMAIL_ADDRESS_9> Marta Kowalska
from Gdansk, Mr. O'Neill at Globex Corp. Dear Ingrid Solberg: <PERSON_3>
"""
WORDS = _SOME.split()

VALUES = (
    "john.doe@example.com", "jürgen_o'neil+tag@mail.example.co.uk", "john (at) example (dot) com", "john%40example.com",
    "am9obi5kb2VAZXhhbXBsZS5jb20=", "4111 1111 1111 1111", "5500-0055-5555-5559", "3714 496353 98431",
    "４１１１１１１１１１１１１１１１", "4111\u200b1111\u200b1111\u200b1111", "GB29 NWBK 6016 1331 9268 19",
    "DE89370400440532013000", "536-22-8726", "+1 (212) 555-0187", "+49 30 901820", "192.168.17.42",
    "2001:db8:85a3::8a2e:370:7334", "00:1A:2B:3C:4D:5E", "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ",
    "postgres://app:pw0rd@db.internal:5432/main", "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2ln",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1c7\n+9z5Pad7OejecsQ0b\n-----END RSA PRIVATE KEY-----",
    "1600 Pennsylvania Avenue NW, Washington, DC 20500", "Hauptstraße 12, 10115 Berlin", "AB 12 34 56 C", "X1234567L",
    "529.982.247-25", "911-70-1234", "12345678Z", "RSSMRA85T10A562S", "born on 12 March 1987", "ABCPE1234F",
    "0x52908400098527886E0F7030069857D2E4169EE7", "(212) 555-0187 x12",
)  # fmt: skip
"""Of twenty kinds and more, some in disguise."""

FRAMES = (
    "",
    "",
    "",
    "",
    "crlf",
    "cr",
    "comments",
    "multiline",
    "no_space",
    "no_done",
    "bom",
    "unknown_event",
    "u2028",
)

CREDENTIALS = (
    "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789", "ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU", "AKIAZ7VRSQTUPLOWD5NX",
    "sk-ant-api03-Zm9vYmFyYmF6cXV4_1234567890abcdefghij", "xoxb-123456789012-AbCdEfGhIjKlMnOpQrStUvWx",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "postgres://app:pw0rd@db.internal:5432/main",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1c7\n+9z5Pad7OejecsQ0b\n-----END RSA PRIVATE KEY-----",
    "DB_PASSWORD=hunter2!x9", 'apiKey": "q8Zx71Lm02pQ', "my password is now S3cr3t-Pa55", "client_secret  =>  'aB3dE5gH7jK9",
    "Authorization: Bearer  abc123def456ghi789", "x-api-key:  '77f9ab2c51e8d0aa", "DATADOG_API: 8f3a9c0d1e2b4f5a6978",
    "curl -u admin:Tr0ub4dor3", "password:", "token is", "-----BEGIN",
)  # fmt: skip
SECRETS = {
    "replace": "action: redact",
    "redact": "rules: {announced: flag, code: redact}",
    "mask": "rules: {login: ignore}",
    "block": "action: block",
    "monitor": "mode: monitor",
}
RULES = {
    "replace": "",
    "mask": "entities: {'*': {action: mask, keep_last: 4}}",
    "redact": "entities: {'*': {action: redact}}",
    "block": "entities: {'*': {action: block}}",
    "monitor": "mode: monitor",
    "names": "entities: {'*': replace, PERSON: replace, LOCATION: replace, ORGANIZATION: replace}",
}


@contextlib.asynccontextmanager
async def serving(wires: Any, sim: Simulator, plugins: str) -> AsyncIterator[str]:
    """One gateway for all dialects; its URL."""
    made = {wire.policy(sim.url) for wire in wires}
    providers = "".join(f"  p{number}: {text}\n" for number, text in enumerate(sorted(made)))
    async with gateway(f"providers:\n{providers}plugins:\n{plugins}") as (url, _):
        yield url


def text(rng: random.Random, least: int = 1, most: int = 12, values: tuple[str, ...] = VALUES) -> str:
    """Words, values and separators."""
    parts: list[str] = []
    for _ in range(rng.randint(least, most)):
        parts.append(rng.choice(values) if rng.random() < 0.3 else rng.choice(WORDS))
        parts.append(
            rng.choice((" ", " ", " ", " ", "\n", ", ", ". ", "", "\t", " - ", '"', ": ", "，", "/"))
        )
    return "".join(parts)


def cut(rng: random.Random, whole: str) -> list[str]:
    """The deltas of a text."""
    if rng.random() < 0.5:
        size = rng.choice((1, 1, 2, 3, 4, 7))
        return [whole[i : i + size] for i in range(0, len(whole), size)]
    at = sorted(rng.sample(range(len(whole) + 1), min(len(whole), rng.randint(1, 12))))
    return [piece for a, b in zip([0, *at], [*at, len(whole)], strict=True) if (piece := whole[a:b])]


def tree(rng: random.Random, depth: int = 0, values: tuple[str, ...] = VALUES) -> Any:
    """A tool's arguments."""
    match rng.randint(0, 9 if depth < 3 else 5):
        case 0:
            return rng.choice((4111111111111111, 5500005555555559, 12, -3.5e4, 0, True, None, 536228726))
        case 6 | 7:
            return [tree(rng, depth + 1, values) for _ in range(rng.randint(0, 3))]
        case 8 | 9:
            return {
                rng.choice(
                    ("a", "to", "körper", "x y", 'q"')
                    if values is VALUES
                    else ("password", "apiKey_", "x", "token_", 'q"')
                )
                + str(i): tree(rng, depth + 1, values)
                for i in range(rng.randint(0, 3))
            }
        case _:
            return text(rng, 0, 4, values)


def script(rng: random.Random, wire: Any, values: tuple[str, ...]) -> Scripted:
    """A reply and how its bytes come."""
    fault = rng.choice(FRAMES)
    if wire.name == "gemini_array" and fault not in ("", "bom", "u2028"):
        fault = ""
    if wire.name in ("responses", "gemini") and fault == "no_done":
        fault = ""  # without its last event it is not complete
    directives = [
        f"split={rng.choice((0, 0, 5, 17, 64))}",
        f"ascii={rng.randint(0, 1)}",
        "stable=1",
        "size=300",
        "after=1",
    ]
    if fault:
        directives.append(f"fault={fault}")
    tools = []
    if wire.tools and rng.random() < 0.4:
        for number in range(rng.randint(1, 2)):
            arguments = json.dumps(
                {"q": tree(rng, values=values)}, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1))
            )
            tools.append({"name": f"send_{number}", "arguments": cut(rng, arguments), "id": f"c{number}"})
    if wire.name in ("chat", "responses") and rng.random() < 0.2:
        tools.append(
            {"name": "run", "arguments": cut(rng, text(rng, values=values)), "custom": True, "id": "x"}
        )
    said = None if tools and rng.random() < 0.4 else cut(rng, text(rng, values=values))
    thought = cut(rng, text(rng, values=values)) if wire.reasoning and rng.random() < 0.25 else None
    return Scripted(
        text=said, reasoning=thought, tools=tools, finish="refusal" if said and not tools and wire.tools and rng.random() < 0.1 else None,
        usage=(10, 20), simulate=",".join(directives),
    )  # fmt: skip


def canonical(said: dict[str, str]) -> dict[str, str]:
    """Tool arguments as values: how JSON is written is the dialect's affair."""
    out = {}
    for channel, value in said.items():
        if channel.startswith("tool"):
            with contextlib.suppress(ValueError):
                value = json.dumps(json.loads(value), sort_keys=True)
        if not channel.startswith("signature"):
            out[channel] = value
    return out


def skeleton(got: Any) -> list[Any]:
    """The events that are no deltas, without their texts: a filter may put in deltas, and nothing else."""
    return [bare for one in got.trees if not _is_delta(one) and (bare := _bare(one))]


_TEXTS = (
    "sequence_number", "logprobs", "args", "input", "text", "content", "refusal", "signature", "usageMetadata",
    "annotations", "annotation", "logprobsResult", "groundingMetadata", "citationMetadata", "delta", "reasoning_content",
    "arguments", "thinking", "partial_json", "avgLogprobs", "summary", "part", "message", "name",
)  # fmt: skip


def _is_delta(one: Any) -> bool:
    if one.get("choices"):
        return not any(choice.get("finish_reason") for choice in one["choices"])
    if one.get("candidates"):
        return not any(candidate.get("finishReason") for candidate in one["candidates"])
    return str(one.get("type", "")).endswith("delta") and one["type"] != "message_delta"


def _bare(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _bare(v) for k, v in node.items() if k not in _TEXTS}
    return [_bare(v) for v in node] if isinstance(node, list) else node


def spellings(value: str) -> frozenset[str]:
    """A value as it may stand in an event, or in JSON within its JSON."""
    once = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return frozenset(once | {json.dumps(one)[1:-1] for one in once})


SPELLED = {value: spellings(value) for value in (*VALUES, *CREDENTIALS)}


def shown(got: Any) -> str:
    """All that an answer shows anywhere."""
    text: str = got.spelled()
    return text


DETECTOR = Pii(Pii.Settings(presidio=False))
MADE: dict[str, Callable[[str, str], str]] = {
    "replace": lambda kind, value: f"<{kind}>",
    "redact": lambda kind, value: f"<{kind}>",
    "mask": lambda kind, value: mask(value, 4),
}
"""Policy -> what is written in place of a value of a kind; placeholders without their numbers."""
_NUMBERED = re.compile(r"<([A-Z][A-Z_]+)_[0-9]+>")


def of_whole_text(text: str, made: Callable[[str, str], str]) -> str:
    """What is to become of a text, by the detector alone."""
    out, position = "", 0
    for found in DETECTOR._walker.whole(text):
        out += text[position : found.start] + made(found.kind, text[found.start : found.end])
        position = found.end
    return _NUMBERED.sub(r"<\1>", out + text[position:])


def is_text(channel: str) -> bool:
    """Whether it is plain text that guards may change: no JSON, no signature."""
    return channel.startswith(("content", "reasoning", "refusal"))


def asked(rng: random.Random, wire: Any, values: tuple[str, ...]) -> tuple[Scripted, dict[str, Any]]:
    """A reply, and what else is asked for."""
    made = script(rng, wire, values)
    extra: dict[str, Any] = {"logprobs": rng.random() < 0.3}
    if wire.many and rng.random() < 0.2:
        extra["n"] = 2
    if rng.random() < 0.2:
        made = dataclasses.replace(made, simulate=f"{made.simulate},citations=1")
    return made, extra


def again(rng: random.Random, made: Scripted) -> Scripted:
    """The same reply in other deltas."""

    def other(given: Any) -> Any:
        return cut(rng, "".join(given)) if given else given

    tools = [{**tool, "arguments": other(tool["arguments"])} for tool in made.tools]
    return dataclasses.replace(made, text=other(made.text), reasoning=other(made.reasoning), tools=tools)


def judge(wire: Any, mode: str, made: Scripted, plain: Any, whole: Any, got: Any, where: str) -> None:
    """What holds for every stream, but that it shows no value."""
    assert not plain.error, where
    if mode == "monitor":
        assert plain.said == got.said, where
    if whole.status == 200:
        assert got.status == 200, where
        assert not got.error, where
        assert canonical(whole.said) == canonical(got.said), where
        if got.finals:
            assert got.finals == got.said, where
        bare = skeleton(got)
        if wire.name == "messages" and "no_done" in made.simulate:
            bare.pop()  # what the provider left out
        assert skeleton(plain) == bare, where
    else:
        assert mode == "block", where
        if got.status == 200:
            for channel, value in got.said.items():
                assert channel.startswith("signature") or plain.said[channel].startswith(value), where
        else:
            assert whole.trees == got.trees or got.status == whole.status, where
    if wire.name == "responses" and got.status == 200:
        numbers = [one["sequence_number"] for one in got.trees if "sequence_number" in one]
        assert numbers == list(range(len(numbers))), where


def judge_by_detector(mode: str, plain: Any, got: Any, where: str) -> None:
    """The text of every channel is what the detector says of the whole of it."""
    texts = {channel: text for channel, text in plain.said.items() if is_text(channel)}
    if mode in MADE:
        due = {channel: of_whole_text(text, MADE[mode]) for channel, text in texts.items()}
        read = {c: _NUMBERED.sub(r"<\1>", text) for c, text in got.said.items() if is_text(c)}
        assert due == read, where
    elif mode == "block" and got.status == 200 and not got.error:
        held = {c: text for c, text in texts.items() if DETECTOR._walker.whole(text)}
        assert not held or got.said != plain.said, where


def hides(values: tuple[str, ...], visible: str, got: Any, where: str) -> None:
    """No value that `visible` does not show is in what the client got, in any spelling."""
    seen = shown(got)
    for value in values:
        forms = SPELLED[value]
        if any(form in seen for form in forms):
            assert any(form in visible for form in forms), (value, where)


MODES = ("replace", "replace", "replace", "mask", "redact", "block", "monitor", "names")


async def check(
    wire: Any, sim: Simulator, http: Any, urls: dict[str, str], seed: int, values: tuple[str, ...]
) -> None:
    """One stream over sockets."""
    rng = random.Random(seed)
    mode = rng.choice(MODES)
    if mode not in urls:
        mode = "replace"
    made, extra = asked(rng, wire, values)
    sim.say(made, made, made)
    plain = await wire.ask(http, sim.url, stream=True, **extra)
    whole = await wire.ask(http, urls[mode], stream=False, **extra)
    got = await wire.ask(http, urls[mode], stream=True, **extra)
    where = f"seed {seed} {wire} {mode} {made}"

    judge(wire, mode, made, plain, whole, got, where)
    if whole.status != 200:
        sim.say(made)
        whole = await wire.ask(http, urls["replace"], stream=False, **extra)
    if mode != "monitor":
        hides(values, shown(whole), got, where)


async def check_inside(
    wire: Any, gates: dict[str, Any], cuts: Any, seed: int, values: tuple[str, ...], by_detector: bool
) -> int:  # fmt: skip
    """Some streams of one reply, each in deltas and bytes of its own; how many."""
    rng = random.Random(seed)
    mode = rng.choice(MODES)
    if mode == "names" and rng.random() < 0.7:
        mode = "replace"  # the model takes ten times what all the rest does
    if mode not in gates:
        mode = "replace"
    gate = gates[mode]
    made, extra = asked(rng, wire, values)
    made = dataclasses.replace(made, simulate=re.sub("split=[0-9]+", "split=0", made.simulate))
    say = gate.provider.script.append
    say(made)
    plain = gate.unguarded(wire, stream=True, **extra)
    say(made)
    whole = await gate.ask(wire, stream=False, **extra)
    visible = ""
    for number in range(1, 4):
        if number > 1 and "u2028" not in made.simulate:  # it goes into one of the deltas
            made = again(rng, made)
        say(made)
        gate.cut = cuts(rng)
        got = await gate.ask(wire, stream=True, **extra)
        where = f"seed {seed} stream {number} {wire} {mode} {made}"

        judge(wire, mode, made, plain, whole, got, where)
        if by_detector:
            judge_by_detector(mode, plain, got, where)
        if mode == "monitor":
            continue
        if not visible:
            if whole.status != 200:
                say(made)
                whole_text = await gates["replace"].ask(wire, stream=False, **extra)
                visible = shown(whole_text)
            else:
                visible = shown(whole)
        hides(values, visible, got, where)
    return 3


def of(use: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The policies by name, and the values, of a plugin."""
    rules, values = (RULES, VALUES) if use == "pii" else (SECRETS, CREDENTIALS)
    more = "presidio: false" if use == "pii" else "on_error: closed"
    return {
        name: f"  - use: {use}\n    {more}\n    scan: [output]\n    {rule}\n" for name, rule in rules.items()
    }, values


async def run(wires: Any, sim: Simulator, seeds: range, use: str) -> None:
    rules, values = of(use)
    async with contextlib.AsyncExitStack() as stack:
        urls = {
            name: await stack.enter_async_context(serving(wires, sim, rule)) for name, rule in rules.items()
        }
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)))
        for seed in seeds:
            await check(wires[seed % len(wires)], sim, http, urls, seed, values)
            sim.provider.calls.clear()


async def run_inside(
    wires: Any, inside: Any, cuts: Any, seeds: Iterable[int], streams: int, use: str
) -> None:
    """So many streams, some of each seed."""
    rules, values = of(use)
    provider = Provider(keep=4)
    async with contextlib.AsyncExitStack() as stack:
        gates = {
            name: await stack.enter_async_context(inside(provider, rule)) for name, rule in rules.items()
        }
        for seed in seeds:
            if streams <= 0:
                break
            streams -= await check_inside(wires[seed % len(wires)], gates, cuts, seed, values, use == "pii")


ONCE_WRONG = (1004707,)
"""Seeds: a stop within a tool's arguments let go the words of a leaf without the JSON before them."""


@pytest.mark.parametrize("use", ["pii", "secrets"])
async def test_no_stream_shows_what_the_whole_reply_hides(
    wires: Any, inside: Any, cuts: Any, use: str
) -> None:
    seeds = chain(ONCE_WRONG, count())
    await run_inside(wires, inside, cuts, seeds, 3600 if use == "pii" else 600, use)


@pytest.mark.parametrize("use", ["pii", "secrets"])
async def test_no_stream_over_sockets_shows_it(wires: Any, primary: Simulator, use: str) -> None:
    await run(wires, primary, range(90 if use == "pii" else 60), use)


@pytest.mark.nightly
@pytest.mark.parametrize("use", ["pii", "secrets"])
async def test_no_stream_shows_what_the_whole_reply_hides_nightly(
    wires: Any, inside: Any, cuts: Any, use: str
) -> None:
    await run_inside(wires, inside, cuts, count(FIRST), STREAMS, use)
