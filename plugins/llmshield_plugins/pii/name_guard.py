"""Names in what a model writes, while it streams.

The names model needs the three tokens behind a word, and a name that has begun waits for its end: some twenty characters of
plain prose, `LONGEST` at most. What it says of a text does not depend on how the text was cut (`names.py`), so a stream
and a whole answer are treated alike. It stands behind the guard of the other kinds and leaves their placeholders alone.
"""

from __future__ import annotations

from collections.abc import Collection

from llmshield.call import Stop
from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.guard import Treat, treated
from llmshield_plugins.pii.names import LONGEST, Names

__all__ = ["LONGEST", "NameGuard"]

_STRIDE = 32
"""Characters that are added before the model looks again: it takes 0.4 ms however little is new."""


class NameGuard:
    """A TextFilter for one channel. `kinds`: those whose placeholders may stand in the text."""

    __slots__ = ("_context", "_held", "_look_at", "_names", "_treat", "_words")

    def __init__(self, names: Names, kinds: Collection[str], treat: Treat) -> None:
        self._names = names
        self._treat = treat
        self._words = frozenset(part for kind in kinds for part in kind.split("_"))
        self._context = ""
        self._held = ""
        self._look_at = _STRIDE

    def feed(self, text: str) -> str | Stop:
        """What can go out now."""
        self._held += text
        return self._settle(False) if len(self._held) >= self._look_at else ""

    def flush(self) -> str | Stop:
        """The rest."""
        return self._settle(True) if self._held else ""

    def _settle(self, final: bool) -> str | Stop:
        start = len(self._context)
        text = self._context + self._held
        found, upto, needed = self._names.settle(text, start, final)
        upto = max(upto, start)
        out = treated(
            text, found, start, upto,
            lambda item, value: None if self._is_ours(text, item, value) else self._treat(item, value),
        )  # fmt: skip
        if isinstance(out, Stop):
            self._held = ""
            return out
        self._context, self._held = text[min(needed, upto) : upto], text[upto:]
        self._look_at = len(self._held) + _STRIDE
        return out

    def _is_ours(self, text: str, item: Found, value: str) -> bool:
        """Whether this is a part of a placeholder: `<EMAIL_ADDRESS_1>`, `<PERSON:9f2c51e8d0aa77b3>`, `PERSON_1`."""
        if not value.isupper() or not self._words.issuperset(value.split("_")):
            return False
        return text[item.end : item.end + 1] in ("_", ":", ">") or text[
            max(0, item.start - 1) : item.start
        ] in ("_", "<")
