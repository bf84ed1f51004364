"""Values come back in a live stream as they do in a whole reply: in text, thoughts and tool arguments, at any cut.

The client sends values, the model writes their placeholders in every form that models like; other placeholders, the
user's own among them, stay as they are.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import aiohttp
import pytest

from llmshield.simulator import Scripted, Simulator
from llmshield.testing import gateway

STREAMS = int(os.environ.get("LLMSHIELD_STREAMS", "20000"))
"""Streams of the nightly run."""

PROMPT = "Mail jörg.doe@example.com and o'neil+x@example.org, card 4111 1111 1111 1111. Keep <EMAIL_ADDRESS_7> as it is."
"""What is sent; the values become <EMAIL_ADDRESS_1>, <EMAIL_ADDRESS_2> and <CREDIT_CARD_1>."""
MAIL, OTHER, CARD = "jörg.doe@example.com", "o'neil+x@example.org", "4111 1111 1111 1111"

FORMS = (
    ("<EMAIL_ADDRESS_1>", MAIL), ("<email_address_1>", MAIL), ("<Email_Address_1>", MAIL), ("< EMAIL_ADDRESS_1 >", MAIL),
    ("`<EMAIL_ADDRESS_2>`", f"`{OTHER}`"), ("**<EMAIL\\_ADDRESS\\_2>**", f"**{OTHER}**"), ("\\<CREDIT_CARD_1\\>", CARD),
    ("&lt;EMAIL_ADDRESS_2&gt;", OTHER), ("%3CEMAIL_ADDRESS_1%3E", "j%C3%B6rg.doe%40example.com"),
    ("<<CREDIT_CARD_1>>", f"<{CARD}>"), ("<EMAIL_ADDRESS_1><EMAIL_ADDRESS_1>", MAIL + MAIL),
    ("<EMAIL_ADDRESS_7>", "<EMAIL_ADDRESS_7>"), ("<EMAIL_ADDRESS_3>", "<EMAIL_ADDRESS_3>"), ("<EMAIL_ADDRESS_", "<EMAIL_ADDRESS_"),
    ("EMAIL_ADDRESS_1", MAIL), ("<b>a</b>", "<b>a</b>"), ("1 < 2 & 3", "1 < 2 & 3"), ("<CREDIT_CARD_1", f"<{CARD}"),
    ("\uff1cCREDIT_CARD_1\uff1e", CARD), ("<US_SSN_1>", "<US_SSN_1>"), ("😀é\\ \"q\" \n", "😀é\\ \"q\" \n"), ("plain words,", "plain words,"),
)  # fmt: skip

FRAMES = ("", "", "crlf", "cr", "comments", "multiline", "no_space", "bom", "u2028")


def mix(rng: random.Random, most: int = 8) -> tuple[str, str]:
    """A text as the model writes it, and as the client is to get it."""
    picked = [rng.choice(FORMS) for _ in range(rng.randint(1, most))]
    return " ".join(a for a, _ in picked), " ".join(b for _, b in picked)


def pieces(rng: random.Random, text: str) -> list[str]:
    if rng.random() < 0.6:
        size = rng.choice((1, 1, 2, 3, 5))
        return [text[i : i + size] for i in range(0, len(text), size)]
    at = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(1, 9))))
    return [piece for a, b in zip([0, *at], [*at, len(text)], strict=True) if (piece := text[a:b])]


async def check(wire: Any, sim: Simulator, http: Any, url: str, seed: int) -> None:
    rng = random.Random(seed)
    said, text = mix(rng)
    thought, thinks = mix(rng, 3) if wire.reasoning and rng.random() < 0.3 else ("", "")
    tools, wants = [], []
    if wire.tools and rng.random() < 0.5:
        for number in range(rng.randint(1, 2)):
            a, b = mix(rng, 3)
            c, d = mix(rng, 2)
            sent = {"to": a, "list": [c, 12, -3.5, True, None, {"deep": a}], "n": 4111}
            wants.append({"to": b, "list": [d, 12, -3.5, True, None, {"deep": b}], "n": 4111})
            written = json.dumps(sent, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 2)))
            tools.append({"name": "send", "arguments": pieces(rng, written), "id": f"t{number}"})
    frame = rng.choice(FRAMES)
    u2028 = "u2028" in frame
    if wire.name == "gemini_array" and frame not in ("", "bom", "u2028"):
        frame = ""
    simulate = f"stable=1,size=200,ascii={rng.randint(0, 1)},split={rng.choice((0, 0, 7, 33))}"
    made = Scripted(
        text=pieces(rng, said), reasoning=pieces(rng, thought) if thought else None, tools=tools,
        simulate=f"{simulate},fault={frame}" if frame else simulate,
    )  # fmt: skip
    sim.say(made, made)
    extra = {"logprobs": rng.random() < 0.3}
    whole = await wire.ask(http, url, PROMPT, stream=False, **extra)
    got = await wire.ask(http, url, PROMPT, stream=True, **extra)
    where = (seed, wire, made)

    sent = json.dumps(sim.calls[-1].json, ensure_ascii=False)
    for value in (MAIL, OTHER, CARD):
        assert value not in sent, where
    assert whole.status == got.status == 200, where
    assert not got.error, where
    for answer in (whole, got):
        for channel, value in answer.said.items():
            if channel.startswith("content") and not u2028:
                assert text == value, (channel, where)
            if channel.startswith("reasoning") and thought and wire.name != "messages":
                assert thinks == value, (channel, where)
        args = [value for channel, value in sorted(answer.said.items()) if channel.startswith("tool")]
        if wire.dialect == "gemini":
            decoder, rest, found = json.JSONDecoder(), "".join(args), []
            while rest:
                one, end = decoder.raw_decode(rest)
                found.append(one)
                rest = rest[end:]
        else:
            found = [json.loads(value) for value in args]
        assert wants == found, where
    if got.finals:
        assert got.finals == got.said, where
    if wire.name == "messages" and thought:
        for answer in (whole, got):
            assert thought == answer.said["reasoning 0"], where
            assert answer.said["signature 0"] not in ("", "llmshield.edited"), where


async def run(wires: Any, sim: Simulator, seeds: range) -> None:
    made = sorted({wire.policy(sim.url) for wire in wires})
    providers = "".join(f"  p{number}: {text}\n" for number, text in enumerate(made))
    plugins = "  - use: pii\n    presidio: false\n    scan: [user]\n"
    async with (
        gateway(f"providers:\n{providers}plugins:\n{plugins}") as (url, _),
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http,
    ):
        for seed in seeds:
            await check(wires[seed % len(wires)], sim, http, url, seed)
            sim.provider.calls.clear()


async def test_values_come_back_in_any_stream(wires: Any, primary: Simulator) -> None:
    await run(wires, primary, range(180))


@pytest.mark.nightly
async def test_values_come_back_in_any_stream_nightly(wires: Any, primary: Simulator) -> None:
    await run(wires, primary, range(1000, 1000 + STREAMS))


PROSE = "The quick brown fox jumps over the lazy dog. Anna went to school, and she saw no one there at all. It rained. "


@pytest.mark.parametrize(
    ("plugins", "most"),
    [
        ("  - use: pii\n    presidio: false\n", 24),  # the word that is being written
        ("  - use: pii\n    presidio: false\n  - use: injection\n    scan: [user, output]\n", 64 + 24),
    ],
    ids=["pii", "pii and injection"],
)
async def test_little_waits_where_no_value_has_begun(
    wires: Any, primary: Simulator, plugins: str, most: int
) -> None:
    wire, text = wires[0], PROSE * 12
    async with (
        gateway(f"providers: {{a: {wire.policy(primary.url)}}}\nplugins:\n{plugins}") as (url, _),
        aiohttp.ClientSession() as http,
    ):
        primary.say(Scripted(text=list(text)))
        got = await wire.ask(http, url, PROMPT, stream=True)
    sent = released = waits = 0
    for tree in got.trees[1:]:
        delta = tree["choices"][0]["delta"]
        sent += not tree["choices"][0]["finish_reason"]
        released += len(delta.get("content", ""))
        waits = max(waits, sent - released)

    assert sent == released == len(text)
    assert waits <= most
