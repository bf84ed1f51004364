"""What an attempt is charged when it is over.

| how it ended | charge |
|---|---|
| nothing was sent | nothing; the hold is released |
| the provider answered with an error status | nothing: no provider bills these |
| usage was reported, and the reply is complete | exactly that |
| usage was reported, and the reply was cut (client gone, stopped by a guard, broken) | that, but no less than what was seen; a stream with `cut_stream: full`: all that was reserved |
| no usage, or nonsense | what was sent and seen, each byte and character as a token |
| no answer at all, or a whole one that never became readable | all that was reserved (`lost_reply`) |

What was seen is charged at no more than was reserved; a report is the truth and may be more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmshield.call import Attempt, Usage
from llmshield.prices import Bound, ModelPrice, cost, sensible, tokens


@dataclass(slots=True, frozen=True)
class Charge:
    """`amount` in pico-USD; `usage` is what to show instead of a report that was missing or nonsense."""

    amount: int
    tokens_in: int
    tokens_out: int
    usage: Usage | None = None


def charge_for(
    attempt: Attempt, price: ModelPrice, bound: Bound, reserved: int, *, lost_in_full: bool, cut_in_full: bool
) -> Charge | None:
    """What this attempt costs; None: nothing was sent, or nothing is billed."""
    if not attempt.sent or (attempt.status is not None and attempt.status >= 400):
        return None
    if attempt.call.operation == "passthrough":
        return Charge(price.per_call, 0, 0)
    usage = attempt.usage
    complete = attempt.outcome == "ok"
    if usage is not None and usage.output is None and attempt.call.operation == "embed":
        usage = replace(usage, output=0)
    cut = not complete and attempt.call.stream and attempt.status is not None
    if sensible(usage):
        assert usage is not None
        if cut and cut_in_full:
            amount = max(reserved, cost(price, usage, long_cache=bound.long_cache))
            return Charge(amount, tokens(usage.input), tokens(usage.output))
        if not complete and attempt.output_chars > tokens(usage.output):
            usage = replace(usage, output=attempt.output_chars, estimated=True)
            amount = min(
                cost(price, usage, long_cache=bound.long_cache),
                max(reserved, _reported(attempt, price, bound)),
            )
            return Charge(amount, tokens(usage.input), tokens(usage.output), usage)
        return Charge(
            cost(price, usage, long_cache=bound.long_cache), tokens(usage.input), tokens(usage.output)
        )
    lost = attempt.status is None or (not complete and not attempt.call.stream)
    if "background" in attempt.unseen or (lost and lost_in_full) or (cut and cut_in_full):
        return Charge(reserved, 0, 0)
    seen = Usage(
        input=max(bound.input, tokens(usage.input) if usage else 0),
        output=max(attempt.output_chars, tokens(usage.output) if usage else 0),
        estimated=True,
    )
    into, out = price.worst(bound.input, long_cache=bound.long_cache, media=bound.media)
    amount = min(
        reserved, max(cost(price, seen, long_cache=bound.long_cache), _worst(seen, into, out, price))
    )
    return Charge(amount, tokens(seen.input), tokens(seen.output), seen)


def _reported(attempt: Attempt, price: ModelPrice, bound: Bound) -> int:
    """The cost of the provider's own report."""
    assert attempt.usage is not None
    return cost(price, attempt.usage, long_cache=bound.long_cache)


def _worst(seen: Usage, into: int, out: int, price: ModelPrice) -> int:
    return -(-(tokens(seen.input) * into + tokens(seen.output) * out) // 1_000_000) + price.per_call
