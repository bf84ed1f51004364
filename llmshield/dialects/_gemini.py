"""What Google's Gemini dialect says beside its texts: errors, usage, finish reasons.

Errors are google.rpc.Status in JSON (https://cloud.google.com/apis/design/errors); statuses as in docs/errors.md:
what must not be repeated is a 400, since langchain-google repeats a 429 six times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmshield.call import FinishKind, Usage
from llmshield.dialects import WireReply
from llmshield.dialects._retry import bounded, retry_after, retry_headers
from llmshield.dialects._tree import dump
from llmshield.dialects._wire import ERROR_BODY, MAX_TOKENS, count, kept_headers
from llmshield.errors import CallError, ErrorKind, FailureReason, UpstreamError
from llmshield.redact import redact_foreign

ERRORS: dict[ErrorKind, tuple[int, str, str]] = {
    "blocked": (400, "FAILED_PRECONDITION", ""),
    "bad_request": (400, "INVALID_ARGUMENT", ""),
    "unauthenticated": (401, "UNAUTHENTICATED", ""),
    "forbidden": (403, "PERMISSION_DENIED", ""),
    "model_denied": (404, "NOT_FOUND", "MODEL_DENIED"),
    "not_found": (404, "NOT_FOUND", ""),
    "method_not_allowed": (405, "INVALID_ARGUMENT", ""),
    "unsupported": (404, "NOT_FOUND", "UNSUPPORTED"),
    "unsupported_media": (415, "INVALID_ARGUMENT", ""),
    "too_large": (400, "INVALID_ARGUMENT", "TOO_LARGE"),
    "conflict": (409, "ABORTED", ""),
    "rate_limited": (429, "RESOURCE_EXHAUSTED", ""),
    "budget_spent": (400, "FAILED_PRECONDITION", "BUDGET_EXCEEDED"),
    "policy_unavailable": (500, "INTERNAL", "POLICY_UNAVAILABLE"),
    "store_unavailable": (503, "UNAVAILABLE", "STORE_UNAVAILABLE"),
    "no_provider": (503, "UNAVAILABLE", "NO_PROVIDER_AVAILABLE"),
    "upstream_error": (502, "INTERNAL", "UPSTREAM_ERROR"),
    "upstream_timeout": (504, "DEADLINE_EXCEEDED", ""),
    "client_timeout": (408, "DEADLINE_EXCEEDED", ""),
    "shutting_down": (503, "UNAVAILABLE", "SHUTTING_DOWN"),
}
"""HTTP status, google.rpc.Code, and the reason of an ErrorInfo ("" for none)."""

STATUSES: dict[str, int] = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ABORTED": 409, "ALREADY_EXISTS": 409, "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499, "INTERNAL": 500, "UNKNOWN": 500, "DATA_LOSS": 500, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
"""Which HTTP status a code inside a 200 stands for (google/rpc/code.proto)."""

FINISHES: dict[str, FinishKind] = {
    "STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter", "PROHIBITED_CONTENT": "content_filter", "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter", "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter", "MODEL_ARMOR": "content_filter", "MALFORMED_FUNCTION_CALL": "error",
    "MALFORMED_RESPONSE": "error",
}  # fmt: skip
"""`finishReason` in neutral words; all others are `other`."""

STOP_REASONS = ("SPII", "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "RECITATION", "LANGUAGE", "OTHER")
"""A guard may name one of them as its Block's code; else a stopped stream says PROHIBITED_CONTENT."""

_TOO_LONG = (
    "exceeds the maximum number of tokens",
    "input token count",
    "context length",
    "input is too long",
)
_NOT_YET = ("", "FINISH_REASON_UNSPECIFIED")
_DOMAIN = "llmshield"


def finish_kind(reason: Any, *, called: bool = False) -> FinishKind | None:
    """The neutral word for a `finishReason`; None while there is none. `called`: the candidate calls a function
    (Gemini ends such a turn with STOP as well)."""
    if type(reason) is not str or reason in _NOT_YET:
        return "other" if type(reason) is int and reason else None
    return "tool_calls" if called and reason == "STOP" else FINISHES.get(reason, "other")


def error_tree(error: CallError) -> dict[str, Any]:
    """The error object, as a body and as the last chunk of a stream."""
    status, code, reason = ERRORS[error.kind]
    if error.kind == "blocked":
        reason = f"LLMSHIELD_{_word(error.plugin or 'policy')}"
    details: list[dict[str, Any]] = []
    if reason:
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        details.append({"@type": kind, "reason": reason, "domain": _DOMAIN})
    if error.retry_after_s is not None and error.kind != "budget_spent":
        delay = f"{bounded(error.retry_after_s):.3f}".rstrip("0").rstrip(".")
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{delay}s"})
    body: dict[str, Any] = {"code": error.status or status, "message": error.message, "status": code}
    if details:
        body["details"] = details
    return {"error": body}


def write_error(error: CallError, request_id: str) -> WireReply:
    """An error of ours; the request id travels in the engine's own header, Gemini's shape has no place for it."""
    headers = {"content-type": "application/json; charset=UTF-8"}
    if error.kind != "budget_spent":
        headers.update(retry_headers(error.retry_after_s))
    headers.update(error.headers)
    return WireReply(error.status or ERRORS[error.kind][0], headers, dump(error_tree(error)))


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """A provider's error answer; JSON-array streams wrap it in a list."""
    try:
        tree: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        tree = None
    code, message, delay = _words(tree[0] if type(tree) is list and tree else tree)
    return UpstreamError(
        _reason(status, message),
        f"the provider answered {status}" + (f" ({code})" if code else ""),
        status=status,
        code=code,
        retry_after_s=retry_after(headers) if delay is None else delay,
        headers=kept_headers(headers),
        body=redact_foreign(body[:ERROR_BODY].decode("utf-8", "replace")).encode(),
    )


def error_in_reply(tree: Any) -> UpstreamError:
    """An error object inside a 200; `status` is the HTTP status that its code stands for."""
    code, message, delay = _words(tree)
    error = tree.get("error")
    said = error.get("code") if type(error) is dict else None
    word = error.get("status") if type(error) is dict else None
    status = (
        said if type(said) is int and 400 <= said <= 599 else STATUSES.get(word if type(word) is str else "")
    )
    reason = _reason(status or 0, message)
    return UpstreamError(
        "error_in_stream" if reason == "status" else reason,
        "the provider sent an error inside its answer" + (f" ({code})" if code else ""),
        status=status,
        code=code,
        retry_after_s=delay,
        body=redact_foreign(dump(tree)[:ERROR_BODY].decode("utf-8", "replace")).encode(),
    )


class UsageMeter:
    """Adds up the usageMetadata of one reply; it may come on any chunk, and later figures include earlier ones.

    `promptTokenCount` has the cached tokens in it; results of server tools are input as well; thoughts are
    output. Where `totalTokenCount` is more than the parts, the difference is output: an omitted part (protobuf
    drops zeros, some upstreams drop thoughts) must not make a call cheaper.
    """

    __slots__ = ("_details", "_malformed", "_seen", "_served", "searches")

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._details: dict[str, int] = {}
        self._served: tuple[tuple[str, str], ...] = ()
        self._malformed = False
        self.searches = 0

    def feed(self, tree: Any) -> None:
        """Take one usageMetadata object."""
        if type(tree) is not dict:
            self._malformed |= tree is not None
            return
        seen = self._seen
        for name, value in tree.items():
            if name in _COUNTS:
                if type(value) is int and 0 <= value <= MAX_TOKENS:  # the usual case, on every chunk
                    if value >= seen.get(name, 0):
                        seen[name] = value
                    continue
                value, lied = count(tree, name)
                if lied:
                    self._malformed = True
                elif value is not None and value >= seen.get(name, 0):
                    seen[name] = value
            elif name in _DETAILS:
                self._modalities(_DETAILS[name], value)
            elif name == "serviceTier" and type(value) is str:
                self._served = (("service_tier", value.lower().removeprefix("service_tier_")),)

    def usage(self) -> Usage | None:
        """What is known; None when no count has been seen."""
        seen = self._seen
        if not seen:
            return Usage(malformed=True) if self._malformed else None
        prompt = seen.get("promptTokenCount")
        tools = seen.get("toolUsePromptTokenCount", 0)
        given = None if prompt is None and not tools else (prompt or 0) + tools
        thoughts = seen.get("thoughtsTokenCount", 0)
        said = seen.get("candidatesTokenCount", seen.get("responseTokenCount"))
        output = None if said is None and not thoughts else (said or 0) + thoughts
        total = seen.get("totalTokenCount")
        if total is not None and given is not None:
            output = max(output or 0, total - given)
        details = self._details
        return Usage(
            input=given,
            output=output,
            cache_read=min(seen.get("cachedContentTokenCount", 0), given or 0),
            reasoning=thoughts,
            input_audio=details.get("input AUDIO", 0),
            output_audio=details.get("output AUDIO", 0),
            input_image=details.get("input IMAGE", 0),
            input_video=details.get("input VIDEO", 0),
            output_image=details.get("output IMAGE", 0 if "output" in details else None),
            cache_audio=details.get("cache AUDIO", 0 if "cache" in details else None),
            tool_requests=self.searches,
            served=self._served,
            malformed=self._malformed,
        )

    def wire(self) -> dict[str, int]:
        """The counts seen so far, in the API's words, for a chunk of our own."""
        return {"promptTokenCount": 0, "totalTokenCount": 0, **self._seen}

    def _modalities(self, part: str, entries: Any) -> None:
        if type(entries) is not list:
            self._malformed |= entries is not None
            return
        self._details[part] = 1
        for entry in entries:
            if type(entry) is not dict:
                self._malformed = True
                continue
            if entry.get("modality") == "TEXT":
                continue
            value, lied = count(entry, "tokenCount")
            self._malformed |= lied
            key = f"{part} {entry.get('modality')}"
            if value is not None and key in _MODALITIES and value >= self._details.get(key, 0):
                self._details[key] = value


_DETAILS = {
    "promptTokensDetails": "input", "cacheTokensDetails": "cache",
    "candidatesTokensDetails": "output", "responseTokensDetails": "output",
}  # fmt: skip
_COUNTS = frozenset((
    "promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount", "cachedContentTokenCount",
    "toolUsePromptTokenCount", "responseTokenCount",
))  # fmt: skip
_MODALITIES = frozenset(
    ("input AUDIO", "input IMAGE", "input VIDEO", "output AUDIO", "output IMAGE", "cache AUDIO")
)


def _words(tree: Any) -> tuple[str | None, str, float | None]:
    """(reason or code, message, retry delay in seconds) of an error object."""
    error = tree.get("error") if type(tree) is dict else None
    if type(error) is not dict:
        return None, "", None
    code, message, delay = error.get("status"), error.get("message"), None
    details = error.get("details")
    for detail in details if type(details) is list else ():
        if type(detail) is not dict:
            continue
        kind = str(detail.get("@type"))
        if kind.endswith("ErrorInfo") and type(detail.get("reason")) is str:
            code = detail["reason"]
        elif kind.endswith("RetryInfo"):
            delay = _delay(detail.get("retryDelay"))
    return (
        code[:80] if type(code) is str else None,
        message if type(message) is str else "",
        delay,
    )


def _delay(value: Any) -> float | None:
    """A google.protobuf.Duration in JSON: "7s", "0.5s"."""
    if type(value) is not str or not value.endswith("s"):
        return None
    return retry_after({"retry-after": value[:-1]})


def _reason(status: int, message: str) -> FailureReason:
    if status == 400 and any(words in message.lower() for words in _TOO_LONG):
        return "context_length"
    return "status"


def _word(name: str) -> str:
    """A plugin's name as a reason: `./no_competitors.py` is NO_COMPETITORS_PY (UPPER_SNAKE_CASE, at most 50)."""
    kept = "".join(char if char.isascii() and char.isalnum() else "_" for char in name)
    return kept.strip("_").upper()[:50]
