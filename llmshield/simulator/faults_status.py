"""Answers that are errors: by status, and those with a name of their own; what every refusal is written with."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from email.utils import format_datetime

import orjson

from llmshield.simulator.directives import Directives
from llmshield.simulator.errors import HTML, STATUSES, error
from llmshield.simulator.plan import Fin, Plan, Wire
from llmshield.simulator.table import Case, before


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
        body, content = HTML % (status, status), "text/html"
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
