"""Errors in each family's own shape, as the providers document them."""

from __future__ import annotations

from typing import Any, Literal

Family = Literal["openai", "anthropic", "gemini"]

_MESSAGES = {
    400: "The request is invalid.",
    401: "The API key is missing or wrong.",
    402: "The account has no credit left.",
    403: "This key may not do that.",
    404: "The model or path does not exist.",
    405: "This method is not allowed here.",
    408: "The request took too long.",
    409: "The request conflicts with another one.",
    413: "The request is too large.",
    422: "The request could not be processed.",
    429: "Rate limit reached, try again later.",
    500: "The server had an error while processing the request.",
    501: "This operation is not supported.",
    502: "Bad gateway.",
    503: "The service is overloaded or not ready.",
    504: "The server did not answer in time.",
    529: "Overloaded",
}
_OPENAI: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("server_error", "service_unavailable"),
    504: ("server_error", "timeout"),
}
_ANTHROPIC = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_GEMINI = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}

HTML = b"<!DOCTYPE html><html><head><title>%d</title></head><body><h1>%d</h1><hr>nginx</body></html>"
"""An error page as proxies write it; takes the status twice."""

STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)
"""The statuses that are faults by their number."""


def error(
    family: Family,
    status: int,
    message: str | None = None,
    *,
    code: str | None = None,
    kind: str | None = None,
    param: str | None = None,
    retry_after_s: float | None = None,
) -> dict[str, Any]:
    """An error object; `kind` is the `type` (Gemini: the `status` word)."""
    message = message or _MESSAGES.get(status, "Something went wrong.")
    if family == "anthropic":
        fallback = "invalid_request_error" if status < 500 else "api_error"
        inner = {"type": kind or _ANTHROPIC.get(status, fallback), "message": message}
        if code is not None:
            inner["details"] = {"error_code": code}  # type: ignore[assignment]
        return {"type": "error", "error": inner, "request_id": "req_simulated"}
    if family == "gemini":
        google: dict[str, Any] = {"code": status, "message": message}
        google["status"] = kind or _GEMINI.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
        if code is not None:
            google["details"] = [
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code, "domain": "simulator"}
            ]
        elif retry_after_s is not None:
            google["details"] = [
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_after_s:g}s"}
            ]
        return {"error": google}
    fallback_kind = "invalid_request_error" if status < 500 else "server_error"
    known_kind, known_code = _OPENAI.get(status, (fallback_kind, None))
    return {
        "error": {
            "message": message,
            "type": kind or known_kind,
            "param": param,
            "code": code if code is not None else known_code,
        }
    }
