"""What an attempt is charged when it is over.

| how it ended | charge |
|---|---|
| nothing was sent | nothing; the hold is released |
| the provider answered with an error status | nothing: no provider bills these |
| usage was reported, and the reply is complete | exactly that |
| usage was reported, and the reply was cut (client gone, stopped by a guard, broken) | that, but no less than what was seen; a stream with `cut_stream: full`, or one that thinks unseen: all that was reserved |
| no usage, or nonsense | what was sent and seen, each byte and character as a token; of a model that thinks unseen all that was reserved |
| no answer at all, or a whole one that never became readable | all that was reserved (`lost_reply`) |

What was seen is charged at no more than was reserved; a report is the truth and may be more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from llmshield.call import Attempt, Usage
from llmshield.prices import Bound, ModelPrice, cost, sensible, tokens

_THINKERS = ("o1", "o3", "o4", "gpt-5", "gpt-6", "codex", "computer-use")
"""OpenAI's models that reason without showing it."""
_MUTE = ("gemini-1", "gemini-2.0", "models/gemini-1", "models/gemini-2.0", "gemma", "models/gemma")
"""Gemini's models that do not think. Of the others each report has the thoughts so far; without one nobody knows."""
_SPEAKERS = ("gpt-5-chat", "gpt-5.1-chat", "gpt-5.2-chat", "gpt-5.3-chat")


_SOUND = frozenset({"audio", "audio_data", "audio_id", "video"})


class Charge(NamedTuple):
    """`amount` in pico-USD; `usage` is what to show instead of a report that was missing or nonsense."""

    amount: int
    tokens_in: int
    tokens_out: int
    usage: Usage | None = None


def charge_for(
    attempt: Attempt, price: ModelPrice, bound: Bound, reserved: int, *, lost_in_full: bool, cut_in_full: bool
) -> Charge | None:
    """What this attempt costs; None: nothing was sent, or nothing is billed."""
    status = attempt.status
    if attempt.outcome == "ok" and status == 200 and attempt.sent and not bound.media:
        usage = attempt.usage
        if usage is not None and sensible(usage) and attempt.call.operation != "passthrough":
            amount = cost(price, usage, long_cache=bound.long_cache)
            return Charge(amount, usage.input or 0, usage.output or 0)
    if not attempt.sent or (status is not None and status >= 400):
        return None
    call, usage = attempt.call, attempt.usage
    if call.operation == "passthrough":
        return Charge(price.per_call, 0, 0)
    complete = attempt.outcome == "ok"
    if usage is not None and usage.output is None and call.operation == "embed":
        usage = replace(usage, output=0)
    cut = not complete and call.stream and (status is not None or usage is not None)
    cut_in_full = cut and cut_in_full
    if usage is not None and sensible(usage):
        if bound.media:
            usage = _as_media(usage, price, attempt.unseen)
        amount = cost(price, usage, long_cache=bound.long_cache)
        if not complete:
            if cut_in_full or (cut and attempt.dialect == "anthropic_messages" and thinks_unseen(attempt)):
                return Charge(max(reserved, amount), tokens(usage.input), tokens(usage.output))
            if attempt.output_chars > tokens(usage.output):
                usage = replace(usage, output=attempt.output_chars, estimated=True)
                seen = cost(price, usage, long_cache=bound.long_cache)
                return Charge(
                    max(amount, min(seen, reserved)), tokens(usage.input), tokens(usage.output), usage
                )
        return Charge(amount, tokens(usage.input), tokens(usage.output))
    lost = status is None or (not complete and not call.stream)
    unknown = call.operation == "generate" and (
        thinks_unseen(attempt) or (attempt.dialect == "gemini" and not attempt.model.startswith(_MUTE))
    )
    if "background" in attempt.unseen or (lost and lost_in_full) or (unknown and not lost) or cut_in_full:
        return Charge(reserved, 0, 0)
    guess = Usage(
        input=max(bound.input, tokens(usage.input) if usage else 0),
        output=max(attempt.output_chars, tokens(usage.output) if usage else 0),
        estimated=True,
    )
    into, out = price.worst(bound.input, long_cache=bound.long_cache, media=bound.media)
    amount = min(
        reserved, max(cost(price, guess, long_cache=bound.long_cache), _worst(guess, into, out, price, bound))
    )
    return Charge(amount, tokens(guess.input), tokens(guess.output), guess)


def thinks_unseen(attempt: Attempt) -> bool:
    """Whether the model may produce tokens that are billed and that neither the text nor a running report shows."""
    body = attempt.body
    if attempt.dialect == "gemini":
        return False  # each chunk reports the thoughts so far
    if attempt.dialect == "anthropic_messages":  # thoughts are shown as a summary
        thinking = body.get("thinking")
        return type(thinking) is dict and thinking.get("type") not in (None, "disabled")
    name = attempt.model.rpartition("/")[2]
    return name.startswith(_THINKERS) and not name.startswith(_SPEAKERS)


def _as_media(usage: Usage, price: ModelPrice, unseen: tuple[str, ...]) -> Usage:
    """Sound or a film was sent and the report does not tell it from text: all of it counts as the dearest of them."""
    if usage.input_audio or usage.input_video or _SOUND.isdisjoint(unseen):
        return usage
    rates, total = price.rates_for(tokens(usage.input)), tokens(usage.input)
    sound, film = rates.input_audio or 0, rates.input_video or 0
    if max(sound, film) <= rates.input:
        return usage
    return replace(usage, input_audio=total) if sound >= film else replace(usage, input_video=total)


def _worst(seen: Usage, into: int, out: int, price: ModelPrice, bound: Bound) -> int:
    fees = price.per_call + bound.tools * price.per_tool + bound.fees
    return -(-(tokens(seen.input) * into + tokens(seen.output) * out) // 1_000_000) + fees
