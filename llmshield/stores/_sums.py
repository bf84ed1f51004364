"""The arithmetic that stores in Python share: how much a line can give, and counting in steps.

Integers only; no state of its own, no I/O.
"""

from __future__ import annotations

from llmshield.stores import MAX_AMOUNT, STEPS, Window

Steps = list[int]
"""Hits of one window: `[step, hits, step, hits, ...]`, oldest first, no step twice."""


def room(limit: int, spent: int, held: int) -> int:
    """What an account can still give, 0 at the least."""
    left = (limit if limit < MAX_AMOUNT else MAX_AMOUNT) - spent - held
    return left if left > 0 else 0


def added(balance: int, amount: int) -> int:
    """A balance after an amount (which may be negative): never below 0, never beyond what 64 bits hold."""
    after = balance + amount
    if 0 <= after <= MAX_AMOUNT:
        return after
    return 0 if after < 0 else MAX_AMOUNT


def prune(steps: Steps, now_step: int) -> None:
    """Forget what lies wholly outside the window that ends in `now_step`."""
    gone = 0
    while gone < len(steps) and steps[gone] < now_step - STEPS:
        gone += 2
    if gone:
        del steps[:gone]


def total(steps: Steps) -> int:
    """Hits in all steps."""
    return sum(steps[1::2])


def add(steps: Steps, step: int, cost: int) -> None:
    """Count `cost` hits in this step. A clock that went back counts into the newest step: it never opens a new window.

    A negative cost takes back from this very step, as far as there is something. What has left the window, or was
    counted elsewhere since the clock went back, stays as it is: hits of others are never taken for one's own.
    """
    if cost < 0:
        for at in range(len(steps) - 2, -1, -2):
            if steps[at] == step:
                steps[at + 1] = max(0, steps[at + 1] + cost)
                return
    elif steps and steps[-2] >= step:
        steps[-1] += cost
    else:
        steps += (step, cost)


def resets_ms(window: Window, steps: Steps, now_ms: int) -> int:
    """Milliseconds until the oldest step leaves; 0 when nothing is counted."""
    return max(0, (steps[0] + STEPS + 1) * window.step_ms - now_ms) if steps else 0


def wait_ms(window: Window, steps: Steps, now_ms: int, cost: int) -> int:
    """Milliseconds until `cost` hits have room; the whole window for a cost that never has."""
    if cost > window.limit:
        return window.seconds * 1000
    over = total(steps) + cost - window.limit
    for at in range(0, len(steps), 2):
        over -= steps[at + 1]
        if over <= 0:
            return max(1, (steps[at] + STEPS + 1) * window.step_ms - now_ms)
    return 0
