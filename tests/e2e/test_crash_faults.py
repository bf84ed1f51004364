"""The crash test of issue trackers and gateways: a provider breaks on purpose, and every caller gets its answer.

The table, its chains and its judge are `tests/bench/crash.py` (`make crash` prints it). Here times are a twentieth of
those that the faults have; at full length nightly.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


crash = _load("crash")


@pytest.mark.parametrize("scale", [0.05, pytest.param(1.0, marks=pytest.mark.nightly)], ids=["fast", "full"])
async def test_every_fault_passes_and_no_advice_is_missed(scale: float) -> None:
    found = await crash.table(scale)

    wrong = {
        f"{name}, {column}": verdict
        for name, row in found.items()
        for column, verdict in row.items()
        if verdict != crash.Verdict("pass")
    }
    assert wrong == {}
    assert len(crash.SIXTEEN) == 16
    assert {len(row) for name, row in found.items() if name in crash.SIXTEEN} == {4, 6}


TEXT = crash.TEXT
ASKED = {"a": 1, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("fault", "seen", "asked", "expected"),
    [
        ("cut", {}, ASKED, ("pass", 0)),
        ("cut", {"text": TEXT[:-4]}, ASKED, ("fail", 0)),
        ("cut", {"text": TEXT + TEXT[-4:]}, ASKED, ("fail", 0)),
        ("cut", {"finish": None}, ASKED, ("fail", 0)),
        ("cut", {"finish": "length"}, ASKED, ("fail", 0)),
        ("cut", {"error": openai.APIError("broke", None, body=None), "text": TEXT[:40]}, ASKED, ("safe", 0)),
        ("cut", {"error": openai.APIError("broke", None, body=None), "text": TEXT[4:40]}, ASKED, ("fail", 0)),
        ("cut", {"error": TimeoutError()}, ASKED, ("fail", 0)),
        ("cut", {"usage": None}, ASKED, ("pass", 1)),
        ("cut", {"model": "gpt-4o"}, ASKED, ("pass", 1)),
        ("cut", {"provider": "b"}, ASKED, ("pass", 1)),
        ("unavailable", {"provider": "b"}, {"a": 3, "b": 1, "c": 0}, ("partial", 0)),
        ("silence", {"provider": "b"}, {"a": 2, "b": 1, "c": 0}, ("partial", 1)),
        ("silence", {"provider": "b", "seconds": 90.0, "first_s": 89.0}, ASKED, ("partial", 1)),
        ("content_filter", {}, ASKED, ("fail", 0)),
        ("content_filter", {"error": ValueError()}, ASKED, ("partial", 0)),
    ],
)
def test_the_judge_knows_right_from_wrong(
    fault: str, seen: dict[str, Any], asked: dict[str, int], expected: tuple[str, int]
) -> None:
    right = {
        "text": TEXT,
        "finish": "stop",
        "usage": crash.USED["b"],
        "model": crash.MODELS["b"],
        "provider": "a",
    }
    calls: dict[str, list[Any]] = {who: [object()] * times for who, times in asked.items()}

    verdict = crash.judge(fault, "same", True, crash.Seen(**{**right, **seen}), calls, 1.0)

    assert expected == (verdict.score, len(verdict.missed)), verdict


async def test_a_failed_attempt_costs_little() -> None:
    """In CPU time of the process that is provider, gateway and client at once: it does not hang on what else runs here.
    `tests/bench/failover_bench.py` prints the milliseconds that a caller waits; the goal of both is 5."""
    found = await _load("failover_bench").measure(20)

    for way in ("whole", "streamed"):
        for chain in ("same", "other"):
            assert 0 < found[f"{chain} {way}"][1] - found[f"alone {way}"][1] < 0.005
