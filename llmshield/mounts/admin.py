"""The admin port: `llmshield.admin` on a port of its own, never the data port's.

What it serves, who may ask and what it checks first is told there; here it meets ASGI.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from llmshield.admin.app import AdminApi
from llmshield.errors import CallError
from llmshield.mounts._asgi import Receive, Scope, Send
from llmshield.runtime import Runtime


class Admin:
    """The admin port as an ASGI app. `names` are what it is reached under, besides addresses and `localhost`."""

    def __init__(self, runtime: Runtime, names: Iterable[str] = ()) -> None:
        self._api = AdminApi(
            runtime,
            token=os.environ.get("LLMSHIELD_ADMIN_TOKEN", "").strip(),
            names=(*names, os.environ.get("LLMSHIELD_ADMIN_HOST", "localhost")),
        )

    async def start(self) -> None:
        """Get what credentials are checked with. Raises: ShieldError with the remedy."""
        await self._api.start()

    async def close(self) -> None:
        """Let go of it."""
        await self._api.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def body(limit: int) -> bytes:
            out = bytearray()
            while True:
                message = await receive()
                out += message.get("body", b"")
                if len(out) > limit:
                    raise CallError(
                        "too_large",
                        f"The body is larger than {limit} bytes.",
                        headers={"connection": "close"},
                    )
                if not message.get("more_body", False):
                    return bytes(out)

        peer = scope.get("client")
        page = await self._api.answer(
            scope["method"],
            (scope.get("raw_path") or scope["path"].encode("utf-8")).partition(b"?")[0],
            scope.get("query_string", b""),
            list(scope["headers"]),
            peer[0] if peer and peer[0] else "",
            body,
        )
        headers = [
            (name.encode(), value.encode("latin-1", "replace")) for name, value in page.headers.items()
        ]
        headers.append((b"content-length", str(len(page.body)).encode()))
        await send({"type": "http.response.start", "status": page.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else page.body})
