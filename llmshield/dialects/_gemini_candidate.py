"""One candidate of a streamed Gemini reply, and what spells its text again.

Log-probabilities and grounding segments repeat the text token by token or piece by piece. Where a filter holds text
back, they wait until the client has the text that the provider sent; where it changed the text, they are dropped.
"""

from __future__ import annotations

from typing import Any

from llmshield.call import Channel
from llmshield.dialects._gemini_pieces import choice_of, repeats_of


class Candidate:
    """One candidate: its channels; how far the client's text is behind the provider's; and what spells the text
    again and waits for it."""

    __slots__ = (
        "arguments", "calls", "changed", "choice", "content", "finished", "inserted", "lag", "logprobs", "read",
        "reasoning", "speaking", "supports", "thinking", "written",
    )  # fmt: skip

    def __init__(self, choice: int) -> None:
        self.choice = choice
        self.content = Channel("content", choice)
        self.reasoning = Channel("reasoning", choice)
        self.speaking = False
        self.thinking = False
        self.arguments: dict[str, Channel] = {}
        self.calls = 0
        self.finished = False
        self.read: list[str] = []
        self.written: list[str] = []
        """Both since the client last had what the provider sent."""
        self.lag = 0
        self.changed = False
        self.inserted = ""
        self.logprobs: list[Any] = []
        self.supports: list[Any] = []

    def ends(self) -> tuple[Channel, ...]:
        """The channels that stand open; they are closed with this."""
        open_ = (*((self.reasoning,) if self.thinking else ()), *((self.content,) if self.speaking else ()))
        open_ += tuple(self.arguments.values())
        self.speaking = self.thinking = False
        self.arguments.clear()
        return open_

    def book(self, said: str, wrote: str) -> None:
        """A chunk in which the provider said one thing and the client got another (or the same)."""
        if self.changed:
            return
        self.read.append(said)
        self.written.append(wrote)
        self.lag += len(said) - len(wrote)
        if not self.lag:
            # As long, and another text: it will not become the same again.
            self.changed = "".join(self.read) != "".join(self.written)
            self.read.clear()
            self.written.clear()

    def end_thought(self) -> Channel:
        """What is left of a thought stands before the answer; a later thought is another channel."""
        ended = self.reasoning
        self.thinking = False
        self.reasoning = Channel("reasoning", self.choice, ended.index + 1)
        return ended

    @property
    def level(self) -> bool:
        """True while the client has what the provider sent."""
        return not self.read and not self.changed

    def hold_repeats(self, tree: dict[str, Any]) -> None:
        """Take what repeats the text out of this chunk; if nothing of the text is missing, put back all there is."""
        candidate = find_candidate(tree, self.choice)
        for holder, key in repeats_of(candidate):
            (self.logprobs if key == "logprobsResult" else self.supports).append(holder.pop(key))
        if self.level:
            self._release(candidate)

    def _release(self, candidate: dict[str, Any]) -> None:
        """Put what waited into this chunk, joined where it comes from several."""
        if self.logprobs:
            joined = self.logprobs[0]
            for one in self.logprobs[1:]:
                joined = _joined(joined, one)
            candidate["logprobsResult"] = joined
            self.logprobs = []
        if self.supports:
            grounding = candidate.get("groundingMetadata")
            if type(grounding) is not dict:
                grounding = candidate["groundingMetadata"] = {}
            supports = self.supports[0]
            for one in self.supports[1:]:
                supports = [*supports, *one] if type(supports) is list and type(one) is list else one
            grounding["groundingSupports"] = supports
            self.supports = []


def find_candidate(tree: dict[str, Any], choice: int) -> dict[str, Any]:
    """The candidate of this number in a chunk that has it."""
    return next(one for place, one in enumerate(tree["candidates"]) if choice_of(one, place) == choice)


def _joined(first: Any, second: Any) -> Any:
    """Two logprobsResults as one: their lists one behind the other."""
    if type(first) is not dict or type(second) is not dict:
        return second
    both = {**first, **second}
    for key, value in both.items():
        if type(first.get(key)) is list and type(value) is list and key in second:
            both[key] = [*first[key], *value]
    return both
