"""Faults of the body's bytes, whole or streamed: what they are, how they are packed, written and cut."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from typing import Any

import brotli
import zstandard

from llmshield.simulator.directives import Directives
from llmshield.simulator.errors import HTML
from llmshield.simulator.frames import Style
from llmshield.simulator.plan import Fin, Hang, Pause, Plan, Reset, Step, flat
from llmshield.simulator.table import Case, on_plan, on_style


@on_plan("html", "a body that is an HTML page")
def _html(case: Case, plan: Plan) -> Plan:
    plan.set_header("content-type", "text/html; charset=utf-8")
    plan.body, plan.framing = HTML % (plan.status, plan.status), "length"
    return plan


@on_plan("empty", "no body at all")
def _empty(case: Case, plan: Plan) -> Plan:
    plan.body, plan.framing = b"", "length"
    return plan


@on_plan("truncated_json", "a whole reply that ends in the middle, with the right content-length")
def _truncated(case: Case, plan: Plan) -> Plan:
    if not case.streamed:
        body = flat(plan)
        plan.body = body[: len(body) * 2 // 3]
    return plan


@on_plan("malformed", "an event whose JSON is cut, then the rest as usual; a whole reply is cut too")
def _malformed_whole(case: Case, plan: Plan) -> Plan:
    return _truncated(case, plan)


@on_plan("gzip_garbage", "content-encoding gzip over bytes that are none")
def _garbage(case: Case, plan: Plan) -> Plan:
    plan.headers.append(("content-encoding", "gzip"))
    plan.body, plan.framing = b"\x1f\x8b\x08\x00" + b"\xde\xad\xbe\xef" * 64, "length"
    return plan


@on_plan("gzip_plain", "content-encoding gzip over the plain body")
def _plain(case: Case, plan: Plan) -> Plan:
    plan.headers.append(("content-encoding", "gzip"))
    return plan


@functools.lru_cache(maxsize=4)
def bomb(size: int, encoding: str) -> bytes:
    """A JSON text of `size` zeros and a little more, compressed to about a thousandth or far less."""
    block = b"0" * (1 << 20)
    rounds = max(1, size >> 20)
    head, tail = b'{"id":"', b'"}'
    if encoding == "br":
        broth: Any = brotli.Compressor(quality=1)
        return b"".join(
            (
                broth.process(head),
                *(broth.process(block) for _ in range(rounds)),
                broth.process(tail),
                broth.finish(),
            )
        )
    if encoding == "zstd":
        frame = zstandard.ZstdCompressor(level=1).compressobj()
        parts = [frame.compress(head), *(frame.compress(block) for _ in range(rounds)), frame.compress(tail)]
        return b"".join((*parts, frame.flush()))
    # The block is compressed once and repeated: a full flush leaves nothing that later bytes refer to.
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = squeeze.compress(head) + squeeze.flush(zlib.Z_FULL_FLUSH)
    middle = squeeze.compress(block) + squeeze.flush(zlib.Z_FULL_FLUSH)
    last = squeeze.compress(tail) + squeeze.flush()
    check = zlib.crc32(head)
    for _ in range(rounds):
        check = zlib.crc32(block, check)
    check = zlib.crc32(tail, check)
    length = (len(head) + rounds * len(block) + len(tail)) & 0xFFFFFFFF
    ends = check.to_bytes(4, "little") + length.to_bytes(4, "little")
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + first + middle * rounds + last + ends


@on_plan("bomb", "a small compressed body that unpacks to `size` bytes (1 GiB); encoding=gzip, br or zstd")
def _bomb(case: Case, plan: Plan) -> Plan:
    encoding = case.want.encoding if case.want.encoding in ("br", "zstd") else "gzip"
    plan.headers.append(("content-encoding", encoding))
    plan.body, plan.framing = bomb(case.want.size or 1 << 30, encoding), "length"
    return plan


@on_plan("drip", "one byte every `pause` seconds (0.05)")
def _drip(case: Case, plan: Plan) -> Plan:
    pause = 0.05 if case.want.pause is None else case.want.pause

    def dripping(steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            if isinstance(step, bytes):
                for at in range(len(step)):
                    yield step[at : at + 1]
                    yield Pause(pause)
            else:
                yield step

    plan.length = len(plan.body) if isinstance(plan.body, bytes) else plan.length
    plan.body = dripping(plan.steps())
    return plan


def _half(plan: Plan, ending: Step) -> Plan:
    """A whole reply that promises its full length, sends half of it, and then ends otherwise."""
    body = flat(plan)
    plan.length = len(body)
    plan.body = (body[: len(body) // 2], ending)
    return plan


def _ending(name: str, doc: str, ending: Step) -> None:
    """Register an ending for whole replies; streams end in `faults_stream` under the same name."""
    on_plan(name, doc)(lambda case, plan: plan if case.streamed else _half(plan, ending))


_ending("cut", "TCP RST after `after` events, or after half of a whole reply", Reset())
_ending("fin", "FIN after `after` events without any terminator, or after half of a whole reply", Fin())
_ending("cut_mid_event", "TCP RST in the middle of an event, or after half of a whole reply", Reset())
_ending("half_close", "as fin, but the other direction stays open", Fin(half=True))
_ending("stall", "nothing more after `after` events, or after half of a whole reply", Hang())


@on_plan("bom", "a byte order mark ahead of the body")
def _bom(case: Case, plan: Plan) -> Plan:
    if isinstance(plan.body, bytes):
        plan.body = b"\xef\xbb\xbf" + plan.body
    return plan


@on_style("bom", "a byte order mark ahead of the body")
def _bom_stream(style: Style, want: Directives) -> None:
    style.bom = True


@on_style("crlf", "event streams with CRLF")
def _crlf(style: Style, want: Directives) -> None:
    style.eol = b"\r\n"


@on_style("cr", "event streams with CR alone")
def _cr(style: Style, want: Directives) -> None:
    style.eol = b"\r"


@on_style("no_space", "`data:` without the space")
def _no_space(style: Style, want: Directives) -> None:
    style.space = b""


@on_style("multiline", "one event's JSON over many `data:` lines")
def _multiline(style: Style, want: Directives) -> None:
    style.multiline = True


@on_style("comments", "a flood of comment lines, `size` bytes (64 KiB) ahead of every event")
def _comments(style: Style, want: Directives) -> None:
    style.comments = want.size or 1 << 16
