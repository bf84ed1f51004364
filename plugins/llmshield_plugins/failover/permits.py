"""What an attempt tells its circuit.

A provider is ill when it can't be reached, is silent, breaks off, answers what is no answer, or says 5xx. A 4xx is the
request's fault, or the limit of one key: it says that the provider is alive, and nothing more, whatever Retry-After it
has (so one tenant's 429 closes nobody else's way). An error of our own, and a client that went away, say nothing.
"""

from __future__ import annotations

from llmshield.call import Attempt
from llmshield.circuits import Permit

_ILL = frozenset(
    {"connect", "reset", "first_token", "idle", "total", "malformed", "truncated", "error_in_stream"}
)
"""Reasons of failure that speak of the provider; `status` does from 500 on."""


def report(permit: Permit, ended: Attempt) -> None:
    """Give a permit back with what came of its attempt."""
    status = ended.status or 0
    answered = ended.outcome in {"ok", "blocked"} and ended.sent
    if not answered and ended.outcome != "failed":
        permit.abandon()
    elif 400 <= status < 500:
        permit.refused()
    elif status >= 500 or (ended.outcome == "failed" and ended.reason in _ILL):
        permit.failure(ended.reason or "status", ended.retry_after_s)
    elif answered:
        first = ended.first_token_at if ended.call.stream else None  # a whole answer begins at its end
        permit.success(None if first is None else first - ended.started_at)
    else:
        permit.abandon()
