"""What is kept of texts: as the provider saw them, bounded, and never what no plugin has edited."""

import asyncio
import json

import aiohttp
import pytest

from llmshield import redact
from llmshield.audit._contents import MOST_CHARACTERS, MOST_TEXTS, Said, content_field
from llmshield.evidence.identifiers import text_hash
from llmshield.evidence.people import Person
from llmshield.evidence.searching import open_texts
from llmshield.evidence.segments import LONGEST_LINE
from llmshield.sealing import KeyRing
from llmshield.simulator import Simulator
from llmshield.testing import gateway, policy

RING, MAC = KeyRing(b"r" * 32), b"m" * 32
PERSON = Person("p:1", KeyRing(b"p" * 32), "acme")
SECRET = "sk-proj-Qz81xW73LmTTbA0Kd9"
MAIL = "alice@quince.example"


def kept(mode, said, person=None):
    text = content_field(mode, said, person, RING, MAC, "01J")
    assert text.isascii()
    return json.loads(text)


def texts(mode, said, person=None):
    content = kept(mode, said, person)
    if mode == "redacted":
        return content["texts"]
    return open_texts(content["sealed"], person.ring if person else RING, "01J")


@pytest.mark.parametrize("mode", ["redacted", "sealed"])
@pytest.mark.parametrize("person", [None, PERSON])
@pytest.mark.parametrize("text", ["hello", "a\nb\u2028c\x00", "漢字 😀", ""])
def test_a_text_comes_out_as_it_was(mode, person, text):
    assert texts(mode, [Said("user", "/m/0", text)], person) == [["user", "/m/0", text]]


@pytest.mark.parametrize("mode", ["redacted", "sealed"])
def test_keys_are_in_no_text(mode):
    redact.remember(SECRET)
    try:
        ((_, _, text),) = texts(mode, [Said("user", "/m", f"my key is {SECRET}")])
    finally:
        redact.forget(SECRET)

    assert text == f"my key is {redact.HIDDEN}"


def test_hashes_are_of_the_person_where_there_is_one():
    one, other = (
        kept("hash", [Said("user", "/m", "hello")]),
        kept("hash", [Said("user", "/m", "hello")], PERSON),
    )

    assert one["texts"] == [{"role": "user", "place": "/m", "hash": text_hash(MAC, "hello")}]
    assert (
        other["texts"][0]["hash"]
        == text_hash(PERSON.ring.derive("audit:texts"), "hello")
        != one["texts"][0]["hash"]
    )


@pytest.mark.parametrize("mode", ["redacted", "sealed", "hash"])
def test_a_record_stays_one_line_however_much_is_said(mode):
    said = [Said("user", "/m", "😀" * MOST_CHARACTERS * 2)] + [Said("user", "/m", "b")] * 10
    content = content_field(mode, said, PERSON, RING, MAC, "01J")

    assert len(content) < LONGEST_LINE * 0.9
    assert json.loads(content)["cut"] == MOST_CHARACTERS + 10
    assert kept(mode, [Said("user", "/m", "b")] * (MOST_TEXTS + 5))["cut"] == 5


POLICY = """
server: {store: "memory://"}
providers: {openai: {dialect: openai, base_url: "URL/v1"}}
plugins:
  - {use: injection, deny: ["open sesame"], scan: [user]}
  - {use: pii, entities: {EMAIL_ADDRESS: {action: replace}}, restore: true}
overrides:
  - {match: {model: "gpt-raw"}, plugins: {pii: {mode: disabled}}, reason: test, until: 2099-01-01}
  - {match: {model: "gpt-watch"}, plugins: {pii: {mode: monitor}}, reason: test, until: 2099-01-01}
audit: {sink: "file://SINK", content: redacted}
"""


async def test_redacted_holds_only_what_pii_has_seen(tmp_path, primary: Simulator):
    """Disabled, watching, or another plugin ended the call first: hashes in place of texts."""
    sink = tmp_path / "audit.jsonl"
    asked = {
        "gpt-4o": ("redacted", f"Write to {MAIL}."),
        "gpt-raw": ("hash", f"Write to {MAIL}, raw."),
        "gpt-watch": ("hash", f"Write to {MAIL}, watched."),
        "gpt-block": ("hash", f"Write to {MAIL}: open sesame."),
    }
    loaded = policy(POLICY.replace("URL", primary.url).replace("SINK", str(sink)), base=tmp_path)
    async with gateway(loaded) as (url, _), aiohttp.ClientSession() as http:
        for model, (_, text) in asked.items():
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                await reply.read()
    records = [json.loads(line) for line in sink.read_text().splitlines()]
    modes = {r["model"]: r["content"]["mode"] for r in records if r["kind"] == "call"}

    assert modes == {model: mode for model, (mode, _) in asked.items()}
    assert MAIL not in sink.read_text()
    await asyncio.sleep(0)


async def test_the_key_that_a_client_sent_is_in_no_text(tmp_path, primary: Simulator):
    """Nobody knows its shape: only while its call lasts is it known that it is one."""
    sink, key = tmp_path / "audit.jsonl", "mine-of-no-shape-Zz9-Zz9-Zz9"
    loaded = policy(POLICY.replace("URL", primary.url).replace("SINK", str(sink)), base=tmp_path)
    async with gateway(loaded) as (url, _), aiohttp.ClientSession() as http:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"my key is {key}"}]}
        async with http.post(
            f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
        ) as reply:
            assert key in await reply.text(), "the simulator repeats what it was told"

    assert "my key is" in sink.read_text()
    assert key not in sink.read_text()
