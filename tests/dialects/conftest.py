"""What the dialects' tests share: a stream relayed through filters, as the engine does it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmshield.call import AttachedFilter, Channel, Stop
from llmshield.channels import Channels, Stopped
from llmshield.dialects import StreamCodec, WholeReply
from llmshield.errors import UpstreamError


class Relayed:
    """What a client got: `raw` bytes, parsed `events` as (name, tree), `text` of each channel as it was sent on."""

    def __init__(self) -> None:
        self.raw = b""
        self.channels: list[Channel] = []
        self.error: UpstreamError | None = None
        self.stopped: Stopped | None = None

    @property
    def events(self) -> list[tuple[str, Any]]:
        found = []
        for block in self.raw.decode().split("\n\n")[:-1]:
            name, data = "", None
            for line in block.split("\n"):
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    data = line[6:] if line == "data: [DONE]" else json.loads(line[6:])
            found.append((name, data))
        return found

    @property
    def trees(self) -> list[Any]:
        return [tree for _, tree in self.events if isinstance(tree, dict)]


class Replaces:
    """Puts `new` for `old`; holds back what may become `old`."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new, self.kept = old, new, ""

    def feed(self, text: str) -> str | Stop:
        self.kept += text
        out = ""
        while (place := self.kept.find(self.old)) >= 0:
            out += self.kept[:place] + self.new
            self.kept = self.kept[place + len(self.old) :]
        hold = next(n for n in range(len(self.old), -1, -1) if self.kept.endswith(self.old[:n]))
        out += self.kept[: len(self.kept) - hold]
        self.kept = self.kept[len(self.kept) - hold :]
        return out

    def flush(self) -> str | Stop:
        kept, self.kept = self.kept, ""
        return kept


@pytest.fixture
def replacing() -> Callable[[str, str], list[AttachedFilter]]:
    """`replacing(old, new)`: filters for every channel."""
    return lambda old, new: [
        AttachedFilter("p", lambda channel: Replaces(old, new), "guard", 64, True, False)
    ]


@pytest.fixture
def relay() -> Callable[..., Relayed]:
    """`relay(codec, raw, filters, cuts)`: the engine's way with a stream, without the engine."""

    def run(
        codec: StreamCodec, raw: bytes, filters: Sequence[AttachedFilter] = (), cuts: Sequence[int] = ()
    ) -> Relayed:
        channels = Channels(filters, lambda attached, what: None)
        got = Relayed()
        edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
        try:
            for chunk in [*(raw[a:b] for a, b in itertools.pairwise(edges)), None]:
                for event in codec.feed(chunk) if chunk is not None else codec.close():
                    if event.error is not None:
                        got.error = event.error
                        return got
                    for piece in (p for p in event.pieces if not p.repeats):
                        got.channels.append(piece.channel)
                        _filter(piece, channels.whole if piece.whole else channels.feed)
                    before = b""
                    for channel in event.ends:
                        rest = channels.flush(channel)
                        before += codec.late(event, channel, rest) if rest else b""
                    for piece in (p for p in event.pieces if p.repeats):
                        _filter(piece, channels.repeat)
                    got.raw += before
                    got.raw += b"" if event.hidden else codec.write(event)
        except Stopped as stopped:
            got.stopped = stopped
            return got
        for channel, rest in channels.flush_all():
            got.raw += codec.late(None, channel, rest)
        got.raw += codec.finalise()
        return got

    return run


@pytest.fixture
def filtered() -> Callable[[WholeReply, Sequence[AttachedFilter]], Any]:
    """`filtered(reply, filters)`: the tree of a whole reply behind the filters."""

    def run(reply: WholeReply, filters: Sequence[AttachedFilter]) -> Any:
        assert reply.error is None
        channels = Channels(filters, lambda attached, what: None)
        for piece in reply.pieces:
            assert piece.whole
            assert not piece.repeats or piece.channel.kind == "echo"
            _filter(piece, channels.whole)
        return reply.tree

    return run


def _filter(piece: Any, through: Callable[[Channel, str], str]) -> None:
    value = piece.holder[piece.key]
    text = value if type(value) is str else json.dumps(value)
    out = through(piece.channel, text)
    if out != text:
        piece.holder[piece.key] = out
        for holder, key in piece.shadows:
            holder[key] = None
