"""One content block of a streamed Messages reply: its channels, and the deltas that have no reader of their own."""

from __future__ import annotations

from typing import Any

from llmshield.call import Channel, ChannelKind
from llmshield.dialects import Piece
from llmshield.dialects._anthropic_pieces import NOT_TEXT, SEALS, add_others
from llmshield.dialects._pieces import TextSoFar


class ShapeError(Exception):
    """An event that breaks the dialect; the message names no content."""


class Block:
    """One content block: its channels, and for thinking what was read and what was written."""

    __slots__ = ("channels", "index", "others", "read", "signed", "summary", "tool", "written")

    def __init__(self, index: int, tool: str | None) -> None:
        self.index = index
        self.tool = tool
        self.channels: dict[ChannelKind, Channel] = {}
        self.others: dict[tuple[str, str], Channel] = {}
        """Texts of deltas that nobody knows yet, by the type of the delta and the field."""
        self.summary = TextSoFar()
        self.read: list[str] = []
        self.written: list[str] = []
        self.signed = False

    def channel(self, kind: ChannelKind) -> Channel:
        found = self.channels.get(kind)
        if found is None:
            found = self.channels[kind] = Channel(kind, 0, self.index, (), self.tool)
        return found

    def other(self, kind: str, field: str) -> Channel:
        found = self.others.get((kind, field))
        if found is None:
            found = self.others[kind, field] = Channel("other", 0, self.index, (kind, field))
        return found

    @property
    def ends(self) -> tuple[Channel, ...]:
        return (*self.channels.values(), *self.others.values())

    @property
    def edited(self) -> bool:
        return "".join(self.read) != "".join(self.written)

    def read_other(self, pieces: list[Piece], kind: str, delta: dict[str, Any]) -> None:
        """The texts of a delta that is a compaction, a citation, or what nobody knows yet.

        Raises: ShapeError when a compaction, which comes in one delta, comes in very many.
        """
        whole = Channel("other", 0, self.index)
        if kind == "compaction_delta":
            # SDKs keep the last of these and forget what came before it: nothing may be held back for another.
            if type(delta.get("content")) is str and delta["content"]:
                holder = self.summary.part(delta, "content")
                if holder is None:
                    raise ShapeError("a compaction comes in too many parts")
                seals = tuple((delta, seal) for seal in SEALS if delta.get(seal))
                pieces.append(Piece(whole, holder, "content", True, shadows=seals))
            add_others(pieces, delta, whole, ("content",))
            return
        streams = [field for field, text in delta.items() if type(text) is str and field not in NOT_TEXT]
        pieces += [Piece(self.other(kind, field), delta, field) for field in streams]
        add_others(pieces, delta, whole, tuple(streams))
