"""VLT-02: a new master key for all entries of a file while others read it, with writers killed at any moment."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmshield import key_files
from llmshield.errors import SecretError
from llmshield.sealing import KeyRing

KEYS = [os.urandom(32) for _ in range(2)]

WRITER = """
import sys
from pathlib import Path
from llmshield import key_files
from llmshield.sealing import KeyRing

path, first, second, turns = Path(sys.argv[1]), *map(bytes.fromhex, sys.argv[2:4]), int(sys.argv[4])
print("ready", flush=True)
for turn in range(turns):
    key_files.rotate(path, KeyRing(first, [second]))
    print("done", flush=True)
    first, second = second, first
"""

READER = """
import random, sys, threading
from pathlib import Path
from llmshield import key_files
from llmshield.sealing import KeyRing

path, threads, entries = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
ring = KeyRing(bytes.fromhex(sys.argv[4]), [bytes.fromhex(sys.argv[5])])
stop = threading.Event()
counts, failures = [0] * threads, []

def read(number):
    chance = random.Random(number)
    while not stop.is_set():
        name = f"p{chance.randrange(entries)}"
        try:
            reference = key_files.read(path, ring).entries[name]
            if ring.unseal_reference(reference, name) != f"sk-of-{name}":
                failures.append(name)
        except Exception as error:
            failures.append(f"{name}: {error!r}")
        counts[number] += 1
        stop.wait(0.002)

running = [threading.Thread(target=read, args=(number,)) for number in range(threads)]
for thread in running:
    thread.start()
print("ready", flush=True)
sys.stdin.read()
stop.set()
for thread in running:
    thread.join()
print(sum(counts), min(counts), len(failures), failures[:3])
"""


@pytest.mark.parametrize(
    ("entries", "processes", "threads", "kills"),
    [(1_000, 2, 4, 12), pytest.param(10_000, 8, 8, 100, marks=pytest.mark.nightly)],
)
def test_no_read_fails_while_the_key_changes(
    entries: int, processes: int, threads: int, kills: int, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    ring = KeyRing(KEYS[0])

    def fill(held: dict[str, str]) -> None:
        for number in range(entries):
            held[f"p{number}"] = ring.seal_reference(f"sk-of-p{number}", f"p{number}")

    key_files.change(path, ring, fill, make=True)
    hexed = [key.hex() for key in KEYS]
    readers = [_started(READER, str(path), str(threads), str(entries), *hexed) for _ in range(processes)]
    chance, killed, finished = random.Random(7), 0, 0
    started = time.monotonic()
    _started(WRITER, str(path), *hexed[::-1], "1").communicate()
    turn_s = time.monotonic() - started  # so long does one rotation take on this machine, with its start
    while killed < kills:
        writer = _started(WRITER, str(path), *(hexed if killed % 2 else hexed[::-1]), "1000000")
        time.sleep(chance.uniform(0, 2 * turn_s))
        writer.kill()
        out, _ = writer.communicate()
        killed += 1
        finished += out.count("done")
        both = KeyRing(KEYS[0], [KEYS[1]])
        assert entries == len(key_files.read(path, both).entries)
    told = [reader.communicate("")[0].split(maxsplit=3) for reader in readers]

    assert ["0"] * processes == [failed for _, _, failed, _ in told], told
    assert all(int(least) > 0 for _, least, _, _ in told)
    assert finished > 0
    _started(WRITER, str(path), *hexed, "1").communicate()  # the last one runs through
    new, old = KeyRing(KEYS[0]), KeyRing(KEYS[1])
    held = key_files.read(path, new).entries
    assert all(new.unseal_reference(held[f"p{n}"], f"p{n}") == f"sk-of-p{n}" for n in range(entries))
    with pytest.raises(SecretError, match="not here"):
        key_files.read(path, old)
    for reference in held.values():
        with pytest.raises(SecretError):
            old.unseal_reference(reference)
    assert ["keys"] == [file.name for file in tmp_path.iterdir()]
    print(
        f"{sum(int(t[0]) for t in told)} reads, {finished} rotations finished, {killed} killed, {turn_s:.2f} s each"
    )


def _started(code: str, *words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "ready\n" == process.stdout.readline()
    return process


ADDER = """
import sys
from pathlib import Path
from llmshield import key_files
from llmshield.sealing import KeyRing

path, ring, who = Path(sys.argv[1]), KeyRing(bytes.fromhex(sys.argv[2])), sys.argv[3]
print("ready", flush=True)
for number in range(10):
    name = f"{who}-{number}"
    key_files.change(path, ring, lambda entries: entries.update({name: ring.seal_reference(name, name)}), make=True)
"""


def test_writers_take_turns(tmp_path: Path) -> None:
    """Four processes add ten keys each to one file: none is lost."""
    path = tmp_path / "keys"
    adders = [_started(ADDER, str(path), KEYS[0].hex(), f"w{number}") for number in range(4)]
    for adder in adders:
        adder.communicate()
    held = key_files.read(path, KeyRing(KEYS[0]))

    assert (40, 40) == (len(held.entries), held.revision)
