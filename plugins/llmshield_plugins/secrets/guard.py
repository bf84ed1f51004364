"""The output guard: what a model writes, read by the same rules, while it streams."""

from __future__ import annotations

from collections.abc import Callable

from llmshield.call import Stop
from llmshield.secrets_patterns import BREAKS, Credential
from llmshield_plugins.secrets.reader import CONTINUED, WINDOW, Find, Reader

Treat = Callable[[Credential], "str | Stop | None"]
"""A find -> what to write instead, Stop to end the reply, None to leave it."""


class Guard:
    """A TextFilter for one channel. `before` stands in front of its text without being a part of it: the name of the
    field that the text is the value of, which may announce it."""

    __slots__ = ("_before", "_held", "_hides", "_reader", "_treat")

    def __init__(self, find: Find, treat: Treat, before: str = "") -> None:
        self._reader = Reader(find)
        self._treat = treat
        self._held = before
        self._before = len(before)
        self._hides = False

    def feed(self, text: str) -> str | Stop:
        held = self._held
        if BREAKS.isdisjoint(text) and len(held) + len(text) < WINDOW and self._reader.waits:
            self._held = held + text
            return ""
        return self._settle(text, False)

    def flush(self) -> str | Stop:
        return self._settle("", True) if self._held else ""

    def _settle(self, more: str, final: bool) -> str | Stop:
        text = self._held + more
        found, upto = self._reader.settle(text, final)
        self._held = text[upto:]
        position = min(self._before, upto)
        self._before -= position
        if not found:
            return text[position:upto]
        out: list[str] = []
        for item in found:
            if item.kind == CONTINUED:
                new: str | Stop | None = "" if self._hides else None
            else:
                new = self._treat(item)
                self._hides = new is not None
            if new is None:
                continue
            start = max(item.start, position)
            out.append(text[position:start])
            if isinstance(new, Stop):
                self._held = ""
                return Stop(new.block, "".join(out))
            out.append(new)
            position = item.end
        out.append(text[position:upto])
        return "".join(out)
