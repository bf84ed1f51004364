"""`llmshield audit search | export`: the real command over the log of a real gateway."""

import asyncio
import csv
import io
import json
import subprocess
import sys

import aiohttp
import pytest

from llmshield.cli._audit_search import _time
from llmshield.simulator import Simulator
from llmshield.testing import FrozenClock, gateway, policy

POLICY = """
version: 1
server: {store: "memory://"}
providers: {openai: {dialect: openai, base_url: "URL/v1"}}
plugins: [{use: injection, deny: ["open sesame"], scan: [user]}]
audit: {sink: "file://audit.jsonl", content: CONTENT}
"""
CALLS = [
    ("m-1", "alice", "Hello there."),
    ("=cmd|'/C calc'!A0", "bob", "Hello you."),
    ("m-2", "alice", "open sesame"),
]


async def talk(text):
    async with Simulator() as sim, gateway(policy(text.replace("URL", sim.url))) as (url, _):
        async with aiohttp.ClientSession() as http:
            for model, user, words in CALLS:
                body = {"model": model, "user": user, "messages": [{"role": "user", "content": words}]}
                async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                    await reply.read()


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY", raising=False)

    def made(content="none"):
        text = POLICY.replace("CONTENT", content)
        (tmp_path / "policy.yaml").write_text(text)
        asyncio.run(talk(text))
        return tmp_path

    return made


def audit(*words, said=None):
    return subprocess.run(
        [sys.executable, "-m", "llmshield", "audit", *words], capture_output=True, text=True, input=said
    )


def models(*words, said=None):
    done = audit("search", "--json", *words, said=said)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["model"] for line in done.stdout.splitlines()]


def test_everybody_who_asks_finds_theirs(log):
    log()
    everything = [model for model, _, _ in CALLS]

    assert models() == everything
    assert models("--policy", "policy.yaml", "--limit", "1") == ["m-2"]
    assert models("--user", "alice") == ["m-1", "m-2"]
    assert models("--user", "carol") == []
    assert models("--client", "127.0.0.1") == everything
    assert models("--client", "127.0.0.2") == []
    assert models("--action", "block") == ["m-2"]
    assert models("--plugin", "injection") == ["m-2"]
    assert models("--tenant", "anonymous", "--provider", "openai") == everything[:2]
    assert models("--since", "1h", "--until", "2099-01-01") == everything
    assert models("--since", "2099-01-01T00:00:00Z") == []
    lines = audit("search").stdout.splitlines()
    assert len(lines) == 3
    assert "injection:block" in lines[2]
    id = lines[0].split()[1]
    assert models("--request-id", id) == ["m-1"]


def test_a_spreadsheet_gets_no_formula(log):
    log()
    done = audit("export", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))

    assert [row["model"] for row in rows] == ["m-1", "'=cmd|'/C calc'!A0", "m-2"]
    assert [row["status"] for row in rows] == ["200", "200", "400"]
    assert all(len(row["hash"]) == 64 for row in rows)


def test_an_export_is_a_new_file_for_its_owner(log):
    folder = log()
    assert audit("export", "--output", "out.jsonl").returncode == 0
    out = folder / "out.jsonl"

    assert out.stat().st_mode & 0o777 == 0o600
    assert len(out.read_text().splitlines()) == 3
    again = audit("export", "--output", "out.jsonl")
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def test_sealed_texts_are_opened_where_their_keys_are(log):
    log("sealed")
    closed, opened = audit("export").stdout, audit("export", "--open").stdout

    assert "Hello" not in closed
    texts = [json.loads(line)["content"]["texts"] for line in opened.splitlines()]
    assert [text[0][2] for text in texts] == [words for _, _, words in CALLS]


def test_that_a_text_was_sent_is_proven_by_its_hash(log):
    folder = log("hash")
    (folder / "said.txt").write_text("Hello there.\n")

    assert models("--text", "said.txt") == ["m-1"]
    assert models("--text", "-", said="Hello you.") == [CALLS[1][0]]
    assert models("--text", "-", said="Hello") == []


@pytest.mark.parametrize(
    "words",
    [
        ("--since", "yesterday"), ("--policy", "nowhere.yaml"), ("--until", "2026-13-01"), ("--text", "nowhere.txt"), ("--limit", "0"),
    ],
)  # fmt: skip
def test_usage(log, words):
    log()
    done = audit("search", *words)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_no_segment_is_usage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert audit("search").returncode == 2


def test_a_name_without_a_key_is_a_failure(log):
    folder = log()
    (folder / "audit.key").unlink()

    done = audit("search", "--user", "alice")

    assert (done.returncode, "can't be hashed" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20", "2026-11-20T00:00:00.000Z"), ("2026-11-20T10:00:00+02:00", "2026-11-20T08:00:00.000Z"),
        ("2026-11-20T10:00:00.5Z", "2026-11-20T10:00:00.500Z"), ("1d", "2026-09-20T14:13:20.000Z"), (None, None),
    ],
)  # fmt: skip
def test_times(text, expected):
    with FrozenClock():
        assert _time(text) == expected
