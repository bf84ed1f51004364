"""JSON that arrives in pieces, rewritten leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class LeafPipe(Protocol):
    """Where the decoded text of one leaf goes through."""

    def feed(self, text: str) -> str: ...

    def flush(self) -> str: ...


class JsonPieces:
    """Rewrites JSON text piece by piece: each string leaf, decoded, goes through its own pipe.

    `open_leaf(path)` returns the pipe for a leaf, or None to leave it alone.
    """

    def __init__(self, open_leaf: Callable[[tuple[str | int, ...]], LeafPipe | None]) -> None:
        self._open_leaf = open_leaf

    def feed(self, text: str) -> str:
        """The next piece; returns JSON text that may go on now."""
        return text

    def flush(self) -> str:
        """The JSON ends here."""
        return ""
