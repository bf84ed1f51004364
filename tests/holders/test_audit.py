"""A person in the audit log: found, exported, shredded; nothing of them is left in any file, and the chain verifies."""

import asyncio
import base64
import json
import zlib

import aiohttp
import pytest

from llmshield import registry, vault
from llmshield.cli._reading import policy_at
from llmshield.cli._vault_people import reseal
from llmshield.cli.privacy import erase, export
from llmshield.evidence import segments, verify
from llmshield.evidence.people import people_path
from llmshield.holders import Holder
from llmshield.simulator import Simulator
from llmshield.testing import gateway, policy

POLICY = """
server: {store: "memory://"}
providers: {openai: {dialect: openai, base_url: "URL/v1"}, anthropic: {dialect: anthropic, base_url: "URL"}}
identify: ["header:x-llmshield-tenant"]
trusted_proxies: [127.0.0.1/32]
tenants: {acme: {tier: t}, other: {tier: t}}
tiers: {t: {}}
plugins:
  - use: pii
    entities: {EMAIL_ADDRESS: {action: replace}}
    restore: true
audit: {sink: "file://audit/audit.jsonl", content: CONTENT}
"""
WHO, WORDS, MAIL = "alice-4711", "The harvest of quinces was poor.", "alice@quince.example"


async def talk(text, calls):
    async with Simulator() as sim, gateway(policy(text.replace("URL", sim.url))) as (url, _):
        async with aiohttp.ClientSession() as http:
            for tenant, who, words in calls:
                said = [{"role": "user", "content": f"{words} Write to {MAIL}."}]
                for path, more in [
                    ("/v1/chat/completions", {"user": who}),
                    ("/v1/chat/completions", {"user": who, "stream": True}),
                    ("/v1/messages", {"metadata": {"user_id": who}, "max_tokens": 999}),
                ]:
                    body = {"model": "m", "messages": said, **more}
                    async with http.post(
                        f"{url}{path}", json=body, headers={"x-llmshield-tenant": tenant}
                    ) as reply:
                        assert reply.status == 200, await reply.text()
                        answer = await reply.read()
                        assert "stream" in more or MAIL.encode() in answer, (
                            "the echo came with the address put back"
                        )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Calls of three people under one `content`; returns the policy's file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY", raising=False)

    def made(content):
        text = POLICY.replace("CONTENT", content)
        (tmp_path / "policy.yaml").write_text("version: 1\n" + text.replace("URL", "http://127.0.0.1:9"))
        calls = [
            ("acme", WHO, WORDS),
            ("acme", "bob.otherwise", "Plums did well."),
            ("other", WHO, "Figs, too."),
        ]
        asyncio.run(talk(text, calls))
        return tmp_path / "policy.yaml"

    return made


def everything(folder):
    """All bytes of every file, and what of it is base64 or packed, taken apart."""
    data = b""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data += path.name.encode() + path.read_bytes()
    for line in data.split(b'"'):
        if len(line) > 40:
            try:
                raw = base64.b64decode(line, validate=True)
                data += raw
                data += zlib.decompress(raw)
            except ValueError:
                continue
            except zlib.error:
                continue
    return data


def records(folder):
    return [
        json.loads(line)
        for path in segments(folder / "audit.jsonl")
        for line in path.read_bytes().splitlines()
    ]


def good(folder):
    sink = folder / "audit.jsonl"
    return [report.fault for report in verify(segments(sink), sink=sink) if report.fault]


@pytest.mark.parametrize("content", ["none", "hash", "sealed"])
def test_a_person_is_exported_and_shredded(run, tmp_path, capsys, content):
    file, folder = run(content), tmp_path / "audit"
    before = everything(folder)
    for secret in (WHO, "quince", MAIL, "harvest", "bob.otherwise"):
        assert secret.encode() not in before, secret

    assert export(WHO, "acme", file) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == 3
    assert len({each["user"] for each in told}) == 1
    pseudonym = told[0]["user"]
    if content == "sealed":
        for each in told:
            texts = {place: text for _, place, text in each["content"]["texts"]}
            assert any(WORDS in text for text in texts.values())
            assert any(place.startswith("content") for place in texts), "the reply is there as well"
        assert MAIL not in json.dumps(told), "the provider never had it"
        assert "EMAIL_ADDRESS_1" in json.dumps(told)
    held = list(people_path(folder / "audit.jsonl").glob("*/*.json"))
    keys = {path: path.read_bytes() for path in held}
    assert len(held) == 3

    assert erase(WHO, "acme", file, yes=False) == 0
    assert "3 would be made unreadable" in capsys.readouterr().out
    assert erase(WHO, "acme", file, yes=True) == 0
    assert "1 people erased, 3 records" in capsys.readouterr().out

    (gone,) = [path for path in held if not path.exists()]
    after = everything(folder)
    sealed_key = json.loads(keys[gone])["key"].encode()
    assert sealed_key not in after
    assert base64.b64decode(sealed_key)[10:] not in after
    assert export(WHO, "acme", file) == 0
    assert capsys.readouterr().out == ""
    assert export(WHO, None, file) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3, "the one of the same name elsewhere is untouched"
    assert good(folder) == []
    (told,) = [record for record in records(folder) if record["kind"] == "erased"]
    assert (told["people"], told["records"]) == ([pseudonym], 3)
    assert erase(WHO, "acme", file, yes=True) == 0, "twice does no harm"


def test_what_is_readable_in_the_chain_is_said(run, tmp_path, capsys):
    file = run("redacted")
    text = everything(tmp_path / "audit").decode("latin-1")
    assert MAIL not in text
    assert WHO not in text
    assert WORDS in text
    assert "<EMAIL_ADDRESS_1>" in text

    assert erase(WHO, None, file, yes=True) == 1
    assert "6 records hold redacted texts" in capsys.readouterr().out


def test_what_fails_after_the_keys_are_gone_is_said_and_not_called_undone(run, tmp_path, capsys, monkeypatch):
    file = run("none")
    for path in segments(tmp_path / "audit" / "audit.jsonl"):
        path.write_bytes(path.read_bytes() + b"no record\n")
    monkeypatch.setattr("llmshield.holders._telling.Audit.start", fails)

    assert erase(WHO, "acme", file, yes=True) == 1
    told = capsys.readouterr()
    assert "1 people erased" in told.out
    assert "the chain could not be told of it: no disk" in told.out
    assert "NOT erased" not in told.err
    assert export(WHO, "acme", file) == 0


def fails(self):
    raise OSError("no disk")


def test_a_rotated_master_key_and_one_that_is_lost(run, tmp_path, capsys, monkeypatch):
    """`vault rotate --policy` is all that it takes; without it nobody is told that a person is not there."""
    keys = vault.new_key(), vault.new_key()
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", keys[0])
    file = run("sealed")
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", keys[1])
    assert erase(WHO, None, file, yes=True) == 1
    assert "records of decisions: NOT erased: people in" in (told := capsys.readouterr()).err
    assert "records of decisions: 0 people" not in told.out

    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", keys[0])
    assert reseal(policy_at(file, "vault")) == 0
    assert "records of decisions: the keys of 3 people are sealed with" in capsys.readouterr().err
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS")
    assert export(WHO, "acme", file) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == 3
    assert all(WORDS in json.dumps(each) for each in told)
    assert erase(WHO, None, file, yes=True) == 0
    assert "2 people erased" in capsys.readouterr().out


def test_nobody_is_no_fault(run, capsys):
    file = run("none")

    assert export("carol", None, file) == 0
    assert erase("carol", None, file, yes=True) == 0
    assert "0 people erased" in capsys.readouterr().out


def test_every_holder_is_found_by_its_file():
    assert "audit" in registry.names("holder")
    assert all(issubclass(registry.find("holder", name), Holder) for name in registry.names("holder"))
