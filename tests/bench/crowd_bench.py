"""What several processes on one SQLite file refuse each other on a machine with more work than cores: 0 is the goal.

    python tests/bench/crowd_bench.py [processes clients seconds hogs]

Processes of some clients each reserve and settle as calls do, beside `hogs` programs that take all the processor they get.
Refusals are those of a store that says it is locked; nobody but these processes has it open.
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmshield.errors import StoreUnavailable
from llmshield.stores import Labels, Line, open_store

LABELS = Labels("acme", "openai", "gpt-4o")
LINES = (Line("tenant=acme", "ever"), Line("tenant=acme", "day:2026-11-20", 10**15, 4_000_000_000_000))


async def work(url: str, name: str, clients: int, seconds: float) -> None:
    """One process: prints how many steps were taken and refused, and percentiles of a reservation's wait in ms."""
    store = open_store(url)
    await store.open()
    taken = refused = 0
    waits = []
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        nonlocal taken, refused
        turn = 0
        while time.monotonic() < end:
            turn += 1
            id, began = f"{name}.{number}.{turn}", time.monotonic()
            try:
                await store.reserve(id, LINES, 1_000, 1_000, 3 * 10**12, 2 * 10**12, LABELS)
                waits.append((time.monotonic() - began) * 1e3)
                await asyncio.sleep(random.random() * 0.02)
                await store.settle(id, LINES, 500, 2 * 10**12, LABELS, 1, 1)
                taken += 2
            except StoreUnavailable:
                refused += 1
                await asyncio.sleep(0.01)

    await asyncio.gather(*[client(number) for number in range(clients)])
    await store.close()
    waits.sort()
    print(json.dumps([taken, refused, waits[len(waits) // 2], waits[len(waits) * 99 // 100]]))


def run(processes: int, clients: int, seconds: float, hogs: int, folder: Path) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(hogs)]
    try:
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--work", f"sqlite:///{folder / 'book.db'}", f"p{index}", str(clients), str(seconds)],
                stdout=subprocess.PIPE,
            )
            for index in range(processes)
        ]  # fmt: skip
        said = [json.loads(worker.communicate()[0]) for worker in workers]
    finally:
        for hog in busy:
            hog.kill()
            hog.wait()
    taken, refused = sum(each[0] for each in said), sum(each[1] for each in said)
    print(
        f"{processes} processes x {clients} clients beside {hogs} hogs: {taken:,} steps, {refused} refused;"
        f" a reservation waits p50 {max(each[2] for each in said):.2f} ms, p99 {max(each[3] for each in said):.0f} ms"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        asyncio.run(work(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
    else:
        given = [float(each) for each in sys.argv[1:]] or [4, 32, 8, 8]
        with tempfile.TemporaryDirectory() as path:
            run(int(given[0]), int(given[1]), given[2], int(given[3]), Path(path))
