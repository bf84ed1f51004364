"""What the OpenAI dialects share: paths, authentication, errors, the model list, usage.

The shapes of our own errors are those that make the SDKs raise the right class and retry only what is worth it
(tables and trials: docs/errors.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llmshield import clock
from llmshield.call import Call, FinishKind, Operation, Tree, Usage
from llmshield.dialects import Dialect, WireReply, WireRequest
from llmshield.dialects._other_models import other_models
from llmshield.dialects._retry import retry_after, retry_headers
from llmshield.dialects._tree import dump, load_reply, refuse
from llmshield.dialects._wire import without_credentials
from llmshield.errors import CallError, ErrorKind, FailureReason, UpstreamError
from llmshield.redact import redact_foreign

_INVALID = "invalid_request_error"
_SERVER = "server_error"

ERRORS: dict[ErrorKind, tuple[int, str, str | None]] = {
    "blocked": (400, _INVALID, "content_policy_violation"),
    "bad_request": (400, _INVALID, None),
    "unauthenticated": (401, _INVALID, "invalid_api_key"),
    "forbidden": (403, _INVALID, "forbidden"),
    "model_denied": (404, _INVALID, "model_not_found"),
    "not_found": (404, _INVALID, "not_found"),
    "method_not_allowed": (405, _INVALID, "method_not_supported"),
    "unsupported": (404, _INVALID, "unknown_url"),
    "unsupported_media": (415, _INVALID, "unsupported_media_type"),
    "too_large": (400, _INVALID, "context_length_exceeded"),  # 413 is repeated by Codex
    "conflict": (409, _INVALID, "idempotency_conflict"),
    "rate_limited": (429, "rate_limit_error", "rate_limit_exceeded"),
    "budget_spent": (429, "insufficient_quota", "insufficient_quota"),
    "policy_unavailable": (500, _SERVER, "policy_unavailable"),
    "store_unavailable": (503, _SERVER, "store_unavailable"),
    "no_provider": (503, _SERVER, "no_provider_available"),
    "upstream_error": (502, _SERVER, "upstream_error"),
    "upstream_timeout": (504, _SERVER, "timeout"),
    "client_timeout": (408, _INVALID, "request_timeout"),
    "shutting_down": (503, _SERVER, "shutting_down"),
}
"""Status, type and code of each kind of error."""

_SHOULD_RETRY: dict[ErrorKind, str] = {
    "budget_spent": "false",
    "conflict": "true",
    "policy_unavailable": "true",
}

FINISH: dict[str, FinishKind] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
}

_CONTEXT_CODES = frozenset(("context_length_exceeded", "string_above_max_length", "context_window_exceeded"))
_CONTEXT_WORDS = ("maximum context length", "context length", "context window", "too many tokens")
_POLICY_CODES = frozenset(
    ("content_policy_violation", "content_filter", "responsibleaipolicyviolation", "content_policy")
)
_PASSED_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
_ERROR_BODY = 65_536
_MOST_TOKENS = 1_000_000_000
"""No model produces a thousand million tokens in one reply: beyond this a usage figure is nonsense."""

MODEL_PATHS = ("/v1/models", "/models")


class OpenAIDialect(Dialect):
    """Base of the OpenAI dialects."""

    family: ClassVar[str] = "openai"
    endpoint: ClassVar[str]
    """The path below a base URL that ends in /v1."""
    operation: ClassVar[Operation] = "generate"

    def claims(self, method: str, path: str, headers: Mapping[str, str]) -> Operation | None:
        if method == "POST" and path.removeprefix("/v1") == self.endpoint:
            return self.operation
        return None

    def target(self, call: Call, model: str) -> tuple[str, str]:
        if call.operation == "models":
            return call.path.removeprefix("/v1"), without_credentials(call.query)
        return self.endpoint, without_credentials(call.query)

    def credentials(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}

    def write_error(self, error: CallError, request_id: str) -> WireReply:
        status, _, _ = ERRORS[error.kind]
        headers = {"content-type": "application/json", "x-request-id": request_id}
        headers["x-llmshield-request-id"] = request_id
        if error.kind in _SHOULD_RETRY:
            headers["x-should-retry"] = _SHOULD_RETRY[error.kind]
        if error.kind != "budget_spent":  # a budget does not come back within a minute
            headers.update(retry_headers(error.retry_after_s))
        headers.update(error.headers)
        return WireReply(error.status or status, headers, dump({"error": error_object(error)}))

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        try:
            tree = load_reply(body[:_ERROR_BODY])
        except ValueError:
            tree = None
        return upstream_error(tree, status=status, headers=headers, body=body)


def error_object(error: CallError) -> Tree:
    """The `error` object in an OpenAI body or event."""
    _, kind, code = ERRORS[error.kind]
    message = error.message
    if error.kind == "blocked" and error.plugin and not message.startswith("Blocked by"):
        message = f"Blocked by policy '{error.plugin}': {message}"
    return {"message": message, "type": kind, "param": error.param, "code": error.code or code}


def upstream_error(
    tree: Any, *, status: int | None = None, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> UpstreamError:
    """An error object of a provider, classified; `status` None: it came inside a 200."""
    headers = headers or {}
    found = tree.get("error") if type(tree) is dict else None
    if type(found) is not dict:
        found = tree if type(tree) is dict else {}
    code = _word(found.get("code")) or _word(found.get("type"))
    inner = found.get("innererror")
    inner_code = _word(inner.get("code")) if type(inner) is dict else None
    message = found.get("message")
    reason: FailureReason = "error_in_stream" if status is None else "status"
    lowered = (code or "").lower()
    if lowered in _POLICY_CODES or (inner_code or "").lower() in _POLICY_CODES:
        reason = "content_policy"
    elif lowered in _CONTEXT_CODES:
        reason = "context_length"
    elif status in (None, 400, 413, 422) and type(message) is str:
        words = message[:2000].lower()
        if any(phrase in words for phrase in _CONTEXT_WORDS):
            reason = "context_length"
    sentence = (
        "The provider sent an error inside its reply" if status is None else f"The provider answered {status}"
    )
    return UpstreamError(
        reason,
        f"{sentence} ({code})." if code else f"{sentence}.",
        status=status,
        code=code,
        retry_after_s=retry_after(headers),
        headers={
            name: value
            for name, value in headers.items()
            if name in _PASSED_HEADERS or name.startswith("x-ratelimit-")
        },
        body=redact_foreign((body[:_ERROR_BODY] or dump(tree)).decode(errors="replace")).encode(),
    )


def malformed(what: str) -> UpstreamError:
    """A reply that breaks its dialect; `what` continues "The provider's reply ..."."""
    return UpstreamError("malformed", f"The provider's reply {what}.")


def read_usage(value: Any) -> Usage | None:
    """Usage in the words of chat, embeddings, completions or responses; None when it is missing or null.

    A figure that no meter could show (negative, a fraction, text, beyond 10^9) makes the whole malformed.
    """
    if value is None:
        return None
    usage = Usage()
    if type(value) is not dict:
        usage.malformed = True
        return usage
    usage.input = _count(value, "prompt_tokens", "input_tokens", usage)
    usage.output = _count(value, "completion_tokens", "output_tokens", usage)
    details = value.get("prompt_tokens_details") or value.get("input_tokens_details")
    if type(details) is dict:
        usage.cache_read = _count(details, "cached_tokens", "cache_read_tokens", usage) or 0
        usage.cache_write = _count(details, "cache_write_tokens", "cache_creation_tokens", usage) or 0
        usage.input_audio = _count(details, "audio_tokens", "", usage) or 0
        usage.input_image = _count(details, "image_tokens", "", usage) or 0
        cached = details.get("cached_tokens_details")
        if type(cached) is dict:
            usage.cache_audio = _count(cached, "audio_tokens", "", usage) or 0
    elif details is not None:
        usage.malformed = True
    details = value.get("completion_tokens_details") or value.get("output_tokens_details")
    if type(details) is dict:
        usage.reasoning = _count(details, "reasoning_tokens", "", usage) or 0
        usage.output_audio = _count(details, "audio_tokens", "", usage) or 0
        usage.output_image = _count(details, "image_tokens", "", usage)
    elif details is not None:
        usage.malformed = True
    total = _count(value, "total_tokens", "", usage)
    if total is not None and usage.input is not None:
        if usage.output is None:
            usage.output = max(total - usage.input, 0)
        elif usage.reasoning and usage.input + usage.output + usage.reasoning == total:
            usage.output += usage.reasoning  # some providers count reasoning beside the output
    if usage.malformed:
        return Usage(malformed=True)
    return None if usage.input is None and usage.output is None else usage


def read_served(reply: Tree, usage: Usage | None) -> Usage | None:
    """Note the tier that a reply says it was served in; returns the usage."""
    tier = reply.get("service_tier")
    if usage is not None and type(tier) is str:
        usage.served = (("service_tier", tier),)
    return usage


def merge_usage(before: Usage | None, after: Usage | None) -> Usage | None:
    """Two reports in one stream: the later one, but no figure of it below the earlier one, and no nonsense over
    a good one."""
    if before is None or after is None:
        return after or before
    if after.malformed or before.malformed:
        return before if after.malformed else after
    for name in ("input", "output"):
        early, late = getattr(before, name), getattr(after, name)
        if early is not None and (late is None or late < early):
            setattr(after, name, early)
    return after


def base_call(dialect: Dialect, id: str, operation: Operation, request: WireRequest, tree: Tree) -> Call:
    """A Call with what every OpenAI body has: model and stream flag; texts are for the dialect to add."""
    model = tree.get("model", "" if operation == "models" else None)
    if type(model) is not str or (not model and operation != "models"):
        refuse("/model", "is missing or no string; the name of a model was expected")
    call = Call(
        id=id,
        dialect=dialect.name,
        family=dialect.family,
        operation=operation,
        model=model,
        body=tree,
        headers=request.headers,
        method=request.method,
        path=request.path,
        query=request.query,
        stream=flag(tree, "stream"),
    )
    call.other_models = other_models(tree)
    return call


def flag(tree: Tree, name: str, inside: str = "") -> bool:
    """A boolean that may be absent or null; `inside` is the place of the object. Raises: WireError for others."""
    value = tree.get(name)
    if value is None or value is False:
        return False
    if value is not True:
        refuse(f"{inside}/{name}", "must be true or false")
    return True


def whole_number(tree: Tree, name: str, *, least: int, most: int | None = None) -> int | None:
    """An integer that may be absent or null. Raises: WireError when it is no integer or out of range."""
    value = tree.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least or (most is not None and value > most):
        refuse(
            f"/{name}",
            f"must be a whole number of {least} or more"
            if most is None
            else f"must be a whole number from {least} to {most}",
        )
    return value


def created() -> int:
    """Seconds since 1970, as replies of our own carry it."""
    return int(clock.now())


def _count(tree: Tree, name: str, other: str, usage: Usage) -> int | None:
    value = tree.get(name)
    if value is None and other:
        value = tree.get(other)
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= _MOST_TOKENS:
        usage.malformed = True
        return None
    return value


def _word(value: Any) -> str | None:
    """A code as a short word; providers send numbers as well."""
    if type(value) is int:
        return str(value)
    return redact_foreign(value[:80]) if type(value) is str and value else None
