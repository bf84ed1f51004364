"""Halves of characters: UTF-16 surrogates that stand alone.

JSON can spell them (`\\ud83d`), and servers written in JavaScript cut an emoji between two stream events. No filter
and no encoder can take them, so halves that follow one another are joined and the others become U+FFFD.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from llmshield.dialects import Piece


def whole_characters(text: str) -> str:
    """The text with pairs of halves joined and lone halves replaced."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mend_tree(node: Any) -> Any:
    """A tree with whole characters everywhere, names included."""
    kind = type(node)
    if kind is str:
        return whole_characters(node)
    if kind is dict:
        return {whole_characters(name): mend_tree(value) for name, value in node.items()}
    if kind is list:
        return [mend_tree(value) for value in node]
    return node


class Halves:
    """Joins halves that a stream has put into two events of one channel."""

    def __init__(self) -> None:
        self._held: dict[Hashable, str] = {}

    def __bool__(self) -> bool:
        """Whether one waits for what its stream says next."""
        return bool(self._held)

    def join(self, stream: Hashable, text: str) -> str:
        """The next text of this stream, in whole characters; a first half at its end waits for what comes next."""
        text = self._held.pop(stream, "") + text
        if "\ud800" <= text[-1:] < "\udc00":
            self._held[stream] = text[-1]
            text = text[:-1]
        return whole_characters(text)

    def mend(self, pieces: list[Piece]) -> None:
        """Give each piece whole characters; a first half at its end waits for the channel's next piece."""
        for piece in pieces:
            text = piece.holder[piece.key]
            if type(text) is not str:
                continue
            streams = not piece.whole and not piece.repeats
            piece.holder[piece.key] = self.join(piece.channel, text) if streams else whole_characters(text)
