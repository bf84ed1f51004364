"""The log of a SQLite file: on disk once a second, never long for long, and looked after in nobody's way."""

import asyncio
import contextlib
import itertools
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from llmshield.errors import StoreUnavailable
from llmshield.stores import Labels, Line, Seat, Store, Window, _sqlite_log, open_store
from llmshield.stores._sqlite_connect import connect
from llmshield.stores._sqlite_log import Log, length_of

DAY = 86_400_000
NOW = 2_000_000_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "book.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[Store]:
    opened = open_store(f"sqlite:///{file}")
    await opened.open()
    yield opened
    await opened.close()


def log_size(file: Path) -> int:
    with file.with_name(file.name + "-wal").open("rb") as log:
        return length_of(log.fileno())


async def write(store: Store, name: str, count: int) -> None:
    for index in range(count):
        await store.put("shelf", f"{name}.{index}", b"x" * 900)


async def test_a_long_log_goes_into_the_file(
    file: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_log, "LONG", 200_000)
    with closing(connect(str(file), "NORMAL")) as own:
        await write(store, "a", 20)
        before = log_size(file)
        Log(str(file)).flush(own)
        assert log_size(file) == before, "short: on disk, and left as it is"
        assert before == file.with_name(file.name + "-wal").stat().st_size
        await write(store, "b", 200)
        assert log_size(file) > 200_000
        Log(str(file)).flush(own)

    assert log_size(file) < 20_000
    assert file.with_name(file.name + "-wal").stat().st_size > 200_000, "its place on the disk is kept"
    await write(store, "c", 5)
    with closing(sqlite3.connect(file)) as reader:
        (_, frames, _) = reader.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert log_size(file) == 32 + frames * (24 + 1024)
    assert len(await store.notes("shelf", 0)) == 225


async def test_a_log_that_others_keep_writing_does_not_grow_for_ever(
    file: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_log, "LONG", 100_000)
    monkeypatch.setattr(_sqlite_log, "TOO_LONG", 200_000)
    monkeypatch.setattr(_sqlite_log, "_FLUSH_S", 1000)
    busy = open_store(f"sqlite:///{file}")
    await busy.open()
    going, sizes = True, [0]

    async def keep_writing(store: Store) -> None:
        while going:
            with contextlib.suppress(StoreUnavailable):  # both of them, and the log, want the file
                await write(store, "same", 20)
            await asyncio.sleep(0)

    writing = [asyncio.create_task(keep_writing(each)) for each in (store, busy)]
    with closing(connect(str(file), "NORMAL")) as own:
        own.execute("PRAGMA busy_timeout=1000")
        while sum(after < before for before, after in itertools.pairwise(sizes)) < 1:
            await asyncio.sleep(0.01)
            with contextlib.suppress(sqlite3.OperationalError):
                await asyncio.to_thread(Log(str(file)).flush, own)
            sizes.append(log_size(file))
    going = False
    await asyncio.gather(*writing)

    assert len(await store.notes("shelf", 0)) == 20
    await busy.close()


async def test_crashes_leave_no_log_that_grows(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are killed before their first second is over never get to it; the next one does, at its start."""
    monkeypatch.setattr(_sqlite_log, "LONG", 200_000)
    script = (
        "import asyncio, os, sys\nfrom llmshield.stores import open_store\n"
        "async def main():\n"
        " s = open_store(sys.argv[1]); await s.open()\n"
        " for i in range(150): await s.put('shelf', f'{i}', os.urandom(900))\n"
        " os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())"
    )
    for _ in range(2):
        killed = await asyncio.create_subprocess_exec(sys.executable, "-c", script, f"sqlite:///{file}")
        assert await killed.wait() == -9
    assert log_size(file) > 500_000
    store = open_store(f"sqlite:///{file}")
    await store.open()

    assert log_size(file) < 20_000
    assert len(await store.notes("shelf", 0)) == 150
    await store.close()


async def test_what_is_old_is_forgotten_beside_the_writers(store: Store) -> None:
    """Accounts long after their window, gates and seats that are over; in small transactions."""
    lines = [Line(f"tenant={number}", "day:2033-05-01", None, NOW - 30 * DAY) for number in range(1200)]
    for line in lines:
        await store.settle(line.account, (line, Line("all", "ever")), 5, NOW - 31 * DAY, Labels("", "", ""))
    held = Line("tenant=held", "day:2033-05-01", None, NOW - 30 * DAY)
    await store.reserve("held", (held,), 1, 1, NOW + DAY, NOW - 31 * DAY, Labels("", "", ""))
    await store.admit([Window("t", 5, 60)], [Seat("t", 2, "id", NOW - 30 * DAY + 1)], NOW - 30 * DAY)
    statements: list[str] = []
    store._file.writer.set_trace_callback(statements.append)  # type: ignore[attr-defined]
    await store.expire(NOW)

    assert {found.account for found in await store.balances()} == {"all", "tenant=held"}
    transaction = longest = 0
    for said in statements:
        transaction = 0 if said == "COMMIT" else transaction + 1
        longest = max(longest, transaction)
    assert 400 < longest < 600
    for table in ("gate", "seat"):
        assert store._file.writer.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # type: ignore[attr-defined]
