"""Whoever keeps a SQLite file locked is told apart: stuck, or without a processor."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from llmshield.errors import StoreUnavailable
from llmshield.stores import Labels, Line, open_store
from llmshield.stores._sqlite_connect import connect
from llmshield.stores._sqlite_holder import Holder

pytestmark = pytest.mark.skipif(
    not Path("/proc/locks").exists() or not Path("/proc/self/schedstat").exists(),
    reason="only Linux says who holds a lock and who waits for a processor",
)

# Takes the lock, says so, and then sleeps, or computes where hogs leave it next to nothing of the processor.
PROGRAM = """
import os, sqlite3, sys, time
file, how, work_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
other = sqlite3.connect(file, isolation_level=None)
other.execute("BEGIN IMMEDIATE")
other.execute("UPDATE flush SET times = times + 1")
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
if how == "starves":
    os.nice(15)
print("locked", flush=True)
if how == "sleeps":
    time.sleep(60)
until = time.thread_time() + work_s
while time.thread_time() < until:
    pass
other.execute("COMMIT")
"""
HOG = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint('here', flush=True)\nwhile True: pass"

Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    connect(str(tmp_path / "book.db"), "NORMAL").close()
    return tmp_path / "book.db"


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a program; it has said its first line."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *args: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, args)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def shares(holder: Holder, looks: int) -> list[float]:
    """Of the time between each two looks, the share that counts."""
    holder.unused()
    found = []
    for _ in range(looks):
        began = time.monotonic()
        time.sleep(0.05)
        unused = holder.unused()
        assert unused is not None
        found.append(unused / (time.monotonic() - began))
    return sorted(found)


@pytest.mark.parametrize(
    ("how", "hogs", "low", "high"),
    [("sleeps", 0, 0.9, 1.1), ("sleeps", 3, 0.9, 1.1), ("starves", 3, 0.0, 0.3)],
    ids=["sleeping", "sleeping on a busy machine", "without a processor"],
)
def test_what_counts(file: Path, run: Run, how: str, hogs: int, low: float, high: float) -> None:
    """Time in which it sleeps counts, on a busy machine as well; time in which it waits for a processor does not."""
    with closing(sqlite3.connect(file)) as reader:
        reader.execute("SELECT count(*) FROM hold").fetchone()  # it keeps the shared file open
        run(PROGRAM, file, how, 60)
        for _ in range(hogs):
            run(HOG)
        found = shares(Holder(str(file)), 9)

    assert low <= found[len(found) // 2] <= high, found


def test_a_file_that_nobody_holds(file: Path) -> None:
    holder = Holder(str(file))

    assert [holder.unused() for _ in range(3)] == [None] * 3


def test_another_process_by_now(file: Path, run: Run) -> None:
    holder = Holder(str(file))
    with closing(sqlite3.connect(file)) as reader:
        reader.execute("SELECT count(*) FROM hold").fetchone()
        first = run(PROGRAM, file, "sleeps", 0)
        assert holder.unused() is None
        first.kill()
        first.wait()
        run(PROGRAM, file, "sleeps", 0)

        assert holder.unused() == 0.0
        time.sleep(0.05)
        assert (holder.unused() or 0.0) > 0.0


def test_where_nothing_can_be_read(file: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without these files, a process of another container: None, not an error."""
    with closing(sqlite3.connect(file)) as reader:
        reader.execute("SELECT count(*) FROM hold").fetchone()
        run(PROGRAM, file, "sleeps", 0)
        holder = Holder(str(file))
        holder.unused()

        def refuse(path: Path, *args: object, **kwargs: object) -> str:
            raise PermissionError(str(path))

        monkeypatch.setattr(Path, "read_text", refuse)
        assert holder.unused() is None


async def test_a_step_waits_for_one_without_a_processor(file: Path, run: Run) -> None:
    """Interrupted between its BEGIN and its COMMIT: 50 ms are over long before it goes on. It is waited for."""
    store = open_store(f"sqlite:///{file}")
    await store.open()
    waits: list[float] = []
    for number in range(
        10
    ):  # the machine may have a moment for it at once, or none for half a second: then it ends
        hogs = [run(HOG) for _ in range(4)]
        run(PROGRAM, file, "starves", 0.002)
        asyncio.get_running_loop().call_later(0.15, lambda hogs=hogs: [hog.kill() for hog in hogs])
        began = time.monotonic()
        with suppress(StoreUnavailable):
            await store.reserve(
                f"a{number}", (Line("t", "ever", 100),), 1, 1, 3 * 10**12, 2 * 10**12, Labels("t", "", "")
            )
            waits.append(time.monotonic() - began)
        if waits and waits[-1] > 0.08:
            break

    assert max(waits) > 0.08, waits
    assert [found.held for found in await store.balances()] == [len(waits)]
    await store.close()
