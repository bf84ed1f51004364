"""Faults of the connection, the head and the body's bytes: everything below the events."""

from __future__ import annotations

import datetime
import functools
import zlib
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from typing import Any

import brotli
import orjson
import zstandard

from llmshield.simulator.directives import Directives
from llmshield.simulator.errors import STATUSES, error
from llmshield.simulator.frames import Style
from llmshield.simulator.plan import Fin, Hang, Pause, Plan, Reset, Step, Wire
from llmshield.simulator.table import Case, before, on_plan, on_style

LONG = 30.0
_HTML = b"<!DOCTYPE html><html><head><title>%d</title></head><body><h1>%d</h1><hr>nginx</body></html>"


def retry_headers(want: Directives) -> list[tuple[str, str]]:
    """Retry-After and its relatives, as the directives have them."""
    found: list[tuple[str, str]] = []
    given = want.retry_after
    if given is not None:
        if given == "past" or given.startswith("date"):
            ahead = -3600.0 if given == "past" else float(given[5:] or 2)
            moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead)
            given = format_datetime(moment, usegmt=True)
        found.append(("retry-after", given))
    if want.retry_after_ms is not None:
        found.append(("retry-after-ms", want.retry_after_ms))
    if want.should_retry is not None:
        found.append(("x-should-retry", want.should_retry))
    return found


def error_plan(
    case: Case,
    status: int,
    message: str | None = None,
    *,
    code: str | None = None,
    kind: str | None = None,
    param: str | None = None,
) -> Plan:
    """An error in the dialect's shape, or in the shape that `body=` asks for."""
    want = case.want
    try:
        wait = float(want.retry_after or "")
    except ValueError:
        wait = None
    tree = error(
        case.family,
        status,
        want.message or message,
        code=want.code or code,
        kind=want.type or kind,
        param=param,
        retry_after_s=wait,
    )
    body, content = orjson.dumps(tree), "application/json"
    if want.body == "html":
        body, content = _HTML % (status, status), "text/html"
    elif want.body == "text":
        body, content = b"upstream connect error or disconnect/reset before headers", "text/plain"
    elif want.body == "empty":
        body = b""
    elif want.body == "truncated":
        body = body[: len(body) // 2]
    headers = [("content-type", content), *retry_headers(want)]
    return Plan(status, headers, body)


def _status(status: int) -> Callable[[Case], Plan]:
    return lambda case: error_plan(case, status)


for _code in STATUSES:
    before(str(_code), f"HTTP {_code} with an error in the dialect's shape")(_status(_code))


@before("drop", "read the request, then close without a byte")
def _drop(case: Case) -> Plan:
    return Plan(before=(Fin(),))


@before("reset", "read the request, then TCP RST without a byte")
def _reset(case: Case) -> Plan:
    return Plan(before=(Reset(),))


@before("refuse", "as reset: the nearest to a refused connection that a request can ask for")
def _refuse(case: Case) -> Plan:
    return Plan(before=(Reset(),))


@before("silence", "read the request, then nothing, for ever")
def _silence(case: Case) -> Plan:
    return Plan(before=(Hang(),))


@before("not_http", "an answer that is not HTTP")
def _not_http(case: Case) -> Plan:
    return Plan(before=(Wire(b"\x16\x03\x01\x02 this is not HTTP\r\n\r\n"), Fin()))


@before("quota", "429 of a spent account (OpenAI: code insufficient_quota)")
def _quota(case: Case) -> Plan:
    if case.family == "anthropic":
        return error_plan(case, 402, "Your credit balance is too low.")
    kind = "insufficient_quota" if case.family == "openai" else None
    return error_plan(case, 429, "You exceeded your current quota.", code="insufficient_quota", kind=kind)


@before("context_length", "400 for a prompt beyond the model's window (Anthropic: prompt is too long)")
def _context(case: Case) -> Plan:
    if case.family == "anthropic":
        return error_plan(case, 400, "prompt is too long: 210000 tokens > 200000 maximum")
    if case.family == "gemini":
        return error_plan(
            case,
            400,
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        )
    message = "This model's maximum context length is 128000 tokens. Your messages resulted in 210000 tokens."
    return error_plan(case, 400, message, code="context_length_exceeded", param="messages")


@before("content_filter", "the prompt is refused by the provider's filter (Gemini: 200 with a blockReason)")
def _filter(case: Case) -> Plan:
    if case.family == "gemini":
        tree = {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7},
        }
        body = orjson.dumps(tree)
        if case.streamed and case.ask is not None and not case.ask.array:
            return Plan(200, [("content-type", "text/event-stream")], b"data: " + body + b"\n\n")
        array = case.streamed
        return Plan(200, [("content-type", "application/json")], b"[" + body + b"]" if array else body)
    if case.family == "anthropic":
        return error_plan(case, 400, "Output blocked by content filtering policy")
    return error_plan(
        case, 400, "The response was filtered by the content policy.", code="content_filter", param="prompt"
    )


@before("echo_key", "401 whose message repeats the key that was sent")
def _echo_key(case: Case) -> Plan:
    names = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
    key = next((case.headers[n] for n in names if n in case.headers), "none")
    return error_plan(case, 401, f"Incorrect API key provided: {key.removeprefix('Bearer ')}.")


@before("redirect", "307 to elsewhere (location=...)")
def _redirect(case: Case) -> Plan:
    return Plan(307, [("location", case.want.location or "http://127.0.0.1:9/elsewhere")], b"")


@before("no_content", "204, with a body behind it that may not be there")
def _no_content(case: Case) -> Plan:
    return Plan(204, [], (Wire(b'{"surprise":true}'), Fin()), framing="close")


@on_plan("slow_head", "no head for `pause` seconds (30)")
def _slow_head(case: Case, plan: Plan) -> Plan:
    plan.before = (Pause(LONG if case.want.pause is None else case.want.pause), *plan.before)
    return plan


@on_plan("storm_1xx", "a hundred interim answers ahead of the real one")
def _storm(case: Case, plan: Plan) -> Plan:
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
    plan.before = (Wire(interim * 100), *plan.before)
    return plan


def flat(plan: Plan) -> bytes:
    """The whole body of a plan as bytes; pauses and endings are lost."""
    return b"".join(step for step in plan.steps() if isinstance(step, bytes))


@on_plan("short_length", "content-length is half of the body")
def _short(case: Case, plan: Plan) -> Plan:
    plan.body, plan.framing = flat(plan), "length"
    plan.length = len(plan.body) // 2
    plan.body = (plan.body, Fin())
    return plan


@on_plan("long_length", "content-length is 64 more than the body, then FIN")
def _long(case: Case, plan: Plan) -> Plan:
    plan.body, plan.framing = flat(plan), "length"
    plan.length = len(plan.body) + 64
    plan.body = (plan.body, Fin())
    return plan


@on_plan("two_lengths", "two content-length headers that differ")
def _two(case: Case, plan: Plan) -> Plan:
    plan.body, plan.framing = flat(plan), "length"
    plan.headers.append(("content-length", str(len(plan.body) + 7)))
    return plan


@on_plan("bad_chunk", "a chunk size that is no number, behind the first piece")
def _bad_chunk(case: Case, plan: Plan) -> Plan:
    def broken(steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            yield step
            if isinstance(step, bytes):
                yield Wire(b"ZZ\r\nnot a chunk\r\n")
                yield Fin()

    plan.body, plan.framing = broken(plan.steps()), "chunked"
    return plan


@on_plan("http10", "an HTTP/1.0 answer that ends with the connection")
def _http10(case: Case, plan: Plan) -> Plan:
    plan.http10, plan.framing = True, "close"
    return plan


@on_plan("trailers", "trailers with an authorization, a content-length and a header of our own")
def _trailers(case: Case, plan: Plan) -> Plan:
    plan.body, plan.framing = plan.steps(), "chunked"
    plan.trailers = (("authorization", "Bearer trailer"), ("content-length", "0"), ("x-trailer", "late"))
    return plan


@on_plan("big_head", "a header of `size` bytes (1 MiB)")
def _big_head(case: Case, plan: Plan) -> Plan:
    plan.headers.append(("x-padding", "p" * (case.want.size or 1 << 20)))
    return plan


@on_plan("wrong_type", "a content-type that does not say what the body is")
def _wrong_type(case: Case, plan: Plan) -> Plan:
    plan.set_header("content-type", "application/json" if case.streamed else "text/plain; charset=latin-1")
    return plan


@on_plan("html", "a body that is an HTML page")
def _html(case: Case, plan: Plan) -> Plan:
    plan.set_header("content-type", "text/html; charset=utf-8")
    plan.body, plan.framing = _HTML % (plan.status, plan.status), "length"
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
