"""The texts of a call as one text: what a model reads when an attack is cut over parts, messages and roles.

Joins are scanned as one text: the scanned roles and all roles, with and without a blank between, and their letters alone.
Of each text only the ends are taken, since what lies inside one text has been judged alone; only hits that cross
from one text into another count, and only of signatures that are sure of themselves: two halves that a chance
brought together make weak signs anywhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence

from llmshield.call import Call, Text

from .judgement import Hit
from .passages import moved


def last_turn(call: Call, texts: Sequence[Text]) -> list[Text]:
    """Those of `texts` that came after the last answer: what a user or a tool has just said, and what is outside of the
    conversation (tools, system prompts), which comes anew with every call."""
    last = -1
    for index, text in enumerate(call.texts):
        if text.role == "assistant" and text.place.startswith(_TALK):
            last = index
    after = {id(text) for text in call.texts[last + 1 :]}
    return [text for text in texts if id(text) in after or not text.place.startswith(_TALK)]


# Everything in ASCII but letters and digits.
_MARKS = bytes(code for code in range(128) if not chr(code).isalnum())


def _letters(text: str) -> str:
    return text.encode("utf-8", "replace").translate(None, _MARKS).decode()


# What of a signature's match may lie on one side of a cut; literals of the policy may be longer, then the ends are.
_END = 64
_TALK = ("/messages/", "/input/", "/contents/")
_SURE = 0.9
# No signature reaches over this: a line break and twelve words that are in no filler.
_BREAK = "\n" + "qx " * 12 + "\n"


class Conversation:
    """The joins of some texts; `longest` is the length of the longest literal of the policy."""

    def __init__(self, texts: Sequence[Text], scanned: Collection[str], longest: int) -> None:
        end = max(_END, longest + 1)
        ends = [
            value if len(value) <= 2 * end else f"{value[:end]}{_BREAK}{value[-end:]}"
            for value in (t.value for t in texts)
        ]
        mine = [index for index, text in enumerate(texts) if text.role in scanned]
        everyone = list(range(len(texts)))
        parts: list[str] = []
        self._offsets: list[int] = []
        self._owners: list[tuple[int, Text]] = []
        self._scanned = scanned
        at = 0
        joins = [(mine, ""), (mine, " ")]
        if len(mine) != len(texts):
            joins += [(everyone, ""), (everyone, " ")]
        for number, (indices, between) in enumerate(joins):
            for index in indices:
                self._offsets.append(at)
                self._owners.append((number, texts[index]))
                parts += (ends[index], between)
                at += len(ends[index]) + len(between)
            parts.append(_BREAK)
            at += len(_BREAK)
        self.text = "".join(parts)
        # Where some cuts are in words and others between them, or something stands before the first piece.
        letters: list[str] = []
        bare = ["\n".join(map(_letters, end.split(_BREAK))) for end in ends]
        for number, (indices, _) in enumerate(joins[::2], len(joins)):
            for index in indices:
                self._offsets.append(at)
                self._owners.append((number, texts[index]))
                letters.append(bare[index])
                at += len(bare[index])
            letters.append("\n")
            at += 1
        self.letters = "".join(letters)

    def squeezed(self, hits: Iterable[Hit]) -> Iterator[Hit]:
        """Hits in `letters` as hits in all of this."""
        return (moved(hit, len(self.text)) for hit in hits)

    def across(self, hits: Iterable[Hit]) -> list[Hit]:
        """The hits that begin in one text and end in another, one of them a scanned one."""
        return [hit for hit in hits if hit.score >= _SURE and self._crosses(hit)]

    def _crosses(self, hit: Hit) -> bool:
        first, last = self._index(hit.start), self._index(max(hit.start, hit.end - 1))
        if first == last or self._owners[first][0] != self._owners[last][0]:
            return False
        return any(owner.role in self._scanned for _, owner in self._owners[first : last + 1])

    def owner(self, hit: Hit) -> Text:
        """The text in which a hit begins."""
        return self._owners[self._index(hit.start)][1]

    def _index(self, at: int) -> int:
        return max(0, bisect_right(self._offsets, at) - 1)
