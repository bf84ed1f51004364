"""Events to bytes: JSON, server-sent events in every lawful and unlawful style, Gemini's array."""

from __future__ import annotations

import dataclasses
import json
import random
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import brotli
import orjson
import zstandard

from llmshield.simulator.plan import Event, Pause, Step

# What JSON writers refuse to write, as stand-ins that are replaced in the finished bytes.
NAN = "\x00NaN\x00"
INFINITE = "\x00inf\x00"
HUGE = "\x00huge\x00"
_STAND_INS = (
    (b'"\\u0000NaN\\u0000"', b"NaN"),
    (b'"\\u0000inf\\u0000"', b"1e999"),
    (b'"\\u0000huge\\u0000"', str(2**64).encode()),
)


@dataclasses.dataclass(slots=True)
class Style:
    """How events are written. `comments`: bytes of comment lines ahead of every event."""

    eol: bytes = b"\n"
    space: bytes = b" "
    multiline: bool = False
    bom: bool = False
    comments: int = 0
    ascii: bool = False
    stand_ins: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """Seconds before the first event and between events, and the share of both that is random."""

    ttft: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0

    def draw(self, base: float, chance: random.Random) -> float:
        return base * (1 + self.jitter * (2 * chance.random() - 1)) if self.jitter else base


def dump(tree: Any, style: Style) -> bytes:
    """A tree as JSON bytes; lone surrogates and integers beyond 64 bits are written as JSON has them."""
    if style.ascii:
        data = json.dumps(tree, separators=(",", ":")).encode()
    else:
        try:
            data = orjson.dumps(tree)
        except TypeError:
            data = json.dumps(tree, separators=(",", ":")).encode()
    if style.stand_ins:
        for mark, real in _STAND_INS:
            data = data.replace(mark, real)
    return data


def sse(event: Event, style: Style) -> bytes:
    """One server-sent event."""
    if event.raw is not None:
        return event.raw
    data = event.data if isinstance(event.data, bytes) else dump(event.data, style)
    eol = style.eol
    head = b""
    if style.comments:
        line = b": " + b"." * 120 + eol
        head = line * -(-style.comments // len(line)) + eol
    if event.name is not None:
        head += b"event:" + style.space + event.name.encode() + eol
    prefix = b"data:" + style.space
    if style.multiline and len(data) > 2 and not isinstance(event.data, bytes):
        # Line ends between tokens are lawful JSON: the reader joins the lines with a newline.
        lines = [data] if style.stand_ins else json.dumps(event.data, indent=1).encode().split(b"\n")
        return head + b"".join(prefix + line + eol for line in lines) + eol
    return head + prefix + data + eol + eol


def written(
    events: Iterable[Event | Step], style: Style, pace: Pace, chance: random.Random, *, array: bool
) -> Iterator[Step]:
    """Events as steps: framed, paced, steps among them passed on as they are."""
    eol = b"\r\n" if style.eol == b"\n" and array else style.eol
    first = True
    for event in events:
        if not isinstance(event, Event):
            yield event
            continue
        if first:
            if pace.ttft:
                yield Pause(pace.draw(pace.ttft, chance))
            if style.bom:
                yield b"\xef\xbb\xbf"
        elif pace.delay:
            yield Pause(pace.draw(pace.delay, chance))
        if not array:
            yield sse(event, style)
        elif event.raw is not None:
            yield event.raw
        else:
            data = event.data if isinstance(event.data, bytes) else dump(event.data, style)
            yield (b"[" if first else b"," + eol) + data
        first = False
    if array:
        yield b"]" if not first else b"[]"


def split(steps: Iterable[Step], size: int) -> Iterator[Step]:
    """The same bytes in pieces of `size`, each written by itself."""
    for step in steps:
        if not isinstance(step, bytes):
            yield step
            continue
        for at in range(0, len(step), size):
            yield step[at : at + size]
            yield Pause(0.0)


def compress(steps: Iterable[Step], encoding: str) -> Iterator[Step]:
    """Compressed steps, flushed behind each piece so that a stream stays one."""
    feed: Any
    flush: Any
    finish: Any
    if encoding in ("gzip", "deflate"):
        squeeze = zlib.compressobj(6, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
        feed, flush = squeeze.compress, lambda: squeeze.flush(zlib.Z_SYNC_FLUSH)
        finish = squeeze.flush
    elif encoding == "br":
        broth: Any = brotli.Compressor(quality=4)
        feed, flush, finish = broth.process, broth.flush, broth.finish
    else:
        frame = zstandard.ZstdCompressor().compressobj()
        feed, flush = frame.compress, lambda: frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        finish = frame.flush
    for step in steps:
        if isinstance(step, bytes):
            data = feed(step) + flush()
            if data:
                yield data
        else:
            yield step
    yield finish()
