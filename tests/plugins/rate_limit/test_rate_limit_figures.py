"""The figures: never above the limit against an oracle, and a million callers in 64 MB."""

import random
import subprocess
import sys
from bisect import bisect_right
from pathlib import Path
from typing import Any

import pytest

from llmshield.testing import FrozenClock

WORKER = Path(__file__).with_name("rate_limit_worker.py")
WINDOWS = ((20, 60), (300, 3_600), (2_000, 86_400))


@pytest.mark.parametrize(
    "decisions", [pytest.param(20_000), pytest.param(1_000_000, marks=pytest.mark.nightly)]
)
async def test_no_window_ever_holds_more(asked: Any, time: FrozenClock, decisions: int) -> None:
    """Three windows at once, three tenants in turn; the oracle keeps the time of every admission.

    What is refused is refused for a reason: some window is full, or was within one of its 60 steps.
    """
    plugin = await asked.plugin("rate: [20/minute, 300/hour, 2000/day]")
    rng = random.Random(decisions)
    tenants = {name: asked.call(name) for name in ("acme", "umbrella", "initech")}
    admitted: dict[str, list[float]] = {name: [] for name in tenants}
    refused = 0
    for _ in range(decisions):
        time.advance(rng.choice([0.01, 0.1, 0.3, 1.0, 3.0, 20.0]))
        name, now = rng.choice(list(tenants)), time.now()
        call, times = tenants[name], admitted[name]
        call._on_end.clear()
        if plugin.pre_request(call) is None:
            for limit, seconds in WINDOWS:
                assert len(times) - bisect_right(times, now - seconds) < limit
            times.append(now)
        else:
            refused += 1
            assert any(
                len(times) - bisect_right(times, now - seconds - seconds / 60) >= limit
                for limit, seconds in WINDOWS
            )
        if len(times) > 10_000:
            del times[:5_000]
    assert refused > decisions // 10


@pytest.mark.parametrize(
    ("callers", "megabytes"),
    [pytest.param(50_000, 16), pytest.param(1_000_000, 64, marks=pytest.mark.nightly)],
)
def test_memory_of_many_callers(callers: int, megabytes: int) -> None:
    """Each with `20/hour` and `100/day` to remember, and a place taken and left."""
    tier = "rate: [20/hour, 100/day], concurrent: 1"
    done = subprocess.run(
        [sys.executable, str(WORKER), "memory://", tier, "crowd", str(callers)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(done.stdout) < megabytes * 10**6
