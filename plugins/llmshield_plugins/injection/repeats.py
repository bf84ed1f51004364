"""A reply that repeats the system prompt: so many of its words in a row are a leak, in whatever case and marks.

Words are compared folded; an answer that paraphrases, translates or encodes the prompt is not seen here (the canary is
found in every view).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import re2

from llmshield.call import Stop
from llmshield.verdicts import Block

from .folds import SKELETON
from .literals import speakable

_WORD: Final = re2.compile(r"[\pL\pN]+")
_CHAIN: Final = 4
"""Words whose chain tells where in the prompt a reply is; four in a row are rarely chance."""
_LONGEST: Final = 64
"""Of longer words the beginning counts, so that held-back text is bounded."""


def words(text: str) -> list[str]:
    """The words of a text, folded, in lower case."""
    return [match.group()[:_LONGEST].lower() for match in _WORD.finditer(speakable(SKELETON.apply(text)))]


class Secrets:
    """The chains of words of some texts, to be kept from a reply."""

    def __init__(self, texts: Iterable[str], least: int) -> None:
        self.least = max(_CHAIN, least)
        self.chains: set[tuple[str, ...]] = set()
        for text in texts:
            parts = words(text)
            if len(parts) >= self.least:
                self.chains.update(zip(*(parts[at:] for at in range(_CHAIN)), strict=False))


class RepeatFilter:
    """One channel of a reply; holds text back while it goes along the prompt."""

    __slots__ = ("_block", "_held", "_last", "_run", "_runs_from", "_secrets", "_seen", "_stopped")

    HOLD: Final = 2_048
    """Characters held back at most."""

    def __init__(self, secrets: Secrets, block: Callable[[], Block]) -> None:
        self._secrets = secrets
        self._block = block
        self._held = ""
        self._seen = 0  # how much of `_held` was read as words
        self._last: list[tuple[str, int]] = []  # the last words and where they begin in `_held`
        self._run = 0
        self._runs_from = 0
        self._stopped: Stop | None = None

    def feed(self, text: str) -> str | Stop:
        """Take a piece; return what may go on."""
        if self._stopped is not None:
            return self._stopped
        self._held += text
        # The last word may go on in the next piece.
        end = len(self._held)
        while end > self._seen and self._held[end - 1].isalnum() and len(self._held) - end < _LONGEST:
            end -= 1
        return self._read(end, final=False)

    def flush(self) -> str | Stop:
        """The text ends: the last word is complete."""
        if self._stopped is not None:
            return self._stopped
        return self._read(len(self._held), final=True)

    def _read(self, end: int, *, final: bool) -> str | Stop:
        for match in _WORD.finditer(speakable(self._held[self._seen : end])):
            start = self._seen + match.start()
            for word in words(match.group()) or [""]:
                self._last = [*self._last[1 - _CHAIN :], (word, start)]
            chain = tuple(word for word, _ in self._last)
            if len(chain) == _CHAIN and chain in self._secrets.chains:
                if not self._run:
                    self._run, self._runs_from = _CHAIN, max(0, self._last[0][1])
                else:
                    self._run += 1
                if self._run >= self._secrets.least:
                    self._stopped = Stop(self._block(), self._held[: self._runs_from])
                    self._held = ""
                    return self._stopped
            else:
                self._run = 0
        self._seen = end
        if final:
            keep = len(self._held)
        elif self._run:
            keep = self._runs_from
        else:
            keep = min((at for _, at in self._last[1 - _CHAIN :]), default=end)
        keep = max(keep, len(self._held) - self.HOLD, 0)
        out, self._held = self._held[:keep], self._held[keep:]
        self._seen = max(0, self._seen - keep)
        self._last = [(word, at - keep) for word, at in self._last]
        self._runs_from = max(0, self._runs_from - keep)
        return out
