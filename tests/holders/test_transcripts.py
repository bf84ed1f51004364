"""A person's conversations: exported, erased; and then in no file of any store any more, whatever happened on the way.

AUD-06 of the acceptance list.
"""

import asyncio
import base64
import contextlib
import json
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path

import aiohttp
import pytest

from llmshield import registry, vault
from llmshield.cli.privacy import erase, export
from llmshield.evidence import segments, verify
from llmshield.simulator import Simulator
from llmshield.testing import gateway, policy
from llmshield.transcripts import Kept, Told, Transcripts

POLICY = """
server: {store: "sqlite:///money.db"}
providers: {openai: {dialect: openai, base_url: "URL/v1"}}
plugins:
  - use: transcripts
    store: STORE
  - use: pii
    timeout: 10s
    entities: {EMAIL_ADDRESS: {action: replace}}
    restore: true
audit: {sink: "file://audit/audit.jsonl"}
"""
YES = {"x-llmshield-consent": "transcripts"}
WORKER = Path(__file__).with_name("transcripts_worker.py")


@pytest.fixture(autouse=True)
def master(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())


@pytest.fixture
def redis(start_redis, tmp_path):
    """A redis-server whose log and dump are in the test's folder."""
    kept = ("--appendonly", "yes", "--appendfsync", "always", "--save", "3600 1000000")
    return start_redis(*kept, folder=tmp_path / "redis")[0]


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    return request.getfixturevalue("redis") if request.param == "redis" else "sqlite:///transcripts.db"


def written(tmp_path, store, url="http://127.0.0.1:9"):
    text = "version: 1\n" + POLICY.replace("STORE", store).replace("URL", url)
    (tmp_path / "policy.yaml").write_text(text)
    return tmp_path / "policy.yaml"


def spellings(needle):
    """A secret as it might stand in a file."""
    yield needle
    yield needle.hex().encode()
    yield needle.hex().upper().encode()
    for before in range(3):  # base64 depends on where a text starts; ends that depend on neighbours are cut
        coded = base64.b64encode(b"\0" * before + needle).rstrip(b"=")
        core = coded[(0, 2, 3)[before] : len(coded) - (1 if (before + len(needle)) % 3 else 0)]
        yield core
        yield core.replace(b"+", b"-").replace(b"/", b"_")


def everything(folder):
    """All bytes of all files and their names, and everything in them that zlib unpacks."""
    data = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                data.append(path.name.encode() + b"\0" + path.read_bytes())
    for raw in list(data):
        for head in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
            at = raw.find(head)
            while at >= 0:
                with contextlib.suppress(zlib.error):
                    data.append(zlib.decompressobj().decompress(raw[at : at + 200_000]))
                at = raw.find(head, at + 1)
    return b"\0".join(data)


def found(data, needles):
    return [name for name, needle in needles.items() if any(each in data for each in spellings(needle))]


def secrets_of(store, user):
    """What must not be left of a person: the sealed key, the key, and what is derived from it."""
    kept = Transcripts(Kept(store))
    kept.open()
    out = {}
    for _, entry in kept.people.found(user, None):
        said = json.loads(vault.ring().unseal(entry.sealed, f"transcripts:person:{entry.pseudonym}"))
        key = base64.b64decode(said["key"])
        out |= {
            f"sealed {entry.pseudonym}": entry.sealed, f"half of it {entry.pseudonym}": entry.sealed[40:90],
            f"key {entry.pseudonym}": key, f"derived {entry.pseudonym}": vault.KeyRing(key).derive("x"),
        }  # fmt: skip
    kept.close()
    assert out
    return out


def exported(file, user, capsys, tenant=None):
    capsys.readouterr()
    assert export(user, tenant, file) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line for line in lines if line["holder"] == "transcripts"]


def test_of_ten_people_one_is_erased(store, tmp_path, capsys):
    """1,000 conversations through a running gateway; the search finds the sealed key before, and nothing after."""
    people = [f"person-{number}-{'abcdefghij'[number] * 6}" for number in range(10)]
    fruit = [
        "quince",
        "medlar",
        "sloe",
        "bullace",
        "damson",
        "mulberry",
        "rowan",
        "azarole",
        "jujube",
        "tayberry",
    ]

    async def talk():
        text = POLICY.replace("STORE", store)
        async with Simulator() as sim, gateway(policy(text.replace("URL", sim.url))) as (url, _):
            async with aiohttp.ClientSession(headers=YES) as http:

                async def say(who, number):
                    words = f"The {fruit[who]} of {people[who]}@trees.example number {number} is ripe."
                    body = {
                        "model": "m", "user": people[who], "stream": bool(number % 2),
                        "messages": [{"role": "user", "content": words}],
                    }  # fmt: skip
                    async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                        assert reply.status == 200, await reply.text()
                        assert f"{people[who]}@trees.example" in await reply.text()

                for number in range(100):
                    await asyncio.gather(*(say(who, number) for who in range(10)))
        # while the gateway is still there others go on: see test_two_processes_and_erasures

    asyncio.run(talk())
    file = written(tmp_path, store)
    for who in range(10):
        texts = exported(file, people[who], capsys)
        assert len(texts) == 100
        assert all(fruit[who] in json.dumps(each) for each in texts)
        assert "trees.example" not in json.dumps(texts), "the provider never had it"
    gone = secrets_of(store, people[3])
    words = {"name": people[3].encode(), "words": b"bullace", "mail": b"trees.example"}
    before = everything(tmp_path)
    assert found(before, words) == []
    assert len(found(before, gone)) == 2, "the sealed key is there, and the search finds it"

    assert erase(people[3], None, file, yes=False) == 0
    assert "transcripts: 100 would be made unreadable" in capsys.readouterr().out
    assert erase(people[3], None, file, yes=True) == 0
    said = capsys.readouterr().out
    assert "transcripts: 1 people erased, 100 transcripts" in said
    assert "its sealed form had the SHA-256" in said

    deadline = time.monotonic() + 20  # Redis removes its old log behind our back
    while found(after := everything(tmp_path), gone | words) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found(after, gone | words) == []
    assert exported(file, people[3], capsys) == []
    for who in set(range(10)) - {3}:
        assert len(exported(file, people[who], capsys)) == 100
    assert erase(people[3], None, file, yes=True) == 0, "twice does no harm"

    sink = tmp_path / "audit" / "audit.jsonl"
    assert [report.fault for report in verify(segments(sink), sink=sink) if report.fault] == []
    records = [json.loads(line) for path in segments(sink) for line in path.read_bytes().splitlines()]
    (told,) = [
        record for record in records if record["kind"] == "erased" and record.get("what") == "transcripts"
    ]
    assert (len(told["people"]), told["transcripts"], told["left"]) == (1, 100, 0)
    assert told["people"][0].startswith("t:")


def start(store, cwd):
    process = subprocess.Popen(
        [sys.executable, str(WORKER), store], cwd=cwd, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.nightly)])
def test_killed_while_writing(store, tmp_path, capsys, kills):
    """What was said to be kept is there after kill -9, everything opens, and the next process goes on."""
    file, chance, acknowledged = written(tmp_path, store), random.Random(5), set()
    for _ in range(kills):
        process = start(store, tmp_path)
        time.sleep(chance.uniform(0.01, 0.4))
        process.kill()
        acknowledged |= {line.split()[0] for line in process.stdout.read().splitlines()[:-1]}
        process.wait(20)
        process.stdout.close()

    for user in ("alice", "bob"):
        texts = exported(file, user, capsys)
        assert acknowledged <= {each["id"] for each in texts}
        assert all(each["texts"][0][2].startswith("The harvest") for each in texts)
    assert acknowledged


KILLED = """
import os, signal, sys
from pathlib import Path
from llmshield.cli.privacy import erase
from llmshield.transcripts.places.redis import RedisPlace
from llmshield.transcripts.places.sqlite import SqlitePlace
step, when = sys.argv[1:]
def deadly(do):
    def run(*given, **more):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        do(*given, **more)
        os.kill(os.getpid(), signal.SIGKILL)
    return run
for place in (RedisPlace, SqlitePlace):
    setattr(place, step, deadly(getattr(place, step)))
erase("alice", None, Path("policy.yaml"), yes=True)
"""


def test_killed_while_erasing(store, tmp_path, capsys):
    """Before and after each step: the next erasure finishes what a killed one has begun; bob is untouched."""
    file, gone = written(tmp_path, store), {}
    text = file.read_text()
    file.write_text(
        text[: text.index("  - use: pii")] + text[text.index("audit:") :]
    )  # it takes a second to load
    bobs = 0
    for step, when in [
        (step, when) for step in ("destroy", "scrub", "remove") for when in ("before", "after")
    ]:
        kept = Transcripts(Kept(store))
        kept.open()
        texts = [["user", "/messages/0/content", "The harvest of quinces was poor."]]
        told = [
            Told("acme", user, f"{step}-{when}", time.time() + 999, kept.people.erasures, {}, texts)
            for user in ("alice", "bob")
        ]
        assert kept.put(told).kept == 2
        kept.close()
        gone |= secrets_of(store, "alice")
        bobs = len(exported(file, "bob", capsys))
        killed = subprocess.run([sys.executable, "-c", KILLED, step, when], capture_output=True, check=False)
        assert killed.returncode == -9, killed.stderr
        assert bool(exported(file, "alice", capsys)) == ((step, when) == ("destroy", "before"))

    assert erase("alice", None, file, yes=True) == 0
    deadline = time.monotonic() + 20
    while found(data := everything(tmp_path), gone) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found(data, gone) == []
    assert exported(file, "alice", capsys) == []
    assert len(exported(file, "bob", capsys)) == bobs > 0


def test_two_processes_and_erasures(store, tmp_path, capsys):
    """Two write, a third erases again and again: what began before an erasure is never there after it."""
    file, gone = written(tmp_path, store), {}
    writers, too_late = [start(store, tmp_path) for _ in range(2)], 0
    for _ in range(4):
        deadline = time.monotonic() + 30
        while not (mine := exported(file, "alice", capsys)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert mine, "who calls again begins anew"
        gone |= secrets_of(store, "alice")
        began = time.time()
        assert erase("alice", None, file, yes=True) in {0, 1}, "a log that is in use is told, and done again"
        late = [each for each in exported(file, "alice", capsys) if each["at"] < began]
        assert late == []
    for writer in writers:
        writer.kill()
        lines = writer.stdout.read().splitlines()[:-1]
        writer.wait(20)
        writer.stdout.close()
        too_late += sum(line.split()[2] != "0" for line in lines)
    assert too_late, "what began before an erasure and came after it"
    bobs = exported(file, "bob", capsys)
    assert len({each["id"] for each in bobs}) == len(bobs) > 10
    gone |= secrets_of(store, "alice")
    assert erase("alice", None, file, yes=True) == 0
    deadline = time.monotonic() + 20
    while found(data := everything(tmp_path), gone) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found(data, gone) == []


def test_a_gateway_that_runs_notices(tmp_path, capsys):
    """Erased while the gateway has the key in memory and the next call under way."""
    file = written(tmp_path, "sqlite:///transcripts.db")

    async def talk():
        text = POLICY.replace("STORE", "sqlite:///transcripts.db")
        async with (
            Simulator(delay=0.05, tokens=20) as sim,
            gateway(policy(text.replace("URL", sim.url))) as (url, _),
        ):
            async with aiohttp.ClientSession(headers=YES) as http:

                async def say(words, stream):
                    body = {"model": "m", "user": "alice", "stream": stream,
                            "messages": [{"role": "user", "content": words}]}  # fmt: skip
                    async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                        assert reply.status == 200
                        await reply.read()

                await say("first", False)
                while not await asyncio.to_thread(exported, file, "alice", capsys):
                    await asyncio.sleep(0.05)
                begun = say("second", True), say("[[simulate ttft=2.5]] not answered yet", False)
                under_way = asyncio.gather(*begun)
                await asyncio.sleep(0.3)
                assert await asyncio.to_thread(lambda: erase("alice", None, file, yes=True)) == 0
                await under_way
                await asyncio.sleep(1.5)
                await say("third", False)

    asyncio.run(talk())
    assert [each["texts"][0][2] for each in exported(file, "alice", capsys)] == ["third"]


@pytest.mark.parametrize("command", ["export", "erase"])
def test_the_wrong_master_key(tmp_path, capsys, monkeypatch, command):
    file = written(tmp_path, "sqlite:///transcripts.db")
    kept = Transcripts(Kept("sqlite:///transcripts.db"))
    kept.open()
    kept.close()

    def run():
        return export("alice", None, file) if command == "export" else erase("alice", None, file, yes=True)

    for key, said in (
        (vault.new_key(), "put that key into LLMSHIELD_PREVIOUS_KEYS"),
        ("", "is not set; make a key"),
    ):
        monkeypatch.setenv("LLMSHIELD_SECRET_KEY", key)
        assert run() == 1
        told = capsys.readouterr()
        assert said in told.err
        assert ("transcripts: NOT erased" in told.err) == (command == "erase")
        assert "transcripts:" not in told.out
        assert not key or key not in told.err


def test_what_no_command_reaches_is_not_said_to_be_erased(tmp_path, capsys):
    assert erase("alice", None, written(tmp_path, "memory://"), yes=True) == 1
    assert "NOT erased: they are in the memory of one process" in capsys.readouterr().err


def test_a_redis_that_is_away_is_told(tmp_path, capsys):
    assert erase("alice", None, written(tmp_path, "redis://127.0.0.1:1/0"), yes=True) == 1
    assert "NOT erased: Redis at redis://127.0.0.1:1/0: nobody listens there" in capsys.readouterr().err


def test_nothing_kept_is_no_fault_and_makes_no_files(tmp_path, capsys):
    file = written(tmp_path, "sqlite:///transcripts.db")

    assert exported(file, "alice", capsys) == []
    assert erase("alice", None, file, yes=True) == 0
    out = capsys.readouterr().out
    assert "transcripts: 0 people erased" in out
    assert f"there is no sqlite:///transcripts-keys.db (seen from {tmp_path})" in out
    assert not list(tmp_path.glob("transcripts*"))


def test_a_disabled_plugin_still_tells_where(tmp_path, capsys):
    file = written(tmp_path, "sqlite:///transcripts.db")
    process = start("sqlite:///transcripts.db", tmp_path)
    process.stdout.readline()
    process.kill()
    process.wait(20)
    process.stdout.close()
    file.write_text(
        file.read_text().replace("  - use: transcripts\n", "  - use: transcripts\n    mode: disabled\n")
    )
    assert exported(file, "alice", capsys)
    assert erase("alice", None, file, yes=True) == 0
    assert exported(file, "alice", capsys) == []


def test_the_holder_is_found_by_its_file():
    assert "transcripts" in registry.names("holder")
