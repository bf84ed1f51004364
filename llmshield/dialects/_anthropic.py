"""What all of Anthropic's dialects share: errors, keys, usage, finish reasons.

Shapes after https://platform.claude.com/docs/en/api/errors; statuses as in docs/errors.md, which were tried on
the official SDKs (a 402 is raised at once, a 529 is retried).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmshield.call import FinishKind, Usage
from llmshield.dialects import WireReply
from llmshield.dialects._retry import retry_after, retry_headers
from llmshield.dialects._sse import write_event
from llmshield.dialects._tree import dump
from llmshield.dialects._wire import ERROR_BODY, count, kept_headers
from llmshield.errors import CallError, ErrorKind, FailureReason, UpstreamError
from llmshield.redact import redact_foreign

ERRORS: dict[ErrorKind, tuple[int, str]] = {
    "blocked": (400, "invalid_request_error"),
    "bad_request": (400, "invalid_request_error"),
    "unauthenticated": (401, "authentication_error"),
    "forbidden": (403, "permission_error"),
    "model_denied": (404, "not_found_error"),
    "not_found": (404, "not_found_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "unsupported": (404, "not_found_error"),  # 501 would be retried by every SDK
    "unsupported_media": (415, "invalid_request_error"),
    "too_large": (413, "request_too_large"),
    "conflict": (409, "invalid_request_error"),
    "rate_limited": (429, "rate_limit_error"),
    "budget_spent": (402, "billing_error"),
    "policy_unavailable": (500, "api_error"),
    "store_unavailable": (503, "api_error"),
    "no_provider": (529, "overloaded_error"),
    "upstream_error": (502, "api_error"),
    "upstream_timeout": (504, "timeout_error"),
    "client_timeout": (408, "timeout_error"),
    "shutting_down": (503, "api_error"),
}

SHOULD_RETRY: dict[ErrorKind, str] = {
    "budget_spent": "false",
    "policy_unavailable": "true",
}
"""Official SDKs obey `x-should-retry` before they look at the status."""

STATUSES: dict[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Which status an error object inside a 200 stands for."""

FINISHES: dict[str, FinishKind] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""`stop_reason` in neutral words; all others (`pause_turn`, `compaction`) are `other`."""

_TOO_LONG = ("prompt is too long", "exceed context limit", "context window", "too many total text bytes")
_POLICY = ("content filtering policy", "usage policy", "violate our")


def finish_kind(reason: Any) -> FinishKind | None:
    """The neutral word for a `stop_reason`; None while there is none."""
    return FINISHES.get(reason, "other") if type(reason) is str else None


def credentials(key: str) -> dict[str, str]:
    """`x-api-key`, or a bearer token for keys that an OAuth login gave out."""
    return {"authorization": f"Bearer {key}"} if key.startswith("sk-ant-oat") else {"x-api-key": key}


def error_tree(error: CallError, request_id: str) -> dict[str, Any]:
    """The error object, as a body and as the data of an `error` event."""
    kind = ERRORS[error.kind][1]
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def write_error(error: CallError, request_id: str) -> WireReply:
    """An error of ours; SDKs show `request-id` and obey `x-should-retry` and `retry-after`."""
    headers = {"content-type": "application/json", "request-id": request_id}
    if error.kind in SHOULD_RETRY:
        headers["x-should-retry"] = SHOULD_RETRY[error.kind]
    else:
        headers.update(retry_headers(error.retry_after_s))
    headers.update(error.headers)
    status = error.status or ERRORS[error.kind][0]
    return WireReply(status, headers, dump(error_tree(error, request_id)))


def error_event(error: CallError, request_id: str) -> bytes:
    """The same as the last event of a stream: SDKs raise on it."""
    return write_event(error_tree(error, request_id), "error")


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """A provider's error answer; a body that is no JSON (a load balancer's page) still has its status."""
    try:
        tree: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        tree = None
    kind, message = _words(tree)
    return UpstreamError(
        _reason(status, message),
        f"the provider answered {status}" + (f" ({kind})" if kind else ""),
        status=status,
        code=kind,
        retry_after_s=retry_after(headers),
        headers=kept_headers(headers),
        body=redact_foreign(body[:ERROR_BODY].decode("utf-8", "replace")).encode(),
    )


def error_in_reply(tree: Any) -> UpstreamError:
    """An error object inside a 200; `status` is the one that Anthropic sends this type with."""
    kind, message = _words(tree)
    reason: FailureReason = "error_in_stream"
    if _reason(400, message) != "status" and kind in (None, "invalid_request_error"):
        reason = _reason(400, message)
    return UpstreamError(
        reason,
        "the provider sent an error inside its answer" + (f" ({kind})" if kind else ""),
        status=STATUSES.get(kind or ""),
        code=kind,
        body=redact_foreign(dump(tree)[:ERROR_BODY].decode("utf-8", "replace")).encode(),
    )


class UsageMeter:
    """Adds up the usage objects of one reply.

    Anthropic's `input_tokens` leaves out what came from or went into the cache; ours counts it in. Counts in
    later events are cumulative, so the larger figure holds. Iterations that the top level leaves out
    (compaction, an advisor's own inference) are added. A count that can't be one marks the usage malformed.
    Fetches of the web cost their tokens only (docs: "no additional charges"), searches are billed one by one.
    """

    __slots__ = ("_malformed", "_seen", "_served")

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._served: tuple[tuple[str, str], ...] = ()
        self._malformed = False

    def feed(self, tree: Any) -> Usage | None:
        """Take one usage object (None: the event had none); the usage so far, None while nothing is known."""
        if type(tree) is dict:
            for name in _COUNTS:
                self._take(tree, name, name)
            self._inner(tree, "output_tokens_details", ("thinking_tokens",))
            self._inner(tree, "server_tool_use", _SERVER_TOOLS)
            self._inner(tree, "cache_creation", ("ephemeral_1h_input_tokens",))
            self._iterations(tree.get("iterations"))
            served = [(key, said) for key in _SERVED if type(said := tree.get(key)) is str]
            if served:
                self._served = tuple({**dict(self._served), **dict(served)}.items())
        elif tree is not None:
            self._malformed = True
        return self.usage()

    def usage(self) -> Usage | None:
        """What is known; None when no usage object has been seen."""
        seen = self._seen
        if not seen:
            return Usage(malformed=True) if self._malformed else None
        read = seen.get("cache_read_input_tokens", 0)
        written = seen.get("cache_creation_input_tokens", 0)
        has_input = "input_tokens" in seen or read or written or "extra_input" in seen
        has_output = "output_tokens" in seen or "extra_output" in seen
        return Usage(
            input=seen.get("input_tokens", 0) + read + written + seen.get("extra_input", 0)
            if has_input
            else None,
            output=seen.get("output_tokens", 0) + seen.get("extra_output", 0) if has_output else None,
            cache_read=read,
            cache_write=written,
            cache_write_1h=seen.get("ephemeral_1h_input_tokens"),
            reasoning=seen.get("thinking_tokens", 0),
            tool_requests=seen.get("web_search_requests", 0),
            tools=_tools_of(seen),
            served=self._served,
            malformed=self._malformed,
        )

    def wire(self) -> dict[str, int]:
        """The counts seen so far, in the API's words, for an event of our own."""
        return {"output_tokens": 0, **{name: self._seen[name] for name in _COUNTS if name in self._seen}}

    def _take(self, tree: Mapping[str, Any], name: str, key: str) -> None:
        value, lied = count(tree, name)
        self._malformed |= lied
        if value is not None and value >= self._seen.get(key, 0):
            self._seen[key] = value

    def _inner(self, tree: Mapping[str, Any], outer: str, names: tuple[str, ...]) -> None:
        inner = tree.get(outer)
        if type(inner) is dict:
            for name in names:
                self._take(inner, name, name)
        else:
            self._malformed |= inner is not None

    def _iterations(self, entries: Any) -> None:
        if type(entries) is not list:
            self._malformed |= entries is not None
            return
        total = {"extra_input": 0, "extra_output": 0}
        for entry in entries:
            if type(entry) is dict and entry.get("type") in ("compaction", "advisor_message"):
                one = UsageMeter().feed({name: entry.get(name) for name in _COUNTS}) or Usage()
                total["extra_input"] += one.input or 0
                total["extra_output"] += one.output or 0
                self._malformed |= one.malformed
        for key, value in total.items():
            if value:
                self._seen[key] = max(value, self._seen.get(key, 0))


_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_SERVER_TOOLS = ("web_search_requests", "web_fetch_requests", "code_execution_requests")
_SERVED = ("service_tier", "speed", "inference_geo")


def _tools_of(seen: dict[str, int]) -> dict[str, int] | None:
    """Uses of the server's tools besides searches, by kind."""
    found = {name.removesuffix("_requests"): seen[name] for name in _SERVER_TOOLS[1:] if seen.get(name)}
    return found or None


def _words(tree: Any) -> tuple[str | None, str]:
    error = tree.get("error") if type(tree) is dict else None
    if type(error) is not dict:
        return None, ""
    kind, message = error.get("type"), error.get("message")
    return (kind if type(kind) is str else None), (message if type(message) is str else "")


def _reason(status: int, message: str) -> FailureReason:
    if status == 400:
        lower = message.lower()
        if any(words in lower for words in _TOO_LONG):
            return "context_length"
        if any(words in lower for words in _POLICY):
            return "content_policy"
    return "status"
