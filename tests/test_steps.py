"""One hook of one call: on the spot where it can be, awaited where it must be. Modes and edits: test_chain.py."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmshield import clock
from llmshield.call import Call
from llmshield.errors import CallError
from llmshield.steps import Step, Trail, run_now, run_step
from llmshield.testing import FrozenClock, call
from llmshield.verdicts import Block


def step(run: Callable[..., Any], **more: Any) -> Step:
    given: dict[str, Any] = {
        "blocking": False,
        "enforced": True,
        "fail_open": False,
        "timeout_s": 1.0,
        **more,
    }
    return Step("mine", "pre_request", run, inspect.iscoroutinefunction(run), **given)


async def _blocks(call: Call) -> Block:
    return Block("no")


def test_a_sync_hook_runs_on_the_spot() -> None:
    trail = Trail()

    assert run_now(step(lambda call: None), trail, call("x")) is None
    assert run_now(step(lambda call: Block("no")), trail, call("x")) == Block("no")
    assert [took.action for took in trail.took] == ["allow", "block"]


@pytest.mark.parametrize(
    "made",
    [step(_blocks), step(lambda call: _blocks(call)), step(lambda call: Block("no"), blocking=True)],
    ids=["async", "a plain function of a coroutine", "blocking"],
)
async def test_what_waits_comes_back_as_an_awaitable(made: Step) -> None:
    said = run_now(made, Trail(), call("x"))

    assert inspect.isawaitable(said)
    assert await said == Block("no")
    assert await run_step(made, Trail(), call("x")) == Block("no")


async def test_a_hook_that_computes_leaves_the_loop_for_a_long_call_only() -> None:
    made = step(lambda call: None, computes=True)

    assert run_now(made, Trail(), call("x")) is None

    said = run_now(made, Trail(size=1), call("x"))

    assert inspect.isawaitable(said)
    assert await said is None


async def test_hooks_that_compute_leave_the_loops_own_threads_alone() -> None:
    """Names are looked up in those: long prompts must not keep every other call from its provider."""
    gate = threading.Event()
    seen: list[str] = []

    def run(call: Call) -> None:
        seen.append(threading.current_thread().name)
        gate.wait(5)

    made = step(run, blocking=True, timeout_s=10.0)
    busy = [asyncio.create_task(run_step(made, Trail(), call("x"))) for _ in range(40)]
    while not seen:
        await asyncio.sleep(0.001)
    free = await asyncio.wait_for(asyncio.to_thread(lambda: threading.current_thread().name), 2)
    gate.set()
    await asyncio.gather(*busy)

    assert {name.partition("_")[0] for name in seen} == {"llmshield-hook"}
    assert not free.startswith("llmshield")


@pytest.mark.usefixtures("idle_machine")
def test_a_sync_hook_that_took_too_long_has_failed() -> None:
    """Sync code can't be cut off: it sees the deadline, and what it says too late is not heard."""
    seen = []
    with FrozenClock() as time:

        def run(given: Call) -> None:
            seen.append(given.deadline)
            given.guard_attempt(lambda attempt: None)
            time.advance(1.5)

        subject, trail, limit = call("x"), Trail(), clock.monotonic() + 1.0
        with pytest.raises(CallError, match="plugin 'mine' failed"):
            run_now(step(run), trail, subject)

    assert seen == [limit]
    assert [took.error for took in trail.took] == ["timeout after 1000 ms"]
    assert subject._attempt_guards == []


def test_what_is_said_outside_of_a_hook_counts_for_no_hook() -> None:
    subject, trail = call("x"), Trail()
    run_now(step(lambda call: call.report("SEEN", "flag")), trail, subject)
    subject.report("LATE", "flag")
    run_now(step(lambda call: None), trail, subject)

    assert [[f.type for f in took.findings] for took in trail.took] == [["SEEN"], []]


@pytest.mark.parametrize(("kept_s", "counts"), [(0.0, False), (3.0, True)])
@pytest.mark.parametrize("said", [None, Block("no")], ids=["allow", "block"])
def test_a_hook_that_the_machine_kept_waiting_is_not_too_late(
    said: Block | None, kept_s: float, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "schedstat"
    file.write_text("0 0 0\n")
    monkeypatch.setattr(clock, "_SCHEDSTAT", str(file))
    monkeypatch.setattr(clock, "_mark", clock._Mark())
    frozen = FrozenClock()
    before = clock.install(frozen)

    def late(call: Call) -> Block | None:
        frozen.advance(2.0)
        file.write_text(f"0 {int(kept_s * 1e9)} 0\n")
        return said

    try:
        clock.mark()
        if counts:
            assert run_now(step(late), Trail(), call("x")) == said
        else:
            with pytest.raises(CallError):
                run_now(step(late), Trail(), call("x"))
    finally:
        clock.install(before)
