"""Cross-origin calls from web pages: the origins that the policy names, and nobody else (WHATWG Fetch, 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_METHODS = "GET, POST, OPTIONS"
_EXPOSED = ", ".join((
    *(f"x-llmshield-{name}" for name in (
        "request-id", "action", "policy", "provider", "attempts", "model", "cost", "budget-remaining", "overhead-ms",
        "degraded", "plugins",
    )),
    "x-request-id", "request-id", "retry-after", "retry-after-ms", "x-should-retry", "idempotent-replayed",
    "ratelimit", "ratelimit-policy",
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
))  # fmt: skip
"""What pages may read: all that is ours, and what SDKs in a browser go by. A page that can't see `x-should-retry: false`
asks for a spent budget three times."""


class Cors:
    """Answers preflights, and names the allowed origin on every answer to it. Credentials are never allowed."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origins)

    def _allowed(self, origin: str | None) -> str | None:
        if origin is None or not (self._any or origin in self._origins):
            return None
        return "*" if self._any else origin

    def preflight(self, origin: str | None, wanted: str | None) -> tuple[int, Mapping[str, str]]:
        """Status and headers of the answer to a preflight from `origin` that wants to send the headers `wanted`."""
        headers = {"content-length": "0", "vary": "origin"}
        allowed = self._allowed(origin)
        if allowed is None:
            return 403, headers
        headers["access-control-allow-origin"] = allowed
        headers["access-control-allow-methods"] = _METHODS
        headers["access-control-allow-headers"] = wanted or "*"
        headers["access-control-max-age"] = "600"
        return 204, headers

    def headers(self, origin: str | None) -> Mapping[str, str] | None:
        """What an answer to `origin` carries. That it depends on the origin, caches have to know of every answer."""
        allowed = self._allowed(origin)
        if allowed is None:
            return None if self._any else {"vary": "origin"}
        return {
            "access-control-allow-origin": allowed,
            "access-control-expose-headers": _EXPOSED,
            "vary": "origin",
        }
