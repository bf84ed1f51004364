"""The output guard: what a model writes, treated by the same kinds, while it streams.

What the whole-text detector would find is never let go: from where a segment may have begun, the text waits. In
plain prose that is the last word; in a number, an address or a key, until it has ended.
"""

from __future__ import annotations

from collections.abc import Callable

from llmshield.call import Stop
from llmshield_plugins.pii.detector import BLOCK, Found
from llmshield_plugins.pii.segments import BREAK_BYTES, CONTEXT, MAX_OPEN
from llmshield_plugins.pii.shapes import shape
from llmshield_plugins.pii.walker import Walker

Treat = Callable[[Found, str], "str | Stop | None"]
"""A finding and its value -> what to write instead, Stop to end the reply, None to leave it."""

_BREAKS = " \t\r\n\"'<>{}[]|`,;"
QUIET = 256
"""An open token of this many characters is not looked at again before it ends or is full: long base64 would
otherwise be read once for each of its pieces."""


class Guard:
    """A TextFilter for one channel."""

    __slots__ = ("_held", "_look", "_quiet_until", "_settled", "_treat")

    def __init__(self, walker: Walker, treat: Treat) -> None:
        self._look = walker.settle
        self._quiet_until = walker.quiet_until
        self._treat = treat
        self._settled = ""
        self._held = ""

    def feed(self, text: str) -> str | Stop:
        held = self._held
        if len(held) > QUIET and len(held) % MAX_OPEN + len(text) < MAX_OPEN and _no_break(text):
            self._held = held + text
            return ""
        quiet_until = self._quiet_until
        if quiet_until is not None and len(held) + len(text) <= BLOCK:
            settled = self._settled
            start = len(settled)
            text = settled + held + text
            upto = quiet_until(text, start)
            if upto >= 0:
                if upto < start:
                    upto = start
                self._settled = text[upto - CONTEXT : upto] if upto > CONTEXT else text[:upto]
                self._held = text[upto:]
                return text[start:upto]
            self._held = text[start:]
        else:
            self._held = held + text
        return self._settle(False)

    def flush(self) -> str | Stop:
        return self._settle(True) if self._held else ""

    def _settle(self, final: bool) -> str | Stop:
        start = len(self._settled)
        text = self._settled + self._held
        found, upto = self._look(text, start, final)
        out = text[start:upto]
        if found:
            changed = treated(text, found, start, upto, self._treat)
            if isinstance(changed, Stop):
                self._held = ""
                return changed
            out = changed
        self._settled = text[upto - CONTEXT : upto] if upto > CONTEXT else text[:upto]
        self._held = text[upto:]
        return out


def treated(text: str, found: list[Found], start: int, upto: int, treat: Treat) -> str | Stop:
    """`text[start:upto]` with what `treat` writes in place of each finding; a Stop releases what stands before it."""
    out: list[str] = []
    position = start
    for item in found:
        new = treat(item, text[item.start : item.end])
        if new is None:
            continue
        out.append(text[position : item.start])
        if isinstance(new, Stop):
            return Stop(new.block, "".join(out))
        out.append(new)
        position = item.end
    out.append(text[position:upto])
    return "".join(out)


def _no_break(text: str) -> bool:
    """Whether this piece only makes the open token longer."""
    if text.isascii():
        return not any(c in text for c in _BREAKS)
    return BREAK_BYTES.isdisjoint(shape(text))
