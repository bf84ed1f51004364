"""The filter of a reply: the same verdict however the text was cut, and little held back.

State: the characters of the current window (at most 2,048, beginning at a multiple of 1,024), how many of them
were released, and how many were there at the last look.

Two looks. A window is judged in all views when it is full or the text ends; windows begin at fixed places, so the
cut of the stream has no say. In between, every 16 characters, the last 512 are looked at as they stand: what that
finds, the window finds as well, so an early stop never contradicts the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llmshield.call import Stop
from llmshield.verdicts import Block

from .judgement import Judgement
from .scan import Scanner

_WINDOW: Final = 2_048
_STEP: Final = 1_024
_LOOK_BACK: Final = 512
_LOOK_EVERY: Final = 16


class ReplyFilter:
    """One channel of one reply."""

    HOLD: Final = 64
    """Characters held back at most: of a match longer than that the beginning is out when the stream stops."""

    __slots__ = ("_block", "_buffer", "_looked", "_released", "_scanner", "_stopped")

    def __init__(self, scanner: Scanner, block: Callable[[Judgement], Block]) -> None:
        self._scanner = scanner
        self._block = block
        self._buffer = ""
        self._released = 0
        self._looked = 0
        self._stopped: Stop | None = None

    def feed(self, text: str) -> str | Stop:
        """Take a piece; return what may go on."""
        if self._stopped is not None:
            return self._stopped
        self._buffer += text
        out: list[str] = []
        while len(self._buffer) >= _WINDOW:
            judgement = self._scanner.scan(self._buffer[:_WINDOW], "output", exact=False)
            if judgement.action == "block":
                return self._stop(judgement, "".join(out))
            if self._released < _STEP:
                out.append(self._buffer[self._released : _STEP])
                self._released = _STEP
            self._buffer = self._buffer[_STEP:]
            self._released -= _STEP
            self._looked = max(0, self._looked - _STEP)
        if len(self._buffer) - self._looked >= _LOOK_EVERY:
            start = max(0, self._looked - _LOOK_BACK)
            judgement = self._scanner.look(self._buffer[start:], begins=start == 0)
            if judgement.action == "block":
                return self._stop(judgement, "".join(out))
            self._looked = len(self._buffer)
        free = min(self._looked, len(self._buffer) - (self.HOLD - _LOOK_EVERY))
        if free > self._released:
            out.append(self._buffer[self._released : free])
            self._released = free
        return "".join(out)

    def flush(self) -> str | Stop:
        """The text ends: judge the last window, release the rest."""
        if self._stopped is not None:
            return self._stopped
        judgement = self._scanner.scan(self._buffer, "output", exact=False)
        if judgement.action == "block":
            return self._stop(judgement, "")
        rest = self._buffer[self._released :]
        self._released = len(self._buffer)
        return rest

    def _stop(self, judgement: Judgement, release: str) -> Stop:
        self._stopped = Stop(self._block(judgement), release)
        self._buffer = ""
        return self._stopped
