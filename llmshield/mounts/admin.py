"""The admin port: health, readiness, metrics, status, usage. A port of its own, never the data port's.

`/healthz` and `/readyz` answer everybody who can reach the port (they say one word). The others want
`Authorization: Bearer $LLMSHIELD_ADMIN_TOKEN`; where no token is set they answer loopback clients only. The Host
header must name an address or this machine: a web page can rebind a name of its own to 127.0.0.1, but not that.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from llmshield.errors import StoreError
from llmshield.mounts._asgi import Receive, Scope, Send
from llmshield.runtime import Runtime

Answer = tuple[int, str, bytes]
_JSON = "application/json"


class Admin:
    """The admin port as an ASGI app."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._token = os.environ.get("LLMSHIELD_ADMIN_TOKEN", "")
        self._open: dict[str, Callable[[], Awaitable[Answer]]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }
        self._closed: dict[str, Callable[[], Awaitable[Answer]]] = {
            "/metrics": self._metrics,
            "/status": self._status,
            "/usage": self._usage,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, kind, body = await self._answer(scope)
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope) -> Answer:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not _is_ours(headers.get("host", "")):
            return _json(421, {"error": "The Host header names no address of this machine."})
        if scope["method"] not in {"GET", "HEAD"}:
            return _json(405, {"error": "Only GET is served here."})
        path = scope["path"]
        if path in self._open:
            return await self._open[path]()
        refusal = self._refusal(headers, scope)
        if refusal is not None:
            return refusal
        if path in self._closed:
            return await self._closed[path]()
        return _json(404, {"error": "Unknown path.", "paths": [*self._open, *self._closed]})

    def _refusal(self, headers: dict[str, str], scope: Scope) -> Answer | None:
        if self._token:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            # Latin-1 gives back the bytes that came: a token may be any text.
            if scheme.lower() == "bearer" and hmac.compare_digest(
                given.strip().encode("latin-1"), self._token.encode()
            ):
                return None
            return _json(401, {"error": "Send Authorization: Bearer with LLMSHIELD_ADMIN_TOKEN."})
        peer = scope.get("client")
        if peer and _is_loopback(peer[0]):
            return None
        return _json(403, {"error": "Without LLMSHIELD_ADMIN_TOKEN this port answers loopback clients only."})

    async def _healthz(self) -> Answer:
        return _json(200, {"status": "ok"})

    async def _readyz(self) -> Answer:
        reason = await self._runtime.unready()
        return (
            _json(200, {"status": "ready"})
            if reason is None
            else _json(503, {"status": "unready", "reason": reason})
        )

    async def _metrics(self) -> Answer:
        return 200, "text/plain; version=0.0.4; charset=utf-8", await self._runtime.render_metrics()

    async def _status(self) -> Answer:
        return _json(200, await self._runtime.status())

    async def _usage(self) -> Answer:
        try:
            return _json(200, await self._runtime.usage())
        except StoreError as error:
            return _json(503, {"error": str(error)})


def _json(status: int, body: Any) -> Answer:
    return status, _JSON, orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n"


def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def _is_ours(host: str) -> bool:
    """Whether a Host header is an address or `localhost`, or what LLMSHIELD_ADMIN_HOST says."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]").lower()
    if name in {"localhost", os.environ.get("LLMSHIELD_ADMIN_HOST", "localhost").lower()}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
