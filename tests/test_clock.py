"""The clock of the house can be held still, and is put back."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmshield import clock
from llmshield.testing import FrozenClock


async def test_install_returns_the_one_before() -> None:
    frozen = FrozenClock(5.0)
    before = clock.install(frozen)
    try:
        assert 5.0 == clock.now()
    finally:
        assert frozen is clock.install(before)
    assert clock.now() > 1_000_000_000


@pytest.fixture
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Say how many seconds this thread was ready and did not run, as the system would."""
    file = tmp_path / "schedstat"
    monkeypatch.setattr(clock, "_SCHEDSTAT", str(file))
    monkeypatch.setattr(clock, "_mark", clock._Mark())

    def say(seconds: float) -> None:
        file.write_text(f"1000000 {int(seconds * 1e9)} 42\n")

    say(5.0)
    return say


@pytest.mark.parametrize(
    ("kept", "past", "late"),
    [(5.0, -1.0, False), (5.0, 0.5, True), (6.0, 0.5, False), (6.0, 1.5, True)],
    ids=["in time", "late", "kept waiting", "kept waiting, and late all the same"],
)
def test_what_the_machine_takes_is_not_overdue(
    waits: Callable[[float], None], kept: float, past: float, late: bool
) -> None:
    clock.mark()
    waits(kept)

    assert clock.overdue(clock.monotonic() - past) is late
    assert not clock.overdue(None)


def test_where_nobody_knows_the_clock_decides(
    waits: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(99.0)
    assert clock.overdue(clock.monotonic() - 0.5)  # no work has begun in this thread

    clock.mark()
    monkeypatch.setattr(clock, "_SCHEDSTAT", "/nowhere")
    assert clock.overdue(clock.monotonic() - 0.5)


def test_threads_are_marked_each_by_itself(waits: Callable[[float], None]) -> None:
    clock.mark()
    waits(8.0)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(clock.overdue, clock.monotonic() - 0.5).result()
    assert not clock.overdue(clock.monotonic() - 0.5)
