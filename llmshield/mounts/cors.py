"""Cross-origin calls from web pages: the origins that the policy names, and nobody else (WHATWG Fetch, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from llmshield.mounts._asgi import Message, Scope, Send

_METHODS = b"GET, POST, OPTIONS"
_EXPOSED = b"x-llmshield-request-id, x-llmshield-action, x-llmshield-provider, x-llmshield-model, retry-after"


class Cors:
    """Answers preflights, and names the allowed origin on every answer to it. Credentials are never allowed."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)

    def _origin(self, scope: Scope) -> bytes | None:
        for name, value in scope["headers"]:
            if name == b"origin":
                return bytes(value)
        return None

    def _allowed(self, origin: bytes | None) -> bool:
        return origin is not None and (self._any or origin in self._origins)

    async def answered(self, scope: Scope, send: Send) -> bool:
        """Answer a preflight; True when it was one."""
        headers = dict(scope["headers"])
        if scope["method"] != "OPTIONS" or b"access-control-request-method" not in headers:
            return False
        origin = self._origin(scope)
        reply = [(b"content-length", b"0"), (b"vary", b"origin")]
        if self._allowed(origin):
            assert origin is not None
            reply += [
                (b"access-control-allow-origin", b"*" if self._any else origin),
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", headers.get(b"access-control-request-headers", b"*")),
                (b"access-control-max-age", b"600"),
            ]
        await send(
            {"type": "http.response.start", "status": 204 if self._allowed(origin) else 403, "headers": reply}
        )
        await send({"type": "http.response.body", "body": b""})
        return True

    def wrap(self, scope: Scope, send: Send) -> Send:
        """A `send` that names the origin, where it is allowed."""
        origin = self._origin(scope)
        if not self._allowed(origin):
            return send
        assert origin is not None
        extra = [
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        return send_with
